"""Seaway: reliable domain events for Python services on NATS JetStream."""

from seaway.app import Seaway
from seaway.chain import chained
from seaway.consumer import Consumer, Delivery
from seaway.errors import (
    AlreadyProcessed,
    ConfigError,
    DecodeError,
    NotFound,
    OutsideTransaction,
    Poison,
    PublishRejected,
    PublishUnconfirmed,
    Retry,
    SeawayError,
    TransientError,
)
from seaway.events import RawEvent, event
from seaway.outbox import Outbox

__all__ = [
    "AlreadyProcessed",
    "ConfigError",
    "Consumer",
    "DecodeError",
    "Delivery",
    "NotFound",
    "Outbox",
    "OutsideTransaction",
    "Poison",
    "PublishRejected",
    "PublishUnconfirmed",
    "RawEvent",
    "Retry",
    "Seaway",
    "SeawayError",
    "TransientError",
    "chained",
    "event",
]

__version__ = "0.1.0"
