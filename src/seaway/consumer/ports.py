"""What a consumer works with."""

from __future__ import annotations

from dataclasses import dataclass

from seaway.contracts import Broker, DeadLetterSink, InboxStore, OutboxWriter
from seaway.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Ports:
    """What a consumer works with."""

    broker: Broker
    store: InboxStore | None
    outbox: OutboxWriter | None
    dead_letters: DeadLetterSink
    telemetry: Telemetry
