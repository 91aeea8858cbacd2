"""What a consumer is told, and what it works with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from seaway.contracts import Broker, DeadLetterSink, InboxStore, OutboxWriter
from seaway.retry import RetryPolicy
from seaway.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Options:
    """How a consumer works; see ``Consumer``."""

    batch: int
    workers: int
    ordered: bool
    deadline: timedelta | None
    grace: timedelta
    retry: RetryPolicy
    parks: bool = False
    """Later events wait behind a failed one of their key."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a consumer works with."""

    broker: Broker
    store: InboxStore | None
    outbox: OutboxWriter | None
    dead_letters: DeadLetterSink
    telemetry: Telemetry
