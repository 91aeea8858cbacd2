"""How a delivery ends. Pure: an error and the facts go in, the next step comes out.

| the handler                                   | the step                                 |
| --------------------------------------------- | ---------------------------------------- |
| returned, or ``AlreadyProcessed``             | commit, ack (no decision needed)         |
| ``Poison``; payload or headers unreadable     | roll back, dead letter, ack              |
| ``Retry(after)``, anything else, the deadline | roll back, nak with a delay              |
| the same on the last delivery                 | roll back, dead letter ``exhausted``, ack |
| the database is away                          | not the message's doing: keep it, pause  |
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from seaway.contracts import DeadLetterReason
from seaway.errors import DecodeError, Poison, Retry, StoreUnavailable
from seaway.retry import Backoff


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


@dataclass(frozen=True, slots=True)
class Keep:
    """Neither ack nor nak: hold it until the database is back."""


Step: TypeAlias = Bury | TryAgain | Keep


def decide(error: BaseException, *, deliveries: int, limits: Limits, backoff: Backoff) -> Step:
    """The step after ``error`` on the ``deliveries``-th attempt."""
    if isinstance(error, StoreUnavailable):
        return Keep()
    if isinstance(error, DecodeError):
        return Bury("undecodable")
    if isinstance(error, Poison):
        return Bury("poison")
    if 0 < limits.max_deliver <= deliveries:
        return Bury("exhausted")
    if isinstance(error, Retry) and error.after is not None:
        return TryAgain(max(timedelta(0), error.after))
    return TryAgain(backoff.delay(deliveries))
