"""Deliveries in hand, in lanes by ordering key. Pure: no tasks, no clock of its own.

Owns: what may be started next. Guarantees, within one process: the deliveries of a key are given
out one run after the other in stream order; a lane whose delivery was given back waits until that
one has come again, or is released, and one with a delivery that is stuck until that is settled; so
does what is newer than a delivery that is expected; of a delivery that the server sends twice, the
newest copy counts, since only that can be acknowledged.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

from seaway.contracts import Incoming, Subscription
from seaway.parked import Place

Lane: TypeAlias = str | Place


@dataclass(slots=True, eq=False)
class Work:
    """A delivery in hand. ``source`` ``None``: read from the stream, not to be settled."""

    incoming: Incoming
    source: Subscription | None
    key: str
    alive: float = math.inf
    """When its ack timer was last known to run."""
    falls: int = 0
    """How many outages of the database began while it was at work alone."""
    place: Place = field(init=False)
    """Which message it is."""

    def __post_init__(self) -> None:
        self.place = self.incoming.place

    def fell(self) -> int:
        """One more outage began while it was at work; how many by now."""
        self.falls += 1
        return self.falls


@dataclass(slots=True)
class Held:
    """A delivery that was given back: its lane waits for it."""

    place: Place
    until: float
    deliveries: int


class Expected(NamedTuple):
    """A delivery that has not come yet: what is newer in its lane waits for it, until ``last`` at
    the latest."""

    work: Work
    until: float
    last: float


class Lanes:
    """``ordered=False``: every delivery is a lane of its own."""

    def __init__(self, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._waiting: dict[Lane, deque[Work]] = {}
        self._running: dict[Lane, int] = {}
        self._held: dict[Lane, Held] = {}
        self._in_hand: dict[Place, Work] = {}
        self._stuck: dict[Place, Work] = {}
        self._expected: dict[Place, Expected] = {}
        self._counts: Counter[int] = Counter()
        self.left = 0
        """How many deliveries have gone out of our hands by now."""

    def __len__(self) -> int:
        return len(self._in_hand)

    def __iter__(self) -> Iterator[Work]:
        return iter(tuple(self._in_hand.values()))

    @property
    def waits(self) -> bool:
        """Whether any lane waits for a delivery to come back, or to come at all."""
        return bool(self._held or self._expected)

    @property
    def open(self) -> int:
        """How many lanes have something in hand and do not wait for one to come back."""
        both = len(self._waiting.keys() & self._running.keys())
        return len(self._waiting) + len(self._running) - both - len(self._stuck_lanes())

    def count(self, source: Subscription | None) -> int:
        """How many deliveries of one source are in hand."""
        return self._counts[id(source)]

    def moving(self, source: Subscription | None) -> int:
        """How many deliveries of one source are in hand, and neither stuck nor behind one that is,
        or that is not here."""
        if not self.waits and not self._stuck:
            return self.count(source)
        still = (*self.blocked(), *self._stuck.values())
        return self.count(source) - sum(work.source is source for work in still)

    def push(self, work: Work) -> None:
        """Take a delivery in."""
        known = self._in_hand.get(work.place)
        if known is not None:
            if work.source is not None:
                self._forget(known)
                known.incoming, known.source = work.incoming, work.source
                known.alive = work.alive
                self._remember(known)
            return
        self._remember(work)
        lane = self._lane_of(work)
        held = self._held.get(lane)
        queue = self._waiting.setdefault(lane, deque())
        if held is not None and held.place == work.place:
            del self._held[lane]
            queue.appendleft(work)
        else:
            _insert(queue, work)

    def take(self, limit: int) -> list[Work]:
        """Up to ``limit`` deliveries to start together, lane by lane in turn.

        Several of one lane follow each other; the lane is closed until all are ``done``.
        """
        chosen: list[tuple[Lane, int]] = []
        left, absent = limit, self._absent()
        for lane, queue in self._waiting.items():
            if left < 1:
                break
            if lane not in self._running and (ready := self._ready(lane, queue, absent)):
                chosen.append((lane, ready))
                left -= ready
        taken: list[Work] = []
        for lane, ready in chosen:
            queue = self._waiting.pop(lane)
            count = min(limit - len(taken), ready)
            taken += [queue.popleft() for _ in range(count)]
            self._running[lane] = count
            if queue:
                # To the end of the line: a key that never runs dry must not starve the others.
                self._waiting[lane] = queue
        return taken

    def done(self, work: Work) -> None:
        """It is settled, one way or the other, and out of our hands."""
        self._forget(work)
        self._stuck.pop(work.place, None)
        self.left += 1
        self._expected.pop(work.place, None)
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
            self._held[self._lane_of(work)] = Held(work.place, until, work.incoming.deliveries)

    def expect(self, work: Work, until: float, last: float = math.inf) -> bool:
        """It is not here yet: what is newer in its lane waits for it; ``late`` after ``until``.
        False where it is here. Expected already it keeps its ``last``."""
        if not self._ordered or work.place in self._in_hand:
            return False
        if (known := self._expected.get(work.place)) is not None:
            last = known.last
        self._expected[work.place] = Expected(work, until, last)
        return True

    @property
    def expected(self) -> list[Work]:
        """What is expected and has not come, or is not settled."""
        return [expected.work for expected in self._expected.values()]

    @property
    def expecting(self) -> bool:
        """Whether there is any such."""
        return bool(self._expected)

    def expects(self, place: Place) -> bool:
        """Whether this is expected."""
        return place in self._expected

    def overdue(self, now: float) -> list[Held]:
        """What was given back and should have come again by now. Its lane still waits."""
        return [held for held in self._held.values() if held.until <= now]

    def late(self, now: float) -> list[Expected]:
        """What was expected and should have come by now. What is newer still waits."""
        return [
            expected
            for place, expected in self._expected.items()
            if expected.until <= now and place not in self._in_hand
        ]

    def release(self, place: Place) -> None:
        """It will not come again here: its lane goes on without it. Idempotent."""
        self._expected.pop(place, None)
        for lane, held in tuple(self._held.items()):
            if held.place == place:
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
        absent, stuck = self._absent(), self._stuck_lanes()
        return [
            work
            for lane, queue in self._waiting.items()
            for work in islice(
                queue, 0 if lane in stuck else self._ready(lane, queue, absent), None
            )
        ]

    def _stuck_lanes(self) -> set[Lane]:
        return {self._lane_of(work) for work in self._stuck.values()}

    def _absent(self) -> Mapping[Lane, Sequence[Incoming]]:
        """What is expected and has not come, by lane."""
        absent: dict[Lane, list[Incoming]] = {}
        for place, expected in self._expected.items():
            if place not in self._in_hand:
                work = expected.work
                absent.setdefault(self._lane_of(work), []).append(work.incoming)
        return absent

    def _ready(
        self, lane: Lane, queue: deque[Work], absent: Mapping[Lane, Sequence[Incoming]]
    ) -> int:
        """How many of a lane's deliveries need not wait for one that is not here."""
        if lane in self._held:
            return 0
        if lane in absent:
            for at, work in enumerate(queue):
                if any(_is_newer(work.incoming, one) for one in absent[lane]):
                    return at
        return len(queue)

    def _remember(self, work: Work) -> None:
        self._in_hand[work.place] = work
        self._counts[id(work.source)] += 1

    def _forget(self, work: Work) -> None:
        found = self._in_hand.pop(work.place, None)
        if found is not None:
            source = id(found.source)
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
