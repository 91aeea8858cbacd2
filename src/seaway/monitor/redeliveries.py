"""How many redeliveries a consumer has had, counted from outside by any process that watches.

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

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from seaway.contracts import BrokerAdmin, ConsumerInfo, StreamInfo
from seaway.errors import SeawayError
from seaway.monitor.snapshot import Snapshot
from seaway.naming import WATCHER, covers

_ATTEMPTS = 5


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

    totals: dict[tuple[str, str], int] = field(default_factory=dict)
    _seen: dict[tuple[str, str], ConsumerInfo] = field(default_factory=dict)

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
