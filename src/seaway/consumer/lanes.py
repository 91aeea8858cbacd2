"""Deliveries in hand, in lanes by ordering key. Pure: no tasks, no clock of its own.

Owns: what may be started next. Guarantees, within one process: a key's deliveries start in stream
order, one group after another. A lane waits for a delivery that was given back until it returns or
is overdue, and for a stuck one until it is settled; of a delivery that the server sends twice, the
newest copy counts, since only that can be acknowledged; what may have ended a process is started by
itself, and where that is said (``isolate``) while nothing else is at work.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TypeAlias

from seaway.contracts import Incoming, Subscription
from seaway.headers import Metadata, ordering_key
from seaway.parked import Place

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
    tries: int = 0
    """How often it was tried by now, this time included, as far as that is noted."""
    noted: bool = False
    """Whether this time is."""
    falls: int = 0
    """How many outages of the database began while it was at work alone."""
    place: Place = field(init=False)
    """Which message it is."""
    subject: str = field(init=False)
    """Its event's, also where that is redriven."""
    key: str = field(init=False)
    event_id: str = field(init=False)
    metadata: Metadata = field(init=False)
    """Set by ``read_headers``."""

    def __post_init__(self) -> None:
        incoming = self.incoming
        headers = incoming.message.headers
        self.place = incoming.place
        self.subject = incoming.event_subject
        self.key = ordering_key(self.subject, headers)
        self.event_id = incoming.event_id

    def read_headers(self) -> None:
        """``DecodeError`` where they cannot be read."""
        headers = self.incoming.message.headers
        self.metadata = Metadata.decode(headers, fallback_id=self.event_id)

    @property
    def deliveries(self) -> int:
        """How often it was delivered by now, as far as is known: the server may count from 1
        again. Only the first try is not noted."""
        delivered = self.incoming.deliveries
        return max(delivered, self.tries + 1) if self.tries else delivered

    def counted(self) -> Incoming:
        """The delivery with that number."""
        if not self.tries or self.deliveries == self.incoming.deliveries:
            return self.incoming
        return replace(self.incoming, deliveries=self.deliveries)

    def fell(self) -> int:
        """One more outage began while it was at work; how many by now."""
        self.falls += 1
        return self.falls


@dataclass(slots=True)
class Awaited:
    """A delivery that was given back: its lane waits for it; overdue after ``until``."""

    incoming: Incoming
    source: Subscription
    until: float
    looks: int = 0
    """How often it was looked for since."""


class Lanes:
    """``ordered=False``: every delivery is a lane of its own."""

    def __init__(self, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._queues: dict[Lane, deque[InHand]] = {}
        self._running: dict[Lane, int] = {}
        self._awaited: dict[Lane, Awaited] = {}
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
        return self.count(source) - sum(item.source is source for item in still)

    def push(self, item: InHand) -> None:
        """Take a delivery in."""
        known = self._in_hand.get(item.place)
        if known is not None:
            self._counts[id(known.source)] -= 1
            known.incoming, known.source, known.alive = item.incoming, item.source, item.alive
            self._counts[id(known.source)] += 1
            return
        self._remember(item)
        lane = self._lane_of(item)
        awaited = self._awaited.get(lane)
        queue = self._queues.setdefault(lane, deque())
        if awaited is not None and awaited.incoming.place == item.place:
            del self._awaited[lane]
            queue.appendleft(item)
        else:
            _insert(queue, item)

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
            if lane in self._running or lane in self._awaited:
                continue
            ready = len(queue)
            if self._suspects:
                if queue[0].suspect:
                    if not chosen:
                        return self._take_from(lane, 1)
                    continue
                ready = sum(1 for _ in takewhile(lambda item: not item.suspect, queue))
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

    def _lone_lane(self) -> Lane | None:
        """That of a delivery that is to be alone, or is; none where it cannot be started."""
        stuck = self._stuck_lanes()
        lanes = (self._lane_of(item) for item in self._alone.values())
        return next((one for one in lanes if one not in stuck and one not in self._awaited), None)

    @property
    def isolating(self) -> bool:
        """Whether one is to be alone, or is."""
        return self._lone_lane() is not None

    def isolate(self, item: InHand) -> None:
        """It was taken, and is put back: nothing is started before it, nor while it is at work."""
        self._alone[item.place] = item
        self.put_back([item])

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

    def stick(self, item: InHand) -> None:
        """It was taken and stays in hand until it is ``done`` or put back: its lane waits."""
        self._stuck[item.place] = item

    def await_return(self, item: InHand, until: float) -> None:
        """It was given back and will come again; ``overdue`` after ``until``."""
        self.done(item)
        if self._ordered:
            self._awaited[self._lane_of(item)] = Awaited(item.incoming, item.source, until)

    def overdue(self, now: float) -> list[Awaited]:
        """What was given back and should have come again by now. Its lane still waits."""
        return [awaited for awaited in self._awaited.values() if awaited.until <= now]

    def release(self, place: Place) -> None:
        """It will not come again here: its lane goes on without it. Idempotent."""
        for lane, awaited in tuple(self._awaited.items()):
            if awaited.incoming.place == place:
                del self._awaited[lane]

    def put_back(self, items: Iterable[InHand]) -> None:
        """They were taken but not settled: first in their lanes again, in the order given."""
        for item in reversed(tuple(items)):
            lane = self._lane_of(item)
            self._stuck.pop(item.place, None)
            self._queues.setdefault(lane, deque()).appendleft(item)
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
        still = self._stuck_lanes() | self._awaited.keys()
        return [item for lane in still for item in self._queues.get(lane, ())]

    def _stuck_lanes(self) -> set[Lane]:
        return {self._lane_of(item) for item in self._stuck.values()}

    def _remember(self, item: InHand) -> None:
        self._in_hand[item.place] = item
        self._counts[id(item.source)] += 1
        self._suspects += item.suspect

    def _forget(self, item: InHand) -> None:
        if self._in_hand.pop(item.place, None) is not None:
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
    """Before everything of its stream that is newer: redeliveries come late."""
    before = len(queue)
    for at in range(len(queue) - 1, -1, -1):
        # A lane may hold deliveries of two streams, events and redrives, in any mixture.
        if _is_newer(item.incoming, queue[at].incoming):
            break
        if _is_newer(queue[at].incoming, item.incoming):
            before = at
    queue.insert(before, item)


def _is_newer(one: Incoming, other: Incoming) -> bool:
    """Of the same stream, and behind it."""
    return one.stream == other.stream and one.stream_seq > other.stream_seq


def by_source(items: Iterable[InHand]) -> Iterable[tuple[Subscription, list[Incoming]]]:
    """The deliveries of each subscription."""
    grouped: dict[int, tuple[Subscription, list[Incoming]]] = {}
    for item in items:
        grouped.setdefault(id(item.source), (item.source, []))[1].append(item.incoming)
    return grouped.values()
