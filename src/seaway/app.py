"""Builds an application from its settings: broker, store, outbox, relay, consumers.

Owns: who is built from what, in which order it starts and in which it stops. It decides nothing
about events. Guarantees: ``run`` ends in order (consumers drain, the relay finishes its round, then
connections close), whichever part ended first, and raises what ended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self, Unpack

from seaway import logs
from seaway.config import Settings, load_settings, settings_from_mapping
from seaway.connections import Connected
from seaway.consumer import Consumer, ConsumerOptions
from seaway.consumer.options import whole
from seaway.contracts import Broker, Store
from seaway.dead_letters import DeadLetters, Releaser, Sweeper
from seaway.errors import ConfigError, SeawayError
from seaway.events import registry
from seaway.inbox import inbox_of
from seaway.monitor import MetricsApp, serving
from seaway.naming import Durable, events_stream
from seaway.outbox import Outbox
from seaway.parts import Part, run_parts, stop_on_signals
from seaway.relay import Relay
from seaway.telemetry import log_signal, logger
from seaway.upkeep import Forgetting, Presence

_root_options: ContextVar[tuple[Path | None, Mapping[str, Any]]] = ContextVar(
    "root options of the command line", default=(None, {})
)


@contextmanager
def root_options(config: Path | None, flags: Mapping[str, Any]) -> Iterator[None]:
    """What ``from_config`` does inside is done with these, so that whatever an application derives
    from its settings when it is imported (outbox, consumers, engines) is derived from them."""
    token = _root_options.set((config, flags))
    try:
        yield
    finally:
        _root_options.reset(token)


class Seaway(Connected):
    """A service's events: its outbox, its relay, its consumers.

    Building one does no I/O; entering it (``async with``) connects, ``run`` works until told to
    stop. ``wait``: keep trying where server or database are away at the start, instead of raising
    ``BrokerUnavailable`` or ``StoreUnavailable``; said once in the log.
    """

    def __init__(self, settings: Settings, *, wait: bool = False) -> None:
        super().__init__(settings, wait=wait)
        self.outbox = Outbox(**settings.for_writers)
        self.consumers: dict[str, Consumer] = {}
        self._logs = False
        self._metrics: MetricsApp | None = None
        self.heeds_root_options = False
        """Whether options of ``seaway run`` are in ``settings``."""

    @classmethod
    def from_config(
        cls, config: Path | str | Mapping[str, Any] | None = None, *, shown: str | None = None
    ) -> Self:
        """Settings from a file, a mapping, or (``None``) where ``seaway`` itself looks for them.
        ``shown``: what errors call a mapping.

        While ``seaway run`` imports the application, its root options win over that: ``--config``
        is read in place of what is named here, ``--server`` and the like are laid over it.
        """
        named, flags = _root_options.get()
        if named is None and isinstance(config, Mapping):
            made = cls(settings_from_mapping(config, flags=flags, shown=shown))
        else:
            path = named or (None if config is None or isinstance(config, Mapping) else config)
            made = cls(load_settings(None if path is None else Path(path), flags=flags))
        made.heeds_root_options = bool(named or flags)
        return made

    # ------------------------------------------------------------------ declaring

    def consumer(
        self,
        service: str,
        *,
        from_context: str | None = None,
        purpose: str | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> Consumer:
        """Declare a consumer of a whole context (``from_context``), or of a purpose of its own.

        Durable ``{service}__from_{context}`` or ``{service}__{purpose}``; it must be in the
        configuration, since topology is owned by the file (ADR 0003). ``options``: ``batch``,
        ``workers``, ``retry``, ``tx`` and the others that ``ConsumerOptions`` describes.
        ``ConfigError`` where one of them is wrong, where the durable is not in the configuration,
        or is declared twice.
        """
        if (from_context is None) == (purpose is None):
            raise ConfigError(f"consumer {service!r}: give either from_context= or purpose=")
        durable = (
            Durable.from_context(service, from_context)
            if from_context is not None
            else Durable(service, str(purpose))
        )
        name = str(durable)
        if name in self.consumers:
            raise ConfigError(f"consumer {name} is declared twice in this application")
        found = next((known for known in self.settings.consumers if known.durable == name), None)
        if found is None:
            implied = self.settings.implied
            declared = [one.durable for one in self.settings.consumers]
            declared = [one for one in declared if one not in implied]
            also = f"; contexts: makes {', '.join(implied)} besides" if implied else ""
            raise ConfigError(
                f"consumer {name} is not in {self.settings.name}",
                hint=f"add it under consumers:, where there are now {', '.join(declared) or 'none'}"
                + also,
            )
        if from_context is not None and found.stream != events_stream(from_context):
            raise ConfigError(
                f"consumer {name} is on {found.stream}, not on {from_context}'s stream"
            )
        consumer = Consumer(durable, stream=found.stream, **whole(name, options))
        self.consumers[name] = consumer
        return consumer

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letter queues of the settings' contexts; where there are none, every one."""
        return DeadLetters.configured(self.broker, self.settings)

    # ------------------------------------------------------------------ running

    async def relay(self) -> Relay:
        """The relay of this application's outbox, which is divided into ``outbox.shards``."""
        store, outbox = await self.open_store(), self.settings.outbox
        if outbox.shards is not None:
            await store.reshard(outbox.shards)
        return Relay(
            store,
            self.broker,
            telemetry=self.telemetry,
            batch=outbox.batch,
            max_attempts=outbox.max_attempts,
            retention=outbox.retention,
            on_parked=outbox.on_parked,
            stream_grace=outbox.stream_grace,
            way_to=self.settings.way_to,
        )

    async def run(
        self,
        stop: asyncio.Event | None = None,
        *,
        relay: bool = True,
        consumers: bool = True,
        sweeper: bool = True,
        metrics: str | int | None = None,
    ) -> None:
        """Relay, consumers and sweeper until ``stop`` is set, then drain.

        Without ``stop``: until SIGINT or SIGTERM, which also end waiting for a server or a
        database. Connects by itself where nobody has. Cancelling ends at once: what was in hand is
        rolled back and comes again. The first part that fails stops the others and is raised.
        ``ConfigError`` before anything else, where an event class names a type that is not known.
        ``metrics``: serve ``/metrics`` of this process meanwhile, on a port of loopback, or on
        ``"HOST:PORT"``, open to whoever reaches it; ``ConfigError`` where that is not to be had.
        """
        registry.check()
        self.log_signals()
        async with AsyncExitStack() as stack:
            if stop is None:
                stop = stack.enter_context(stop_on_signals())
            if metrics is not None:
                await stack.enter_async_context(serving(self.metrics_app(), metrics))
            if not await self.open_in(stack, stop):
                return
            store = await self.open_store()
            parts: list[Part] = []
            names: list[str] = []
            if relay:
                parts.append((await self.relay()).run)
                names.append("relay")
            if consumers:
                names += [f"consumer {name}" for name in self.consumers]
                for consumer in self.consumers.values():
                    parts.append(consuming(self, consumer, self.broker, store))
                    if consumer.parks:
                        parts.append(self._releasing(consumer, store))
                retention = self.settings.inbox.retention
                if self.consumers and retention:
                    parts.append(Forgetting(store, retention).run)
            if sweeper:
                sweep = Sweeper(
                    self.broker, store=store, consumers=self.consumers, telemetry=self.telemetry
                )
                parts.append(sweep.run)
                names.append("sweeper")
            parts.append(Presence(store, self.telemetry, names).run)
            with self.announced(names):
                await run_parts(parts, stop)

    def log_signals(self) -> None:
        """Have the log say what an operator wants to know of this application: pauses, parked
        events, dead letters, a lost connection. ``run`` does that; idempotent.

        The loggers are ``seaway`` and those below it. Those that a ``dictConfig`` has switched off
        because it did not name them are switched on: silence them by their level.
        """
        logs.switch_on()
        if not self._logs:
            self._logs = True
            self.telemetry.subscribe(log_signal)

    @contextmanager
    def announced(self, parts: Sequence[str]) -> Iterator[None]:
        """Say that ``parts`` have started, with what they are connected to; that they stopped."""
        settings = self.settings
        logger.info(
            "started: %s; server %s, database %s",
            *(", ".join(parts) or "nothing", settings.nats.redacted_url),
            settings.redacted_database,
        )
        try:
            yield
        finally:
            logger.info("stopped: %s", ", ".join(parts) or "nothing")

    def _releasing(self, consumer: Consumer, store: Store) -> Part:
        return Releaser(
            self.broker,
            store,
            consumer=str(consumer.durable),
            stream=consumer.stream,
            telemetry=self.telemetry,
        ).run

    def metrics_app(self) -> MetricsApp:
        """An ASGI application with this process' deliveries, handling times and relay, for
        Prometheus: ``Route("/metrics", app.metrics_app())``, in FastAPI
        ``web.mount("/metrics", app.metrics_app())``.

        Counted from the first call on, and the same at every call. What the server and the
        database have is ``seaway serve``'s.
        """
        if self._metrics is None:
            self._metrics = MetricsApp(self.telemetry)
        return self._metrics

    def lifespan(self, *_: Any) -> AbstractAsyncContextManager[dict[str, Any]]:
        """A FastAPI/Starlette lifespan: connected, with relay, consumers and sweeper at work.

        ``FastAPI(lifespan=app.lifespan)``; the state holds ``seaway``. A part that fails while
        the web application runs is raised when it shuts down, and is logged at once.
        """
        return self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[dict[str, Any]]:
        stop = asyncio.Event()
        async with self:
            work = asyncio.create_task(self.run(stop), name="seaway")
            work.add_done_callback(_log_failure)
            try:
                yield {"seaway": self}
            finally:
                stop.set()
                await work


def _log_failure(work: asyncio.Task[None]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        unforeseen = None if isinstance(error, SeawayError) else error
        logger.error("the application's events have stopped: %s", error, exc_info=unforeseen)


def consuming(app: Seaway, consumer: Consumer, broker: Broker, store: Store) -> Part:
    """Run ``consumer`` on ``broker``, its transactions on ``store`` or through its own handles."""

    async def consume(stop: asyncio.Event) -> None:
        async with inbox_of(
            consumer.tx,
            store,
            schema=app.settings.database_schema,
            consumer=str(consumer.durable),
            stop=stop,
        ) as inbox:
            await consumer.run(
                broker,
                store=inbox,
                outbox=app.outbox,
                dead_letters=DeadLetters(broker, reader=str(consumer.durable)),
                telemetry=app.telemetry,
                stop=stop,
            )

    return consume
