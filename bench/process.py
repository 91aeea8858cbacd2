"""One round of one contender in a process of its own: ``python -m bench.process MODULE:NAME JOB``.

Owns: the event loop, the memory that is sampled while it runs, and the one line of JSON on stdout.
Guarantees: exits 0 only where the contender ran and its own checks held.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import uvloop

from bench.job import Figures, Job, Prepare

SAMPLE_SECONDS = 0.02
MEBIBYTE = 1024 * 1024


def resident_bytes() -> int:
    """What this process holds in memory now; 0 where the kernel does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class MemorySampler:
    """The resident memory at the start and at its highest, sampled by a thread."""

    def __init__(self) -> None:
        self.start_bytes = resident_bytes()
        self.peak_bytes = self.start_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, resident_bytes())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, resident_bytes())


async def measure(prepare: Prepare, job: Job) -> Figures:
    """Set up, run, tear down; the figures of the run, with its memory."""
    async with prepare(job) as run:
        with MemorySampler() as memory:
            began = time.process_time()
            figures = await run()
            spent = time.process_time() - began
    return {
        **figures,
        "cpu_us_per_event": spent * 1e6 / job.events,
        "memory_start_mib": memory.start_bytes / MEBIBYTE,
        "memory_peak_mib": memory.peak_bytes / MEBIBYTE,
    }


def main() -> None:
    """Measure what the arguments name."""
    place, job = sys.argv[1], Job.load(sys.argv[2])
    module, _, name = place.partition(":")
    prepare: Prepare = getattr(importlib.import_module(module), name)
    print(json.dumps(uvloop.run(measure(prepare, job))))


if __name__ == "__main__":
    main()
