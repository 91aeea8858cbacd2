"""Pulls messages into the lanes: no more than can soon be started, and lost ones before newer ones.

Owns: the subscription of each stream. Knows nothing of handlers. Guarantees: a subscription that
goes silent while the durable has something to give, and one whose durable is deleted, is made anew
and told of; what came over the old one is settled there. Where one begins, or may have lost
something, the server gives that out again before anything newer (ADR 0014), and also what its
stream has lost and holds again (ADR 0024).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

from seaway import logs
from seaway.consumer.looking import Places
from seaway.consumer.settling import Settler
from seaway.consumer.standing import lettered, settled
from seaway.consumer.state import OUTAGE, Spawn, State
from seaway.contracts import ConsumerInfo, Incoming, Subscription
from seaway.errors import ApiError, BrokerUnavailable, CannotRewind, NotFound, NotPermitted
from seaway.headers import HEALED
from seaway.telemetry import Resubscribed
from seaway.waiting import set_within

logger = logs.logger("seaway.consumer")

POLL = timedelta(seconds=5)
"""How long a pull waits for a message."""
_WOULD_PASS_OVER = "this durable passes over what lies there now, from"
_WAY_OUT = "or delete the durable and run `seaway topology apply`: what took effect is not repeated"
STALL = timedelta(seconds=15)
"""How long nothing may come, while something is there and there is room for it."""


class Puller:
    """Pulls one consumer's streams. ``spawn`` starts a task that pulls."""

    def __init__(self, state: State, settler: Settler, places: Places, spawn: Spawn) -> None:
        self._state = state
        self._places = places
        self._durable = state.setup.durable
        self._settler = settler
        self._spawn = spawn
        self._said: set[str] = set()
        self._bringing = 0
        self._fewer = asyncio.Event()

    async def pull(self, stream: str) -> None:
        """Until the stop; each subscription stays open until its deliveries are settled."""
        state, attempt = self._state, 0
        while not state.stop.is_set():
            try:
                async with state.setup.broker.subscribe(stream, self._durable) as source:
                    attempt = 0
                    await self._bring(stream, source)
                    if not state.stop.is_set():
                        lost = stream in self._places.suspicious
                        self._tell(stream, "lost" if lost else "stalled")
                        self._spawn(self.pull(stream))
                    await self._settled(source)
                    return
            except BrokerUnavailable as error:
                attempt += 1
                state.breaker.pause("server", str(error))
                await set_within(OUTAGE.delay(attempt), state.stop)
            except NotFound as error:
                state.breaker.pause("server", str(error))
                await self._until_made_again(stream)
                self._tell(stream, "deleted")

    async def dry(self) -> None:
        """Return when no subscription brings anything any more. For after the stop."""
        while self._bringing:
            self._fewer.clear()
            await self._fewer.wait()

    async def _bring(self, stream: str, source: Subscription) -> None:
        """Everything from ``source`` into the lanes, until the consumer stops or it has stalled."""
        state = self._state
        self._bringing += 1
        try:
            gaps = await self._pull_until_stop_or_stall(stream, source)
            await source.drain()
            while batch := await source.next(state.capacity, timeout=timedelta(0)):
                if source.gaps == gaps:
                    await self._take_in(source, batch)
                else:
                    await self._settler.refuse(source, batch)
        finally:
            state.look_into(source, source.gaps)  # Nothing comes over it any more.
            self._bringing -= 1
            self._fewer.set()

    async def _pull_until_stop_or_stall(self, stream: str, source: Subscription) -> int:
        """The number of gaps dealt with; after a further one nothing may be taken in."""
        state, gaps = self._state, -1  # The beginning is one.
        quiet_since, suspicious = state.now(), False
        draining = asyncio.create_task(self._drain_on_stop(source))
        try:
            while not state.stop.is_set():
                if gaps != source.gaps:
                    gaps = await self._rewind(stream, source)
                    continue
                if stream in self._places.suspicious:
                    return gaps
                # What waits behind an awaited or stuck delivery does not count: that one must be
                # able to come.
                capacity = state.capacity
                free = capacity - state.lanes.moving(source)
                # One request for many: each costs as much as some messages.
                needed = max(1, capacity // 4)
                if free < needed:
                    await state.room_or_stop(needed - free)
                    quiet_since = state.now()
                    continue
                batch = await _next(source, free)
                state.breaker.resume("server")
                await self._take_in(source, batch)
                if batch:
                    quiet_since, suspicious = state.now(), False
                elif state.now() >= quiet_since + STALL.total_seconds():
                    if not await self._has_something_to_give(stream, source):
                        quiet_since, suspicious = state.now(), False
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
        """Have the server send what the stream has lost and holds again, and unacknowledged
        messages before newer ones, if it can. Returns the number of gaps dealt with, -1 if the
        consumer stops."""
        state, attempt = self._state, 0
        state.setup.keys.doubt()  # Others may have put something off meanwhile.
        while not state.stop.is_set():
            gaps = source.gaps
            try:
                if not source.standby and not await self._set_back(stream, source):
                    await self._give_out_again(stream, source)
            except (NotPermitted, ApiError) as error:
                self._say(f"what {stream} has lost is not looked for: {error}")
                self._places.hold(stream)
                await self._give_out_again(stream, source)
            except BrokerUnavailable as error:
                attempt += 1
                state.breaker.pause("server", str(error))
                await set_within(OUTAGE.delay(attempt), state.stop)
                continue
            state.look_into(source, gaps)
            return gaps
        return -1

    async def _set_back(self, stream: str, source: Subscription) -> bool:
        """Whether the durable was: it would have passed over what its stream holds in the place of
        what it has lost."""
        places = self._places
        lost = await places.look(stream)
        if lost is None or lost.to is None:
            if lost is not None:
                places.forget(lost, stream, upto=0)
            places.go_on(stream)
            return False
        try:
            upto = await source.rewind(lost.to)
        except CannotRewind as error:
            places.forget(lost, stream, upto=0)
            places.hold(stream)
            self._say(
                f"{stream} has lost what was given out ({lost.reason}), and {_WOULD_PASS_OVER} "
                f"{lost.to} on: {error}; {_WAY_OUT}"
            )
            return False
        places.forget(lost, stream, upto=upto or 0)
        await places.was_set_back(lost, stream, lost.to)
        places.go_on(stream)
        return True

    async def _give_out_again(self, stream: str, source: Subscription) -> None:
        """What is on its way. Needs an inbox, to skip what took effect."""
        state = self._state
        if state.setup.store is None or not state.setup.ordered:
            return
        try:
            if upto := await source.rewind():
                state.rewind(stream, upto)
        except CannotRewind as error:
            self._say(
                "what was on its way when a process or a connection ended comes only after "
                f"ack_wait, and newer events of its key before it: {error}"
            )

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning("%s: %s", self._durable, what)

    async def _take_in(self, source: Subscription, batch: Sequence[Incoming]) -> None:
        state = self._state
        upto = state.rewound_upto(batch[0].stream) if batch else 0
        again = [one for one in batch if one.stream_seq <= upto]
        healed = (
            [one for one in batch if HEALED in one.message.headers and not one.redriven]
            if state.setup.notes is not None
            else ()
        )
        state.take_in(
            batch,
            source,
            await settled(state, again) if again else (),
            await lettered(state, healed) if healed else {},
        )

    async def _drain_on_stop(self, source: Subscription) -> None:
        await self._state.stop.wait()
        await source.drain()

    async def _settled(self, source: Subscription) -> None:
        """Until all is drained or, before the stop, ``source`` has nothing to settle."""
        state = self._state
        while not state.drained.is_set() and (
            state.stop.is_set() or state.lanes.count(source) or self._settler.owes(source)
        ):
            await set_within(timedelta(seconds=1), state.drained)

    async def _has_something_to_give(self, stream: str, source: Subscription) -> bool:
        try:
            info = await self._state.setup.broker.admin.consumer(stream, self._durable)
        except BrokerUnavailable:
            return False
        if info is None or info.paused_until is not None or info.num_pending == 0:
            return False
        if source.standby and info.given_to_one_since is not None:
            return False  # Not to us.
        return info.num_ack_pending < self._state.limits.max_ack_pending

    async def _until_made_again(self, stream: str) -> None:
        state, attempt = self._state, 1
        while not await set_within(OUTAGE.delay(attempt), state.stop):
            attempt += 1
            with contextlib.suppress(NotFound):
                if info := await described(state, stream):
                    state.learn(info)
                    return

    def _tell(self, stream: str, reason: str) -> None:
        if not self._state.stop.is_set():
            self._state.setup.telemetry.emit(Resubscribed(stream, self._durable, reason))


async def _next(source: Subscription, limit: int) -> Sequence[Incoming]:
    """Its next deliveries, if any come in time, and even where it forgets the time itself."""
    try:
        async with asyncio.timeout(2 * POLL.total_seconds()):
            return await source.next(limit, timeout=POLL)
    except TimeoutError:
        return []


async def described(state: State, stream: str) -> ConsumerInfo | None:
    """What the server says of the durable on ``stream``, asked until it answers; ``None``: told to
    stop. ``NotFound`` where it does not exist."""
    durable, attempt = state.setup.durable, 0
    while True:
        try:
            info = await state.setup.broker.admin.consumer(stream, durable)
        except BrokerUnavailable as error:
            state.breaker.pause("server", str(error))
            attempt += 1
            if await set_within(OUTAGE.delay(attempt), state.stop):
                return None
            continue
        if info is None:
            raise NotFound(
                f"there is no consumer {durable} on {stream}: run `seaway topology apply`"
            )
        return info
