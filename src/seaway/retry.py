"""How long to wait before trying again, and how often. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from seaway.errors import ConfigError

LATER = timedelta(minutes=1)
"""A ``Retry(after=...)`` of so long or longer is put off: the server sends it again later, where it
can, and nobody keeps a place for it (ADR 0030)."""


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


@dataclass(frozen=True, slots=True)
class Attempts:
    """How a kind of failure is tried again.

    ``most``: with which delivery the dead letter comes; never later than with ``max_deliver``,
    which it is by default. ``backoff``: the policy's where none is given.
    """

    most: int | None = None
    backoff: Backoff | None = None

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise ConfigError(f"Attempts: most is 1 or more, not {self.most}")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What follows a handler's exception; its most specific class that is named here decides.

    - ``by_type``: attempts and delays of a kind of exception.
    - ``outages``: exceptions which say that something the handlers need is away. They count against
      no event: the whole consumer pauses and probes, as for ``Unavailable``.
    - ``backoff``: of everything else (base 1 s, cap ``ack_wait``).

    ``Poison`` is never tried again, and ``Retry(after=...)`` says its own delay.

        RetryPolicy({ValueError: Attempts(1), TimeoutError: Attempts(5)}, outages=(ConnectError,))
    """

    by_type: Mapping[type[Exception], Attempts] = field(default_factory=dict)
    outages: tuple[type[Exception], ...] = ()
    backoff: Backoff | None = None

    def __post_init__(self) -> None:
        for kind in self.outages:
            if kind in self.by_type:
                raise ConfigError(
                    f"RetryPolicy: {kind.__name__} is an outage and has attempts",
                    hint="an outage is tried until it is over: leave it out of by_type",
                )

    def is_outage(self, error: BaseException) -> bool:
        """Whether ``error`` says that something is away."""
        return self._named(error) in self.outages

    def attempts(self, error: BaseException) -> Attempts:
        """How ``error`` is tried again; its backoff is ``None`` where nothing was said."""
        named = self._named(error)
        rule = self.by_type.get(named, Attempts()) if named is not None else Attempts()
        return Attempts(rule.most, rule.backoff or self.backoff)

    def _named(self, error: BaseException) -> type[Exception] | None:
        for kind in type(error).__mro__:
            if kind in self.by_type or kind in self.outages:
                return kind
        return None
