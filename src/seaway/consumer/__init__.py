"""Consumers: typed handlers on a durable, effects exactly once (ADR 0001).

``Consumer`` declares, ``Runtime`` runs; ``lanes`` and ``outcomes`` decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeVar

from seaway.consumer.delivery import Delivery
from seaway.consumer.handlers import BatchHandler, Handler, HandlerTable
from seaway.consumer.ports import Options, Ports
from seaway.consumer.runtime import Runtime
from seaway.contracts import Broker, DeadLetterSink, InboxStore, OutboxWriter
from seaway.errors import ConfigError
from seaway.naming import Durable, redrive_stream, stream_context
from seaway.retry import Backoff, RetryPolicy
from seaway.telemetry import Telemetry

__all__ = ["Consumer", "Delivery"]

E = TypeVar("E")


class Consumer:
    """A service's handlers on one durable.

    - ``batch`` (1): how many deliveries may share a transaction; one commit, then all acks. Where
      one fails, all are rolled back, and what was before and after it is worked on again without
      it. On SQLite, where one transaction writes at a time, 50 to 100 pays.
    - ``workers`` (1): how many transactions at a time.
    - ``ordering`` (``"key"``): events of one ordering key one after the other, in stream order;
      ``"none"``: each for itself.
    - ``deadline`` (10 x ``ack_wait``): how long a handler may run before it is cancelled and
      retried; its message is kept alive meanwhile.
    - ``grace`` (30 s): how long running handlers may go on after a stop.
    - ``retry``: the backoff of failed handlers (base 1 s, cap ``ack_wait``, full jitter), or a
      ``RetryPolicy`` by type of exception.
    - ``on_failure`` (``"continue"``): after an event has become a dead letter, the later ones of
      its key go on; ``"park"``: they wait behind it in the dead letter queue, and are handled in
      order once it is redriven or discarded (ADR 0010). It costs each transaction a look at what
      is parked.
    - ``on_unknown`` (``"ignore"``): an event without a handler here is acknowledged, counted as
      ``ignored``, and said once a type; ``"letter"``: it becomes a dead letter, ``undecodable``. An
      unknown version of an event that has a handler always does. ``RawEvent`` takes them all.
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
        retry: Backoff | RetryPolicy | None = None,
        on_failure: Literal["continue", "park"] = "continue",
        on_unknown: Literal["ignore", "letter"] = "ignore",
        tx: object = "store",
    ) -> None:
        if batch < 1 or workers < 1:
            raise ConfigError(f"consumer {durable}: batch and workers are 1 or more")
        if ordering not in ("key", "none"):
            raise ConfigError(f"consumer {durable}: ordering is 'key' or 'none', not {ordering!r}")
        if on_failure not in ("continue", "park"):
            raise ConfigError(
                f"consumer {durable}: on_failure is 'continue' or 'park', not {on_failure!r}"
            )
        if on_unknown not in ("ignore", "letter"):
            raise ConfigError(
                f"consumer {durable}: on_unknown is 'ignore' or 'letter', not {on_unknown!r}"
            )
        if on_failure == "park" and tx is None:
            raise ConfigError(
                f"consumer {durable}: on_failure='park' needs a database, to remember which keys "
                "wait",
                hint="leave tx=None out, or use on_failure='continue'",
            )
        if on_failure == "park" and tx not in (None, "store"):
            raise ConfigError(
                f"consumer {durable}: on_failure='park' needs the application's own store",
                hint="leave tx= out, or use on_failure='continue'",
            )
        if on_failure == "park" and ordering != "key":
            raise ConfigError(f"consumer {durable}: on_failure='park' needs ordering='key'")
        self.durable = durable
        self.parks = on_failure == "park"
        self.stream = stream
        self.tx = tx
        self._handlers = HandlerTable(str(durable), keeps_unknown=on_unknown == "letter")
        policy = retry if isinstance(retry, RetryPolicy) else RetryPolicy(backoff=retry)
        self._options = Options(
            batch, workers, ordering == "key", deadline, grace, policy, self.parks
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
