"""Sampling: one look a second at most, however many look at it.

Owns: the last sample, and since when the server or the database is away. Guarantees: any number
of concurrent callers share one look; a look that fails is a sample too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from seaway.contracts import Broker, ConsumerInfo
from seaway.errors import SeawayError
from seaway.monitor.redeliveries import RedeliveryCounter
from seaway.monitor.snapshot import WITHIN, Database, Snapshot, Watch, take_snapshot
from seaway.monitor.station import Station

_HISTORY = 60


@dataclass(frozen=True, slots=True)
class Sample:
    """A snapshot and the redeliveries counted up to it, by ``(stream, durable)``.

    ``read_at`` is a monotonic reading in seconds, for rates.
    """

    snapshot: Snapshot
    redeliveries: Mapping[tuple[str, str], int] = field(default_factory=dict)
    read_at: float = 0.0
    away_since: datetime | None = None
    """When the server was first found away, while it still is."""
    unmoved: Mapping[tuple[str, str], float] = field(default_factory=dict)
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
        self._moved: dict[tuple[str, str], tuple[object, float]] = {}
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


def rates(earlier: Sample, later: Sample) -> dict[tuple[str, str], float]:
    """Redeliveries a minute between two samples, by ``(stream, durable)``; empty without time."""
    minutes = (later.read_at - earlier.read_at) / 60
    if minutes <= 0:
        return {}
    return {
        key: max(0, total - earlier.redeliveries[key]) / minutes
        for key, total in later.redeliveries.items()
        if key in earlier.redeliveries
    }
