"""Sampling: one look a second at most, however many look at it, and the redeliveries in between.

Owns: the last sample, since when the server or the database is away, and how many redeliveries a
consumer has had, counted from outside. Guarantees: any number of concurrent callers share one look;
a look that fails is a sample too.

The server only tells how many messages are *now* redelivered and unsettled. But every delivery
moves ``delivered.consumer_seq`` by one, and every first delivery moves ``delivered.stream_seq``
over one matching message. So between two looks

    redeliveries = growth of consumer_seq - matching messages in (old stream_seq, new stream_seq]

and those messages are counted in the cheapest way that is right (``span_of``):

| what happened between the looks                       | requests | count                 |
| ----------------------------------------------------- | -------- | --------------------- |
| no delivery                                           | none     | nothing to count      |
| `stream_seq` stayed                                   | none     | exact: all repeats    |
| filter covers the stream, no hole in the span         | none     | exact                 |
| work-queue, interest stream (settled messages vanish) | none     | exact or lower bound  |
| otherwise                                             | six      | see `count_between`   |

A consumer that rewinds (ADR 0014) has ``consumer_seq`` begin at 0 again and ``stream_seq`` go back:
all that comes up to where it had been is a redelivery.

Limits: the count begins at 0 with the first look. A message that is deleted between its first
delivery and the look counts as a redelivery; a message that expired undelivered in a whole-stream
span hides one. A recreated consumer begins anew, from its own start. Never negative.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from seaway.contracts import Broker, BrokerAdmin, ConsumerInfo, StreamInfo
from seaway.errors import SeawayError
from seaway.monitor.snapshot import WITHIN, Database, Snapshot, Station, Watch, take_snapshot
from seaway.naming import WATCHER, covers

ConsumerKey: TypeAlias = tuple[str, str]
"""Stream and durable."""

_HISTORY = 60
RATE_SECONDS = 60
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """A snapshot and the redeliveries counted up to it, by ``(stream, durable)``.

    ``read_at`` is a monotonic reading in seconds, for rates.
    """

    snapshot: Snapshot
    redeliveries: Mapping[ConsumerKey, int] = field(default_factory=dict)
    read_at: float = 0.0
    away_since: datetime | None = None
    """When the server was first found away, while it still is."""
    unmoved: Mapping[ConsumerKey, float] = field(default_factory=dict)
    """For how many seconds nothing has been seen to happen to a durable."""


class Sampler:
    """Looks when asked, at most once in ``every``; keeps the last minute or so for sparklines."""

    def __init__(
        self,
        server: Station[Broker],
        watch: Watch,
        database: Station[Database] | None = None,
        *,
        every: timedelta = timedelta(seconds=1),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history: list[Sample] = []
        self.watch = watch
        self._server = server
        self._database = database
        self._every = every.total_seconds()
        self._monotonic = monotonic
        self._counter = RedeliveryCounter()
        self._moved: dict[ConsumerKey, tuple[object, float]] = {}
        self._lock = asyncio.Lock()

    async def sample(self, *, within: timedelta = WITHIN) -> Sample:
        """The last sample if it is fresh, else a new one. Never raises for what is away, and waits
        no longer than ``within`` for what hangs."""
        async with self._lock:
            last = self.history[-1] if self.history else None
            began = self._monotonic()
            if last is not None and began - last.read_at < self._every:
                return last
            snapshot = await take_snapshot(self._server, self.watch, self._database, within=within)
            read_at = self._monotonic()
            away_since = None
            if snapshot.server_error is not None:
                away_since = (last and last.away_since) or snapshot.taken_at
            else:
                left = within - timedelta(seconds=read_at - began)
                # What could not be counted now is made up by the next look.
                with contextlib.suppress(SeawayError):
                    await self._server.ask(
                        lambda broker: self._counter.look(snapshot, broker.admin), within=left
                    )
            unmoved = {one.key: self._unmoved(one, read_at) for one in snapshot.consumers}
            sample = Sample(snapshot, dict(self._counter.totals), read_at, away_since, unmoved)
            self.history = [*self.history[1 - _HISTORY :], sample]
            return sample

    def _unmoved(self, consumer: ConsumerInfo, now: float) -> float:
        """For how long it has given nothing out and nothing was settled, while it had to."""
        place = (consumer.created, consumer.consumer_seq, consumer.ack_floor)
        busy = bool(consumer.num_pending or consumer.num_ack_pending)
        state = (place, busy)
        known, since = self._moved.get(consumer.key, (None, now))
        if known != state:
            since = now
            self._moved[consumer.key] = state, now
        return now - since


def rates(earlier: Sample, later: Sample) -> dict[ConsumerKey, float]:
    """Redeliveries a minute between two samples, by ``(stream, durable)``; empty without time."""
    minutes = (later.read_at - earlier.read_at) / 60
    if minutes <= 0:
        return {}
    return {
        key: max(0, total - earlier.redeliveries[key]) / minutes
        for key, total in later.redeliveries.items()
        if key in earlier.redeliveries
    }


def recent_rates(history: Sequence[Sample]) -> dict[ConsumerKey, float] | None:
    """Redeliveries a minute over the last minute, or since the sample before where that is older.

    ``None`` before there are two samples.
    """
    usable = [sample for sample in history if sample.snapshot.server_error is None]
    if len(usable) < 2:
        return None
    last = usable[-1]
    recent = [s for s in usable[:-1] if last.read_at - s.read_at <= RATE_SECONDS]
    return rates((recent or usable[-2:])[0], last)


# ------------------------------------------------------------------------------- redeliveries


@dataclass(frozen=True, slots=True)
class Span:
    """Stream sequences ``after < seq <= upto`` and how to count the matching messages in them.

    ``sequences``: every one of them matches. ``probe``: ask the server.
    """

    deliveries: int
    after: int
    upto: int
    count: Literal["sequences", "probe"]


def span_of(old: ConsumerInfo, new: ConsumerInfo, stream: StreamInfo) -> Span | None:
    """What was delivered between two looks; ``None`` where nothing can be said or nothing was."""
    if old.created != new.created or new.consumer_seq == old.consumer_seq:
        return None
    rewound = new.consumer_seq < old.consumer_seq
    upto = max(new.stream_seq, old.stream_seq)
    whole = takes_all(new.filters, stream.subjects)
    solid = stream.num_deleted == 0 and stream.first_seq <= old.stream_seq + 1
    counted = stream.retention == "limits" and upto > old.stream_seq
    return Span(
        new.consumer_seq - (0 if rewound else old.consumer_seq),
        old.stream_seq,
        upto,
        "probe" if counted and not (whole and solid) else "sequences",
    )


def redelivered(span: Span, first_deliveries: int) -> int:
    """The redeliveries among the span's deliveries; never negative."""
    return max(0, span.deliveries - first_deliveries)


def takes_all(filters: Sequence[str], subjects: Sequence[str]) -> bool:
    """Whether a consumer with ``filters`` takes every message of ``subjects``; unsure: no."""
    return not filters or all(any(covers(wide, narrow) for wide in filters) for narrow in subjects)


@dataclass(slots=True)
class RedeliveryCounter:
    """Totals by ``(stream, durable)`` since this counter's first look at each."""

    totals: dict[ConsumerKey, int] = field(default_factory=dict)
    _seen: dict[ConsumerKey, ConsumerInfo] = field(default_factory=dict)

    async def look(self, snapshot: Snapshot, admin: BrokerAdmin) -> None:
        """Take the next snapshot into account. A probe that fails is made up by the next look."""
        for consumer in snapshot.consumers:
            stream = snapshot.stream(consumer.stream)
            old = self._seen.get(consumer.key)
            self.totals.setdefault(consumer.key, 0)
            span = span_of(old, consumer, stream) if old and stream else None
            if span is not None:
                try:
                    first = await _first_deliveries(span, consumer, admin)
                except SeawayError:
                    continue  # keep the old place, so that this span is counted the next time
                self.totals[consumer.key] += redelivered(span, first)
            if old is not None and old.created == consumer.created:
                consumer = replace(consumer, stream_seq=max(old.stream_seq, consumer.stream_seq))
            self._seen[consumer.key] = consumer


async def _first_deliveries(span: Span, consumer: ConsumerInfo, admin: BrokerAdmin) -> int:
    if span.count == "sequences":
        return span.upto - span.after
    return await count_between(
        admin, consumer.stream, consumer.filters, after=span.after, upto=span.upto
    )


async def count_between(
    admin: BrokerAdmin, stream: str, filters: Sequence[str], *, after: int, upto: int
) -> int:
    """How many stored messages of ``filters`` have ``after < seq <= upto``; constant cost.

    What lies behind each end is asked for; the difference is the answer if nothing arrived in
    between. The later end is asked before and after: where both answers agree, nothing did. Under
    steady load the quietest of a few tries is taken, which may count the few messages that arrived
    within it.
    """

    async def behind(seq: int) -> int:
        return await admin.count(stream, filter_subjects=filters, from_seq=seq + 1, reader=WATCHER)

    best: tuple[int, int] | None = None
    for _ in range(_ATTEMPTS):
        before, whole, later = await behind(upto), await behind(after), await behind(upto)
        arrived = max(0, later - before)
        if best is None or arrived < best[0]:
            best = (arrived, whole - before)
        if arrived == 0:
            break
    return max(0, best[1]) if best else 0
