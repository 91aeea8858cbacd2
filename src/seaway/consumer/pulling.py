"""From the server into the lanes: no more than can be started, and what was lost on the way first.

Owns: the subscription of each stream. Knows nothing of handlers. Guarantees: a subscription that
goes silent while the durable has something to give, and one whose durable is deleted, is made anew
and told of; what came over the old one is settled there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

from seaway.consumer.breaker import OUTAGE
from seaway.consumer.recovery import recover
from seaway.consumer.run import Run, Spawn
from seaway.consumer.settling import Settler
from seaway.contracts import Incoming, Subscription
from seaway.errors import BrokerUnavailable, NotFound
from seaway.telemetry import Resubscribed

POLL = timedelta(seconds=5)
"""How long a pull waits for a message."""
STALL = timedelta(seconds=15)
"""How long nothing may come, while something is there and there is room for it."""


class Puller:
    """Pulls one consumer's streams. ``spawn`` starts a task of the run."""

    def __init__(self, run: Run, settler: Settler, spawn: Spawn) -> None:
        self._run = run
        self._settler = settler
        self._spawn = spawn

    async def pull(self, stream: str) -> None:
        """Until the run stops; each subscription stays open until its deliveries are settled."""
        run, attempt = self._run, 0
        while not run.stop.is_set():
            try:
                async with run.ports.broker.subscribe(stream, run.durable) as source:
                    attempt, run.open[stream] = 0, source
                    await self._pull_until_stop_or_stall(stream, source)
                    if not run.stop.is_set():
                        self._tell(stream, "stalled")
                        await source.drain()
                        self._spawn(self.pull(stream))
                    await self._settled(source)
                    return
            except BrokerUnavailable as error:
                attempt += 1
                run.breaker.pause("server", str(error))
                await run.stopped_within(OUTAGE.delay(attempt))
            except NotFound as error:
                run.breaker.pause("server", str(error))
                await self._until_made_again(stream)
                self._tell(stream, "deleted")

    async def _pull_until_stop_or_stall(self, stream: str, source: Subscription) -> None:
        run, gaps = self._run, -1
        quiet_since, suspicious = run.now(), False
        draining = asyncio.create_task(self._drain_on_stop(source))
        try:
            while not run.stop.is_set():
                if gaps != source.gaps:
                    gaps = source.gaps
                    await recover(run, stream, source)
                # What waits behind a held delivery does not count: that one must be able to come.
                capacity = run.capacity
                free = capacity - run.lanes.moving(source)
                # One request for many: each costs as much as some messages.
                needed = max(1, capacity // 4)
                if free < needed or run.breaker.stuck:
                    await run.room_or_stop(needed - free)
                    quiet_since = run.now()
                    continue
                batch = await _next(source, free)
                run.breaker.resume("server")
                if run.stop.is_set():
                    await self._settler.give_back(source, batch)
                    break
                if gaps != source.gaps:
                    gaps = source.gaps
                    await recover(run, stream, source)
                run.take_in(batch, source)
                if batch:
                    quiet_since, suspicious = run.now(), False
                elif run.now() >= quiet_since + STALL.total_seconds():
                    if not await self._has_something_to_give(stream, source):
                        quiet_since, suspicious = run.now(), False
                    elif suspicious:
                        return
                    else:
                        # It may have come just now: one more pull will tell.
                        suspicious = True
            await draining
        finally:
            draining.cancel()

    async def _drain_on_stop(self, source: Subscription) -> None:
        await self._run.stop.wait()
        await source.drain()

    async def _settled(self, source: Subscription) -> None:
        """Until the run has drained or, while it goes on, ``source`` has nothing to settle."""
        run = self._run
        while not run.drained.is_set() and (
            run.stop.is_set() or run.lanes.count(source) or self._settler.owes(source)
        ):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await run.drained.wait()

    async def _has_something_to_give(self, stream: str, source: Subscription) -> bool:
        try:
            info = await self._run.ports.broker.admin.consumer(stream, self._run.durable)
        except BrokerUnavailable:
            return False
        if info is None or info.get("paused") or int(info["num_pending"]) == 0:
            return False
        if source.standby and any(
            state.get("pinned_client_id") for state in info.get("priority_groups") or ()
        ):
            return False  # Not to us.
        return int(info["num_ack_pending"]) < self._run.limits.max_ack_pending

    async def _until_made_again(self, stream: str) -> None:
        run, attempt = self._run, 0
        while not run.stop.is_set():
            attempt += 1
            if await run.stopped_within(OUTAGE.delay(attempt)):
                return
            with contextlib.suppress(BrokerUnavailable):
                info = await run.ports.broker.admin.consumer(stream, run.durable)
                if info is not None:
                    run.learn(info["config"])
                    return

    def _tell(self, stream: str, reason: str) -> None:
        run = self._run
        if not run.stop.is_set():
            run.ports.telemetry.emit(Resubscribed(stream, run.durable, reason))


async def _next(source: Subscription, limit: int) -> Sequence[Incoming]:
    """Its next deliveries, if any come in time, and even where it forgets the time itself."""
    try:
        async with asyncio.timeout(2 * POLL.total_seconds()):
            return await source.next(limit, timeout=POLL)
    except TimeoutError:
        return []
