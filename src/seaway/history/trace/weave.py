"""Makes the steps of each event out of what the stations said, and finds who caused whom. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from seaway.contracts import ConsumerInfo, InboxRow, Kept, StoredMessage, Unhandled
from seaway.contracts.outbox import GIVEN_UP
from seaway.dead_letters.letter import Letter, read
from seaway.headers import SCHEDULE, SCHEDULE_TARGET
from seaway.history.trace.values import PUBLISHED, WAS_LETTER, Member, Step, Trace, time_of
from seaway.naming import covers
from seaway.waiting_events import Place

_OF_LETTER = re.compile(r"(.*):([^:]+:\d+)", re.DOTALL)
_DATABASE, _SERVER = "database", "server"
_LOST = "its stream has lost that place"


@dataclass(slots=True)
class Decided:
    """A message that was to become a letter: when, why, and when that was discarded."""

    at: datetime | None = None
    reason: str = ""
    discarded: datetime | None = None

    def take(self, what: str, at: datetime) -> None:
        """What a row says: nothing, a reason, ``stored``, ``discarded``."""
        if what == "discarded":
            self.discarded = at
        elif what != "stored":
            self.at = at
            self.reason = what or self.reason


@dataclass(slots=True)
class Known:
    """What the stations said, by event id or place."""

    kept: dict[str, Kept] = field(default_factory=dict)
    rows: dict[str, dict[str, datetime]] = field(default_factory=dict)
    unhandled: dict[str, list[Unhandled]] = field(default_factory=dict)
    stored: dict[Place, tuple[datetime, str]] = field(default_factory=dict)
    healed_from: dict[Place, int] = field(default_factory=dict)
    """Of what was published again: the place that it had on the same stream, and that was lost."""
    copies: dict[str, set[Place]] = field(default_factory=dict)
    gone: set[Place] = field(default_factory=set)
    letters: dict[str, dict[Place, StoredMessage]] = field(default_factory=dict)
    redrives: dict[str, dict[Place, StoredMessage]] = field(default_factory=dict)
    consumers: list[ConsumerInfo] = field(default_factory=list)

    decided: dict[str, dict[tuple[str, str], Decided]] = field(default_factory=dict)
    """By event, and by durable and place: which of its messages were to become letters."""

    def row(self, row: InboxRow) -> None:
        """Take a row of an inbox."""
        durable, of_letter, what = row.consumer.partition(" letters")
        if not of_letter:
            self.rows.setdefault(row.event_id, {})[durable] = row.at
        elif found := _OF_LETTER.fullmatch(row.event_id):
            mine = self.decided.setdefault(found[1], {})
            mine.setdefault((durable, found[2]), Decided()).take(what.strip(), row.at)


def woven(found: Trace, known: Known) -> None:
    """Give each member its steps, its parent and how long each step took."""
    for member in found.members.values():
        steps = _writing(member, known)
        # What a consumer did may lie before it was published again.
        first = next((n for n, one in enumerate(steps) if one.what in PUBLISHED), len(steps)) + 1
        later = sorted([*steps[first:], *_consuming(member, known)], key=_in_time)
        member.steps = [*steps[:first], *later]
        cause = member.causation_id
        if cause == member.event_id:
            member.flaw = "it says that it caused itself"
        elif cause in found.members:
            member.parent = cause
        elif cause is not None:
            member.flaw = f"caused by {cause}, of which nothing is known"
    _cut_circles(found.members)
    for member in found.members.values():
        _measure(member, found.members.get(member.parent or ""))


def _cut_circles(members: dict[str, Member]) -> None:
    done: set[str] = set()
    for start in members:
        path: dict[str, None] = {}
        here: str | None = start
        while here is not None and here not in done and here not in path:
            path[here] = None
            here = members[here].parent
        if here is not None and here in path:
            first = members[here]
            first.flaw = f"its causes lead back to it: {first.parent} says that it caused it"
            first.parent = None
        done.update(path)


def _writing(member: Member, known: Known) -> list[Step]:
    steps: list[Step] = []
    row = known.kept.get(member.event_id)
    if row is not None:
        steps.append(Step("written", row.added_at, _DATABASE))
        if row.stream is None:
            if row.parked_at is not None:
                steps.append(Step("parked", row.parked_at, _DATABASE, detail=row.last_error or ""))
            elif row.behind is not None:
                steps.append(Step("in the outbox", detail=f"behind {row.behind}, which is parked"))
            else:
                steps.append(Step("in the outbox", detail=row.last_error or ""))
        elif row.stream_seq == GIVEN_UP:
            steps.append(Step("given up", row.sent_at, _DATABASE, detail=row.stream))
        elif row.stream_seq < GIVEN_UP:
            lost = f"{row.stream}:{-2 - row.stream_seq}"
            steps.append(Step("published", row.sent_at, _DATABASE, lost))
            detail = "its stream has lost it: the relay is to publish it again"
            steps.append(Step("lost", None, where=lost, detail=detail))
    elif (made := time_of(member.event_id)) is not None:
        steps.append(Step("made", made, "its id"))
    for stream, seq in sorted(known.copies.get(member.event_id, ()), key=lambda p: known.stored[p]):
        stored_at, _ = known.stored[stream, seq]
        again = "published again" if any(s.what == "published" for s in steps) else "published"
        if row is not None and row.healed_at and (row.stream, row.stream_seq) == (stream, seq):
            again = "healed"
            if was := known.healed_from.get((stream, seq)):
                before = f"{stream}:{was}"
                if all(one.where != before for one in steps):
                    steps.append(Step("published", row.sent_at, _DATABASE, before, _LOST))
        steps.append(Step(again, stored_at, _SERVER, f"{stream}:{seq}"))
    if row is not None and row.stream and row.stream_seq > 0:
        place = row.stream, row.stream_seq
        if place not in known.copies.get(member.event_id, ()):
            gone = "the stream holds it no more" if place in known.gone else "by the outbox's word"
            if row.healed_at:
                steps.append(Step("published", row.sent_at, _DATABASE, row.stream, _LOST))
            what = "healed" if row.healed_at else "published"
            at = row.healed_at or row.sent_at
            steps.append(Step(what, at, _DATABASE, f"{place[0]}:{place[1]}", gone))
    return steps


def _consuming(member: Member, known: Known) -> list[Step]:
    event_id, steps = member.event_id, list[Step]()
    effects = known.rows.get(event_id, {})
    unhandled = known.unhandled.get(event_id, ())
    behind = {one.consumer: one.behind for one in unhandled if one.waiting and one.behind}
    told: set[tuple[str, str]] = set()
    """Of which messages the letters are still there, by durable and place."""
    going_on = set(effects)
    """The durables of which more is known than that it became a letter."""
    for place, stored in known.letters.get(event_id, {}).items():
        letter = read(stored, bare=True)
        told.add((letter.consumer, f"{letter.stream}:{letter.stream_seq}"))
        going_on.add(letter.consumer)
        steps.append(_letter(letter, f"{place[0]}:{place[1]}", behind.get(letter.consumer)))
    for place, stored in known.redrives.get(event_id, {}).items():
        headers, where = stored.message.headers, f"{place[0]}:{place[1]}"
        subject = headers.get(SCHEDULE_TARGET) or stored.message.subject
        durable = subject.partition(".redrive.")[2].partition(".")[0]
        going_on.add(durable)
        what = "redriven"
        if SCHEDULE in headers:
            what, where = "scheduled", f"{where} {headers[SCHEDULE].removeprefix('@')}"
        steps.append(Step(what, stored.stored_at, _SERVER, durable, where))
    for (durable, of), decided in known.decided.get(event_id, {}).items():
        if decided.discarded:
            steps.append(Step("discarded", decided.discarded, _DATABASE, durable))
        if (durable, of) in told or decided.at is None:
            continue
        if not decided.reason and durable in going_on:
            continue  # It lies there as well: that it moved is all that this says.
        if decided.discarded or durable in going_on:
            step = Step(WAS_LETTER, decided.at, _DATABASE, durable, decided.reason)
        else:
            detail = "its letter was not found: on its way, discarded, or its queue is away"
            step = Step("dead letter", decided.at, _DATABASE, durable, detail)
        steps.append(step)
    steps += [_handled(consumer, at) for consumer, at in effects.items()]
    there = {step.where for step in steps}
    for one in unhandled:
        if one.waiting and one.behind is not None and one.consumer not in there:
            detail = f"behind {one.behind}"
            steps.append(Step("waits", one.at, _DATABASE, one.consumer, detail))
        elif not one.waiting:
            times = f"{one.tries} {'time' if one.tries == 1 else 'times'}"
            steps.append(Step("tried", one.at, _DATABASE, one.consumer, times))
    seen = {step.where for step in steps}
    for info in known.consumers:
        place_seq = member.places.get(info.stream)
        taken = not info.filters or any(covers(one, member.subject) for one in info.filters)
        if place_seq is None or not taken or info.durable in seen:
            continue
        if place_seq > info.stream_seq:
            steps.append(Step("on its way", None, _SERVER, info.durable, "not delivered yet"))
        elif place_seq > info.ack_floor:
            detail = "delivered; whether it is settled cannot be seen"
            steps.append(Step("on its way", None, _SERVER, info.durable, detail))
        else:
            detail = "no row of it in the databases asked"
            steps.append(Step("settled", None, _SERVER, info.durable, detail))
    return steps


def _handled(consumer: str, at: datetime) -> Step:
    """``consumer``: a durable or, of a run that handled it again, that and the run."""
    durable, again, run = consumer.partition(" again ")
    return Step("handled again" if again else "handled", at, _DATABASE, durable, run)


def _letter(letter: Letter, place: str, behind: str | None) -> Step:
    kind = letter.error_type.rpartition(".")[2]
    why = letter.problem or ": ".join(one for one in (kind, letter.error) if one)
    tries = f"{letter.deliveries} deliveries" if letter.deliveries > 1 else ""
    said = "; ".join(one for one in (letter.reason, tries, why) if one)
    what = "waits" if letter.waits else "dead letter"
    detail = f"{place} {f'behind {behind}' if letter.waits and behind else said}"
    return Step(what, letter.failed_at, "consumer", letter.consumer, detail)


def _in_time(step: Step) -> tuple[bool, float]:
    return step.at is None, step.at.timestamp() if step.at else 0.0


def _measure(member: Member, parent: Member | None) -> None:
    """Each step since the one that led to it: of consumers since it was published, or since the
    same consumer's step before."""
    before: dict[str, datetime] = {}
    cause = _base_of(parent) if parent is not None else None
    bases = [] if cause is None else [cause]
    for step in member.steps:
        if step.at is None:
            continue
        since = before.get(step.where) or (bases[-1] if bases else None)
        if since is not None:
            step.took = step.at - since
        if step.what in PUBLISHED or step.what in ("written", "made"):
            bases.append(step.at)
        else:
            before[step.where] = step.at


def _base_of(parent: Member) -> datetime | None:
    """When its cause was there: what that led to may be of the same transaction."""
    return next((one.at for one in parent.steps if one.at), None)
