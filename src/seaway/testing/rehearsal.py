"""An application's events without a server: its handlers, its outbox, and a broker in memory.

    async with rehearsal(app, store) as stage:
        await stage.publish(CaseOpened("case-1", "Broken window"), key="case-1")
        await stage.settled()
        assert stage.outcomes == {"handled": 1}

Owns: topology, relay and consumers of one application on a ``MemoryBroker``. Guarantees: what is
published takes the way of a real event: outbox, relay, stream, consumer, inbox, dead letters.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from seaway import topology
from seaway.app import Seaway, consuming
from seaway.contracts import Store
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.letter import Letter
from seaway.parts import Part, run_parts
from seaway.relay import Relay
from seaway.telemetry import Delivered, Signal
from seaway.testing.memory_broker import MemoryBroker

_LOOK = 0.005


class Rehearsal:
    """An application at work; ``broker`` and ``store`` can be looked into."""

    def __init__(self, app: Seaway, store: Store, broker: MemoryBroker) -> None:
        self._app = app
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
        for name, consumer in self._app.consumers.items():
            info = await self.broker.admin.consumer(consumer.stream, name)
            if info is not None and not info.settled:
                return True
        return False

    def _note(self, signal: Signal) -> None:
        if isinstance(signal, Delivered):
            self.deliveries.append(signal)


@asynccontextmanager
async def rehearsal(app: Seaway, store: Store) -> AsyncIterator[Rehearsal]:
    """Relay and consumers of ``app`` on ``store``, which has its tables, and a broker in memory.

    ``app`` is not connected and its ``database`` not opened; a consumer with a ``tx=`` of its own
    needs a ``store`` on that same database. Where there is no configuration at all, code alone
    says which streams and durables there are; where there is one, a durable that it lacks is a
    ``ConfigError``. What ends a consumer (a handler that commits) is raised at the end of the
    block.
    """
    if app.settings.source is None and not app.settings.streams:
        app.complete()
    app.refuse_undeclared()
    broker, stop = MemoryBroker(), asyncio.Event()
    wanted = topology.desired(app.settings)
    found = await topology.actual(broker.admin, wanted)
    await topology.apply(topology.plan(wanted, found), broker.admin)
    stage = Rehearsal(app, store, broker)
    forget = app.telemetry.subscribe(stage._note)
    parts: list[Part] = [Relay(store, broker, telemetry=app.telemetry).run]
    parts += [consuming(app, consumer, broker, store) for consumer in app.consumers.values()]
    working = asyncio.create_task(run_parts(parts, stop))
    try:
        yield stage
    finally:
        stop.set()
        forget()
        await working
