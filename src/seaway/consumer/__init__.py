"""Consumers: typed handlers on a durable, effects exactly once (ADR 0001).

``Consumer`` declares, ``Runtime`` runs; ``lanes`` and ``outcomes`` decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, Unpack

from seaway.consumer.delivery import Delivery
from seaway.consumer.handlers import BatchHandler, Handler, HandlerTable
from seaway.consumer.options import ConsumerOptions, Options, whole
from seaway.consumer.ports import Ports
from seaway.consumer.runtime import Runtime
from seaway.contracts import Broker, DeadLetterSink, InboxStore, OutboxWriter
from seaway.errors import ConfigError
from seaway.naming import Durable, redrive_stream, stream_context
from seaway.retry import RetryPolicy
from seaway.telemetry import Telemetry

__all__ = ["Consumer", "ConsumerOptions", "Delivery"]

E = TypeVar("E")


class Consumer:
    """A service's handlers on one durable, as ``Seaway.consumer`` makes it.

    ``options``: see ``ConsumerOptions``; ``ConfigError`` for one that is wrong. ``tx`` other than
    ``"store"`` and ``None`` only ``Seaway.consumer`` can resolve.
    """

    def __init__(
        self, durable: Durable, *, stream: str, **options: Unpack[ConsumerOptions]
    ) -> None:
        given = whole(str(durable), options)
        self.durable = durable
        self.parks = given["on_failure"] == "park"
        self.stream = stream
        self.tx = given["tx"]
        self._handlers = HandlerTable(str(durable), keeps_unknown=given["on_unknown"] == "letter")
        retry = given["retry"]
        self._options = Options(
            batch=given["batch"],
            workers=given["workers"],
            ordered=given["ordering"] == "key",
            deadline=given["deadline"],
            grace=given["grace"],
            retry=retry if isinstance(retry, RetryPolicy) else RetryPolicy(backoff=retry),
            parks=self.parks,
        )

    def handler(self, event: type[E]) -> Callable[[Handler[E]], Handler[E]]:
        """Decorate ``async def handle(event, delivery)`` for an ``@event`` class.

        ``RawEvent`` takes every event that no other handler here takes. The function is returned
        as it is. ``ConfigError`` for a second handler of one event, a plain function, or an
        annotation that says otherwise.
        """

        def decorate(handler: Handler[E]) -> Handler[E]:
            self._handlers.register(event, handler)
            return handler

        return decorate

    def batch_handler(self, event: type[E]) -> Callable[[BatchHandler[E]], BatchHandler[E]]:
        """Decorate ``async def handle(events: list[E], deliveries: list[Delivery])``.

        Both lists are in stream order by key, of one length, 1 to ``batch``, and share one
        transaction: all or nothing. Where it raises, the list is parted until the event that cannot
        be handled is a list of one. Otherwise as ``handler``.
        """

        def decorate(handler: BatchHandler[E]) -> BatchHandler[E]:
            self._handlers.register(event, handler, takes_lists=True)
            return handler

        return decorate

    def handles(self, subject: str) -> bool:
        """Whether this subject is handled, or refused with a dead letter; others are ignored."""
        return self._handlers.handles(subject)

    async def run(
        self,
        broker: Broker,
        *,
        store: InboxStore | None,
        outbox: OutboxWriter | None,
        dead_letters: DeadLetterSink,
        telemetry: Telemetry,
        stop: asyncio.Event,
    ) -> None:
        """Consume until ``stop`` is set, then drain.

        Running handlers get ``grace``, what was not started is nak'ed at once. Cancelling ends
        without waiting: transactions roll back, messages come again. Raises ``NotFound`` where
        the durable does not exist at the start; one that is deleted later is waited for. Heals
        outages of server and database itself.
        """
        if not len(self._handlers):
            raise ConfigError(f"consumer {self.durable} has no handlers")
        if self.parks and store is None:
            raise ConfigError(f"consumer {self.durable}: on_failure='park' needs a store")
        streams = [self.stream, redrive_stream(stream_context(self.stream))]
        ports = Ports(broker, None if self.tx is None else store, outbox, dead_letters, telemetry)
        runtime = Runtime(str(self.durable), streams, self._handlers, self._options, ports)
        await runtime.run(stop)
