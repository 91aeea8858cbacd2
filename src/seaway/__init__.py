"""Seaway: reliable domain events for Python services on NATS JetStream."""

from seaway.app import Seaway
from seaway.consumer import Consumer, ConsumerOptions, Delivery
from seaway.errors import (
    AlreadyProcessed,
    ConfigError,
    DecodeError,
    NotFound,
    OutsideTransaction,
    Poison,
    Retry,
    SeawayError,
    TransientError,
    Unavailable,
)
from seaway.events import RawEvent, chained, event
from seaway.outbox import Outbox
from seaway.retry import Attempts, Backoff, RetryPolicy

__all__ = [
    "AlreadyProcessed",
    "Attempts",
    "Backoff",
    "ConfigError",
    "Consumer",
    "ConsumerOptions",
    "DecodeError",
    "Delivery",
    "NotFound",
    "Outbox",
    "OutsideTransaction",
    "Poison",
    "RawEvent",
    "Retry",
    "RetryPolicy",
    "Seaway",
    "SeawayError",
    "TransientError",
    "Unavailable",
    "chained",
    "event",
]

__version__ = "0.1.0"
