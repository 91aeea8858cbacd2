"""Deliveries in hand, in lanes by ordering key. Pure: no tasks, no clock of its own.

Owns: what may be started next. Guarantees, within one process: the deliveries of a key are given
out one run after the other in stream order; a lane whose delivery was nak'ed waits until that one
has come back (or its time has passed), and then goes on with it; a second copy of a delivery in
hand replaces the first, since only the newest can be acknowledged.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from seaway.contracts import Incoming, Subscription


@dataclass(slots=True, eq=False)
class Work:
    """A delivery in hand. ``source`` ``None``: read from the stream, not to be settled."""

    incoming: Incoming
    source: Subscription | None
    key: str

    @property
    def place(self) -> tuple[str, int]:
        """Which message it is."""
        return self.incoming.stream, self.incoming.stream_seq


@dataclass(slots=True)
class _Held:
    place: tuple[str, int]
    until: float


class Lanes:
    """``ordered=False``: every delivery is a lane of its own."""

    def __init__(self, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._waiting: dict[str, deque[Work]] = {}
        self._running: dict[str, int] = {}
        self._held: dict[str, _Held] = {}
        self._in_hand: dict[tuple[str, int], Work] = {}

    def __len__(self) -> int:
        return len(self._in_hand)

    def __iter__(self) -> Iterator[Work]:
        return iter(tuple(self._in_hand.values()))

    @property
    def held(self) -> int:
        """How many lanes wait for a delivery to come back."""
        return len(self._held)

    def count(self, source: Subscription) -> int:
        """How many deliveries of one source are in hand."""
        return sum(1 for work in self._in_hand.values() if work.source is source)

    def push(self, work: Work) -> None:
        """Take a delivery in."""
        known = self._in_hand.get(work.place)
        if known is not None:
            known.incoming, known.source = work.incoming, work.source
            return
        self._in_hand[work.place] = work
        lane = self._lane_of(work)
        held = self._held.get(lane)
        queue = self._waiting.setdefault(lane, deque())
        if held is not None and held.place == work.place:
            del self._held[lane]
            queue.appendleft(work)
        else:
            _insert(queue, work)

    def take(self, limit: int, now: float) -> list[Work]:
        """Up to ``limit`` deliveries to start together, in the order they arrived by lane.

        Several of one lane follow each other; the lane is closed until all are ``done``.
        """
        taken: list[Work] = []
        for lane in tuple(self._waiting):
            if lane in self._running or not self._is_open(lane, now):
                continue
            queue = self._waiting[lane]
            count = min(limit - len(taken), len(queue))
            taken += [queue.popleft() for _ in range(count)]
            self._running[lane] = count
            if not queue:
                del self._waiting[lane]
            if len(taken) == limit:
                break
        return taken

    def done(self, work: Work) -> None:
        """It is settled, one way or the other, and out of our hands."""
        self._in_hand.pop(work.place, None)
        self._leave(self._lane_of(work))

    def drop(self, work: Work) -> None:
        """It has not been started and was given back."""
        self._in_hand.pop(work.place, None)
        queue = self._waiting.get(self._lane_of(work))
        if queue is not None:
            with contextlib.suppress(ValueError):
                queue.remove(work)
            if not queue:
                del self._waiting[self._lane_of(work)]

    def hold(self, work: Work, until: float) -> None:
        """It was given back and will come again: its lane waits for it, at most ``until``."""
        self.done(work)
        if self._ordered:
            self._held[self._lane_of(work)] = _Held(work.place, until)

    def put_back(self, works: Iterable[Work]) -> None:
        """They were taken but not settled: first in their lanes again, in the order given."""
        for work in reversed(tuple(works)):
            lane = self._lane_of(work)
            self._waiting.setdefault(lane, deque()).appendleft(work)
            self._leave(lane)

    def waiting(self) -> list[Work]:
        """What is in hand and not started."""
        return [work for queue in self._waiting.values() for work in queue]

    def _lane_of(self, work: Work) -> str:
        return work.key if self._ordered else f"{work.incoming.stream}:{work.incoming.stream_seq}"

    def _leave(self, lane: str) -> None:
        left = self._running.get(lane, 0) - 1
        if left > 0:
            self._running[lane] = left
        else:
            self._running.pop(lane, None)

    def _is_open(self, lane: str, now: float) -> bool:
        held = self._held.get(lane)
        if held is None:
            return True
        if now < held.until:
            return False
        # Another process has it by now, or it is gone: the lane must not wait for ever.
        del self._held[lane]
        return True


def _insert(queue: deque[Work], work: Work) -> None:
    """Behind everything of its stream that is older: redeliveries come late."""
    place = len(queue)
    while place and _follows(queue[place - 1], work):
        place -= 1
    queue.insert(place, work)


def _follows(one: Work, other: Work) -> bool:
    return (
        one.incoming.stream == other.incoming.stream
        and one.incoming.stream_seq > other.incoming.stream_seq
    )
