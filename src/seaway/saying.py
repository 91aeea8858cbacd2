"""The log of an application at work: what its operator wants to know of its signals.

Owns: their wording and their level. One listener of telemetry among others; what a handler's
failure looks like, the consumer says itself (``consumer.heard``).
"""

from __future__ import annotations

from seaway import logs
from seaway.telemetry import (
    ConsumerPaused,
    ConsumerResumed,
    DeadLettered,
    Disconnected,
    Parked,
    Reconnected,
    RelayPaused,
    RelayResumed,
    Signal,
    StillWaiting,
)

_application = logs.logger("seaway")
_relay = logs.logger("seaway.relay")
_consumer = logs.logger("seaway.consumer")
_nats = logs.logger("seaway.nats")


def log_signal(signal: Signal) -> None:
    """Pauses, parked events, dead letters, a connection that is lost and back; nothing else."""
    match signal:
        case RelayPaused(reason, ""):
            _relay.warning("relay paused: %s", reason)
        case RelayPaused(reason, stream):
            _relay.warning("relay paused for %s alone, other streams go on: %s", stream, reason)
        case RelayResumed(paused_for):
            _relay.info("relay resumed after %.1f s", paused_for.total_seconds())
        case Parked(event_id, subject, error):
            known = {"event_id": event_id}
            _relay.error("event %s (%s) is parked: %s", event_id, subject, error, extra=known)
        case DeadLettered(_, consumer, event_id, reason, error_type, error):
            why = ": ".join(text for text in (error_type, error) if text)
            known = {"event_id": event_id, "consumer": consumer}
            if signal.correlation_id:
                known["correlation_id"] = signal.correlation_id
            _consumer.error(
                "%s: %s is a dead letter: %s %s", consumer, event_id, reason, why, extra=known
            )
        case ConsumerPaused(consumer, reason):
            _consumer.warning("%s paused: %s", consumer, reason, extra={"consumer": consumer})
        case ConsumerResumed(consumer):
            _consumer.info("%s resumed", consumer, extra={"consumer": consumer})
        case StillWaiting(wait, waited):
            minutes = waited.total_seconds() / 60
            _application.warning(
                "%s still waits after %.0f min: %s", wait.part, minutes, wait.reason
            )
        case Disconnected(reason):
            _nats.warning("disconnected: %s", reason)
        case Reconnected(url):
            _nats.info("reconnected to %s", url)
        case _:
            pass
