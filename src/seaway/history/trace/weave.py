"""Makes the steps of each event out of what the stations said, and finds who caused whom. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from seaway.contracts import ConsumerInfo, InboxRow, Kept, StoredMessage, Unhandled
from seaway.contracts.outbox import GIVEN_UP
from seaway.dead_letters.letter import read
from seaway.history.trace.values import Member, Step, Trace, time_of
from seaway.naming import covers
from seaway.waiting_events import Place

_OF_LETTER = re.compile(r"(.*):[^:]+:\d+", re.DOTALL)
_DATABASE, _SERVER = "database", "server"


@dataclass(slots=True)
class Known:
    """What the stations said, by event id or place."""

    kept: dict[str, Kept] = field(default_factory=dict)
    rows: dict[str, dict[str, datetime]] = field(default_factory=dict)
    unhandled: dict[str, list[Unhandled]] = field(default_factory=dict)
    stored: dict[Place, tuple[datetime, str]] = field(default_factory=dict)
    copies: dict[str, set[Place]] = field(default_factory=dict)
    gone: set[Place] = field(default_factory=set)
    letters: dict[str, dict[Place, StoredMessage]] = field(default_factory=dict)
    redrives: dict[str, dict[Place, StoredMessage]] = field(default_factory=dict)
    consumers: list[ConsumerInfo] = field(default_factory=list)
    read: dict[str, int] = field(default_factory=dict)

    def row(self, row: InboxRow) -> None:
        """Take a row of an inbox."""
        event_id = row.event_id
        if " letters" in row.consumer and (found := _OF_LETTER.fullmatch(event_id)):
            event_id = found[1]
        self.rows.setdefault(event_id, {})[row.consumer] = row.at


def woven(found: Trace, known: Known) -> None:
    """Give each member its steps, its parent and how long each step took."""
    for member in found.members.values():
        member.steps = [*_writing(member, known), *_consuming(member, known)]
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
            steps.append(Step("lost", None, where=lost, detail="to be published again"))
    elif (made := time_of(member.event_id)) is not None:
        steps.append(Step("made", made, "its id"))
    for stream, seq in sorted(known.copies.get(member.event_id, ()), key=lambda p: known.stored[p]):
        stored_at, _ = known.stored[stream, seq]
        again = "published again" if any(s.what == "published" for s in steps) else "published"
        if row is not None and row.healed_at and (row.stream, row.stream_seq) == (stream, seq):
            again = "healed"
        steps.append(Step(again, stored_at, _SERVER, f"{stream}:{seq}"))
    if row is not None and row.stream and row.stream_seq > 0:
        place = row.stream, row.stream_seq
        if place not in known.copies.get(member.event_id, ()):
            gone = "the stream holds it no more" if place in known.gone else "by the outbox's word"
            what = "healed" if row.healed_at else "published"
            at = row.healed_at or row.sent_at
            steps.append(Step(what, at, _DATABASE, f"{place[0]}:{place[1]}", gone))
    return steps


def _consuming(member: Member, known: Known) -> list[Step]:
    event_id, steps = member.event_id, list[Step]()
    rows = known.rows.get(event_id, {})
    lettered: set[str] = set()
    for place, stored in known.letters.get(event_id, {}).items():
        letter = read(stored, bare=True)
        lettered.add(letter.consumer)
        kind = letter.error_type.rpartition(".")[2]
        why = letter.problem or ": ".join(one for one in (kind, letter.error) if one)
        tries = f"{letter.deliveries} deliveries" if letter.deliveries > 1 else ""
        told = "; ".join(one for one in (f"{letter.reason}", tries, why) if one)
        what = "waits" if letter.waits else "dead letter"
        steps.append(
            Step(
                what, letter.failed_at, "consumer", letter.consumer, f"{place[0]}:{place[1]} {told}"
            )
        )
    for place, stored in known.redrives.get(event_id, {}).items():
        durable = stored.message.subject.partition(".redrive.")[2].partition(".")[0]
        lettered.add(durable)
        steps.append(Step("redriven", stored.stored_at, _SERVER, durable, f"{place[0]}:{place[1]}"))
    for consumer, at in rows.items():
        durable, noted, what = consumer.partition(" again ")
        if noted:
            steps.append(Step("handled again", at, _DATABASE, durable, what))
            continue
        durable, noted, what = consumer.partition(" letters")
        if not noted:
            again = f"{durable} letters" in rows
            steps.append(
                Step("handled", at, _DATABASE, durable, "after it was a letter" if again else "")
            )
        elif what == " discarded":
            steps.append(Step("discarded", at, _DATABASE, durable))
        elif (
            not what
            and durable not in lettered
            and not rows.keys()
            & {
                durable,
                f"{consumer} discarded",
            }
        ):
            detail = "its letter was not found: on its way, discarded, or its queue is away"
            steps.append(Step("dead letter", at, _DATABASE, durable, detail))
    for one in known.unhandled.get(event_id, ()):
        if one.waiting and one.behind is not None:
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
    return sorted(steps, key=lambda one: (one.at is None, one.at.timestamp() if one.at else 0.0))


def _measure(member: Member, parent: Member | None) -> None:
    """Each step since the one that led to it: of consumers since it was published, or since the
    same consumer's step before."""
    before: dict[str, datetime] = {}
    base = _base_of(parent) if parent is not None else None
    for step in member.steps:
        since = before.get(step.where) or base
        if step.at is not None:
            if since is not None:
                step.took = step.at - since
            if (
                (step.clock == _DATABASE and step.what == "written")
                or "published" in step.what
                or step.what in ("made", "healed")
            ):
                base = step.at
            else:
                before[step.where] = step.at


def _base_of(parent: Member) -> datetime | None:
    """When its cause was there: what that led to may be of the same transaction."""
    return next((one.at for one in parent.steps if one.at), None)
