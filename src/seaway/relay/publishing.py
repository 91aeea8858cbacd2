"""A claim's way to its streams: sorted out, looked up where it must be, published, judged.

Owns: what is with the broker, and what its answers say of a stream. Must not know when to claim,
settle or rest. Guarantees: a claim that is begun while another is under way is made ready and no
more; it is stored once the other is, whole, or begun anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from seaway.contracts import Broker, Held, Lease, OutboxEntry, Refused, Unconfirmed
from seaway.errors import ApiError, NotFound, TransientError
from seaway.process import running_time
from seaway.relay import decisions
from seaway.relay.decisions import Kept, Verdict
from seaway.relay.duplicates import look
from seaway.relay.memory import StreamMemory, Troubles
from seaway.relay.reconcile import Found, settle_published
from seaway.retry import Backoff
from seaway.telemetry import Relayed, Telemetry

FENCE = timedelta(seconds=5)
"""A claim this old is published only after the lease was confirmed."""
REACH = 4
"""For each second spent on entries that cannot be published, a turn gets this many seconds for
those behind them."""
CLOCK_SKEW = timedelta(minutes=1)
"""How far the database's clock may be ahead of the server's when ids are looked up."""


@dataclass(slots=True)
class Turn:
    """What one lease came to."""

    led: bool = True
    settled: int = 0
    failed: int = 0
    waiting: int = 0
    """Entries that were claimed and stay in the outbox."""
    exhausted: bool = False
    until: float = 0.0
    """When it gives others their turn, in monotonic seconds."""
    looks_behind: bool = True
    """Whether it goes on past claims of which nothing could go."""
    barren_for: float = 0.0
    """Seconds spent on such claims."""
    barren: bool = False
    marked: float = 0.0
    keys: set[str] = field(default_factory=set)
    streams: set[str] = field(default_factory=set)
    full: dict[str, int] = field(default_factory=dict)
    """Subjects without room on their stream, and the least bytes that found none."""
    fitting: set[str] = field(default_factory=set)
    """Subjects of which something was stored, where some have no room."""
    found: set[str] = field(default_factory=set)
    """Their stream was found to hold their ids, perhaps after they were claimed."""

    @property
    def progress(self) -> bool:
        """Whether anything left the outbox, or came closer to it."""
        return self.settled + self.failed > 0

    @property
    def over(self) -> bool:
        """Whether it is time to leave the lease."""
        return time.monotonic() > self.until or (self.barren and not self.looks_behind)

    def went_by(self, fruitful: bool) -> None:
        """A claim has ended; ``fruitful``: something of it went.

        Each second spent on blocked entries lengthens the turn by five: with many of them, little
        or nothing of what lies behind would be published otherwise.
        """
        now = time.monotonic()
        if not fruitful:
            self.barren_for += now - self.marked
            self.until += (now - self.marked) * (1 + REACH)
        self.barren, self.marked = not fruitful, now


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed, by a read that began at ``began``; ``complete``: there was no more."""

    entries: Sequence[OutboxEntry] = ()
    began: float = 0.0
    complete: bool = True

    @property
    def old(self) -> bool:
        """Whether the lease may be another's by now."""
        return running_time() - self.began > FENCE.total_seconds()


@dataclass(frozen=True, slots=True)
class Publication:
    """A claim on its way to its streams. ``allowed``: whether it may be stored as it is, where the
    one before it is under way too."""

    claimed: Claim
    sorted_out: decisions.Sorted
    allowed: asyncio.Future[bool] | None
    verdicts: asyncio.Task[Sequence[Verdict]]

    async def is_allowed(self) -> bool:
        """Whether what was made ready is, or will be, stored; else it has to be begun anew."""
        return self.allowed is None or await self.allowed


async def _allowed(
    claimed: Claim, before: Publication, turn: Turn, found: int, stop: asyncio.Event
) -> bool:
    """Whether a claim may be stored as it was made ready: once the one before it is, whole.

    Otherwise it is made ready again: something failed, ids were found on the stream since
    (``found``: how many had been when it was sorted out), or the claim is too old.
    """
    verdicts = await before.verdicts
    whole = not before.sorted_out.unroutable and all(verdict.whole for verdict in verdicts)
    return whole and len(turn.found) == found and not claimed.old and not stop.is_set()


async def give_up(publications: Iterable[Publication]) -> None:
    """Cancel what is under way, and return when it has ended."""
    for each in publications:
        tasks: list[asyncio.Future[Any]] = [each.verdicts]
        if each.allowed is not None:
            tasks.append(each.allowed)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Publishing:
    """Publishes claims of one relay. See ``Relay`` for the settings."""

    def __init__(
        self,
        broker: Broker,
        streams: defaultdict[str, StreamMemory],
        troubles: Troubles,
        *,
        telemetry: Telemetry,
        dated_by: Callable[[], Awaitable[datetime]],
        max_attempts: int,
        stream_grace: timedelta,
        timeout: timedelta,
        backoff: Backoff,
        way_to: Callable[[str], str],
    ) -> None:
        self._broker = broker
        self._streams = streams
        self._troubles = troubles
        self._telemetry = telemetry
        self._dated_by = dated_by
        self._max_attempts = max_attempts
        self._stream_grace = stream_grace
        self._publish_timeout = timeout
        self._backoff = backoff
        self._way_to = way_to

    def begin(
        self,
        lease: Lease,
        claimed: Claim,
        turn: Turn,
        stop: asyncio.Event,
        under_way: Sequence[Publication],
    ) -> Publication:
        """Hand a claim to the broker, behind the last of ``under_way`` where there is one."""
        sorted_out = decisions.sort_out(
            claimed.entries,
            keys=turn.keys,
            streams=turn.streams,
            settled=turn.found,
            full=turn.full,
        )
        turn.keys |= set(sorted_out.held)
        allowed: asyncio.Future[bool] | None = None
        if under_way:
            allowed = asyncio.ensure_future(
                _allowed(claimed, under_way[-1], turn, len(turn.found), stop)
            )
        publishing = self._publish(lease, claimed, sorted_out, turn, stop, allowed)
        return Publication(claimed, sorted_out, allowed, asyncio.create_task(publishing))

    async def _publish(
        self,
        lease: Lease,
        claimed: Claim,
        sorted_out: decisions.Sorted,
        turn: Turn,
        stop: asyncio.Event,
        allowed: asyncio.Future[bool] | None,
    ) -> Sequence[Verdict]:
        """Each stream's lanes at the same time: they do not depend on one another."""
        if allowed is None and claimed.old:
            # This process may have been stopped for longer than the lease was left to it.
            await lease.confirm()
        complete = claimed.complete and not sorted_out.skipped
        found = await asyncio.gather(
            *(
                self._publish_stream(lease, claimed, stream, lanes, turn, stop, allowed, complete)
                for stream, lanes in sorted_out.shares.items()
            )
        )
        return [verdict for verdicts in found for verdict in verdicts]

    async def _publish_stream(
        self,
        lease: Lease,
        claimed: Claim,
        stream: str,
        lanes: Mapping[int, Sequence[OutboxEntry]],
        turn: Turn,
        stop: asyncio.Event,
        allowed: asyncio.Future[bool] | None,
        complete: bool,
    ) -> Sequence[Verdict]:
        memory = self._streams[stream]
        entries = [entry for lane in lanes.values() for entry in lane]
        try:
            found = await self._reconcile(lease, stream, entries, stop, allowed)
        except (TransientError, ApiError) as error:
            cause = Unconfirmed(str(error))
            verdict = Verdict(stream, kept=[Kept(entry, cause) for entry in entries])
            self._learn(memory, verdict, complete=False)
            return [verdict]
        if found is None:
            return [Verdict(stream, kept=[Kept(entry, Held()) for entry in entries])]
        gone = found.settled | found.taken.keys()
        turn.found |= gone
        turn.settled += len(found.settled)
        failed = list(found.taken.values())
        stuck = {each.entry.key for each in failed}
        shares = [
            [e for e in lane if e.event_id not in gone] if gone else lane for lane in lanes.values()
        ]
        kept = (
            [Kept(e, Held()) for share in shares for e in share if e.key in stuck] if stuck else []
        )
        if stuck:
            shares = [[e for e in share if e.key not in stuck] for share in shares]
        verdicts = await asyncio.gather(
            *(
                self._publish_share(lease, claimed, stream, share, allowed, complete=complete)
                for share in shares
            )
        )
        return [*verdicts, Verdict(stream, failed=failed, kept=kept)] if failed else verdicts

    async def _publish_share(
        self,
        lease: Lease,
        claimed: Claim,
        stream: str,
        share: Sequence[OutboxEntry],
        allowed: asyncio.Future[bool] | None,
        *,
        complete: bool,
    ) -> Verdict:
        memory, began = self._streams[stream], time.monotonic()
        verdict, left = Verdict(stream), share
        while left:
            outcomes = await self._broker.publish(
                stream,
                [entry.message for entry in left],
                timeout=self._publish_timeout,
                after=allowed,
            )
            if allowed is not None and not await allowed:
                return Verdict(stream)
            part = decisions.judge(stream, left, outcomes, max_attempts=self._max_attempts)
            part, left = await self._looked_at(part)
            verdict = decisions.joined(verdict, part) if verdict.sent or verdict.failed else part
            if left and claimed.old:
                await lease.confirm()
        if isinstance(verdict.trouble, Refused):
            verdict = await self._reconsider(memory, verdict)
        else:
            memory.missing_since = None
        if verdict.full:
            verdict = await self._outgrown(verdict)
        self._learn(memory, verdict, complete=complete)
        return replace(verdict, took=timedelta(seconds=time.monotonic() - began))

    async def _looked_at(self, verdict: Verdict) -> tuple[Verdict, Sequence[OutboxEntry]]:
        """The verdict without what the stream knew by its id, and what may be published now."""
        if not verdict.known:
            return verdict, ()
        known = [(each.entry, each.stream_seq) for each in verdict.known]
        behind = [each.entry for each in verdict.kept]
        try:
            seen = await look(self._broker.admin, verdict.stream, known, behind)
        except (TransientError, ApiError, NotFound) as error:
            return decisions.unseen(verdict, str(error)), ()
        return decisions.looked_at(verdict, seen.own, seen.foreign)

    async def _outgrown(self, verdict: Verdict) -> Verdict:
        with suppress(TransientError, ApiError):
            info = await self._broker.admin.stream(verdict.stream)
            if info is not None:
                return decisions.outgrown(verdict, info)
        return verdict

    async def _reconsider(self, memory: StreamMemory, verdict: Verdict) -> Verdict:
        try:
            info = await self._broker.admin.stream(verdict.stream)
        except (TransientError, ApiError) as error:
            return decisions.unanswered(verdict, str(error))
        if info is not None:
            memory.missing_since = None
            return decisions.reconsider(verdict, info)
        now = time.monotonic()
        if memory.missing_since is None:
            memory.missing_since = now
        verdict = decisions.reconsider(verdict, None)
        if now - memory.missing_since < self._stream_grace.total_seconds():
            return verdict
        return decisions.given_up(verdict, self._way_to(verdict.stream))

    def _learn(self, memory: StreamMemory, verdict: Verdict, *, complete: bool) -> None:
        stream, trouble, now = verdict.stream, verdict.trouble, time.monotonic()
        if trouble is not None:
            progress = bool(verdict.sent)
            memory.stumbled(trouble, progress=progress, now=now, backoff=self._backoff)
            topic = decisions.topic(stream, trouble)
            text = decisions.reason(stream, trouble, self._way_to)
            alone = isinstance(trouble, Refused)
            self._troubles.began(stream, topic=topic, reason=text, now=now, alone=alone)
            return
        memory.worked(complete=complete and not verdict.kept)
        if full := verdict.full:
            stored = {each.entry.message.subject for each in verdict.sent}
            memory.lacked_room(full, progress=stored, now=now, backoff=self._backoff)
            cause = verdict.lack
            assert cause is not None
            text = decisions.no_room(stream, memory.full, cause)
            topic = decisions.topic(stream, cause)
            self._troubles.began(stream, topic=topic, reason=text, now=now, alone=True)
        elif not memory.full:
            self._troubles.ended(stream, now=now)

    async def _reconcile(
        self,
        lease: Lease,
        stream: str,
        entries: Sequence[OutboxEntry],
        stop: asyncio.Event,
        allowed: asyncio.Future[bool] | None,
    ) -> Found | None:
        """Settle what the stream holds by now, where it may have forgotten the ids of ``entries``.

        ``None``: stopped before it was known.
        """
        memory = self._streams[stream]
        if not memory.suspect:
            return Found()
        if memory.window is None:
            info = await self._broker.admin.stream(stream)
            if info is None:
                return Found()
            memory.dated = await self._dated_by(), running_time()
            memory.window = info.duplicate_window
        oldest = decisions.oldest_beyond(entries, now=memory.now(), window=memory.window)
        if oldest is None:
            return Found()
        if allowed is not None and not (await allowed and memory.suspect):
            return Found()  # The claim before this one was looked up, or is not over yet.
        found = await settle_published(
            self._broker.admin, stream, lease, since=oldest - CLOCK_SKEW, stop=stop
        )
        if found is not None:
            memory.reconciled()
            if settled := len(found.settled):
                self._telemetry.emit(Relayed(stream, settled, settled, 0, timedelta()))
        return found
