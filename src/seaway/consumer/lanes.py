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
class Work:
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
class Held:
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
        self._waiting: dict[Lane, deque[Work]] = {}
        self._running: dict[Lane, int] = {}
        self._held: dict[Lane, Held] = {}
        self._in_hand: dict[Place, Work] = {}
        self._stuck: dict[Place, Work] = {}
        self._alone: dict[Place, Work] = {}
        self._suspects = 0
        self._counts: Counter[int] = Counter()
        self.left = 0
        """How many deliveries have gone out of our hands by now."""

    def __len__(self) -> int:
        return len(self._in_hand)

    def __iter__(self) -> Iterator[Work]:
        return iter(tuple(self._in_hand.values()))

    @property
    def waits(self) -> bool:
        """Whether any lane waits for a delivery to come back."""
        return bool(self._held)

    @property
    def open(self) -> int:
        """How many lanes have something in hand and do not wait for one to come back."""
        both = len(self._waiting.keys() & self._running.keys())
        return len(self._waiting) + len(self._running) - both - len(self._stuck_lanes())

    def count(self, source: Subscription) -> int:
        """How many deliveries of one source are in hand."""
        return self._counts[id(source)]

    def moving(self, source: Subscription) -> int:
        """How many deliveries of one source are in hand, and neither stuck nor behind one that is,
        or that is not here."""
        if not self._held and not self._stuck:
            return self.count(source)
        still = (*self.blocked(), *self._stuck.values())
        return self.count(source) - sum(work.source is source for work in still)

    def push(self, work: Work) -> None:
        """Take a delivery in."""
        known = self._in_hand.get(work.place)
        if known is not None:
            self._counts[id(known.source)] -= 1
            known.incoming, known.source, known.alive = work.incoming, work.source, work.alive
            self._counts[id(known.source)] += 1
            return
        self._remember(work)
        lane = self._lane_of(work)
        held = self._held.get(lane)
        queue = self._waiting.setdefault(lane, deque())
        if held is not None and held.incoming.place == work.place:
            del self._held[lane]
            queue.appendleft(work)
        else:
            _insert(queue, work)

    def take(self, limit: int) -> list[Work]:
        """Up to ``limit`` deliveries to start together, lane by lane in turn.

        Several of one lane follow each other; the lane is closed until all are ``done``.
        """
        if self._alone and (lane := self._lone_lane()) is not None:
            others = self._running.keys() - self._stuck_lanes()
            return [] if others or limit < 1 else self._take_from(lane, 1)
        chosen: list[tuple[Lane, int]] = []
        left = limit
        for lane, queue in self._waiting.items():
            if left < 1:
                break
            if lane in self._running or lane in self._held:
                continue
            ready = len(queue)
            if self._suspects:
                if queue[0].suspect:
                    if not chosen:
                        return self._take_from(lane, 1)
                    continue
                ready = sum(1 for _ in takewhile(lambda work: not work.suspect, queue))
            chosen.append((lane, min(ready, left)))
            left -= ready
        return [work for lane, count in chosen for work in self._take_from(lane, count)]

    def _take_from(self, lane: Lane, count: int) -> list[Work]:
        queue = self._waiting.pop(lane)
        self._running[lane] = count
        taken = [queue.popleft() for _ in range(count)]
        if queue:
            # To the end of the line: a key that never runs dry must not starve the others.
            self._waiting[lane] = queue
        return taken

    def _lone_lane(self) -> Lane | None:
        """That of a delivery that is to be alone, or is; none where it cannot be started."""
        stuck = self._stuck_lanes()
        lanes = (self._lane_of(work) for work in self._alone.values())
        return next((one for one in lanes if one not in stuck and one not in self._held), None)

    @property
    def isolating(self) -> bool:
        """Whether one is to be alone, or is."""
        return self._lone_lane() is not None

    def isolate(self, work: Work) -> None:
        """It was taken, and is put back: nothing is started before it, nor while it is at work."""
        self._alone[work.place] = work
        self.put_back([work])

    def done(self, work: Work) -> None:
        """It is settled, one way or the other, and out of our hands."""
        self._forget(work)
        self._stuck.pop(work.place, None)
        self.left += 1
        self._leave(self._lane_of(work))

    def drop(self, work: Work) -> None:
        """It has not been started and was given back."""
        self._forget(work)
        self.left += 1
        queue = self._waiting.get(self._lane_of(work))
        if queue is not None:
            with contextlib.suppress(ValueError):
                queue.remove(work)
            if not queue:
                del self._waiting[self._lane_of(work)]

    def stick(self, work: Work) -> None:
        """It was taken and stays in hand until it is ``done`` or put back: its lane waits."""
        self._stuck[work.place] = work

    def hold(self, work: Work, until: float) -> None:
        """It was given back and will come again; ``overdue`` after ``until``."""
        self.done(work)
        if self._ordered:
            self._held[self._lane_of(work)] = Held(work.incoming, work.source, until)

    def overdue(self, now: float) -> list[Held]:
        """What was given back and should have come again by now. Its lane still waits."""
        return [held for held in self._held.values() if held.until <= now]

    def release(self, place: Place) -> None:
        """It will not come again here: its lane goes on without it. Idempotent."""
        for lane, held in tuple(self._held.items()):
            if held.incoming.place == place:
                del self._held[lane]

    def put_back(self, works: Iterable[Work]) -> None:
        """They were taken but not settled: first in their lanes again, in the order given."""
        for work in reversed(tuple(works)):
            lane = self._lane_of(work)
            self._stuck.pop(work.place, None)
            self._waiting.setdefault(lane, deque()).appendleft(work)
            self._leave(lane)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be started."""
        return not self._waiting

    def waiting(self) -> list[Work]:
        """What is in hand and not started."""
        return [work for queue in self._waiting.values() for work in queue]

    def blocked(self) -> list[Work]:
        """What of it waits for a delivery that is not here, or that is stuck."""
        still = self._stuck_lanes() | self._held.keys()
        return [work for lane in still for work in self._waiting.get(lane, ())]

    def _stuck_lanes(self) -> set[Lane]:
        return {self._lane_of(work) for work in self._stuck.values()}

    def _remember(self, work: Work) -> None:
        self._in_hand[work.place] = work
        self._counts[id(work.source)] += 1
        self._suspects += work.suspect

    def _forget(self, work: Work) -> None:
        if self._in_hand.pop(work.place, None) is not None:
            self._alone.pop(work.place, None)
            self._suspects -= work.suspect
            source = id(work.source)
            self._counts[source] -= 1
            if not self._counts[source]:
                del self._counts[source]

    def _lane_of(self, work: Work) -> Lane:
        return work.key if self._ordered else work.place

    def _leave(self, lane: Lane) -> None:
        left = self._running.get(lane, 0) - 1
        if left > 0:
            self._running[lane] = left
        else:
            self._running.pop(lane, None)


def _insert(queue: deque[Work], work: Work) -> None:
    """Before everything of its stream that is newer: redeliveries come late."""
    place = len(queue)
    for at in range(len(queue) - 1, -1, -1):
        # A lane may hold deliveries of two streams, events and redrives, in any mixture.
        if _is_newer(work.incoming, queue[at].incoming):
            break
        if _is_newer(queue[at].incoming, work.incoming):
            place = at
    queue.insert(place, work)


def _is_newer(one: Incoming, other: Incoming) -> bool:
    """Of the same stream, and behind it."""
    return one.stream == other.stream and one.stream_seq > other.stream_seq
