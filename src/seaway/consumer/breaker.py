"""What is away, and how a consumer finds out that it is back. Pure: brings no clock and no tasks.

    closed ──trip──> open ──pause over──> a probe: one delivery ──success──> closed
                      ^───────────────trip again, longer pause──┘

Owns: the troubles of one consumer. Guarantees: told once an outage, however many deliveries met
it; while it is open, one delivery at a time is tried, and an outage makes the pauses longer once a
probe, not once a worker.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypeAlias

from seaway.retry import Backoff
from seaway.telemetry import ConsumerPaused, ConsumerResumed, Telemetry

Trouble: TypeAlias = Literal["server", "database", "downstream"]
"""The first heals where it is met; the others are probed."""

OUTAGE = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))
"""Between two looks at something that is away."""

_PROBED: frozenset[Trouble] = frozenset({"database", "downstream"})


class Breaker:
    """The breaker of one consumer."""

    def __init__(self, consumer: str, telemetry: Telemetry) -> None:
        self._consumer = consumer
        self._telemetry = telemetry
        self._troubles: dict[Trouble, str] = {}
        self._trips = 0
        self._not_before = 0.0
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether handlers cannot work: one delivery at a time may probe."""
        return not _PROBED.isdisjoint(self._troubles)

    @property
    def database_away(self) -> bool:
        """Whether the database is: that it is back, no delivery is needed to find out."""
        return "database" in self._troubles

    @property
    def troubled(self) -> bool:
        """Whether anything is away."""
        return bool(self._troubles)

    def pause(self, trouble: Trouble, reason: str) -> None:
        """Something is away; said once until all is well again."""
        if not self._troubles:
            self._telemetry.emit(ConsumerPaused(self._consumer, reason))
        self._troubles[trouble] = reason
        self.remind()

    def remind(self) -> None:
        """Tell again of what is away: it may be long between two probes."""
        for trouble, reason in self._troubles.items():
            self._telemetry.waiting(f"consumer {self._consumer}", trouble, reason)

    def resume(self, trouble: Trouble) -> None:
        """It is back. Idempotent."""
        if trouble in self._troubles:
            del self._troubles[trouble]
            self._telemetry.going_on(f"consumer {self._consumer}", trouble)
            if not self.open:
                self._trips = 0
            if not self._troubles:
                self._telemetry.emit(ConsumerResumed(self._consumer))

    def trip(
        self, trouble: Trouble, reason: str, *, now: float, after: timedelta | None = None
    ) -> None:
        """A delivery met an outage: pause, then probe, ``after`` that delay or with backoff."""
        if not self.open or self._probing:
            self._trips += 1
            pause = OUTAGE.delay(self._trips) if after is None else after
            self._not_before = now + pause.total_seconds()
        self.pause(trouble, reason)

    def allowance(self, most: int, *, now: float) -> int:
        """How many deliveries may be started together now, up to ``most``."""
        if not self.open:
            return most
        return 0 if self._probing or now < self._not_before else 1

    def pause_left(self, *, now: float) -> float:
        """Seconds until a probe may begin; 0 where one is under way or may begin now."""
        return 0.0 if self._probing else max(0.0, self._not_before - now)

    def begin(self) -> bool:
        """Work begins; whether it is a probe, whose end must be told."""
        if self.open:
            self._probing = True
            return True
        return False

    def probed(self) -> None:
        """The probe has ended; what it found was told before."""
        self._probing = False
