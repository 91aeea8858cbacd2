"""Deliveries in hand, in lanes by ordering key. Pure: no tasks, no clock of its own.

Owns: what may be started next. Guarantees, within one process: a key's deliveries start in stream
order, one group after another. What comes after a delivery that was given back waits until that
returns or is released, and a lane for a stuck one until it is settled; of a delivery that the
server sends twice, the newest copy counts, since only that can be acknowledged; what may have ended
a process is started by itself, and where that is said (``isolate``) while nothing else is at work.

What was given back keeps nothing waiting that goes before it. Else two processes would wait for
each other, where each was given what the other awaits.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import TypeAlias

from seaway.contracts import Incoming, Subscription
from seaway.headers import Metadata, attempts, ordering_key
from seaway.waiting_events import Place

Lane: TypeAlias = str | Place


@dataclass(slots=True, eq=False)
class InHand:
    """A delivery in hand."""

    incoming: Incoming
    source: Subscription
    alive: float = math.inf
    """When its ack timer was last known to run."""
    suspect: bool = False
    """It was on its way when a process or a connection ended: it may have ended the process."""
    doubted: bool = False
    """Others may have been given it before, though the server says that it is the first time."""
    tries: int = 0
    """How often it was tried by now, this time included, as far as that is noted: since it was put
    off the last time, where it was."""
    noted: bool = False
    """Whether this time is."""
    decided: bool = False
    """It becomes a letter, as somebody has decided: there is no effect to be."""
    lettered: bool | None = None
    """Published again, it was a letter in the place that it had before: whether that is stored,
    else it was decided."""
    void: bool = False
    """Its stream has lost it, and may hold another event in its place: it is not settled there."""
    falls: int = 0
    """How many outages of the database began while it was at work alone."""
    place: Place = field(init=False)
    """Which message it is."""
    subject: str = field(init=False)
    """Its event's, also where that is redriven."""
    key: str = field(init=False)
    event_id: str = field(init=False)
    before: int = field(init=False)
    """How often it was tried before it was put off. Only a redrive says so: an event's headers are
    its writer's."""
    metadata: Metadata = field(init=False)
    """Set by ``read_headers``."""

    def __post_init__(self) -> None:
        incoming = self.incoming
        headers = incoming.message.headers
        self.place = incoming.place
        self.subject = incoming.event_subject
        self.key = ordering_key(self.subject, headers)
        self.event_id = incoming.event_id
        self.before = 0 if self.subject == incoming.message.subject else attempts(headers)

    def read_headers(self) -> None:
        """``DecodeError`` where they cannot be read."""
        headers = self.incoming.message.headers
        self.metadata = Metadata.decode(headers, fallback_id=self.event_id)

    @property
    def deliveries(self) -> int:
        """How often it was delivered by now, as far as is known: the server may count from 1
        again. Only the first try is not noted."""
        delivered = self.incoming.deliveries
        return self.before + (max(delivered, self.tries + 1) if self.tries else delivered)

    def counted(self) -> Incoming:
        """The delivery with that number."""
        if self.deliveries == self.incoming.deliveries:
            return self.incoming
        return replace(self.incoming, deliveries=self.deliveries)

    def fell(self) -> int:
        """One more outage began while it was at work; how many by now."""
        self.falls += 1
        return self.falls


@dataclass(slots=True)
class Awaited:
    """A delivery that was given back: what comes after it waits for it; overdue after ``until``."""

    incoming: Incoming
    source: Subscription
    until: float
    pause: float = 0.0
    """How long it is from the last look for it to the next."""
    looks: int = 0
    """After how many long pauses it was looked for."""


class Lanes:
    """``ordered=False``: every delivery is a lane of its own."""

    def __init__(self, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._queues: dict[Lane, deque[InHand]] = {}
        self._running: dict[Lane, int] = {}
        self._awaited: dict[Lane, dict[Place, Awaited]] = {}
        self._in_hand: dict[Place, InHand] = {}
        self._stuck: dict[Place, InHand] = {}
        self._alone: dict[Place, InHand] = {}
        self._suspects = 0
        self._counts: Counter[int] = Counter()
        self.gone = 0
        """How many deliveries have gone out of our hands by now."""

    def __len__(self) -> int:
        return len(self._in_hand)

    def __iter__(self) -> Iterator[InHand]:
        return iter(tuple(self._in_hand.values()))

    @property
    def awaits(self) -> bool:
        """Whether any lane waits for a delivery to come back."""
        return bool(self._awaited)

    @property
    def open(self) -> int:
        """How many lanes have something in hand and do not wait for one to come back."""
        both = len(self._queues.keys() & self._running.keys())
        return len(self._queues) + len(self._running) - both - len(self._stuck_lanes())

    def count(self, source: Subscription) -> int:
        """How many deliveries of one source are in hand."""
        return self._counts[id(source)]

    def moving(self, source: Subscription) -> int:
        """How many deliveries of one source are in hand, and neither stuck nor behind one that is,
        or that is not here."""
        if not self._awaited and not self._stuck:
            return self.count(source)
        still = (*self.blocked(), *self._stuck.values())
        return self.count(source) - sum(item.source is source and not item.void for item in still)

    def push(self, item: InHand) -> None:
        """Take a delivery in."""
        known = self._in_hand.get(item.place)
        if known is not None:
            self._counts[id(known.source)] -= 1
            known.incoming, known.source, known.alive = item.incoming, item.source, item.alive
            self._counts[id(known.source)] += 1
            return
        self._in_hand[item.place] = item
        self._counts[id(item.source)] += 1
        self._suspects += item.suspect
        lane = self._lane_of(item)
        if self._awaited:
            self._returned(lane, item.place)
        _insert(self._queues.setdefault(lane, deque()), item)

    def take(self, limit: int) -> list[InHand]:
        """Up to ``limit`` deliveries to start together, lane by lane in turn.

        Several of one lane follow each other; the lane is closed until all are ``done``.
        """
        if self._alone and (lane := self._lone_lane()) is not None:
            others = self._running.keys() - self._stuck_lanes()
            return [] if others or limit < 1 else self._take_from(lane, 1)
        chosen: list[tuple[Lane, int]] = []
        left = limit
        for lane, queue in self._queues.items():
            if left < 1:
                break
            if lane in self._running or not (ready := self._ready(lane, queue)):
                continue
            if self._suspects:
                if queue[0].suspect:
                    if not chosen:
                        return self._take_from(lane, 1)
                    continue
                sure = takewhile(lambda item: not item.suspect, islice(queue, ready))
                ready = sum(1 for _ in sure)
            chosen.append((lane, min(ready, left)))
            left -= ready
        return [item for lane, count in chosen for item in self._take_from(lane, count)]

    def _take_from(self, lane: Lane, count: int) -> list[InHand]:
        queue = self._queues.pop(lane)
        self._running[lane] = count
        taken = [queue.popleft() for _ in range(count)]
        if queue:
            # To the end of the line: a key that never runs dry must not starve the others.
            self._queues[lane] = queue
        return taken

    def _ready(self, lane: Lane, queue: Collection[InHand]) -> int:
        """How many at its head go before all that its lane awaits."""
        awaited = self._awaited.get(lane)
        if awaited is None:
            return len(queue)
        return sum(1 for _ in takewhile(lambda item: not _is_behind(item, awaited), queue))

    def _lone_lane(self) -> Lane | None:
        """That of a delivery that is to be alone, or is; none where it cannot be started."""
        stuck = self._stuck_lanes()
        for item in self._alone.values():
            lane = self._lane_of(item)
            if lane not in stuck and not _is_behind(item, self._awaited.get(lane, {})):
                return lane
        return None

    @property
    def isolating(self) -> bool:
        """Whether one is to be alone, or is."""
        return self._lone_lane() is not None

    def isolate(self, item: InHand) -> None:
        """It was taken, and is put back: nothing is started before it, nor while it is at work."""
        lane = self._lane_of(item)
        if item.void:
            self._leave(lane)
            return
        self._alone[item.place] = item
        self._queues.setdefault(lane, deque()).appendleft(item)
        self._leave(lane)

    def done(self, item: InHand) -> None:
        """It is settled, one way or the other, and out of our hands."""
        self._forget(item)
        self._stuck.pop(item.place, None)
        self.gone += 1
        self._leave(self._lane_of(item))

    def drop(self, item: InHand) -> None:
        """It has not been started and was given back."""
        self._forget(item)
        self.gone += 1
        queue = self._queues.get(self._lane_of(item))
        if queue is not None:
            with contextlib.suppress(ValueError):
                queue.remove(item)
            if not queue:
                del self._queues[self._lane_of(item)]

    def void(self, stream: str, first: int) -> None:
        """Of a stream that has lost what it held from ``first`` on: what has not been started is
        dropped, what runs goes on, and neither stands in the way of what lies there now."""
        for item in self:
            if item.place[0] == stream and item.place[1] >= first:
                item.void = True
                self.drop(item)
        for awaited in tuple(self._awaited.values()):
            for place in tuple(awaited):
                if place[0] == stream and place[1] >= first:
                    self.release(place)

    def stick(self, item: InHand) -> None:
        """It was taken and stays in hand until it is ``done`` or put back: its lane waits."""
        self._stuck[item.place] = item

    def await_return(self, item: InHand, until: float) -> None:
        """It was given back and will come again; ``overdue`` after ``until``."""
        self.done(item)
        if self._ordered and not item.void:
            awaited = Awaited(item.incoming, item.source, until)
            self._awaited.setdefault(self._lane_of(item), {})[item.place] = awaited

    def overdue(self, now: float) -> list[Awaited]:
        """What was given back and should have come again by now. Its lane still waits."""
        every = (one for awaited in self._awaited.values() for one in awaited.values())
        return [one for one in every if one.until <= now]

    def release(self, place: Place) -> None:
        """It will not come again here: its lane goes on without it. Idempotent."""
        for lane in tuple(self._awaited):
            self._returned(lane, place)

    def _returned(self, lane: Lane, place: Place) -> None:
        awaited = self._awaited.get(lane)
        if awaited is not None and awaited.pop(place, None) is not None and not awaited:
            del self._awaited[lane]

    def put_back(self, items: Iterable[InHand]) -> None:
        """They were taken but not settled: in their places again."""
        for item in reversed(tuple(items)):
            lane = self._lane_of(item)
            self._stuck.pop(item.place, None)
            if not item.void:
                _insert(self._queues.setdefault(lane, deque()), item)
            self._leave(lane)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be started."""
        return not self._queues

    def unstarted(self) -> list[InHand]:
        """What is in hand and not started."""
        return [item for queue in self._queues.values() for item in queue]

    def blocked(self) -> list[InHand]:
        """What of it waits for a delivery that is not here, or that is stuck."""
        stuck = self._stuck_lanes()
        blocked: list[InHand] = []
        for lane in stuck | self._awaited.keys():
            queue = self._queues.get(lane, ())
            blocked += islice(queue, 0 if lane in stuck else self._ready(lane, queue), None)
        return blocked

    def _stuck_lanes(self) -> set[Lane]:
        return {self._lane_of(item) for item in self._stuck.values()}

    def _forget(self, item: InHand) -> None:
        if self._in_hand.get(item.place) is item:
            del self._in_hand[item.place]
            self._alone.pop(item.place, None)
            self._suspects -= item.suspect
            source = id(item.source)
            self._counts[source] -= 1
            if not self._counts[source]:
                del self._counts[source]

    def _lane_of(self, item: InHand) -> Lane:
        return item.key if self._ordered else item.place

    def _leave(self, lane: Lane) -> None:
        left = self._running.get(lane, 0) - 1
        if left > 0:
            self._running[lane] = left
        else:
            self._running.pop(lane, None)


def _insert(queue: deque[InHand], item: InHand) -> None:
    """Where its place is among those of its key: redeliveries come late."""
    if queue and _goes_before(item, queue[0]):
        queue.appendleft(item)
        return
    at = len(queue)
    while at and _goes_before(item, queue[at - 1]):
        at -= 1
    queue.insert(at, item)


def _goes_before(one: InHand | Awaited, other: InHand | Awaited) -> bool:
    """By their places. Of the two streams of a durable the redrives come first, by their names: all
    processes must see the same order, or each would await what another keeps waiting."""
    its, others = one.incoming, other.incoming
    if its.stream == others.stream:
        return its.stream_seq < others.stream_seq
    return its.stream > others.stream


def _is_behind(item: InHand, awaited: Mapping[Place, Awaited]) -> bool:
    return any(_goes_before(one, item) for one in awaited.values())


def by_source(items: Iterable[InHand]) -> Iterable[tuple[Subscription, list[Incoming]]]:
    """The deliveries of each subscription."""
    grouped: dict[int, tuple[Subscription, list[Incoming]]] = {}
    for item in items:
        grouped.setdefault(id(item.source), (item.source, []))[1].append(item.incoming)
    return grouped.values()
