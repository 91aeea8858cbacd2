"""Seaway: reliable domain events for Python services on NATS JetStream.

Each name is imported when it is first asked for: who wants to know the version waits for no driver.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seaway.app import Seaway
    from seaway.consumer import Consumer, ConsumerOptions, Delivery, Depends
    from seaway.errors import (
        AlreadyProcessed,
        ConfigError,
        DecodeError,
        NotFound,
        OutsideTransaction,
        Poison,
        Refuse,
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
    "Depends",
    "NotFound",
    "Outbox",
    "OutsideTransaction",
    "Poison",
    "RawEvent",
    "Refuse",
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

_MODULES = ("errors", "events", "retry", "outbox", "consumer", "app")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"seaway.{module}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    if not name.startswith("_") and find_spec(f"seaway.{name}") is not None:
        return import_module(f"seaway.{name}")
    raise AttributeError(f"module 'seaway' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
