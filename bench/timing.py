"""From samples to figures. Pure but for the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from bench.job import Figures


class Stopwatch:
    """Runs from its making."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._began


def rate(events: int, seconds: float) -> Figures:
    """The figures of a throughput run."""
    return {"events_per_second": events / seconds}


def percentiles(name: str, seconds: Sequence[float]) -> Figures:
    """``{name}_p50_ms`` and ``{name}_p99_ms`` of at least two samples."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"{name}_p50_ms": cuts[49] * 1000, f"{name}_p99_ms": cuts[98] * 1000}
