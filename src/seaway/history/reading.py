"""A stream, read once from one place to another, and what is counted of it on the way.

Owns: the tallies of what lies on a stream, by minute, by subject and by part of the stream, so that
what a durable must have done with, and what the outbox must know, is a sum of some of them.
Guarantees: memory does not grow with the events: a number for each minute and event type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from seaway.contracts import BrokerAdmin, StoredMessage
from seaway.databases.tallies import OUTSIDE, Tally, Window, fingerprint, millisecond
from seaway.history.findings import moment_of
from seaway.history.stations import Taker, between, is_copy

SAMPLES = 100
"""Ids of each event type that are kept from the begin of a part, and as many from its end."""

COPIES = 10_000


@dataclass(slots=True)
class Sampled:
    """Some of an event type's messages: id and place."""

    head: list[tuple[str, int]] = field(default_factory=list)
    tail: dict[int, str] = field(default_factory=dict)

    def add(self, event_id: str, stream_seq: int) -> None:
        if len(self.head) < SAMPLES:
            self.head.append((event_id, stream_seq))
            return
        self.tail[stream_seq] = event_id
        if len(self.tail) > SAMPLES:
            del self.tail[next(iter(self.tail))]

    def ids(self, first: int, last: int) -> list[str]:
        """Those of messages in ``first..last``."""
        places = [*self.head, *((event_id, place) for place, event_id in self.tail.items())]
        return [event_id for event_id, place in places if first <= place <= last]


class StreamRead:
    """What was counted. ``parts``: places at which a part of the stream begins. Copies that were
    sent on purpose are not counted, but named in ``copies``, ``COPIES`` of them at the most."""

    def __init__(self, parts: Iterable[int], window: Window, marked: Collection[str] = ()) -> None:
        self.window = window
        self.events = 0
        self.copies: dict[str, StoredMessage] = {}
        self.marked: set[str] = set()
        """Those of the ``marked`` ids that are there."""
        self._wanted = marked
        self._starts = sorted(set(parts))
        self._subjects: dict[str, int] = {}
        self._tallies: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._samples: defaultdict[tuple[int, int], Sampled] = defaultdict(Sampled)
        self._first_of_part: dict[tuple[int, int], datetime] = {}

    async def read(
        self,
        admin: BrokerAdmin,
        stream: str,
        first: int,
        last: int,
        *,
        reader: str,
        advance: Callable[[int], None],
    ) -> None:
        """Count what lies in ``first..last``."""
        part = 0
        async with aclosing(between(admin, stream, first, last, reader)) as messages:
            async for one in messages:
                while part < len(self._starts) and one.stream_seq >= self._starts[part]:
                    part += 1
                self._take(one, part)
                advance(1)

    def _take(self, one: StoredMessage, part: int) -> None:
        event_id, place = one.event_id, one.stream_seq
        if event_id in self._wanted:
            self.marked.add(event_id)
        bucket = self.window.bucket(event_id)
        if bucket == OUTSIDE:
            return
        if is_copy(one):
            if len(self.copies) < COPIES:
                self.copies[event_id] = one
            return
        self.events += 1
        number = self._subjects.setdefault(one.message.subject, len(self._subjects))
        key = part, bucket, number
        count, total = self._tallies.get(key, (0, 0))
        self._tallies[key] = count + 1, total + fingerprint(event_id)
        low, high = self._spans.get(bucket, (place, place))
        self._spans[bucket] = min(low, place), max(high, place)
        self._samples[part, number].add(event_id, place)
        if (part, number) not in self._first_of_part:
            at = millisecond(event_id)
            self._first_of_part[part, number] = one.stored_at if at is None else moment_of(at)

    def sums(
        self, first: int, last: int, *, subjects: Collection[str] | None = None
    ) -> dict[int, Tally]:
        """The tallies of the parts within ``first..last`` by bucket, of some subjects or all."""
        parts = set(self._parts(first, last))
        numbers = None if subjects is None else {self._subjects[one] for one in subjects}
        found: dict[int, Tally] = {}
        for (part, bucket, number), (count, total) in self._tallies.items():
            if part in parts and (numbers is None or number in numbers):
                low, high = self._spans[bucket]
                one = Tally(count, total, low, high)
                known = found.get(bucket)
                found[bucket] = one if known is None else known.plus(one)
        return found

    @property
    def subjects(self) -> Sequence[str]:
        """Every subject that was met."""
        return list(self._subjects)

    def samples(self, taker: Taker, subject: str) -> list[str]:
        """Ids of some of ``subject``'s messages that ``taker`` must have done with."""
        number = self._subjects[subject]
        return [
            event_id
            for part in self._parts(taker.first, taker.floor)
            if (part, number) in self._samples
            for event_id in self._samples[part, number].ids(taker.first, taker.floor)
        ]

    def behind(self, taker: Taker) -> datetime | None:
        """Of what ``taker`` may still have to do, when the first of each type was written; the
        earliest of those. ``None``: there is nothing."""
        parts = {part for part in range(len(self._starts) + 1) if self._start(part) > taker.floor}
        names = {number: subject for subject, number in self._subjects.items()}
        moments = [
            at
            for (part, number), at in self._first_of_part.items()
            if part in parts and taker.takes(names[number])
        ]
        return min(moments, default=None)

    def _start(self, part: int) -> int:
        return self._starts[part - 1] if part else 0

    def _parts(self, first: int, last: int) -> Iterator[int]:
        """Parts that lie within: none lies across, since both are where parts begin."""
        for part in range(len(self._starts) + 1):
            if first <= self._start(part) <= last:
                yield part


def spans(tallies: Iterable[Tally], first: int, last: int) -> list[tuple[int, int]]:
    """The places that these are spread over, those that overlap in one, within ``first..last``."""
    found: list[tuple[int, int]] = []
    for low, high in sorted((one.first, one.last) for one in tallies if one.events):
        low, high = max(low, first), min(high, last)
        if low > high:
            continue
        if found and low <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], high)
        else:
            found.append((low, high))
    return found
