"""Builds an application from its settings: broker, store, outbox, relay, consumers.

Owns: who is built from what, in which order it starts and in which it stops. It decides nothing
about events. Guarantees: ``run`` ends in order (consumers drain, the relay finishes its round, then
connections close), whichever part ended first, and raises what ended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

from seaway import logs
from seaway.config import Lacking, Settings, application_settings, completed, lacking
from seaway.connections import Connected
from seaway.consumer import Consumer, ConsumerOptions
from seaway.consumer.callables import place_of
from seaway.consumer.middleware import Middleware, check
from seaway.consumer.options import whole
from seaway.consumer.trials import Trials
from seaway.consumer.wiring import Overrides
from seaway.contracts import Broker, Store
from seaway.dead_letters import DeadLetters, Releaser, Sweeper
from seaway.errors import ConfigError, SeawayError
from seaway.events import registry
from seaway.inbox import inbox_of, threads_of
from seaway.mending import Mending
from seaway.monitor import MetricsApp, serving
from seaway.naming import Durable, events_stream
from seaway.outbox import Outbox
from seaway.parts import Part, run_parts, stop_on_signals
from seaway.relay import Relay
from seaway.telemetry import log_signal, logger
from seaway.upkeep import Forgetting, Presence
from seaway.words import nearest

M = TypeVar("M", bound=Middleware)


class Seaway(Connected):
    """A service's events: its outbox, its relay, its consumers.

    Without ``settings``: those of the file where ``seaway`` itself looks for one, and where there
    is none, what the environment says, else the defaults. Then code names streams and durables
    alone, which is enough for ``seaway run --dev``, for ``rehearsal`` and for whoever only writes.

    Building one does no I/O but for that file; entering it (``async with``) connects, ``run`` works
    until told to stop. ``wait``: keep trying where server or database are away at the start,
    instead of raising ``BrokerUnavailable`` or ``StoreUnavailable``; said once in the log.
    """

    def __init__(self, settings: Settings | None = None, *, wait: bool = False) -> None:
        heeded = False
        if settings is None:
            settings, heeded = application_settings(None, required=False)
        super().__init__(settings, wait=wait)
        self.outbox = Outbox(**settings.for_writers)
        self.consumers: dict[str, Consumer] = {}
        self._middleware: tuple[Middleware, ...] = ()
        self._overrides: Overrides = {}
        self._logs = False
        self._metrics: MetricsApp | None = None
        self.heeds_root_options = heeded
        """Whether options of ``seaway run`` are in ``settings``."""

    @classmethod
    def from_config(
        cls, config: Path | str | Mapping[str, Any] | None = None, *, shown: str | None = None
    ) -> Self:
        """Settings from a file, a mapping, or (``None``) where ``seaway`` itself looks for them,
        which must be there, but under ``seaway run --dev``. ``shown``: what errors call a mapping.

        While ``seaway run`` imports the application, its root options win over that: ``--config``
        is read in place of what is named here, ``--server`` and the like are laid over it.
        """
        settings, heeded = application_settings(config, required=True, shown=shown)
        made = cls(settings)
        made.heeds_root_options = heeded
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

        Durable ``{service}__from_{context}`` or ``{service}__{purpose}``; where it runs it must be
        in the configuration, since topology is owned by the file (ADR 0003): ``run`` refuses it
        otherwise, before it connects, and ``seaway topology plan --app`` shows what to add.
        ``seaway run --dev`` does without (ADR 0021). ``options``: ``batch``,
        ``workers``, ``retry``, ``tx`` and the others that ``ConsumerOptions`` describes.
        ``ConfigError`` where one of them is wrong, or where the durable is declared twice.
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
        stream = "" if from_context is None else events_stream(from_context)
        found = next((known for known in self.settings.consumers if known.durable == name), None)
        if found is not None:
            if stream not in ("", found.stream):
                raise ConfigError(
                    f"consumer {name} is on {found.stream}, not on {from_context}'s stream"
                )
            stream = found.stream
        consumer = Consumer(
            durable, stream=stream, middleware=self._middleware, **whole(name, options)
        )
        self.consumers[name] = consumer
        return consumer

    def lacking(self) -> Lacking:
        """What the code names and the settings do not: the streams of its event classes, and its
        durables. ``ConfigError`` for a durable of whose stream neither says anything."""
        known = {one.durable for one in self.settings.consumers}
        unknown = {name: one for name, one in self.consumers.items() if name not in known}
        durables = {name: one.stream or _stream_of(one) for name, one in unknown.items()}
        return lacking(self.settings, registry.contexts, durables)

    def complete(self) -> Lacking:
        """Have the settings name what the code does; what they were lacking. For development:
        connect after that."""
        missing = self.lacking()
        self.settings = completed(self.settings, missing)
        for stream, durable in missing.consumers:
            self.consumers[durable].stream = stream
        return missing

    def refuse_undeclared(self) -> None:
        """``ConfigError`` where a durable of the code is not in the settings."""
        settings = self.settings
        known = {one.durable: one.durable in settings.implied for one in settings.consumers}
        if undeclared := [name for name in self.consumers if name not in known]:
            declared = [name for name, implied in known.items() if not implied]
            implied = f"; contexts: makes {', '.join(settings.implied)} besides"
            raise ConfigError(
                f"consumer {', '.join(undeclared)} is not in {settings.name}",
                hint=f"add it under consumers:, where there are now {', '.join(declared) or 'none'}"
                f"{implied if settings.implied else ''}; `seaway topology plan --app` prints the "
                "lines, `seaway run --dev` needs none",
            )

    def middleware(self, middleware: M) -> M:
        """Put ``middleware`` around each call of every handler; the first that is put is outermost.

        ``async def middleware(delivery, call_next)``, as a decorator or by a call; it is returned
        as it is. It awaits ``call_next()`` once and lets its errors pass, changed or not; or
        raises, as a handler does: ``AlreadyProcessed`` to pass over an event. Otherwise the
        delivery fails. It runs in the delivery's transaction and must not end it. Around batch
        handlers it is given the list, and says so: ``delivery: Delivery | list[Delivery]``. Around
        plain handlers it waits for nothing but ``call_next()``; where all are plain it may be
        plain too. ``ConfigError`` where it cannot stand around a handler of this application.
        """
        check(middleware)
        every: tuple[Middleware, ...] = (*self._middleware, middleware)
        for consumer in self.consumers.values():
            consumer.surround(every)
        self._middleware = every
        return middleware

    @contextmanager
    def overriding(self, providers: Overrides) -> Iterator[None]:
        """For tests: within the block another stands in for each of these providers of
        dependencies, for the handlers that are registered by then, also within one another's.

            with app.overriding({mailer: FakeMailer}): ...

        ``ConfigError`` for one that no handler of this application depends on, and where another
        asks for what nobody fills. Blocks within one another add up.
        """
        before, self._overrides = self._overrides, {**self._overrides, **providers}
        try:
            used = self._override()
            for provider in providers:
                if provider not in used:
                    raise ConfigError(f"no handler here depends on {place_of(provider)}")
            yield
        finally:
            self._overrides = before
            self._override()

    def _override(self) -> list[Callable[..., Any]]:
        consumers = self.consumers.values()
        return [one for consumer in consumers for one in consumer.override(self._overrides)]

    @property
    def dead_letters(self) -> Mending:
        """The dead letter queues of the settings' contexts; where there are none, every one."""
        found = Mending.configured(self.broker, self.settings, self.open_store)
        found.application = self
        return found

    def declared(self, consumer: str) -> Consumer:
        """The consumer of that durable, by its name; ``ConfigError`` names those that there are."""
        if (found := self.consumers.get(consumer)) is not None:
            return found
        near = nearest(consumer, self.consumers)
        known = ", ".join(sorted(self.consumers)) or "none"
        raise ConfigError(
            f"this application declares no consumer {consumer}",
            hint=f"did you mean {near}?" if near else f"it declares {known}",
        )

    @asynccontextmanager
    async def trials(
        self, consumer: str, *, within: timedelta | None = None, run: str | None = None
    ) -> AsyncIterator[Trials]:
        """Events through the call path of the consumer of that name (decode, dependencies,
        middleware, handler, its transaction), each rolled back; connected only.

            async with app.trials("billing__from_sea") as tried:
                outcome = await tried(incoming)      # effect, letter, failed or nothing

        ``within``: how long a handler may run (its deadline, else a minute). ``run``: the name of a
        run in which each is handled again for good, once. ``ConfigError`` for a name that is not
        declared, and for a consumer without a database.
        """
        found, store = self.declared(consumer), await self.open_store()
        async with trying(self, found, self.broker, store, within=within, run=run) as made:
            yield made

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
            heal=outbox.heal,
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
        ``ConfigError`` before anything else, where an event class names a type that is not known,
        or a consumer is not in the configuration.
        ``metrics``: serve ``/metrics`` of this process meanwhile, on a port of loopback, or on
        ``"HOST:PORT"``, open to whoever reaches it; ``ConfigError`` where that is not to be had.
        """
        registry.check()
        if consumers:
            self.refuse_undeclared()
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
                    if consumer.remembers:
                        parts.append(self._releasing(consumer, store))
                if self.consumers:
                    parts.append(Forgetting(store, self.settings.inbox.retention or None).run)
            if sweeper:
                sweep = Sweeper(
                    self.broker, store=store, consumers=self.consumers, telemetry=self.telemetry
                )
                parts.append(sweep.run)
                names.append("sweeper")
            figures = {part: partial(self._figures, part, store, tuple(names)) for part in names}
            parts.append(Presence(store, self.telemetry, names, figures).run)
            with self.announced(names):
                await run_parts(parts, stop)

    def _figures(self, part: str, store: Store, parts: Sequence[str]) -> Mapping[str, float]:
        """Of one of ``parts``, all of which share the connections of ``store``."""
        found = self.consumers.get(part.removeprefix("consumer "))
        figures = {} if found is None else found.figures()
        most = store.capabilities.connections
        if most is None:
            return figures
        sharing = [
            one
            for name, one in self.consumers.items()
            if f"consumer {name}" in parts and not one.plain and one.tx == "store"
        ]
        workers = sum(int(one.figures()["workers"]) for one in sharing)
        others = 2 * ("relay" in parts) + 1  # Its lease; and whoever tells and forgets.
        return {**figures, "connections": most, "needs": workers + others}

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
            keys=consumer.keys,
            parks=consumer.parks,
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


def _stream_of(consumer: Consumer) -> str:
    """The stream of a durable that nobody said it of: that of the events that it handles."""
    contexts = sorted(consumer.contexts)
    if len(contexts) == 1:
        return events_stream(contexts[0])
    handled = f"it handles events of {', '.join(contexts)}" if contexts else "it names no event"
    raise ConfigError(
        f"consumer {consumer.durable}: on which stream is not said, and {handled}",
        hint="from_context=..., or its stream under consumers: in seaway.yaml",
    )


def consuming(app: Seaway, consumer: Consumer, broker: Broker, store: Store) -> Part:
    """Run ``consumer`` on ``broker``, its transactions on ``store`` or through its own handles."""

    async def consume(stop: asyncio.Event) -> None:
        async with _handles(app, consumer, store, stop) as handles:
            await consumer.run(
                broker,
                outbox=app.outbox,
                dead_letters=DeadLetters(broker, reader=str(consumer.durable)),
                telemetry=app.telemetry,
                stop=stop,
                notes=store,
                **handles,
            )

    return consume


@asynccontextmanager
async def trying(
    app: Seaway,
    consumer: Consumer,
    broker: Broker,
    store: Store,
    *,
    within: timedelta | None = None,
    run: str | None = None,
) -> AsyncIterator[Trials]:
    """``Seaway.trials`` with a broker and a store of the caller's."""
    async with (
        _handles(app, consumer, store, asyncio.Event()) as handles,
        consumer.trials(
            broker,
            outbox=app.outbox,
            dead_letters=DeadLetters(broker, reader=str(consumer.durable)),
            telemetry=app.telemetry,
            within=within,
            run=run,
            **handles,
        ) as made,
    ):
        yield made


@asynccontextmanager
async def _handles(
    app: Seaway, consumer: Consumer, store: Store, stop: asyncio.Event
) -> AsyncIterator[dict[str, Any]]:
    """Where the transactions of ``consumer`` come from, by the names of what it is given."""
    name, schema = str(consumer.durable), app.settings.database_schema
    given: dict[str, Any] = {"schema": schema, "consumer": name, "stop": stop}
    if consumer.plain:
        async with threads_of(consumer.tx, store, **given) as threads:
            yield {"store": store, "threads": threads}
    else:
        async with inbox_of(consumer.tx, store, **given) as inbox:
            yield {"store": inbox}
