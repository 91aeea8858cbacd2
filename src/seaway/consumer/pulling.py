"""Pulls messages into the lanes: no more than can soon be started, and lost ones before newer ones.

Owns: the subscription of each stream. Knows nothing of handlers. Guarantees: a subscription that
goes silent while the durable has something to give, and one whose durable is deleted, is made anew
and told of; what came over the old one is settled there. Where one begins, or may have lost
something, the server gives that out again before anything newer (ADR 0014).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

from seaway import logs
from seaway.consumer.breaker import OUTAGE
from seaway.consumer.run import Run, Spawn
from seaway.consumer.settling import Settler
from seaway.consumer.trying import settled
from seaway.contracts import Incoming, Subscription
from seaway.errors import BrokerUnavailable, CannotRewind, NotFound
from seaway.telemetry import Resubscribed
from seaway.waiting import set_within

logger = logs.logger("seaway.consumer")

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
        self._said = ""
        self._bringing = 0
        self._fewer = asyncio.Event()

    async def pull(self, stream: str) -> None:
        """Until the run stops; each subscription stays open until its deliveries are settled."""
        run, attempt = self._run, 0
        while not run.stop.is_set():
            try:
                async with run.ports.broker.subscribe(stream, run.durable) as source:
                    attempt = 0
                    await self._bring(stream, source)
                    if not run.stop.is_set():
                        self._tell(stream, "stalled")
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

    async def dry(self) -> None:
        """Return when no subscription brings anything any more. For after the stop."""
        while self._bringing:
            self._fewer.clear()
            await self._fewer.wait()

    async def _bring(self, stream: str, source: Subscription) -> None:
        """Everything from ``source`` into the lanes, until the run stops or it has stalled."""
        run = self._run
        self._bringing += 1
        try:
            gaps = await self._pull_until_stop_or_stall(stream, source)
            await source.drain()
            while batch := await source.next(run.capacity, timeout=timedelta(0)):
                if source.gaps == gaps:
                    await self._take_in(source, batch)
                else:
                    await self._settler.refuse(source, batch)
        finally:
            self._bringing -= 1
            self._fewer.set()

    async def _pull_until_stop_or_stall(self, stream: str, source: Subscription) -> int:
        """The number of gaps dealt with; after a further one nothing may be taken in."""
        run, gaps = self._run, -1  # The beginning is one.
        quiet_since, suspicious = run.now(), False
        draining = asyncio.create_task(self._drain_on_stop(source))
        try:
            while not run.stop.is_set():
                if gaps != source.gaps:
                    gaps = await self._rewind(stream, source)
                    continue
                # What waits behind a held delivery does not count: that one must be able to come.
                capacity = run.capacity
                free = capacity - run.lanes.moving(source)
                # One request for many: each costs as much as some messages.
                needed = max(1, capacity // 4)
                if free < needed:
                    await run.room_or_stop(needed - free)
                    quiet_since = run.now()
                    continue
                batch = await _next(source, free)
                run.breaker.resume("server")
                await self._take_in(source, batch)
                if batch:
                    quiet_since, suspicious = run.now(), False
                elif run.now() >= quiet_since + STALL.total_seconds():
                    if not await self._has_something_to_give(stream, source):
                        quiet_since, suspicious = run.now(), False
                    elif suspicious:
                        return gaps
                    else:
                        # It may have come just now: one more pull will tell.
                        suspicious = True
            await draining
            return gaps
        finally:
            draining.cancel()

    async def _rewind(self, stream: str, source: Subscription) -> int:
        """Have the server send unacknowledged messages again before newer ones, if it can. Returns
        the number of gaps dealt with, -1 if the run stops. Needs an inbox, to skip what took
        effect."""
        run, attempt = self._run, 0
        if run.ports.store is None or not run.options.ordered:
            return source.gaps
        while not run.stop.is_set():
            gaps = source.gaps
            try:
                upto = None if source.standby else await source.rewind()
            except CannotRewind as error:
                self._say(str(error))
            except BrokerUnavailable as error:
                attempt += 1
                run.breaker.pause("server", str(error))
                await run.stopped_within(OUTAGE.delay(attempt))
                continue
            else:
                run.rewound[stream] = max(upto or 0, run.rewound.get(stream, 0))
            return gaps
        return -1

    def _say(self, why: str) -> None:
        if why != self._said:
            self._said = why
            logger.warning(
                "%s: what was on its way when a process or a connection ended comes only after "
                "ack_wait, and newer events of its key before it: %s",
                *(self._run.durable, why),
            )

    async def _take_in(self, source: Subscription, batch: Sequence[Incoming]) -> None:
        upto = self._run.rewound.get(batch[0].stream, 0) if batch else 0
        again = [one for one in batch if one.stream_seq <= upto]
        self._run.take_in(batch, source, await settled(self._run, again) if again else ())

    async def _drain_on_stop(self, source: Subscription) -> None:
        await self._run.stop.wait()
        await source.drain()

    async def _settled(self, source: Subscription) -> None:
        """Until the run has drained or, while it goes on, ``source`` has nothing to settle."""
        run = self._run
        while not run.drained.is_set() and (
            run.stop.is_set() or run.lanes.count(source) or self._settler.owes(source)
        ):
            await set_within(timedelta(seconds=1), run.drained)

    async def _has_something_to_give(self, stream: str, source: Subscription) -> bool:
        try:
            info = await self._run.ports.broker.admin.consumer(stream, self._run.durable)
        except BrokerUnavailable:
            return False
        if info is None or info.paused_until is not None or info.num_pending == 0:
            return False
        if source.standby and info.given_to_one_since is not None:
            return False  # Not to us.
        return info.num_ack_pending < self._run.limits.max_ack_pending

    async def _until_made_again(self, stream: str) -> None:
        run, attempt = self._run, 0
        while not run.stop.is_set():
            attempt += 1
            if await run.stopped_within(OUTAGE.delay(attempt)):
                return
            with contextlib.suppress(BrokerUnavailable):
                info = await run.ports.broker.admin.consumer(stream, run.durable)
                if info is not None:
                    run.learn(info)
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
