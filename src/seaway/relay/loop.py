"""The relay's loop: lease, claim, publish, settle, rest. See the package for the whole picture."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from seaway import headers as h
from seaway.contracts import (
    Broker,
    Clock,
    Held,
    Lease,
    OutboxEntry,
    OutboxStore,
    Refused,
    Sent,
    StoredMessage,
    Unconfirmed,
)
from seaway.errors import ApiError, NotFound, TransientError
from seaway.relay import decisions
from seaway.relay.decisions import Kept, Verdict
from seaway.relay.memory import StreamMemory, Troubles, next_due
from seaway.retry import Backoff
from seaway.telemetry import Parked, Relayed, Telemetry

TURN = timedelta(seconds=1)
"""After that long a lease is left, so that another relay gets a turn."""
IDLE = timedelta(seconds=1)
"""How long to wait for the store to say that there is something new, before looking anyway."""
FREE_LEASE_POLL = timedelta(milliseconds=250)
"""How often to see whether the relay that has the lease is gone."""
LEAST_REST = timedelta(milliseconds=100)
PRUNE_EVERY = timedelta(minutes=10)
CLOCK_SKEW = timedelta(minutes=1)
"""How far the writer's clock may be ahead of the server's when ids are looked up."""
DEFAULT_BACKOFF = Backoff(base=timedelta(milliseconds=100), cap=timedelta(seconds=5))


class _SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, delay: timedelta) -> None:
        await asyncio.sleep(max(0.0, delay.total_seconds()))


@dataclass(slots=True)
class _Turn:
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

    @property
    def progress(self) -> bool:
        return self.settled + self.failed > 0


class Relay:
    """Publishes what the outbox holds. Any number may run on one outbox.

    ``batch``: entries a claim. ``max_attempts``: refusals of a message until it is parked.
    ``retention``: how long sent entries are kept. ``publish_timeout``: how long to wait for
    acknowledgements. ``backoff``: the pauses while nothing can be published, and before a refused
    message is tried again. An instance is used by one task at a time.
    """

    def __init__(
        self,
        store: OutboxStore,
        broker: Broker,
        *,
        telemetry: Telemetry,
        batch: int = 1000,
        max_attempts: int = 10,
        retention: timedelta = timedelta(days=7),
        clock: Clock | None = None,
        publish_timeout: timedelta = timedelta(seconds=5),
        backoff: Backoff = DEFAULT_BACKOFF,
    ) -> None:
        self._store = store
        self._broker = broker
        self._telemetry = telemetry
        self._batch = batch
        self._max_attempts = max_attempts
        self._retention = retention
        self._clock = clock or _SystemClock()
        self._publish_timeout = publish_timeout
        self._backoff = backoff
        self._streams: defaultdict[str, StreamMemory] = defaultdict(StreamMemory)
        self._troubles = Troubles(telemetry)
        self._resting_keys: dict[str, float] = {}
        self._store_failures = 0
        self._led_at: datetime | None = None
        self._prune_at = 0.0
        self._settled = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until ``stop`` is set; the claim in flight is still settled (it takes
        ``publish_timeout`` at most).

        Outages of server and database are waited out. Raises only what no waiting mends
        (``SchemaMismatch``). Cancelling loses nothing: what was in flight is sent again by the
        next relay under the same ids.
        """
        await self._work(stop, until_drained=False)

    async def drain(self, stop: asyncio.Event | None = None) -> int:
        """Relay until the outbox holds nothing but parked entries and what waits behind them, or
        until ``stop`` is set; how many entries this relay took out of the outbox.

        While another relay holds the lease, waits until that one has emptied the outbox. Outages
        are waited out as in ``run``.
        """
        before = self._settled
        await self._work(stop or asyncio.Event(), until_drained=True)
        return self._settled - before

    async def _work(self, stop: asyncio.Event, *, until_drained: bool) -> None:
        while not stop.is_set():
            try:
                turn = await self._turn(stop)
                if until_drained and await self._drained(turn):
                    return
                self._store_failures = 0
                self._troubles.ended("outbox", now=time.monotonic())
                await self._prune()
                await self._rest(turn, stop)
            except TransientError as error:
                self._lost_track()
                self._store_failures += 1
                self._troubles.began(
                    "outbox",
                    topic=f"outbox {type(error).__name__}",
                    reason=f"the outbox is not usable now: {error}",
                    now=time.monotonic(),
                )
                await self._sleep(stop, self._backoff.delay(self._store_failures))

    # ------------------------------------------------------------------ one lease

    async def _turn(self, stop: asyncio.Event) -> _Turn:
        began = time.monotonic()
        async with self._store.lease() as lease:
            if lease is None:
                return _Turn(led=False)
            self._forget_after_a_gap()
            turn = _Turn(
                keys={key for key, until in self._resting_keys.items() if until > began},
                streams={name for name, s in self._streams.items() if s.rests_until > began},
            )
            try:
                await self._lead(lease, turn, stop, until=began + TURN.total_seconds())
            except BaseException:
                # Published but unsettled: only the stream knows which.
                self._lost_track()
                raise
        self._led_at = self._clock.now()
        turn.took = timedelta(seconds=time.monotonic() - began)
        return turn

    async def _lead(self, lease: Lease, turn: _Turn, stop: asyncio.Event, *, until: float) -> None:
        """Work through claims; while one is published, settle the one before and claim the next."""
        claimed = await self._claim(lease, turn)
        verdicts: Sequence[Verdict] = ()
        while claimed:
            sorted_out = decisions.sort_out(claimed, keys=turn.keys, streams=turn.streams)
            turn.waiting += sorted_out.skipped
            last = len(claimed) < self._batch
            publishing = asyncio.create_task(self._publish(sorted_out.shares, stop, last=last))
            try:
                await self._settle(lease, turn, verdicts)
                if stop.is_set() or time.monotonic() > until:
                    claimed = ()
                else:
                    claimed = await self._claim(lease, turn)
                verdicts = await publishing
            finally:
                if not publishing.done():
                    publishing.cancel()
                    await asyncio.gather(publishing, return_exceptions=True)
            if sorted_out.unroutable:
                verdicts = [*verdicts, Verdict("", failed=sorted_out.unroutable)]
            for verdict in verdicts:
                turn.keys |= verdict.stuck
                turn.waiting += len(verdict.kept)
                if verdict.trouble:
                    turn.streams.add(verdict.stream)
            if self._silence():
                break
        await self._settle(lease, turn, verdicts)

    async def _claim(self, lease: Lease, turn: _Turn) -> Sequence[OutboxEntry]:
        claimed = await lease.claim(self._batch)
        turn.exhausted = not claimed
        return claimed

    async def _settle(self, lease: Lease, turn: _Turn, verdicts: Sequence[Verdict]) -> None:
        sent = [each for verdict in verdicts for each in verdict.sent]
        failed = [each for verdict in verdicts for each in verdict.failed]
        if not sent and not failed:
            return
        await lease.settle(sent, failed)
        turn.settled += len(sent)
        turn.failed += len(failed)
        self._settled += len(sent)
        now = time.monotonic()
        for each in failed:
            entry = each.entry
            if each.park:
                self._resting_keys.pop(entry.key, None)
                self._telemetry.emit(Parked(entry.event_id, entry.message.subject, each.error))
            else:
                delay = self._backoff.delay(entry.attempts + 1)
                self._resting_keys[entry.key] = now + delay.total_seconds()
        for verdict in verdicts:
            if verdict.sent or (verdict.failed and verdict.stream):
                self._telemetry.emit(
                    Relayed(
                        verdict.stream,
                        len(verdict.sent),
                        verdict.duplicates,
                        len(verdict.failed),
                        verdict.took,
                    )
                )

    # ------------------------------------------------------------------ one claim

    async def _publish(
        self, shares: Mapping[str, Sequence[OutboxEntry]], stop: asyncio.Event, *, last: bool
    ) -> Sequence[Verdict]:
        """Each stream's share at the same time: the streams do not depend on one another."""
        return await asyncio.gather(
            *(self._publish_share(name, share, stop, last) for name, share in shares.items())
        )

    async def _publish_share(
        self, stream: str, share: Sequence[OutboxEntry], stop: asyncio.Event, last: bool
    ) -> Verdict:
        memory = self._streams[stream]
        began = time.monotonic()
        try:
            found = await self._look_up(stream, share, stop) if memory.suspect else {}
            if found is None:
                return Verdict(stream, kept=[Kept(entry, Held()) for entry in share])
            fresh = [e for e in share if e.event_id not in found] if found else share
            outcomes = (
                await self._broker.publish(
                    stream, [entry.message for entry in fresh], timeout=self._publish_timeout
                )
                if fresh
                else ()
            )
            verdict = decisions.judge(stream, fresh, outcomes, max_attempts=self._max_attempts)
        except (TransientError, ApiError) as error:
            cause = Unconfirmed(str(error))
            found, verdict = {}, Verdict(stream, kept=[Kept(entry, cause) for entry in share])
        if isinstance(verdict.trouble, Refused):
            verdict = await self._reconsider(verdict)
        if found:
            known = [Sent(e, stream, found[e.event_id]) for e in share if e.event_id in found]
            verdict = replace(
                verdict,
                sent=[*known, *verdict.sent],
                duplicates=verdict.duplicates + len(known),
            )
        now = time.monotonic()
        self._learn(memory, verdict, last=last, now=now)
        return replace(verdict, took=timedelta(seconds=now - began))

    async def _reconsider(self, verdict: Verdict) -> Verdict:
        try:
            config = await self._config(verdict.stream)
        except (TransientError, ApiError) as error:
            return decisions.unanswered(verdict, str(error))
        return decisions.reconsider(verdict, config)

    def _learn(self, memory: StreamMemory, verdict: Verdict, *, last: bool, now: float) -> None:
        stream, trouble = verdict.stream, verdict.trouble
        if trouble is not None:
            progress = bool(verdict.sent)
            memory.stumbled(trouble, progress=progress, now=now, backoff=self._backoff)
            topic = decisions.topic(stream, trouble)
            text = decisions.reason(stream, trouble)
            self._troubles.began(stream, topic=topic, reason=text, now=now)
        else:
            known = verdict.duplicates
            new = len(verdict.sent) - known
            memory.worked(new=new, known=known, enough=self._batch, last=last)
            self._troubles.ended(stream, now=now)

    async def _config(self, stream: str) -> Mapping[str, Any] | None:
        info = await self._broker.admin.stream(stream)
        return None if info is None else cast(Mapping[str, Any], info["config"])

    async def _look_up(
        self, stream: str, share: Sequence[OutboxEntry], stop: asyncio.Event
    ) -> dict[str, int] | None:
        """Which of ``share`` the stream holds by now, where it may have forgotten their ids.

        ``None``: stopped before it was known.
        """
        memory = self._streams[stream]
        if memory.window is None:
            config = await self._config(stream)
            if config is None:
                return {}
            memory.window = timedelta(microseconds=config.get("duplicate_window", 0) / 1000)
        old = decisions.old_entries(share, now=self._clock.now(), window=memory.window)
        if not old:
            return {}
        wanted = {entry.event_id for entry in old}
        found: dict[str, int] = {}
        stored = self._broker.admin.read(
            stream,
            from_time=min(entry.added_at for entry in old) - CLOCK_SKEW,
            headers_only=True,
        )
        try:
            async with aclosing(cast(AsyncGenerator[StoredMessage, None], stored)):
                async for each in stored:
                    message_id = each.message.headers.get(h.MSG_ID)
                    if message_id in wanted:
                        found[message_id] = each.stream_seq
                    if stop.is_set():
                        return None
        except NotFound:
            return {}
        return found

    # ------------------------------------------------------------------ between leases

    def _lost_track(self) -> None:
        for memory in self._streams.values():
            memory.suspected()

    def _forget_after_a_gap(self) -> None:
        """What other relays sent since the last lease is within the streams' windows, and so is
        safe to send again, unless that lease is long over (a suspended machine, a hung peer)."""
        now = self._clock.now()
        for memory in self._streams.values():
            window = memory.window
            if self._led_at is None or window is None or now - self._led_at > window / 2:
                memory.suspected()

    def _silence(self) -> bool:
        """Whether nothing answers at all, so that looking at other entries is in vain."""
        return bool(self._streams) and all(s.silent for s in self._streams.values())

    async def _drained(self, turn: _Turn) -> bool:
        if turn.progress or turn.waiting or (turn.led and not turn.exhausted):
            return False
        backlog = await self._store.backlog()
        if not turn.led:
            return backlog.count == backlog.parked
        return decisions.drained(backlog)

    async def _prune(self) -> None:
        now = time.monotonic()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_EVERY.total_seconds()
            await self._store.prune(self._clock.now() - self._retention)

    async def _rest(self, turn: _Turn, stop: asyncio.Event) -> None:
        if turn.progress:
            await asyncio.sleep(0)
            return
        now = time.monotonic()
        self._resting_keys = {k: until for k, until in self._resting_keys.items() if until > now}
        due = next_due(
            (*(s.rests_until for s in self._streams.values()), *self._resting_keys.values()),
            now=now,
        )
        if not turn.led:
            # Not store.wait: new entries are the holder's business, and would not let us rest.
            await self._sleep(stop, FREE_LEASE_POLL)
            return
        if self._silence():
            await self._sleep(stop, due or LEAST_REST)
            return
        if turn.waiting or due is not None:
            most = self._backoff.cap
            await self._sleep(
                stop, decisions.rest_after_looking(turn.took, least=LEAST_REST, most=most)
            )
        await self._unless(stop, self._store.wait(IDLE if due is None else min(due, IDLE)))

    async def _sleep(self, stop: asyncio.Event, delay: timedelta) -> None:
        await self._unless(stop, self._clock.sleep(delay))

    async def _unless(self, stop: asyncio.Event, waiting: Awaitable[None]) -> None:
        """Wait for ``waiting`` or ``stop``, whichever comes first; raises what ``waiting`` does."""
        waiter = asyncio.ensure_future(waiting)
        stopper = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((waiter, stopper), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopper.cancel()
            if not waiter.done():
                waiter.cancel()
            results = await asyncio.gather(waiter, stopper, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
