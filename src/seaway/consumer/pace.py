"""How fast deliveries are worked off, hence how many may be in hand. Pure.

Owns: an estimate of a worker's time for a delivery. A slower one counts at once, a faster one is
believed slowly: too little in hand costs a round trip, too much takes from other processes.
"""

from __future__ import annotations

from datetime import timedelta

HORIZON = timedelta(milliseconds=250)
"""What waits in hand should be started within this: several round trips to a distant server, and
little enough for a stopping process to give back."""

_BELIEF = 0.1


class Pace:
    """The pace of one consumer's workers."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def note(self, seconds: float, deliveries: int) -> None:
        """A transaction of so many ``deliveries`` took a worker so many ``seconds``."""
        sample = seconds / deliveries
        known = self._seconds
        if known is None or sample > known:
            self._seconds = sample
        else:
            self._seconds = known + _BELIEF * (sample - known)

    def startable(self, workers: int, *, ack_wait: timedelta) -> int:
        """How many deliveries so many ``workers`` start within the horizon, which is never more
        than half of ``ack_wait``; 0 before anything is known."""
        if self._seconds is None:
            return 0
        within = min(HORIZON, ack_wait / 2).total_seconds()
        return int(workers * within / max(self._seconds, 1e-6))
