"""The relay's loop: lease, claim, publish, settle, rest. See the package for the whole picture."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from seaway.clocks import running_time
from seaway.contracts import (
    Broker,
    Clock,
    Held,
    Lease,
    OutboxEntry,
    OutboxStore,
    Refused,
    Unconfirmed,
)
from seaway.errors import ApiError, TransientError
from seaway.relay import decisions
from seaway.relay.decisions import Kept, Verdict
from seaway.relay.memory import StreamMemory, Troubles, next_due
from seaway.relay.reconcile import settle_published
from seaway.retry import Backoff
from seaway.telemetry import Parked, Relayed, Telemetry

TURN = timedelta(seconds=1)
"""After that long a lease is left, so that another relay gets a turn."""
IDLE = timedelta(seconds=1)
"""How long to wait for the store to say that there is something new, before looking anyway."""
FREE_LEASE_POLL = timedelta(milliseconds=250)
"""How often to see whether the relay that has the lease is gone."""
LEAST_REST = timedelta(milliseconds=100)
FENCE = timedelta(seconds=5)
"""A claim this old is published only after the lease was confirmed."""
MOST_LANES = 4
"""Of how many shards a claim takes a batch: so many are in flight at a time."""
MOST_UNDER_WAY = 2
"""Claims with the broker: one that is stored, one that is made ready."""
PRUNE_EVERY = timedelta(minutes=10)
CLOCK_SKEW = timedelta(minutes=1)
"""How far the writer's clock may be ahead of the server's when ids are looked up."""
DEFAULT_BACKOFF = Backoff(base=timedelta(milliseconds=100), cap=timedelta(seconds=5))


_NEVER = datetime.min.replace(tzinfo=UTC)


def _over(stop: asyncio.Event, until: float) -> bool:
    return stop.is_set() or time.monotonic() > until


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
    found: set[str] = field(default_factory=set)
    """Settled because their stream held them, perhaps after they were claimed."""

    @property
    def progress(self) -> bool:
        return self.settled + self.failed > 0


@dataclass(frozen=True, slots=True)
class _Claim:
    """What was claimed, by a read that began at ``began``; ``complete``: there was no more."""

    entries: Sequence[OutboxEntry] = ()
    began: float = 0.0
    complete: bool = True

    @property
    def old(self) -> bool:
        """Whether the lease may be another's by now."""
        return running_time() - self.began > FENCE.total_seconds()


@dataclass(frozen=True, slots=True)
class _Publication:
    """A claim on its way to its streams. ``allowed``: whether it may be stored as it is, where the
    one before it is under way too."""

    claimed: _Claim
    sorted_out: decisions.Sorted
    allowed: asyncio.Future[bool] | None
    verdicts: asyncio.Task[Sequence[Verdict]]

    async def is_allowed(self) -> bool:
        return self.allowed is None or await self.allowed


async def _allowed(
    claimed: _Claim, before: _Publication, turn: _Turn, found: int, stop: asyncio.Event
) -> bool:
    """Whether a claim may be stored as it was made ready: once the one before it is, whole.

    Else it is begun anew, in the light of what has failed, been found (``found``: how many had
    been when it was sorted out), or taken so long.
    """
    verdicts = await before.verdicts
    whole = not before.sorted_out.unroutable and all(verdict.whole for verdict in verdicts)
    return whole and len(turn.found) == found and not claimed.old and not stop.is_set()


async def _give_up(publications: Iterable[_Publication]) -> None:
    for each in publications:
        tasks: list[asyncio.Future[Any]] = [each.verdicts]
        if each.allowed is not None:
            tasks.append(each.allowed)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Relay:
    """Publishes what the outbox holds. Any number may run on one outbox.

    ``batch``: entries a claim. ``max_attempts``: refusals of a message until it is parked.
    ``retention``: how long sent entries are kept. ``on_parked``: whether later events of a parked
    one's key wait behind it or pass. ``stream_grace``: how long a stream may be missing until its
    entries are parked. ``publish_timeout``: how long to wait for
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
        on_parked: Literal["wait", "pass"] = "wait",
        stream_grace: timedelta = timedelta(minutes=10),
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
        self._hold = on_parked == "wait"
        self._stream_grace = stream_grace
        self._clock = clock or _SystemClock()
        self._publish_timeout = publish_timeout
        self._backoff = backoff
        self._streams: defaultdict[str, StreamMemory] = defaultdict(StreamMemory)
        self._troubles = Troubles(telemetry)
        self._resting_keys: dict[str, float] = {}
        self._store_failures = 0
        self._led_at: dict[str, datetime] = {}
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
                await self._prune()
                turn = await self._turn(stop)
                if until_drained and await self._drained(turn):
                    return
                self._store_failures = 0
                self._troubles.ended("outbox", now=time.monotonic())
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
        async with self._store.lease(hold=self._hold) as lease:
            if lease is None:
                # Inside, so that the others see that somebody wants a share.
                await self._sleep(stop, FREE_LEASE_POLL)
                return _Turn(led=False)
            self._forget_after_a_gap(lease.shards)
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
            self._led_at.update(dict.fromkeys(lease.shards, self._clock.now()))
        turn.took = timedelta(seconds=time.monotonic() - began)
        return turn

    async def _lead(self, lease: Lease, turn: _Turn, stop: asyncio.Event, *, until: float) -> None:
        """Work through claims, four at a time: one is read while the one before it is made ready,
        the one before that stored, and the one before that settled."""
        claimed = await self._claim(lease, turn)
        verdicts: Sequence[Verdict] = ()
        under_way: deque[_Publication] = deque()
        try:
            while claimed.entries or under_way:
                if claimed.entries:
                    under_way.append(self._begin(lease, claimed, turn, stop, under_way))
                last = not claimed.entries or _over(stop, until)
                claimed = await self._meanwhile(lease, turn, verdicts, last=last)
                verdicts = ()
                if claimed.entries and len(under_way) < MOST_UNDER_WAY:
                    continue
                verdicts = await self._end(under_way.popleft(), turn)
                if self._silence():
                    break
                if under_way and not await under_way[0].is_allowed():
                    again = under_way.popleft()
                    await again.verdicts
                    if stop.is_set():
                        break  # Nor may what was claimed behind it be sent.
                    under_way.append(self._begin(lease, again.claimed, turn, stop, ()))
        finally:
            await _give_up(under_way)
        await self._settle(lease, turn, verdicts)

    def _begin(
        self,
        lease: Lease,
        claimed: _Claim,
        turn: _Turn,
        stop: asyncio.Event,
        under_way: Sequence[_Publication],
    ) -> _Publication:
        sorted_out = decisions.sort_out(
            claimed.entries, keys=turn.keys, streams=turn.streams, settled=turn.found
        )
        allowed: asyncio.Future[bool] | None = None
        if under_way:
            allowed = asyncio.ensure_future(
                _allowed(claimed, under_way[-1], turn, len(turn.found), stop)
            )
        publishing = self._publish(lease, claimed, sorted_out, turn, stop, allowed)
        return _Publication(claimed, sorted_out, allowed, asyncio.create_task(publishing))

    async def _end(self, publication: _Publication, turn: _Turn) -> Sequence[Verdict]:
        """Its verdicts, and what they mean for the rest of the turn."""
        verdicts = await publication.verdicts
        sorted_out = publication.sorted_out
        turn.waiting += sorted_out.skipped
        if sorted_out.unroutable:
            verdicts = [*verdicts, Verdict("", failed=sorted_out.unroutable)]
        for verdict in verdicts:
            turn.keys |= verdict.stuck
            turn.waiting += len(verdict.kept)
            if verdict.trouble:
                turn.streams.add(verdict.stream)
        return verdicts

    async def _meanwhile(
        self, lease: Lease, turn: _Turn, verdicts: Sequence[Verdict], *, last: bool
    ) -> _Claim:
        """Settle ``verdicts`` and claim what comes next, at the same time."""
        settling = self._settle(lease, turn, verdicts)
        if last or any(verdict.failed for verdict in verdicts):
            # A failure holds back its key, and the claim has to know.
            await settling
            return _Claim() if last else await self._claim(lease, turn)
        settled = asyncio.create_task(settling)
        try:
            return await self._claim(lease, turn)
        finally:
            await settled

    async def _claim(self, lease: Lease, turn: _Turn) -> _Claim:
        began = running_time()
        limit = self._batch * min(len(lease.shards), MOST_LANES)
        entries = await lease.claim(limit)
        turn.exhausted = not entries
        return _Claim(entries, began, complete=len(entries) < limit)

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
        self,
        lease: Lease,
        claimed: _Claim,
        sorted_out: decisions.Sorted,
        turn: _Turn,
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
        turn: _Turn,
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
        self._settled += len(found)
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
            memory.window = timedelta(microseconds=config.get("duplicate_window", 0) / 1000)
        oldest = decisions.oldest_beyond(entries, now=self._clock.now(), window=memory.window)
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

    # ------------------------------------------------------------------ between leases

    def _lost_track(self) -> None:
        for memory in self._streams.values():
            memory.suspected()

    def _forget_after_a_gap(self, shards: Collection[str]) -> None:
        """What other relays sent since the last lease is within the streams' windows, and so is
        safe to send again, unless that lease is long over (a suspended machine, a hung peer)."""
        now = self._clock.now()
        led_at = min((self._led_at.get(shard, _NEVER) for shard in shards), default=_NEVER)
        for memory in self._streams.values():
            window = memory.window
            if window is None or now - led_at > window / 2:
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
            return  # It has waited for its share already.
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
