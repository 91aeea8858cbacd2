"""What the rooms of one run of a consumer share: what is in hand, what is known, what is wrong.

Owns: the deliveries in hand and the signals about them, the durable's limits. Knows nothing of how
anything is pulled, worked on or settled.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from seaway.consumer.breaker import OUTAGE, Breaker
from seaway.consumer.deadlines import Deadlines
from seaway.consumer.handlers import HandlerTable
from seaway.consumer.heard import Heard
from seaway.consumer.lanes import Lanes, Work
from seaway.consumer.options import Options
from seaway.consumer.outcomes import Limits
from seaway.consumer.pace import Pace
from seaway.consumer.ports import Ports
from seaway.contracts import ConsumerInfo, Incoming, Subscription
from seaway.errors import BrokerUnavailable, NotFound
from seaway.parked import Place
from seaway.waiting import set_within

_MOMENT = timedelta(milliseconds=250)

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Run:
    """One run of one consumer on its durable."""

    def __init__(
        self,
        durable: str,
        options: Options,
        ports: Ports,
        stop: asyncio.Event,
        handlers: HandlerTable,
    ) -> None:
        self.durable = durable
        self.handlers = handlers
        self.options = options
        self.ports = ports
        self.lanes = Lanes(ordered=options.ordered)
        self.stop = stop
        self.now = asyncio.get_running_loop().time
        """The event loop's clock, in seconds."""
        self.last = False
        """Whether what is in hand is all that there will be."""
        self.drained = asyncio.Event()
        self.wake = asyncio.Event()
        """Something may be started."""
        self._short: list[tuple[int, asyncio.Event]] = []
        self.limits = Limits(timedelta(seconds=30), -1, 1)
        self.deadlines = Deadlines(self.now)
        self.rewound: dict[str, int] = {}
        """By stream: the last sequence that a process which has died may have tried before the
        rewind."""
        self.arrived = self.beaten = -math.inf
        """``arrived``: the earliest time at which a delivery that is taken in now can have reached
        this process. ``beaten``: the time of the last heartbeat."""
        self.breaker = Breaker(durable, ports.telemetry)
        self.heard = Heard(durable, handlers, self.now)
        self.pace = Pace()

    def learn(self, info: ConsumerInfo) -> None:
        """Take over what the durable's configuration on the server says."""
        self.limits = Limits(
            ack_wait=info.ack_wait,
            max_deliver=info.max_deliver or -1,
            max_ack_pending=info.max_ack_pending or 1000,
        )
        self.deadlines.length = self.options.deadline or 10 * info.ack_wait
        self.arrived = self.beaten = self.now()

    async def info(self, stream: str) -> ConsumerInfo | None:
        """The durable on ``stream``, asked until there is an answer; ``None``: told to stop."""
        attempt = 0
        while True:
            try:
                info = await self.ports.broker.admin.consumer(stream, self.durable)
            except BrokerUnavailable as error:
                self.breaker.pause("server", str(error))
                attempt += 1
                if await self.stopped_within(OUTAGE.delay(attempt)):
                    return None
                continue
            if info is None:
                raise NotFound(
                    f"there is no consumer {self.durable} on {stream}: run `seaway topology apply`"
                )
            self.breaker.resume("server")
            return info

    @property
    def capacity(self) -> int:
        """How many deliveries of one stream may be in hand: those that the workers have, and those
        that they can start soon. One to probe with while the breaker is open."""
        if self.breaker.open:
            return 1
        at_work = self.options.batch * self.options.workers
        return min(self.limits.max_ack_pending, at_work + self.soon)

    @property
    def soon(self) -> int:
        """How many deliveries the workers start soon; 0 before their pace is known."""
        workers = min(self.options.workers, max(1, self.lanes.open))
        return self.pace.startable(workers, ack_wait=self.limits.ack_wait)

    # ------------------------------------------------------------------ what is in hand

    def take_in(
        self, batch: Sequence[Incoming], source: Subscription, settled: Collection[Place] = ()
    ) -> None:
        """Put deliveries into their lanes. ``settled``: those of them that are known to be."""
        if not batch:
            return
        upto, arrived, push = self._rewound_upto(batch[0]), self.arrived, self.lanes.push
        for incoming in batch:
            suspect = incoming.stream_seq <= upto and incoming.place not in settled
            push(Work(incoming, source, arrived, suspect))
        self.wake.set()

    def comes_again(self, incoming: Incoming) -> bool:
        """Whether it was given out before: it may have become a letter then, or be given up by the
        server while we are at it."""
        return incoming.deliveries > 1 or incoming.stream_seq <= self._rewound_upto(incoming)

    def _rewound_upto(self, incoming: Incoming) -> int:
        return self.rewound.get(incoming.stream, 0)

    def beat(self) -> list[Work]:
        """What is in hand and may be kept alive. A last delivery whose timer has run out is not:
        the server has given it up, and said so."""
        now = self.now()
        # What comes next may have lain here while nothing ran.
        stalled = now - self.beaten > self.limits.ack_wait.total_seconds() / 2
        self.arrived, self.beaten = self.beaten if stalled else now, now
        kept = [work for work in self.lanes if not self.lapsed(work)]
        for work in kept:
            work.alive = now
        return kept

    def lapsed(self, work: Work) -> bool:
        """Whether it is a last delivery that nobody here has kept alive: a letter takes its place,
        and no effect may."""
        last = 0 < self.limits.max_deliver <= work.incoming.deliveries
        return last and self.now() - work.alive >= self.limits.ack_wait.total_seconds()

    async def room_or_stop(self, lacking: int = 1) -> None:
        """Return when so many may have gone out of our hands, at the latest after a moment."""
        waiting = self.lanes.left + lacking, asyncio.Event()
        self._short.append(waiting)
        try:
            await set_within(_MOMENT, waiting[1])
        finally:
            self._short.remove(waiting)

    def go_on(self) -> None:
        """A transaction has ended: wake who can go on."""
        if not self.lanes.idle:
            self.wake.set()
        for left, room in self._short:
            if self.lanes.left >= left:
                room.set()

    def hurry(self) -> None:
        """The run ends: wake all who wait for something."""
        self.wake.set()
        for _, room in self._short:
            room.set()

    async def stopped_within(self, delay: timedelta) -> bool:
        """Wait so long; whether the run was told to stop meanwhile."""
        return await set_within(delay, self.stop)


def by_source(works: Iterable[Work]) -> Iterable[tuple[Subscription, list[Incoming]]]:
    """The deliveries of each subscription."""
    grouped: dict[int, tuple[Subscription, list[Incoming]]] = {}
    for work in works:
        grouped.setdefault(id(work.source), (work.source, []))[1].append(work.incoming)
    return grouped.values()
