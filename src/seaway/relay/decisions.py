"""What the relay decides, as pure functions from what it knows to what it does next.

Owns: where an entry goes, what an answer means for it, what to ask the stream first, how long to
rest. No I/O, no clock, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeAlias

from seaway import naming
from seaway.config import Settings
from seaway.contracts import (
    Backlog,
    Failed,
    Held,
    OutboxEntry,
    PublishOutcome,
    Refused,
    Sent,
    Stored,
    StoredMessage,
    StreamInfo,
    Unconfirmed,
)
from seaway.errors import InvalidName
from seaway.headers import check_headers, wire_bytes
from seaway.words import counted

Cause: TypeAlias = Refused | Unconfirmed
"""Why a stream takes nothing at the moment."""
MISSING = Refused("no such stream", 404, 0, heals=True, why="no_stream")


@lru_cache(maxsize=4096)
def stream_of(subject: str) -> str:
    """The stream that an event's subject belongs to; ``InvalidName`` where it is none's.

    A row of another's making may name any subject: a dead letter's, a redrive's, an API's.
    """
    return naming.events_stream(naming.EventSubject.parse(subject).context)


@dataclass(frozen=True, slots=True)
class Sorted:
    """A claim by stream and lane, each share in outbox order; ``skipped`` waits for later.

    ``held``: keys of which an entry has no room on its stream, so that the later ones wait too.
    """

    shares: Mapping[str, Mapping[int, Sequence[OutboxEntry]]] = field(default_factory=dict)
    unroutable: Sequence[Failed] = ()
    skipped: int = 0
    held: Collection[str] = ()


def sort_out(
    claimed: Sequence[OutboxEntry],
    *,
    keys: Collection[str],
    streams: Collection[str],
    settled: Collection[str] = (),
    full: Mapping[str, int] | None = None,
) -> Sorted:
    """Leave out entries whose ordering key is in ``keys`` or whose stream is in ``streams``, those
    whose id is in ``settled``, and those of subjects in ``full`` that need as many bytes.

    A claim is made while the one before it is still being published, so it cannot know which keys
    failed there: without this, a later event would overtake an earlier one of its key.
    """
    shares: dict[str, dict[int, list[OutboxEntry]]] = {}
    unroutable: list[Failed] = []
    stuck = set(keys)
    held: set[str] = set()
    skipped = 0
    for entry in claimed:
        if settled and entry.event_id in settled:
            continue
        if stuck and entry.key in stuck:
            skipped += 1
            continue
        try:
            check_headers(entry.message.headers, entry.event_id)
            stream = stream_of(entry.message.subject)
        except InvalidName as error:
            unroutable.append(Failed(entry, str(error), park=True))
            stuck.add(entry.key)
            continue
        if stream in streams:
            skipped += 1
        elif full and _lacks_room(entry, full):
            skipped += 1
            held.add(entry.key)
            stuck.add(entry.key)
        else:
            shares.setdefault(stream, {}).setdefault(entry.lane, []).append(entry)
    return Sorted(shares, unroutable, skipped, held)


def _lacks_room(entry: OutboxEntry, full: Mapping[str, int]) -> bool:
    least = full.get(entry.message.subject)
    return least is not None and size(entry) >= least


def size(entry: OutboxEntry) -> int:
    """Bytes of an entry's headers and payload, as the server counts them."""
    return wire_bytes(entry.message.headers, entry.message.payload)


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry that stays in the outbox as it was: nothing was learnt about it."""

    entry: OutboxEntry
    cause: Cause | Held

    @property
    def lacks_room(self) -> bool:
        """Whether its stream had no room for it, and may have for others."""
        return isinstance(self.cause, Refused) and self.cause.full


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one stream's share of a claim."""

    stream: str
    sent: Sequence[Sent] = ()
    failed: Sequence[Failed] = ()
    kept: Sequence[Kept] = ()
    known: Sequence[Sent] = ()
    """What the stream says it has, by the id: to be looked at (``looked_at``)."""
    duplicates: int = 0
    """How many of ``sent`` were on the stream before."""
    took: timedelta = field(default=timedelta(), compare=False)

    @property
    def trouble(self) -> Cause | None:
        """Why the stream takes nothing at the moment, where it does not."""
        for kept in self.kept:
            if not isinstance(kept.cause, Held) and not kept.lacks_room:
                return kept.cause
        return None

    @property
    def full(self) -> Mapping[str, int]:
        """Subjects for which there was no room, and the least bytes that found none."""
        found: dict[str, int] = {}
        for kept in self.kept:
            if kept.lacks_room:
                subject, needed = kept.entry.message.subject, size(kept.entry)
                found[subject] = min(needed, found.get(subject, needed))
        return found

    @property
    def lack(self) -> Refused | None:
        """The refusal of something for which there was no room."""
        causes = (kept.cause for kept in self.kept if kept.lacks_room)
        return next((each for each in causes if isinstance(each, Refused)), None)

    @property
    def whole(self) -> bool:
        """Whether every entry was acknowledged."""
        return not self.failed and not self.kept and not self.known

    @property
    def stuck(self) -> set[str]:
        """Ordering keys that nothing more may be sent of before these entries are.

        In trouble, the whole stream waits, and a key's events on other streams need not.
        """
        keys = {each.entry.key for each in self.failed}
        return keys if self.trouble else keys | {each.entry.key for each in self.kept}


def judge(
    stream: str,
    entries: Sequence[OutboxEntry],
    outcomes: Sequence[PublishOutcome],
    *,
    max_attempts: int,
) -> Verdict:
    """One outcome an entry, in order. Only an acknowledgement takes an entry out of the outbox,
    and only a refusal of the message itself counts against it."""
    sent: list[Sent] = []
    failed: list[Failed] = []
    kept: list[Kept] = []
    known: list[Sent] = []
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, Stored):
            one = Sent(entry, stream, outcome.stream_seq)
            (known if outcome.duplicate else sent).append(one)
        elif isinstance(outcome, Refused) and not outcome.heals:
            park = outcome.hopeless or entry.attempts + 1 >= max_attempts
            failed.append(Failed(entry, describe(outcome), park))
        else:
            kept.append(Kept(entry, outcome))
    return Verdict(stream, sent, failed, kept, known)


def looked_at(
    verdict: Verdict, own: Mapping[str, int], foreign: Mapping[str, StoredMessage]
) -> tuple[Verdict, Sequence[OutboxEntry]]:
    """The verdict once it was seen what lies under the ids that the stream knew (by event id), and
    what may be published now: it was held behind an event that is there."""
    entries = [one.entry for one in verdict.known] + [one.entry for one in verdict.kept]
    there = [Sent(e, verdict.stream, own[e.event_id]) for e in entries if e.event_id in own]
    failed = [taken(e, foreign[e.event_id]) for e in entries if e.event_id in foreign]
    failed = [*verdict.failed, *failed]
    kept = [
        each
        for each in verdict.kept
        if each.entry.event_id not in own and each.entry.event_id not in foreign
    ]
    stuck = {each.entry.key for each in failed}
    stuck |= {each.entry.key for each in kept if not isinstance(each.cause, Held)}
    free = [each.entry for each in kept if each.entry.key not in stuck and not verdict.trouble]
    going = {entry.position for entry in free}
    return (
        replace(
            verdict,
            sent=[*verdict.sent, *there],
            failed=failed,
            kept=[each for each in kept if each.entry.position not in going],
            known=(),
            duplicates=verdict.duplicates + len(there),
        ),
        free,
    )


def taken(entry: OutboxEntry, other: StoredMessage) -> Failed:
    """What becomes of an event whose id another message has taken: only a new id helps."""
    place = f"{other.stream}:{other.stream_seq}"
    return Failed(
        entry,
        f"another message has this event's id: {place} ({other.message.subject!r}, "
        f"{counted(len(other.message.payload), 'byte')}); add the event again under a new id",
        park=True,
    )


def joined(first: Verdict, second: Verdict) -> Verdict:
    """Two verdicts on one share, of which the second came later."""
    return Verdict(
        first.stream,
        [*first.sent, *second.sent],
        [*first.failed, *second.failed],
        [*first.kept, *second.kept],
        [*first.known, *second.known],
        first.duplicates + second.duplicates,
    )


def reconsidered(verdict: Verdict, info: StreamInfo) -> Verdict:
    """The verdict on what a stream refused, in the light of what the stream is.

    A stream without a leader and a subject that it does not take get the same answer from the
    server; only the latter would wait for ever, and hold up all others.
    """

    def again(each: Kept) -> Kept | Failed:
        subject = each.entry.message.subject
        taken = any(naming.covers(pattern, subject) for pattern in info.subjects)
        if taken or not isinstance(each.cause, Refused):
            return each
        subjects = ", ".join(info.subjects) or "nothing"
        return Failed(each.entry, f"{verdict.stream} takes {subjects}, not {subject}", park=True)

    return _each_again(verdict, again)


def outgrown(verdict: Verdict, info: StreamInfo) -> Verdict:
    """The verdict where something had no room: what is larger than all of its stream is parked."""
    most = info.max_bytes
    if most is None:
        return verdict

    def again(each: Kept) -> Kept | Failed:
        if not each.lacks_room or (needed := size(each.entry)) <= most:
            return each
        error = (
            f"{verdict.stream} keeps {most} bytes in all (max_bytes), the event has {needed}: "
            "raise max_bytes, then `seaway outbox retry`"
        )
        return Failed(each.entry, error, park=True)

    return _each_again(verdict, again)


def given_up(verdict: Verdict, missing: str) -> Verdict:
    """The verdict on a stream that has been missing for too long: what it keeps is parked, with
    ``missing`` as its error."""

    def again(each: Kept) -> Kept | Failed:
        return each if isinstance(each.cause, Held) else Failed(each.entry, missing, park=True)

    return _each_again(verdict, again)


def refused_alike(verdict: Verdict, cause: Cause) -> Verdict:
    """The verdict where all that was refused has one ``cause``: there is no such stream
    (``MISSING``, which the server answers as it does without a leader), or it could not be read."""

    def again(each: Kept) -> Kept | Failed:
        return Kept(each.entry, cause) if isinstance(each.cause, Refused) else each

    return _each_again(verdict, again)


def _each_again(verdict: Verdict, again: Callable[[Kept], Kept | Failed]) -> Verdict:
    """The verdict with each entry that stayed in the outbox judged once more."""
    judged = [again(each) for each in verdict.kept]
    failed = [each for each in judged if isinstance(each, Failed)]
    kept = [each for each in judged if isinstance(each, Kept)]
    return replace(verdict, failed=[*verdict.failed, *failed], kept=kept)


def unseen(verdict: Verdict, reason: str) -> Verdict:
    """The verdict where what lies under known ids could not be looked at."""
    kept = [Kept(each.entry, Unconfirmed(reason)) for each in verdict.known]
    return replace(verdict, kept=[*kept, *verdict.kept], known=())


def describe(refusal: Refused) -> str:
    """A refusal for people, with the codes that they can look up where there are any."""
    if refusal.err_code == 0:
        return refusal.description
    return f"{refusal.description} (code {refusal.code}, err_code {refusal.err_code})"


WAY_TO = Settings().way_to
"""What to do where a stream is missing, as far as that is known without a configuration."""


def reason(stream: str, cause: Cause, way_to: Callable[[str], str] = WAY_TO) -> str:
    """Why the relay waits, with the way out where somebody has to act."""
    if isinstance(cause, Unconfirmed):
        return f"{stream} does not answer: {cause.reason}"
    if cause.why == "no_stream":
        return way_to(stream)
    if cause.why == "unheard":  # And the stream is known to be there (``reconsidered``).
        return f"{stream} has no leader at the moment"
    return f"{stream} takes no messages now: {describe(cause)}"


def no_room(stream: str, subjects: Collection[str], cause: Refused) -> str:
    """Why events wait that a stream has no room for, with the way out."""
    first, *others = sorted(subjects)
    more = f" and {counted(len(others), 'other subject')}" if others else ""
    return (
        f"{stream} has no room for {first}{more}: {describe(cause)}; they go as soon as there is "
        "some: let its consumers acknowledge, or raise the bound in seaway.yaml"
    )


def topic(stream: str, cause: Cause) -> str:
    """What a cause is about: causes with one topic need saying once an outage."""
    if isinstance(cause, Unconfirmed):
        return "no answer"
    return f"{stream} {cause.why} {cause.err_code}"


def oldest_beyond(
    entries: Iterable[OutboxEntry], *, now: datetime, window: timedelta
) -> datetime | None:
    """When the oldest of ``entries`` was added, where one may have been sent longer ago than the
    stream remembers ids; ``None`` where none can.

    Half the window, since the other half is for clocks that differ and for the way to the server.
    """
    oldest = min((entry.added_at for entry in entries), default=now)
    return oldest if oldest < now - window / 2 else None


def drained(backlog: Backlog) -> bool:
    """Whether only parked entries, and perhaps what waits behind them, can be left."""
    return backlog.parked > 0 or backlog.count == 0


def rest_after_looking(looked: timedelta, *, least: timedelta, most: timedelta) -> timedelta:
    """How long to rest after a turn that only found entries which have to wait: four times as long
    as finding that out took, so that a long blocked backlog costs a fifth of a core at most."""
    return max(least, min(most, looked * 4))
