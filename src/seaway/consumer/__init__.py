"""Consumers: typed handlers on a durable, effects exactly once (ADR 0001).

``Consumer`` declares, ``Runtime`` runs; ``lanes`` and ``outcomes`` decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeVar

from seaway.consumer.delivery import Delivery
from seaway.consumer.handlers import Handler, HandlerTable
from seaway.consumer.ports import Options, Ports
from seaway.consumer.runtime import Runtime
from seaway.contracts import Broker, DeadLetterSink, InboxStore, OutboxWriter
from seaway.errors import ConfigError
from seaway.naming import Durable, redrive_stream, stream_context
from seaway.retry import Backoff
from seaway.telemetry import Telemetry

__all__ = ["Consumer", "Delivery"]

E = TypeVar("E")


class Consumer:
    """A service's handlers on one durable.

    - ``batch`` (1): how many deliveries may share a transaction, each in its own savepoint; one
      commit, then all acks. On SQLite, where one transaction writes at a time, 50 to 100 pays.
    - ``workers`` (1): how many transactions at a time.
    - ``ordering`` (``"key"``): events of one ordering key one after the other, in stream order;
      ``"none"``: each for itself.
    - ``deadline`` (10 x ``ack_wait``): how long a handler may run before it is cancelled and
      retried; its message is kept alive meanwhile.
    - ``grace`` (30 s): how long running handlers may go on after a stop.
    - ``retry``: the backoff of failed handlers (base 1 s, cap ``ack_wait``, full jitter).
    - ``tx`` (``"store"``): the application's own database; or what gives the handler's handles,
      which only ``Seaway.consumer`` can resolve; ``None`` works without a database, and effects
      are then at least once.
    """

    def __init__(
        self,
        durable: Durable,
        *,
        stream: str,
        batch: int = 1,
        workers: int = 1,
        ordering: Literal["key", "none"] = "key",
        deadline: timedelta | None = None,
        grace: timedelta = timedelta(seconds=30),
        retry: Backoff | None = None,
        tx: object = "store",
    ) -> None:
        if batch < 1 or workers < 1:
            raise ConfigError(f"consumer {durable}: batch and workers are 1 or more")
        if ordering not in ("key", "none"):
            raise ConfigError(f"consumer {durable}: ordering is 'key' or 'none', not {ordering!r}")
        self.durable = durable
        self.stream = stream
        self.tx = tx
        self._handlers = HandlerTable(str(durable))
        self._options = Options(batch, workers, ordering == "key", deadline, grace, retry)

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
        the durable does not exist or was deleted. Heals outages of server and database itself.
        """
        if not len(self._handlers):
            raise ConfigError(f"consumer {self.durable} has no handlers")
        streams = [self.stream, redrive_stream(stream_context(self.stream))]
        ports = Ports(broker, None if self.tx is None else store, outbox, dead_letters, telemetry)
        runtime = Runtime(str(self.durable), streams, self._handlers, self._options, ports)
        await runtime.run(stop)
