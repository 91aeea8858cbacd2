"""Consumers: typed handlers on a durable, effects exactly once (ADR 0001).

One delivery's life, and the module that has it meanwhile::

    server ──pulling──> lanes ──working──> settling ──> ack
               ^          ^      │  one transaction: inbox row, handler (``calling``), commit
               │          │      ├─ refused by the handler ─> nak: its lane awaits it, it comes back
               │          │      ├─ poison, exhausted ──────> dead letter stored, then ack
               │          │      └─ database or downstream away ─> put back, pause, probe
               │          └── a heartbeat keeps alive all that is in hand, running or waiting
               └── what comes again meets the inbox, and what that knows of it (``standing``)

``options`` and ``handlers`` say what is declared; ``wiring`` finds out what a handler asks for,
``dependencies`` makes that once a delivery, ``middleware`` stands around. ``trials`` runs an event
through all that without a delivery. ``outcomes`` decides what
follows where a handler fails, ``state`` is what the others share.

Authoritative: the durable on the server for what is pending, the inbox for what has taken effect.
A crash anywhere leaves the message unacknowledged: it comes again and meets the inbox.

Order: of one ordering key, effects follow the stream while one process runs the durable, over its
own crashes too (ADR 0014), and over all processes of an exclusive durable (ADR 0012). Those of
any other each keep the order of what they are given, and the server deals a key's events to
whichever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, Unpack, cast

from seaway.consumer.blocking import LostThreads, lookout
from seaway.consumer.calling import Caller
from seaway.consumer.dependencies import Depends
from seaway.consumer.handlers import Delivery, HandlerTable, Registers
from seaway.consumer.lanes import by_source
from seaway.consumer.looking import Places
from seaway.consumer.middleware import Middleware
from seaway.consumer.options import ConsumerOptions, whole
from seaway.consumer.pulling import Puller, described
from seaway.consumer.settling import Settler
from seaway.consumer.state import HORIZON, Pace, Setup, State
from seaway.consumer.trials import Trials
from seaway.consumer.wiring import Overrides
from seaway.consumer.working import Workers
from seaway.contracts import Broker, DeadLetterSink, InboxStore, Notes, OutboxWriter, Store
from seaway.errors import ConfigError
from seaway.inbox.threads import PATIENCE, Threads
from seaway.naming import Durable, redrive_stream, stream_context
from seaway.retry import RetryPolicy
from seaway.telemetry import Telemetry
from seaway.waiting import set_within
from seaway.waiting_events import WaitingKeys

__all__ = ["Consumer", "ConsumerOptions", "Delivery", "Depends"]

E = TypeVar("E")

_TRIAL = timedelta(minutes=1)
"""How long a handler may run that is only tried, where nobody says."""
_LEAVING_SECONDS = 1.0
"""How long a subscription has to be left, also where the grace is over by then."""


class Consumer:
    """A service's handlers on one durable, as ``Seaway.consumer`` makes it.

    ``options``: see ``ConsumerOptions``; ``ConfigError`` for one that is wrong. ``tx`` other than
    ``"store"`` and ``None`` only ``Seaway.consumer`` can resolve. ``middleware``: what stands
    around its handlers, the first outermost (``Seaway.middleware``).
    """

    def __init__(
        self,
        durable: Durable,
        *,
        stream: str,
        middleware: Sequence[Middleware] = (),
        **options: Unpack[ConsumerOptions],
    ) -> None:
        given = whole(str(durable), options)
        self.durable = durable
        self.parks = given["on_failure"] == "park"
        self.keys = WaitingKeys(always=self.parks)
        self.stream = stream
        self.tx = given["tx"]
        self._options = given
        self._state: State | None = None
        self._handlers = HandlerTable(
            str(durable), keeps_unknown=given["on_unknown"] == "letter", middleware=middleware
        )

    def handler(self, event: type[E]) -> Registers[E]:
        """Decorate ``async def handle(event, delivery)``, or ``def`` with the same parameters, for
        an ``@event`` class.

        ``RawEvent`` takes every event that no other handler here takes. Also a method, a
        ``functools.partial``, or an object with ``__call__``; the delivery may be left out, other
        parameters have a default or ``Annotated[Thing, Depends(provider)]`` (``Depends``). Plain
        functions run in threads, ``workers`` of them at a time; a consumer's handlers are all plain
        or all ``async``. The function is returned as it is. ``ConfigError`` for a second handler of
        one event, both kinds in one consumer, an annotation that says otherwise, or a parameter
        that nobody fills.
        """

        def decorate(handler: Callable[..., Any]) -> Any:
            self._handlers.register(event, handler)
            return handler

        return decorate

    def batch_handler(self, event: type[E]) -> Registers[list[E]]:
        """Decorate ``async def handle(events: list[E], deliveries: list[Delivery])``, or ``def``.

        Both lists are in stream order by key, of one length, 1 to ``batch``, and share one
        transaction: all or nothing. Where it raises, the list is parted until the event that cannot
        be handled is a list of one. Otherwise as ``handler``.
        """

        def decorate(handler: Callable[..., Any]) -> Any:
            self._handlers.register(event, handler, takes_lists=True)
            return handler

        return decorate

    @property
    def contexts(self) -> set[str]:
        """Those of the events that it has typed handlers for."""
        return self._handlers.contexts

    @property
    def plain(self) -> bool:
        """Whether its handlers are plain functions."""
        return self._handlers.plain

    @property
    def handlers(self) -> HandlerTable:
        """Which of them takes what."""
        return self._handlers

    def surround(self, middleware: Sequence[Middleware]) -> None:
        """Put ``middleware`` around each handler, in place of what stood there; ``ConfigError``
        where one of them cannot stand there. ``Seaway.middleware`` does that for all consumers."""
        self._handlers.surround(middleware)

    def override(self, overrides: Overrides) -> Sequence[Callable[..., Any]]:
        """Put others in the place of providers of dependencies, instead of those that stood there;
        every provider that a handler here depends on. ``Seaway.overriding`` does that for tests."""
        return self._handlers.override(overrides)

    def handles(self, subject: str) -> bool:
        """Whether this subject is handled, or refused with a dead letter; others are ignored."""
        return self._handlers.handles(subject)

    @property
    def remembers(self) -> bool:
        """Whether it keeps the order of a key and has a database, where it can be noted that events
        of that wait (``Releaser``)."""
        return self._options["ordering"] == "key" and self.tx is not None

    def figures(self) -> Mapping[str, float]:
        """How it works, and how fast it has been since it runs here: ``workers``, ``batch``, the
        ``slowest`` transaction (handlers and commit), and by now ``seconds`` for a delivery."""
        pace = Pace() if self._state is None else self._state.pace
        return {
            "workers": self._options["workers"],
            "batch": self._options["batch"],
            "slowest": round(pace.slowest, 3),
            "seconds": round(pace.seconds, 6),
        }

    async def run(
        self,
        broker: Broker,
        *,
        store: InboxStore | None,
        outbox: OutboxWriter | None,
        dead_letters: DeadLetterSink,
        telemetry: Telemetry,
        stop: asyncio.Event,
        threads: Threads | None = None,
        notes: Notes | None = None,
    ) -> None:
        """Consume until ``stop`` is set, then drain.

        ``threads``: those of plain handlers and the inbox that they work in; default: threads of
        its own on a database that ``store`` opens for them, if it is a whole store.
        ``notes``: the application's own database, to note there how far each stream has come; only
        then is it noticed where one has lost what was given out.
        Running handlers get ``grace``, what was not started is nak'ed at once. Cancelling ends
        without waiting: transactions roll back, messages come again. Raises ``NotFound`` where
        the durable does not exist at the start; one that is deleted later is waited for. Heals
        outages of server and database itself. Raises the first thing that no retry can mend.
        """
        if self.parks and store is None:
            raise ConfigError(f"consumer {self.durable}: on_failure='park' needs a store")
        given = self._options
        setup = self._setup(broker, store, outbox, dead_letters, telemetry, notes)
        streams = [self.stream, redrive_stream(stream_context(self.stream))]
        try:
            async with AsyncExitStack() as stack:
                if self.plain and threads is None:
                    inbox = None if setup.store is None else cast(Store, store).for_threads()
                    own = Threads(str(self.durable), inbox)
                    threads = await stack.enter_async_context(own)
                if self.plain and threads is not None:
                    threads.patience = min(PATIENCE, given["deadline"] or PATIENCE)
                    setup = replace(setup, threads=threads)
                else:
                    stack.enter_context(lookout(self._handlers, setup.durable, telemetry))
                self._state = State(setup, stop)
                await _run(self._state, streams)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def _setup(
        self,
        broker: Broker,
        store: InboxStore | None,
        outbox: OutboxWriter | None,
        dead_letters: DeadLetterSink,
        telemetry: Telemetry,
        notes: Notes | None,
    ) -> Setup:
        if not len(self._handlers):
            raise ConfigError(f"consumer {self.durable} has no handlers")
        given = self._options
        retry = given["retry"]
        return Setup(
            durable=str(self.durable),
            handlers=self._handlers,
            batch=given["batch"],
            workers=given["workers"],
            ordered=given["ordering"] == "key",
            deadline=given["deadline"],
            grace=given["grace"],
            retry=retry if isinstance(retry, RetryPolicy) else RetryPolicy(backoff=retry),
            parks=self.parks,
            keys=self.keys,
            broker=broker,
            store=None if self.tx is None else store,
            notes=notes,
            threads=None,
            outbox=outbox,
            dead_letters=dead_letters,
            telemetry=telemetry,
        )

    @asynccontextmanager
    async def trials(
        self,
        broker: Broker,
        *,
        store: InboxStore,
        outbox: OutboxWriter | None,
        dead_letters: DeadLetterSink,
        telemetry: Telemetry,
        threads: Threads | None = None,
        within: timedelta | None = None,
        run: str | None = None,
    ) -> AsyncIterator[Trials]:
        """Events through this consumer's call path, without its durable (``trials``).

        Rolled back each; with the name of a ``run`` committed instead, once in that run, in place
        of what the inbox had of them. ``within``: how long a handler may run; default: its
        deadline, else a minute. The rest as for ``run``. ``ConfigError`` for a consumer without a
        database: nothing could be rolled back there.
        """
        if self.tx is None:
            raise ConfigError(
                f"consumer {self.durable} has no database (tx=None), so nothing it does can be "
                "rolled back"
            )
        setup = self._setup(broker, store, outbox, dead_letters, telemetry, None)
        within = within or self._options["deadline"] or _TRIAL
        if threads is not None:
            threads.patience = min(PATIENCE, within)
        made = Trials(replace(setup, threads=threads, deadline=within), run=run)
        watching = asyncio.create_task(made.caller.deadlines.watch(lambda: made.deadline))
        try:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(made.close)
                if not self.plain:
                    stack.enter_context(lookout(self._handlers, setup.durable, telemetry))
                yield made
        finally:
            watching.cancel()


async def _run(state: State, streams: Sequence[str]) -> None:
    setup, stop = state.setup, state.stop
    infos = [await described(state, stream) for stream in streams]
    if stop.is_set() or infos[0] is None:
        return
    state.learn(infos[0])
    for info in infos:
        if info is not None:
            state.meet(info)
    state.breaker.resume("server")
    async with asyncio.TaskGroup() as tasks:
        settler = Settler(state, tasks.create_task)
        caller = Caller(setup.outbox)
        workers = Workers(state, settler, caller)
        pulling: set[asyncio.Task[None]] = set()

        def pull(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            pulling.add(task := tasks.create_task(work))
            return task

        places = Places(state)
        puller = Puller(state, settler, places, pull)
        tasks.create_task(places.keep(), name=f"{setup.durable} places")
        watching = tasks.create_task(caller.deadlines.watch(lambda: state.deadline))
        lost = None
        if setup.threads is not None:
            lost = LostThreads(setup.durable, setup.threads, setup.telemetry)
        tasks.create_task(_heartbeat(state, settler, lost), name=f"{setup.durable} heartbeat")
        working = [
            tasks.create_task(workers.work(), name=f"{setup.durable} worker {number}")
            for number in range(setup.workers)
        ]
        for stream in streams:
            pull(puller.pull(stream))
        await stop.wait()
        ends = state.now() + setup.grace.total_seconds()
        state.hurry()
        await _drain(state, puller, settler, working, ends)
        await settler.confirmed()
        settler.heard.remind(rest=True)
        watching.cancel()
        state.drained.set()
        # Whoever still asks a server that does not answer has nothing to lose.
        _, late = await asyncio.wait(pulling, timeout=max(_LEAVING_SECONDS, ends - state.now()))
        for task in late:
            task.cancel()


async def _heartbeat(state: State, settler: Settler, lost: LostThreads | None) -> None:
    """Restart the ack timer of everything in hand, running or waiting."""
    interval = state.limits.ack_wait / 3
    while not state.drained.is_set():
        state.breaker.remind()
        settler.heard.remind()
        if lost is not None:
            lost.remind()
        for source, batch in by_source(state.beat()):
            await source.in_progress(*batch)
        await set_within(interval, state.drained)


async def _drain(
    state: State,
    puller: Puller,
    settler: Settler,
    working: Sequence[asyncio.Task[None]],
    ends: float,
) -> None:
    """What starts in a moment is worked off: given back, each stop would cost it a delivery. The
    rest goes to others at once."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(ends):
            await puller.dry()
    lanes, now = state.lanes, state.now()
    await settler.give_back(lanes.blocked() if state.soon else lanes.unstarted())
    state.last = True
    state.hurry()
    for until in (min(ends, now + 2 * HORIZON.total_seconds()), ends):
        _, late = await asyncio.wait(working, timeout=max(0.0, until - state.now()))
        await settler.give_back(lanes.unstarted())
    for worker in late:
        worker.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    await settler.burials.end(ends)
    await settler.give_back(lanes.unstarted())
