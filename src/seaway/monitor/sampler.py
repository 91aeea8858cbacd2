"""Sampling: one look a second at most, however many look at it.

Owns: the last sample, and since when the server or the database is away. Guarantees: any number
of concurrent callers share one look; a look that fails is a sample too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from seaway.contracts import BrokerAdmin
from seaway.monitor.redeliveries import RedeliveryCounter
from seaway.monitor.snapshot import OpenStore, Snapshot, Watch, take_snapshot

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


class Sampler:
    """Looks when asked, at most once in ``every``; keeps the last minute or so for sparklines."""

    def __init__(
        self,
        admin: BrokerAdmin,
        watch: Watch,
        open_store: OpenStore | None = None,
        *,
        every: timedelta = timedelta(seconds=1),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history: list[Sample] = []
        self.watch = watch
        self._admin = admin
        self._open_store = open_store
        self._every = every.total_seconds()
        self._monotonic = monotonic
        self._counter = RedeliveryCounter()
        self._lock = asyncio.Lock()

    async def sample(self) -> Sample:
        """The last sample if it is fresh, else a new one. Never raises for what is away."""
        async with self._lock:
            last = self.history[-1] if self.history else None
            if last is not None and self._monotonic() - last.read_at < self._every:
                return last
            snapshot = await take_snapshot(self._admin, self.watch, self._open_store)
            read_at = self._monotonic()
            await self._counter.look(snapshot, self._admin)
            away_since = None
            if snapshot.server_error is not None:
                away_since = (last and last.away_since) or snapshot.taken_at
            sample = Sample(snapshot, dict(self._counter.totals), read_at, away_since)
            self.history = [*self.history[1 - _HISTORY :], sample]
            return sample


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
