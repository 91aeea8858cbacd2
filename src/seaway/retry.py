"""How long to wait before trying again. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: uniform in ``[0, min(cap, base * 2**(attempt-1))]``.

    Full jitter spreads a herd best, but may draw 0; ``floor`` keeps a wait from vanishing.
    """

    base: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(seconds=120)
    floor: timedelta = timedelta(milliseconds=50)

    def delay(self, attempt: int, *, draw: Callable[[], float] = random.random) -> timedelta:
        """The wait after failed attempt number ``attempt`` (1 is the first)."""
        exponent = min(max(attempt, 1) - 1, 62)
        ceiling = min(
            self.cap, timedelta(seconds=min(self.base.total_seconds() * 2**exponent, 1e9))
        )
        return max(min(self.floor, ceiling), ceiling * draw())
