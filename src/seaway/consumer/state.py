"""State that the parts of a running consumer share: deliveries in hand, limits, outages.

Owns: the deliveries in hand and the signals about them, how many there may be, the durable's
limits. Knows nothing of how anything is pulled, worked on or settled.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from seaway.consumer.handlers import HandlerTable
from seaway.consumer.lanes import InHand, Lanes
from seaway.contracts import (
    Broker,
    ConsumerInfo,
    DeadLetterSink,
    InboxStore,
    Incoming,
    Notes,
    OutboxWriter,
    Subscription,
)
from seaway.inbox.threads import Threads
from seaway.retry import Backoff, RetryPolicy
from seaway.telemetry import ConsumerPaused, ConsumerResumed, Telemetry
from seaway.waiting import set_within
from seaway.waiting_events import Place, WaitingKeys

HORIZON = timedelta(milliseconds=250)
"""What waits in hand should be started within this: several round trips to a distant server, and
little enough for a stopping process to give back."""
_NONE: Mapping[Place, bool] = {}
_MOMENT = timedelta(milliseconds=250)
_BELIEF = 0.1
_CLOCKS_DIFFER = timedelta(minutes=1)
"""Ours and the server's, at most."""

Trouble: TypeAlias = Literal["server", "database", "downstream"]
"""The first heals where it is met; the others are probed."""

OUTAGE = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))
"""Between two looks at something that is away."""

_PROBED: frozenset[Trouble] = frozenset({"database", "downstream"})

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True)
class Setup:
    """How a consumer works (see ``ConsumerOptions``), and with what."""

    durable: str
    handlers: HandlerTable
    batch: int
    workers: int
    ordered: bool
    deadline: timedelta | None
    grace: timedelta
    retry: RetryPolicy
    parks: bool
    """Later events wait behind a failed one of their key."""
    keys: WaitingKeys
    """Whether any may wait, behind a failed one or one that was put off."""
    broker: Broker
    store: InboxStore | None
    notes: Notes | None
    """Where places and what was done are noted: the application's own database."""
    threads: Threads | None
    """Of plain handlers, and where their transactions come from. Then ``store`` has what else is
    noted."""
    outbox: OutboxWriter | None
    dead_letters: DeadLetterSink
    telemetry: Telemetry


@dataclass(frozen=True, slots=True)
class Limits:
    """What the durable's configuration on the server says."""

    ack_wait: timedelta
    max_deliver: int
    """-1: without end."""
    max_ack_pending: int

    def is_last(self, deliveries: int) -> bool:
        """Whether the server delivers no more often than that."""
        return 0 < self.max_deliver <= deliveries


class Breaker:
    """What is away, and how a consumer finds out that it is back. Pure.

        closed ──trip──> open ──pause over──> a probe: one delivery ──success──> closed
                          ^───────────────trip again, longer pause──┘

    Told once an outage, however many deliveries met it; while it is open, one delivery at a time is
    tried, and an outage makes the pauses longer once a probe, not once a worker.
    """

    def __init__(self, consumer: str, telemetry: Telemetry) -> None:
        self._consumer = consumer
        self._telemetry = telemetry
        self._troubles: dict[Trouble, str] = {}
        self._trips = 0
        self._not_before = 0.0
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether handlers cannot work: one delivery at a time may probe."""
        return not _PROBED.isdisjoint(self._troubles)

    @property
    def database_away(self) -> bool:
        """Whether the database is: that it is back, no delivery is needed to find out."""
        return "database" in self._troubles

    @property
    def troubled(self) -> bool:
        """Whether anything is away."""
        return bool(self._troubles)

    def pause(self, trouble: Trouble, reason: str) -> None:
        """Something is away; said once until all is well again."""
        if not self._troubles:
            self._telemetry.emit(ConsumerPaused(self._consumer, reason))
        self._troubles[trouble] = reason
        self.remind()

    def remind(self) -> None:
        """Tell again of what is away: it may be long between two probes."""
        for trouble, reason in self._troubles.items():
            self._telemetry.waiting(f"consumer {self._consumer}", trouble, reason)

    def resume(self, trouble: Trouble) -> None:
        """It is back. Idempotent."""
        if trouble in self._troubles:
            del self._troubles[trouble]
            self._telemetry.going_on(f"consumer {self._consumer}", trouble)
            if not self.open:
                self._trips = 0
            if not self._troubles:
                self._telemetry.emit(ConsumerResumed(self._consumer))

    def trip(
        self, trouble: Trouble, reason: str, *, now: float, after: timedelta | None = None
    ) -> None:
        """A delivery met an outage: pause, then probe, ``after`` that delay or with backoff."""
        if not self.open or self._probing:
            self._trips += 1
            pause = OUTAGE.delay(self._trips) if after is None else after
            self._not_before = now + pause.total_seconds()
        self.pause(trouble, reason)

    def allowance(self, most: int, *, now: float) -> int:
        """How many deliveries may be started together now, up to ``most``."""
        if not self.open:
            return most
        return 0 if self._probing or now < self._not_before else 1

    def pause_left(self, *, now: float) -> float:
        """Seconds until a probe may begin; 0 where one is under way or may begin now."""
        return 0.0 if self._probing else max(0.0, self._not_before - now)

    def begin(self) -> bool:
        """Work begins; whether it is a probe, whose end must be told."""
        if self.open:
            self._probing = True
            return True
        return False

    def probed(self) -> None:
        """The probe has ended; what it found was told before."""
        self._probing = False


class Pace:
    """How fast the workers of one consumer are. Pure.

    An estimate of a worker's time for a delivery. A slower one counts at once, a faster one is
    believed slowly: too little in hand costs a round trip, too much takes from other processes.
    """

    def __init__(self) -> None:
        self._seconds: float | None = None
        self.slowest = 0.0
        """In seconds, of whole transactions."""

    @property
    def seconds(self) -> float:
        """The estimate; 0 before anything is known."""
        return self._seconds or 0.0

    def note(self, seconds: float, deliveries: int) -> None:
        """A transaction of so many ``deliveries`` took a worker so many ``seconds``."""
        if seconds > self.slowest:
            self.slowest = seconds
        sample, known = seconds / deliveries, self._seconds
        if known is None or sample > known:
            self._seconds = sample
        else:
            self._seconds = known + _BELIEF * (sample - known)

    def startable(self, workers: int, *, ack_wait: timedelta) -> int:
        """How many deliveries so many ``workers`` start within the horizon, which is never more
        than half of ``ack_wait``; 0 before anything is known."""
        if self._seconds is None:
            return 0
        within = min(HORIZON, ack_wait / 2).total_seconds()
        return int(workers * within / max(self._seconds, 1e-6))


class State:
    """Of one consumer while it runs, until it has drained."""

    def __init__(self, setup: Setup, stop: asyncio.Event) -> None:
        self.setup = setup
        self.stop = stop
        self.now = asyncio.get_running_loop().time
        """The event loop's clock, in seconds."""
        self.last = False
        """Whether what is in hand is all that there will be."""
        self.drained = asyncio.Event()
        self.wake = asyncio.Event()
        """Something may be started."""
        self._short: list[tuple[int, asyncio.Event]] = []
        self.lanes = Lanes(ordered=setup.ordered)
        self.limits = Limits(timedelta(seconds=30), -1, 1)
        self.breaker = Breaker(setup.durable, setup.telemetry)
        self.pace = Pace()
        self.rewound: dict[str, int] = {}
        """By stream: the last sequence that a process which has died may have tried before the
        rewind."""
        self._counted: dict[str, int] = {}
        """By stream: the number of the newest delivery that is known of. Lower ones come where
        another process had the server rewind, or the server has lost some of what it knew."""
        self.newest: dict[str, Incoming] = {}
        """By stream: the last message that is known to have been there."""
        self._looked_at: dict[int, int] = {}
        """By subscription: how many of its gaps were looked into."""
        self._looks: list[asyncio.Event] = []
        self._doubted_upto: dict[str, int] = {}
        self._doubted_until: dict[str, datetime] = {}
        self._arrived = self._beaten = -math.inf
        """``_arrived``: the earliest time at which a delivery that is taken in now can have reached
        this process. ``_beaten``: the time of the last heartbeat."""

    def learn(self, info: ConsumerInfo) -> None:
        """Take over what the durable's configuration on the server says."""
        self.limits = Limits(
            ack_wait=info.ack_wait,
            max_deliver=info.max_deliver or -1,
            max_ack_pending=info.max_ack_pending or 1000,
        )
        self._arrived = self._beaten = self.now()

    def meet(self, info: ConsumerInfo) -> None:
        """Begin with one stream of the durable. Where its deliveries were counted anew, what comes
        next may have been given out before."""
        self._counted[info.stream] = info.consumer_seq
        if info.consumer_seq < info.stream_seq:
            self._doubted_upto[info.stream] = info.stream_seq + self.limits.max_ack_pending

    def set_back(self, stream: str, to: int, upto: int) -> None:
        """The stream has lost what it held from ``to`` on, and the server gives out anew what lies
        there now; of that, a process that has died may have tried what is not beyond ``upto``."""
        self._counted[stream] = 0
        self.rewound[stream] = upto
        self.newest.pop(stream, None)
        self.lanes.void(stream, to)
        self.go_on()

    def rewind(self, stream: str, upto: int) -> None:
        """The server rewound for us, and gives out anew what it had up to there."""
        self._counted[stream] = 0
        self.rewound[stream] = max(upto, self.rewound_upto(stream))

    @property
    def deadline(self) -> timedelta:
        """How long a handler may run."""
        return self.setup.deadline or 10 * self.limits.ack_wait

    # ------------------------------------------------------------------ what is in hand

    @property
    def capacity(self) -> int:
        """How many deliveries of one stream may be in hand: those that the workers have, and those
        that they can start soon. One to probe with while the breaker is open."""
        if self.breaker.open:
            return 1
        at_work = self.setup.batch * self.setup.workers
        return min(self.limits.max_ack_pending, at_work + self.soon)

    @property
    def soon(self) -> int:
        """How many deliveries the workers start soon; 0 before their pace is known."""
        workers = min(self.setup.workers, max(1, self.lanes.open))
        return self.pace.startable(workers, ack_wait=self.limits.ack_wait)

    def take_in(
        self,
        batch: Sequence[Incoming],
        source: Subscription,
        settled: Collection[Place] = (),
        lettered: Mapping[Place, bool] = _NONE,
    ) -> None:
        """Put deliveries into their lanes. ``settled``: those of them that are known to be;
        ``lettered``: those that are letters already, and whether these are stored."""
        if not batch:
            return
        stream, arrived, push = batch[0].stream, self._arrived, self.lanes.push
        if batch[0].consumer_seq <= self._counted.get(stream, 0):
            self._doubted_until[stream] = datetime.now(UTC) + _CLOCKS_DIFFER
        self._counted[stream] = batch[-1].consumer_seq
        newest = self.newest.get(stream)
        if newest is None or batch[-1].stored_at > newest.stored_at:
            self.newest[stream] = batch[-1]
        upto, doubted_upto = self.rewound_upto(stream), self._doubted_upto.get(stream, 0)
        doubted_until = self._doubted_until.get(stream)
        for incoming in batch:
            suspect = incoming.stream_seq <= upto and incoming.place not in settled
            doubted = incoming.stream_seq <= doubted_upto or (
                doubted_until is not None and incoming.stored_at <= doubted_until
            )
            item = InHand(incoming, source, arrived, suspect, doubted)
            if lettered:
                item.lettered = lettered.get(incoming.place)
            push(item)
        self.wake.set()

    def rewound_upto(self, stream: str) -> int:
        """What ``rewound`` says of it; 0 where that says nothing."""
        return self.rewound.get(stream, 0)

    def comes_again(self, item: InHand) -> bool:
        """Whether it may have been given to others as well: it may have become a letter then, or
        be given up by the server while we are at it."""
        stream, stream_seq = item.place
        given_before = item.doubted or item.incoming.deliveries > 1
        return given_before or stream_seq <= self.rewound_upto(stream) or self.left(item)

    def left(self, item: InHand) -> bool:
        """Whether nobody here has kept it alive: nothing ran in this process."""
        return self.now() - item.alive >= self.limits.ack_wait.total_seconds()

    def beat(self) -> list[InHand]:
        """What is in hand and may be kept alive. A last delivery whose timer has run out is not:
        the server has given it up, and said so."""
        now = self.now()
        # What comes next may have lain here while nothing ran.
        stalled = now - self._beaten > self.limits.ack_wait.total_seconds() / 2
        self._arrived, self._beaten = self._beaten if stalled else now, now
        kept = [item for item in self.lanes if not self.lapsed(item)]
        for item in kept:
            item.alive = now
        return kept

    def lapsed(self, item: InHand) -> bool:
        """Whether it is a last delivery that nobody here has kept alive: a letter takes its place,
        and no effect may."""
        return self.limits.is_last(item.incoming.deliveries) and self.left(item)

    # ------------------------------------------------------------------ what was lost

    def look_into(self, source: Subscription, gaps: int) -> None:
        """So many of its gaps were looked into: what came before them is still there, or void."""
        self._looked_at[id(source)] = gaps
        for look in self._looks:
            look.set()

    def looked_at(self, source: Subscription) -> int:
        """How many of its gaps were looked into."""
        return self._looked_at.get(id(source), source.gaps)

    async def sure(self, source: Subscription) -> bool:
        """Return when its last gap was looked into; False where nobody does that: what came before
        may be another event's place by now, and is not to be acknowledged."""
        look, until = asyncio.Event(), self.now() + self.limits.ack_wait.total_seconds()
        self._looks.append(look)
        try:
            while source.gaps != self.looked_at(source):
                left = timedelta(seconds=until - self.now())
                if self.stop.is_set() or left <= timedelta():
                    return False
                look.clear()
                await set_within(left, look, self.stop)
            return True
        finally:
            self._looks.remove(look)

    # ------------------------------------------------------------------ who waits for what

    async def room_or_stop(self, lacking: int = 1) -> None:
        """Return when so many may have gone out of our hands, at the latest after a moment."""
        short = self.lanes.gone + lacking, asyncio.Event()
        self._short.append(short)
        try:
            await set_within(_MOMENT, short[1])
        finally:
            self._short.remove(short)

    def go_on(self) -> None:
        """A transaction has ended: wake who can go on."""
        if not self.lanes.idle:
            self.wake.set()
        for gone, room in self._short:
            if self.lanes.gone >= gone:
                room.set()

    def hurry(self) -> None:
        """The end has come: wake all who wait for something."""
        self.wake.set()
        for _, room in self._short:
            room.set()
