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
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, cast

from seaway.clocks import running_time
from seaway.contracts import Broker, Held, Lease, OutboxEntry, Refused, Unconfirmed
from seaway.errors import ApiError, TransientError
from seaway.relay import decisions
from seaway.relay.decisions import Kept, Verdict
from seaway.relay.memory import StreamMemory, Troubles
from seaway.relay.reconcile import settle_published
from seaway.retry import Backoff
from seaway.telemetry import Relayed, Telemetry

FENCE = timedelta(seconds=5)
"""A claim this old is published only after the lease was confirmed."""
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
    took: timedelta = timedelta()
    keys: set[str] = field(default_factory=set)
    streams: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)
    """Settled because their stream held them, perhaps after they were claimed."""

    @property
    def progress(self) -> bool:
        """Whether anything left the outbox, or came closer to it."""
        return self.settled + self.failed > 0


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

    Else it is begun anew, in the light of what has failed, been found (``found``: how many had
    been when it was sorted out), or taken so long.
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
            claimed.entries, keys=turn.keys, streams=turn.streams, settled=turn.found
        )
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
                self._publish_stream(lease, stream, lanes, turn, stop, allowed, complete=complete)
                for stream, lanes in sorted_out.shares.items()
            )
        )
        return [verdict for verdicts in found for verdict in verdicts]

    async def _publish_stream(
        self,
        lease: Lease,
        stream: str,
        lanes: Mapping[int, Sequence[OutboxEntry]],
        turn: Turn,
        stop: asyncio.Event,
        allowed: asyncio.Future[bool] | None,
        *,
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
        turn.found |= found
        turn.settled += len(found)
        return await asyncio.gather(
            *(
                self._publish_share(
                    stream,
                    [e for e in lane if e.event_id not in found] if found else lane,
                    allowed,
                    complete=complete,
                )
                for lane in lanes.values()
            )
        )

    async def _publish_share(
        self,
        stream: str,
        share: Sequence[OutboxEntry],
        allowed: asyncio.Future[bool] | None,
        *,
        complete: bool,
    ) -> Verdict:
        memory, began = self._streams[stream], time.monotonic()
        outcomes = (
            await self._broker.publish(
                stream,
                [entry.message for entry in share],
                timeout=self._publish_timeout,
                after=allowed,
            )
            if share
            else ()
        )
        if allowed is not None and not await allowed:
            return Verdict(stream)
        verdict = decisions.judge(stream, share, outcomes, max_attempts=self._max_attempts)
        if isinstance(verdict.trouble, Refused):
            verdict = await self._reconsider(memory, verdict)
        else:
            memory.missing_since = None
        self._learn(memory, verdict, complete=complete)
        return replace(verdict, took=timedelta(seconds=time.monotonic() - began))

    async def _reconsider(self, memory: StreamMemory, verdict: Verdict) -> Verdict:
        try:
            config = await self._config(verdict.stream)
        except (TransientError, ApiError) as error:
            return decisions.unanswered(verdict, str(error))
        if config is not None:
            memory.missing_since = None
            return decisions.reconsider(verdict, config)
        now = time.monotonic()
        if memory.missing_since is None:
            memory.missing_since = now
        verdict = decisions.reconsider(verdict, None)
        if now - memory.missing_since < self._stream_grace.total_seconds():
            return verdict
        return decisions.given_up(verdict)

    def _learn(self, memory: StreamMemory, verdict: Verdict, *, complete: bool) -> None:
        stream, trouble, now = verdict.stream, verdict.trouble, time.monotonic()
        if trouble is not None:
            progress = bool(verdict.sent)
            memory.stumbled(trouble, progress=progress, now=now, backoff=self._backoff)
            topic = decisions.topic(stream, trouble)
            text = decisions.reason(stream, trouble)
            self._troubles.began(stream, topic=topic, reason=text, now=now)
        else:
            memory.worked(complete=complete and not verdict.kept)
            self._troubles.ended(stream, now=now)

    async def _config(self, stream: str) -> Mapping[str, Any] | None:
        info = await self._broker.admin.stream(stream)
        return None if info is None else cast(Mapping[str, Any], info["config"])

    async def _reconcile(
        self,
        lease: Lease,
        stream: str,
        entries: Sequence[OutboxEntry],
        stop: asyncio.Event,
        allowed: asyncio.Future[bool] | None,
    ) -> set[str] | None:
        """Settle what the stream holds by now, where it may have forgotten the ids of ``entries``.

        The ids of what was settled; ``None``: stopped before it was known.
        """
        memory = self._streams[stream]
        if not memory.suspect:
            return set()
        if memory.window is None:
            config = await self._config(stream)
            if config is None:
                return set()
            memory.dated = await self._dated_by(), running_time()
            memory.window = timedelta(microseconds=config.get("duplicate_window", 0) / 1000)
        oldest = decisions.oldest_beyond(entries, now=memory.now(), window=memory.window)
        if oldest is None:
            return set()
        if allowed is not None and not (await allowed and memory.suspect):
            return set()  # The claim before this one was looked up, or is not over yet.
        found = await settle_published(
            self._broker.admin, stream, lease, since=oldest - CLOCK_SKEW, stop=stop
        )
        if found is not None:
            memory.reconciled()
            if found:
                self._telemetry.emit(Relayed(stream, len(found), len(found), 0, timedelta()))
        return found
