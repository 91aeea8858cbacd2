"""The relay's loop: lease, claim, publish, settle, rest. See the package for the whole picture."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Literal

from seaway.contracts import Broker, Lease, RelayStore
from seaway.errors import TransientError
from seaway.process import running_time
from seaway.relay import decisions
from seaway.relay.batch import Batch, Publishing, Turn, give_up
from seaway.relay.decisions import Verdict
from seaway.relay.healing import Healing
from seaway.relay.memory import StreamMemory, Troubles, next_due
from seaway.retry import Backoff
from seaway.telemetry import Parked, Relayed, Telemetry
from seaway.waiting import done_before, set_within

TURN = timedelta(seconds=1)
"""After that long a lease is left, so that another relay gets a turn."""
IDLE = timedelta(seconds=1)
"""How long to wait for the store to say that there is something new, before looking anyway."""
FREE_LEASE_POLL = timedelta(milliseconds=250)
"""How often to see whether the relay that has the lease is gone."""
LEAST_REST = timedelta(milliseconds=100)
HEAD = 4
"""While most entries are expected to be blocked, a claim asks for a batch divided by this."""
MOST_LANES = 4
"""Of how many shards a claim takes a batch: so many are in flight at a time."""
MOST_UNDER_WAY = 2
"""Batches with the broker: one that is stored, one that is made ready."""
LOOK_AGAIN = timedelta(seconds=1)
"""After that long a stream is looked at again: whether it still holds what it acknowledged."""
PRUNE_EVERY = timedelta(minutes=10)
DEFAULT_BACKOFF = Backoff(base=timedelta(milliseconds=100), cap=timedelta(seconds=5))


class Relay:
    """Publishes what the outbox holds. Any number may run on one outbox.

    ``batch``: entries a claim. ``max_attempts``: refusals of a message until it is parked.
    ``retention``: how long sent entries are kept. ``on_parked``: whether later events of a parked
    one's key wait behind it or pass. ``stream_grace``: how long a stream may be missing until its
    entries are parked. ``publish_timeout``: how long to wait for
    acknowledgements. ``backoff``: the pauses while nothing can be published, and before a refused
    message is tried again. ``way_to``: what is said of a missing stream, and is its events' error
    when they are parked. ``heal``: publish again what a stream acknowledged and has lost; ``by``:
    who does so, for the log. An instance is used by one task at a time.
    """

    def __init__(
        self,
        store: RelayStore,
        broker: Broker,
        *,
        telemetry: Telemetry,
        batch: int = 1000,
        max_attempts: int = 10,
        retention: timedelta = timedelta(days=7),
        on_parked: Literal["wait", "pass"] = "wait",
        stream_grace: timedelta = timedelta(minutes=10),
        publish_timeout: timedelta = timedelta(seconds=5),
        backoff: Backoff = DEFAULT_BACKOFF,
        way_to: Callable[[str], str] = decisions.WAY_TO,
        heal: bool = True,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._batch = batch
        self._retention = retention
        self._hold = on_parked == "wait"
        self._backoff = backoff
        self._streams: defaultdict[str, StreamMemory] = defaultdict(StreamMemory)
        self._troubles = Troubles(telemetry)
        self._publishing = Publishing(
            broker,
            self._streams,
            self._troubles,
            telemetry=telemetry,
            dated_by=store.now,
            max_attempts=max_attempts,
            stream_grace=stream_grace,
            timeout=publish_timeout,
            backoff=backoff,
            way_to=way_to,
            healing=Healing(broker, store, telemetry, publish_timeout, keeps=bool(retention))
            if heal
            else None,
        )
        self._shards: frozenset[str] = frozenset()
        self._resting_keys: dict[str, float] = {}
        self._look_at = 0.0
        """When to look again at what lies behind entries that cannot go."""
        self._store_failures = 0
        self._led_at: dict[str, float] = {}
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
                await set_within(self._backoff.delay(self._store_failures), stop)

    # ------------------------------------------------------------------ one lease

    async def _turn(self, stop: asyncio.Event) -> Turn | None:
        """What it came to; ``None`` where others have all the shards."""
        began = time.monotonic()
        async with self._store.lease(hold=self._hold) as lease:
            if lease is None:
                # Inside, so that the others see that somebody wants a share.
                await set_within(FREE_LEASE_POLL, stop)
                return None
            self._forget_after_a_gap(lease.shards)
            await self._look_again(lease)
            turn = Turn(
                lease,
                stop,
                until=began + TURN.total_seconds(),
                marked=began,
                looks_behind=began >= self._look_at,
                keys={key for key, until in self._resting_keys.items() if until > began},
                streams={name for name, s in self._streams.items() if s.rests_until > began},
                full={
                    subject: full.size
                    for memory in self._streams.values()
                    for subject, full in memory.full.items()
                    if full.rests_until > began
                },
            )
            try:
                await self._publishing.look(turn, tuple(self._streams))
                await self._lead(turn)
            except BaseException:
                # Published but unsettled: only the stream knows which.
                self._lost_track()
                raise
            finally:
                self._settled += turn.settled
            self._led_at.update(dict.fromkeys(lease.shards, running_time()))
        now = time.monotonic()
        if turn.looks_behind:
            barren, most = timedelta(seconds=turn.barren_for), self._backoff.cap
            rest = decisions.rest_after_looking(barren, least=LEAST_REST, most=most)
            self._look_at = now + rest.total_seconds() if barren else now
        for stream, memory in self._streams.items():
            over = memory.looked_through(turn.fitting, since=began, complete=turn.exhausted)
            if over and not memory.full and memory.cause is None:
                self._troubles.ended(stream, now=now)
        return turn

    async def _lead(self, turn: Turn) -> None:
        """Work through batches, four at a time: one is read while the one before it is made ready,
        the one before that stored, and the one before that settled."""
        batch = await self._claim(turn)
        verdicts: Sequence[Verdict] = ()
        under_way: deque[Batch] = deque()
        try:
            while batch.entries or under_way:
                if batch.entries:
                    behind = under_way[-1] if under_way else None
                    under_way.append(self._publishing.begin(turn, batch, behind))
                last = not batch.entries or turn.over
                batch = await self._meanwhile(turn, verdicts, last=last)
                verdicts = ()
                if batch.entries and len(under_way) < MOST_UNDER_WAY:
                    continue
                verdicts = await self._end(under_way.popleft(), turn)
                if self._silence():
                    break
                if under_way and not await under_way[0].is_allowed():
                    await under_way[0].verdicts
                    if turn.stop.is_set():
                        break  # Nor may what was claimed behind it be sent.
                    self._publishing.begin(turn, under_way[0])
        finally:
            await give_up(under_way)
        await self._settle(turn, verdicts)

    async def _end(self, batch: Batch, turn: Turn) -> Sequence[Verdict]:
        """Its verdicts, and what they mean for the rest of the turn."""
        verdicts = await batch.verdicts
        turn.quiet.clear()
        turn.waiting += batch.parts.skipped
        if batch.parts.unroutable:
            verdicts = [*verdicts, Verdict("", failed=batch.parts.unroutable)]
        for verdict in verdicts:
            turn.learnt(verdict)
            memory = self._streams.get(verdict.stream)
            if memory is not None and memory.full:
                turn.fitting.update(each.entry.message.subject for each in verdict.sent)
        turn.went_by(any(each.sent or each.failed for each in verdicts))
        return verdicts

    async def _meanwhile(self, turn: Turn, verdicts: Sequence[Verdict], *, last: bool) -> Batch:
        """Settle ``verdicts`` and claim what comes next, at the same time."""
        settling = self._settle(turn, verdicts)
        if last or any(verdict.failed for verdict in verdicts):
            # A failure holds back its key, and the claim has to know.
            await settling
            return Batch() if last else await self._claim(turn)
        settled = asyncio.create_task(settling)
        try:
            return await self._claim(turn)
        finally:
            await settled

    async def _claim(self, turn: Turn) -> Batch:
        began = running_time()
        size = self._batch if turn.looks_behind else max(1, self._batch // HEAD)
        limit = size * min(len(turn.lease.shards), MOST_LANES)
        entries = await turn.lease.claim(limit)
        turn.exhausted = not entries
        return Batch(entries, began, complete=len(entries) < limit)

    async def _settle(self, turn: Turn, verdicts: Sequence[Verdict]) -> None:
        sent = [each for verdict in verdicts for each in verdict.sent]
        failed = [each for verdict in verdicts for each in verdict.failed]
        if not sent and not failed:
            turn.quiet.set()
            return
        await turn.lease.settle(sent, failed)
        turn.quiet.set()
        turn.settled += len(sent)
        turn.failed += len(failed)
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

    # ------------------------------------------------------------------ between leases

    def _lost_track(self) -> None:
        for memory in self._streams.values():
            memory.suspected()

    def _forget_after_a_gap(self, shards: Collection[str]) -> None:
        """What other relays sent since the last lease is within the streams' windows, and so is
        safe to send again, unless that lease is long over (a suspended machine, a hung peer)."""
        now = running_time()
        led_at = min((self._led_at.get(shard, -math.inf) for shard in shards), default=-math.inf)
        for memory in self._streams.values():
            window = memory.window
            if window is None or now - led_at > window.total_seconds() / 2:
                memory.suspected()

    async def _look_again(self, lease: Lease) -> None:
        """Have each stream looked at again after a while, and under other shards: a new leader is
        not heard of, and what others published of these is not known here."""
        shards = frozenset(lease.shards)
        anew, self._shards = self._shards != shards, shards
        if anew:
            for stream in await lease.sent_streams():
                self._streams[stream].searched = False
        for memory in self._streams.values():
            if anew or running_time() - memory.looked_at > LOOK_AGAIN.total_seconds():
                memory.to_look()

    def _silence(self) -> bool:
        """Whether nothing answers at all, so that looking at other entries is in vain."""
        return bool(self._streams) and all(s.silent for s in self._streams.values())

    async def _drained(self, turn: Turn | None) -> bool:
        if turn is None:
            backlog = await self._store.backlog()
            return backlog.count == backlog.parked
        if turn.progress or turn.waiting or not turn.exhausted:
            return False
        if any(memory.unhealed for memory in self._streams.values()):
            return False
        return decisions.drained(await self._store.backlog())

    async def _prune(self) -> None:
        now = time.monotonic()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_EVERY.total_seconds()
            await self._store.prune(await self._store.before(self._retention))

    async def _rest(self, turn: Turn | None, stop: asyncio.Event) -> None:
        if turn is None:
            return  # It has waited for its share already.
        if turn.progress and not turn.barren:
            await asyncio.sleep(0)
            return
        now = time.monotonic()
        due = next_due(
            (
                *(s.rests_until for s in self._streams.values() if s.cause is not None),
                *(full.rests_until for s in self._streams.values() for full in s.full.values()),
                *self._resting_keys.values(),
            ),
            now=now,
            waiting=turn.waiting > 0,
        )
        self._resting_keys = {k: until for k, until in self._resting_keys.items() if until > now}
        if self._silence():
            await set_within(due or LEAST_REST, stop)
            return
        left = IDLE if due is None else min(due, IDLE)
        if turn.waiting or due is not None:
            # Until then only what waits already can be found: what is new lies behind it.
            rest = min(left, max(LEAST_REST, timedelta(seconds=self._look_at - now)))
            await set_within(rest if turn.progress else max(LEAST_REST, rest), stop)
            left -= rest
        if left > timedelta():
            await done_before(stop, self._store.wait(left))
