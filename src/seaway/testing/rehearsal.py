"""An application's events without a server: its handlers, its outbox, and a broker in memory.

    async with rehearsal(app, store) as stage:
        await stage.publish(CaseOpened("case-1", "Broken window"), key="case-1")
        await stage.settled()
        assert stage.outcomes == {"handled": 1}

Owns: topology, relay and consumers of one application on a ``MemoryBroker``. Guarantees: what is
published takes the way of a real event: outbox, relay, stream, consumer, inbox, dead letters; what
is delivered by hand takes all of it from the stream on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from seaway import topology
from seaway.app import Seaway, consuming
from seaway.codec import compact
from seaway.consumer import Consumer
from seaway.contracts import Message, Store
from seaway.databases.engines import SQLITE, of_scheme
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.letter import Letter
from seaway.errors import ConfigError, SeawayError
from seaway.naming import redrive_stream, stream_context
from seaway.parts import Part, run_parts
from seaway.relay import Relay
from seaway.stores import open_store
from seaway.telemetry import ConsumerPaused, Delivered, Signal
from seaway.testing.memory_broker import MemoryBroker

_LOOK = 0.005


class Rehearsal:
    """An application at work; ``broker`` and ``store`` can be looked into."""

    def __init__(
        self, app: Seaway, store: Store, broker: MemoryBroker, consumers: Mapping[str, Consumer]
    ) -> None:
        self._app = app
        self._consumers = consumers
        self._news = asyncio.Event()
        self._paused = ""
        self._working: asyncio.Task[None] | None = None
        self.store = store
        self.broker = broker
        self.deliveries: list[Delivered] = []
        """Every delivery that has ended, in order."""

    @property
    def outcomes(self) -> Counter[str]:
        """How many deliveries ended in which way."""
        return Counter(one.outcome for one in self.deliveries)

    async def publish(self, *events: object, key: str | None = None) -> list[str]:
        """Write events to the outbox, in one transaction; their ids in order."""
        async with self.store.transaction() as tx:
            added = self._app.outbox.add(tx.handle, *events, key=key)
            return added if isinstance(added, list) else await added

    async def deliver(
        self,
        consumer: str,
        subject: str,
        payload: object,
        *,
        headers: Mapping[str, str] | None = None,
        deliveries: int = 1,
        redriven: bool = False,
        within: timedelta = timedelta(seconds=30),
    ) -> None:
        """Give ``consumer``, by its durable's name, one message as its stream held it; return when
        it has been handled, its transaction committed.

        ``payload``: bytes as they are; anything else becomes JSON as Seaway writes it. ``headers``:
        as on the wire, id and key among them. ``deliveries``: which delivery of it this is, from 1
        on. ``redriven``: it comes from the dead letter queue.

        What keeps it from being handled is raised, at once: what the handler raised, however often
        it would be tried again, with its traceback; ``DecodeError`` for what is not the event.
        ``ConfigError`` where the consumer does not run here, or no handler takes the subject;
        ``TimeoutError`` where nothing comes of it ``within`` that time.
        """
        __tracebackhide__ = True  # What failed is shown, not how it came here.
        found = self._consumers.get(consumer)
        if found is None:
            known = ", ".join(self._consumers) or "none"
            raise ConfigError(f"no consumer {consumer} runs here", hint=f"these do: {known}")
        if not found.handles(subject):
            raise ConfigError(f"{consumer} has no handler for {subject}")
        body = payload if isinstance(payload, bytes) else compact(payload)
        stream = found.stream
        if redriven:
            context = stream_context(stream)
            stream = redrive_stream(context)
            subject = f"{context}.redrive.{consumer}.{subject}"
        message, before = Message(subject, body, headers or {}), len(self.deliveries)
        seq = self.broker.hand(stream, consumer, message, deliveries=deliveries)
        stored = await self.broker.admin.get(stream, seq)
        event_id = "" if stored is None else stored.event_id
        ended = await self._ended(consumer, (stream, event_id), before, within)
        if ended.raised is not None:
            raise ended.raised
        if ended.outcome not in ("handled", "already_processed"):
            raise SeawayError(f"{consumer} has not handled {event_id}: it is {ended.outcome}")

    async def _ended(
        self, consumer: str, event: tuple[str, str], before: int, within: timedelta
    ) -> Delivered:
        """How the delivery ended of ``event``, of which stream it is and its id."""
        assert self._working is not None
        try:
            async with asyncio.timeout(within.total_seconds()):
                while True:
                    self._news.clear()
                    for one in self.deliveries[before:]:
                        if one.consumer == consumer and (one.stream, one.event_id) == event:
                            return one
                    if self._working.done():
                        await self._working
                    await self._news.wait()
        except TimeoutError:
            paused = f" ({self._paused})" if self._paused else ""
            took = within.total_seconds()
            raise TimeoutError(f"{consumer} was not done after {took:g} s{paused}") from None

    async def settled(self, *, within: timedelta = timedelta(seconds=10)) -> None:
        """Return when nothing waits any more, in the outbox or for a consumer.

        What handlers wrote to the outbox is included. ``TimeoutError`` where a handler does not
        end, or fails and waits for its next attempt for longer.
        """
        async with asyncio.timeout(within.total_seconds()):
            # Twice: a handler that commits between two looks moves what it wrote behind the first.
            while await self._waiting() or await self._waiting():
                await asyncio.sleep(_LOOK)

    async def letters(self) -> Sequence[Letter]:
        """The dead letters, oldest first."""
        return await DeadLetters(self.broker).list()

    async def _waiting(self) -> bool:
        if (await self.store.backlog()).count:
            return True
        for name, consumer in self._consumers.items():
            info = await self.broker.admin.consumer(consumer.stream, name)
            if info is not None and not info.settled:
                return True
        return False

    def _note(self, signal: Signal) -> None:
        if isinstance(signal, Delivered):
            self.deliveries.append(signal)
        elif isinstance(signal, ConsumerPaused):
            self._paused = signal.reason
        self._news.set()

    def _at_work(self, working: asyncio.Task[None]) -> None:
        self._working = working
        working.add_done_callback(lambda _: self._news.set())


@asynccontextmanager
async def rehearsal(
    app: Seaway, store: Store | str, *, consumers: Collection[str] | None = None
) -> AsyncIterator[Rehearsal]:
    """Relay and consumers of ``app`` on ``store``, and a broker in memory.

    ``store``: one that has its tables; or a database's URL, which is opened, given Seaway's tables
    and closed at the end. ``consumers``: the durables that run; default: all of the application's.

    ``app`` is not connected and its ``database`` not opened; a consumer with a ``tx=`` of its own
    needs a ``store`` on that same database. Where there is no configuration at all, code alone
    says which streams and durables there are; where there is one, a durable that it lacks is a
    ``ConfigError``. What ends a consumer (a handler that commits) is raised at the end of the
    block.
    """
    if app.settings.source is None and not app.settings.streams:
        app.complete()
    app.refuse_undeclared()
    chosen = {
        name: one for name, one in app.consumers.items() if consumers is None or name in consumers
    }
    broker, stop = MemoryBroker(), asyncio.Event()
    wanted = topology.desired(app.settings)
    found = await topology.actual(broker.admin, wanted)
    await topology.apply(topology.plan(wanted, found), broker.admin)
    async with AsyncExitStack() as stack:
        if isinstance(store, str):
            store = await _opened(app, store)
            stack.push_async_callback(store.close)
            await store.schema.upgrade()
        stage = Rehearsal(app, store, broker, chosen)
        forget = app.telemetry.subscribe(stage._note)
        parts: list[Part] = [Relay(store, broker, telemetry=app.telemetry).run]
        parts += [consuming(app, consumer, broker, store) for consumer in chosen.values()]
        working = asyncio.create_task(run_parts(parts, stop))
        stage._at_work(working)
        try:
            yield stage
        finally:
            stop.set()
            forget()
            await working


async def _opened(app: Seaway, url: str) -> Store:
    engine = of_scheme(url.partition("://")[0])
    return await open_store(url, schema=None if engine is SQLITE else app.settings.database_schema)
