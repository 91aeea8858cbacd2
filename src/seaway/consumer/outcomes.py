"""How a delivery ends. Pure: an error and the facts go in, the next step comes out.

| the handler                                   | the step                                 |
| --------------------------------------------- | ---------------------------------------- |
| returned, or ``AlreadyProcessed``             | commit, ack (no decision needed)         |
| ``Poison``; payload or headers unreadable     | roll back, dead letter, ack              |
| ``Retry(after)``, anything else, the deadline | roll back, nak with a delay              |
| the same on the last delivery that it has     | roll back, dead letter ``exhausted``, ack |
| the database or a downstream is away          | not the event's doing: keep it, pause    |
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from seaway.contracts import DeadLetterReason
from seaway.errors import DecodeError, HandlerSignal, Poison, Retry, Unavailable
from seaway.retry import Backoff, RetryPolicy


@dataclass(frozen=True, slots=True)
class Limits:
    """What the durable's configuration on the server says."""

    ack_wait: timedelta
    max_deliver: int
    """-1: without end."""
    max_ack_pending: int


@dataclass(frozen=True, slots=True)
class Bury:
    """Store a dead letter, then acknowledge."""

    reason: DeadLetterReason


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Negative ack with this delay."""

    delay: timedelta


Step: TypeAlias = Bury | TryAgain


class Lapsed(Exception):
    """Not the handler's: while nothing ran in this process, the server gave the message up."""


def decide(error: BaseException, *, deliveries: int, limits: Limits, policy: RetryPolicy) -> Step:
    """The step after ``error``, which is no outage, on the ``deliveries``-th attempt."""
    if isinstance(error, DecodeError):
        return Bury("undecodable")
    if isinstance(error, Poison):
        return Bury("poison")
    attempts = policy.attempts(error)
    if 0 < limits.max_deliver <= deliveries or 0 < (attempts.most or 0) <= deliveries:
        return Bury("exhausted")
    if isinstance(error, Retry) and error.after is not None:
        return TryAgain(max(timedelta(0), error.after))
    return TryAgain((attempts.backoff or Backoff(cap=limits.ack_wait)).delay(deliveries))


def is_downstream(error: BaseException, policy: RetryPolicy) -> bool:
    """Whether a handler says that something is away that it needs."""
    return isinstance(error, Unavailable) or policy.is_outage(error)


def is_verdict(error: BaseException) -> bool:
    """Whether ``error`` is about its event whatever else was in its transaction."""
    return isinstance(error, HandlerSignal | DecodeError)
