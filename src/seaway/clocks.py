"""Time that also passes while this process, or this machine, is stopped.

SIGSTOP, a suspended laptop, a paused virtual machine: whoever held something before may have lost
it to another by then, and must look before it goes on.
"""

from __future__ import annotations

import time
from datetime import timedelta

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def running_time() -> float:
    """Seconds since some moment in the past; never goes back."""
    return time.clock_gettime(_CLOCK)


class Gap:
    """How long it is since somebody looked last; ``too_long`` is a look."""

    def __init__(self, limit: timedelta) -> None:
        self._limit = limit.total_seconds()
        self._looked = running_time()

    def too_long(self) -> bool:
        """Whether more than the limit has passed since the look before this one."""
        before, self._looked = self._looked, running_time()
        return self._looked - before > self._limit
