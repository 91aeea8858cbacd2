"""What the relay decides, as pure functions from what it knows to what it does next.

Owns: where an entry goes, what an answer means for it, what to ask the stream first, how long to
rest. No I/O, no clock, no state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

from seaway import naming
from seaway.contracts import (
    Backlog,
    Failed,
    Held,
    OutboxEntry,
    PublishOutcome,
    Refused,
    Sent,
    Stored,
    Unconfirmed,
)
from seaway.errors import InvalidName

MESSAGE_TOO_LARGE = 10054
STREAM_NOT_FOUND = 10059
NO_RESPONDERS = (503, 0)
"""Code and err_code where nobody listened; reasoned about only once the stream is known to be
there (``reconsider``)."""

Cause: TypeAlias = Refused | Unconfirmed
"""Why a stream takes nothing at the moment."""


@lru_cache(maxsize=4096)
def stream_of(subject: str) -> str:
    """The stream that an event's subject belongs to; ``InvalidName`` where it names no context."""
    return naming.events_stream(naming.context_of(subject))


@dataclass(frozen=True, slots=True)
class Sorted:
    """A claim by stream and lane, each share in outbox order; ``skipped`` waits for later."""

    shares: Mapping[str, Mapping[int, Sequence[OutboxEntry]]]
    unroutable: Sequence[Failed]
    skipped: int


def sort_out(
    claimed: Sequence[OutboxEntry],
    *,
    keys: Collection[str],
    streams: Collection[str],
    settled: Collection[str] = (),
) -> Sorted:
    """Leave out entries whose ordering key is in ``keys`` or whose stream is in ``streams``, and
    those whose id is in ``settled``.

    A claim is made while the one before it is still being published, so it cannot know which keys
    failed there: without this, a later event would overtake an earlier one of its key.
    """
    shares: dict[str, dict[int, list[OutboxEntry]]] = {}
    unroutable: list[Failed] = []
    stuck = set(keys)
    skipped = 0
    for entry in claimed:
        if settled and entry.event_id in settled:
            continue
        if stuck and entry.key in stuck:
            skipped += 1
            continue
        try:
            stream = stream_of(entry.message.subject)
        except InvalidName as error:
            unroutable.append(Failed(entry, str(error), park=True))
            stuck.add(entry.key)
            continue
        if stream in streams:
            skipped += 1
        else:
            shares.setdefault(stream, {}).setdefault(entry.lane, []).append(entry)
    return Sorted(shares, unroutable, skipped)


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry that stays in the outbox as it was: nothing was learnt about it."""

    entry: OutboxEntry
    cause: Refused | Unconfirmed | Held


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one stream's share of a claim."""

    stream: str
    sent: Sequence[Sent] = ()
    failed: Sequence[Failed] = ()
    kept: Sequence[Kept] = ()
    duplicates: int = 0
    """How many of ``sent`` were on the stream before."""
    took: timedelta = field(default=timedelta(), compare=False)

    @property
    def trouble(self) -> Cause | None:
        """Why the stream takes nothing at the moment, where it does not."""
        for kept in self.kept:
            if not isinstance(kept.cause, Held):
                return kept.cause
        return None

    @property
    def whole(self) -> bool:
        """Whether every entry was acknowledged."""
        return not self.failed and not self.kept

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
    duplicates = 0
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, Stored):
            sent.append(Sent(entry, stream, outcome.stream_seq))
            duplicates += outcome.duplicate
        elif isinstance(outcome, Refused) and not outcome.heals:
            hopeless = outcome.err_code == MESSAGE_TOO_LARGE
            park = hopeless or entry.attempts + 1 >= max_attempts
            failed.append(Failed(entry, describe(outcome), park))
        else:
            kept.append(Kept(entry, outcome))
    return Verdict(stream, sent, failed, kept, duplicates)


def reconsider(verdict: Verdict, config: Mapping[str, Any] | None) -> Verdict:
    """The verdict in the light of the stream's configuration; ``None``: there is no such stream.

    A missing stream, one without a leader, and a subject that the stream does not take all get the
    same answer from the server; only the last would wait for ever, and hold up all others.
    """
    if config is None:
        return _refused_alike(verdict, Refused("no such stream", 404, STREAM_NOT_FOUND, heals=True))
    taken: Sequence[str] = config.get("subjects") or ()
    failed = list(verdict.failed)
    kept: list[Kept] = []
    for each in verdict.kept:
        subject = each.entry.message.subject
        if isinstance(each.cause, Refused) and not any(naming.covers(p, subject) for p in taken):
            error = f"{verdict.stream} takes {', '.join(taken) or 'nothing'}, not {subject}"
            failed.append(Failed(each.entry, error, park=True))
        else:
            kept.append(each)
    return replace(verdict, failed=failed, kept=kept)


def given_up(verdict: Verdict) -> Verdict:
    """The verdict on a stream that has been missing for too long: what it keeps is parked."""
    failed = list(verdict.failed)
    held: list[Kept] = []
    for each in verdict.kept:
        if isinstance(each.cause, Held):
            held.append(each)
        else:
            failed.append(Failed(each.entry, reason(verdict.stream, each.cause), park=True))
    return replace(verdict, failed=failed, kept=held)


def unanswered(verdict: Verdict, reason: str) -> Verdict:
    """The verdict where not even the stream's configuration could be read."""
    return _refused_alike(verdict, Unconfirmed(reason))


def _refused_alike(verdict: Verdict, cause: Cause) -> Verdict:
    kept = [
        Kept(each.entry, cause) if isinstance(each.cause, Refused) else each
        for each in verdict.kept
    ]
    return replace(verdict, kept=kept)


def describe(refusal: Refused) -> str:
    """A refusal for people, with the codes that they can look up where there are any."""
    if refusal.err_code == 0:
        return refusal.description
    return f"{refusal.description} (code {refusal.code}, err_code {refusal.err_code})"


def reason(stream: str, cause: Cause) -> str:
    """Why the relay waits, with the way out where somebody has to act."""
    if isinstance(cause, Unconfirmed):
        return f"{stream} does not answer: {cause.reason}"
    if cause.err_code == STREAM_NOT_FOUND:
        return f"{stream} does not exist: create it with `seaway topology apply`"
    if (cause.code, cause.err_code) == NO_RESPONDERS:
        return f"{stream} has no leader at the moment"
    return f"{stream} takes no messages now: {describe(cause)}"


def topic(stream: str, cause: Cause) -> str:
    """What a cause is about: causes with one topic need saying once an outage."""
    if isinstance(cause, Unconfirmed):
        return "no answer"
    return f"{stream} {cause.code} {cause.err_code}"


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
