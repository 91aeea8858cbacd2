"""One application made ready for a proof: its settings, its tables, its streams, its processes.

    writers ──> outbox ──> relay ──> stream ──> services ──> effects
                                                   └───────> dead letters

Owns: getting there, starting the children, and looking at what is still under way. Breaks nothing
by itself. Guarantees: making ready can be repeated; no child is left when the stage is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from seaway import topology
from seaway.app import Seaway
from seaway.config import Settings, load_settings
from seaway.contracts import Store
from seaway.errors import BrokerUnavailable, StoreUnavailable, TransientError
from seaway.naming import (
    ADVISORY_STREAM,
    Durable,
    dlq_stream,
    events_filter,
    events_stream,
    redrive_stream,
)
from seaway.proof import child, ledger
from seaway.proof.supervisor import Child, Supervisor
from seaway.stores import open_store

_LOOK = 0.1
_IDLE = 2
_MANY = 10_000


async def _nothing() -> Mapping[str, int]:
    return {}


@dataclass(slots=True)
class Stage:
    """What runs on one context, while ``opened`` lasts. The outbox is in ``store``."""

    context: str
    config: Path
    app: Seaway
    store: Store
    supervisor: Supervisor

    @property
    def folder(self) -> Path:
        """Where the configuration and the children's logs are."""
        return self.config.parent

    @property
    def stream(self) -> str:
        """The context's events."""
        return events_stream(self.context)

    # ------------------------------------------------------------------ processes

    async def start_relay(self, name: str = "relay") -> Child:
        """Publish from now on, by ``seaway relay``."""
        return await self._start(name, ["seaway", "--config", str(self.config), "relay"])

    async def start_service(
        self, name: str, declare: Callable[..., None], config: Path | None = None, **told: object
    ) -> Child:
        """Handle from now on, with the handlers that ``declare(app, **told)`` ties."""
        return await self._start(name, child.service(declare, config or self.config, **told))

    async def _start(self, name: str, arguments: Sequence[str]) -> Child:
        return await self.supervisor.start(name, arguments, log=self.folder / f"{name}.log")

    # ------------------------------------------------------------------ looking

    async def rows(self, query: str) -> Sequence[Any]:
        """What the database answers; waits for it where it is away."""
        while True:
            try:
                async with self.store.transaction() as tx:
                    return await ledger.rows(tx.handle, query)
            except StoreUnavailable:
                await asyncio.sleep(_LOOK)

    async def effects(self) -> int:
        """How many there are."""
        return int((await self.rows("SELECT count(*) FROM effects"))[0][0])

    async def streamed(self) -> int:
        """How many messages the stream holds; waits for the server where it is away."""
        while True:
            try:
                return await self._held(self.stream)
            except BrokerUnavailable:
                await asyncio.sleep(_LOOK)

    async def letters(self) -> int:
        """How many dead letters the context's queue holds."""
        return await self._held(dlq_stream(self.context))

    async def _held(self, stream: str) -> int:
        found = await self.app.broker.admin.stream(stream)
        return found.messages if found else 0

    async def at_rest(
        self, quiet: timedelta, more: Callable[[], Awaitable[Mapping[str, int]]] = _nothing
    ) -> Mapping[str, int]:
        """Return once nothing is under way any more: nothing; or what is, where nothing has moved
        for ``quiet``; or why a child can't be kept running.

        ``more``: asked when all else is at rest; names and counts what is still to come.
        """
        loop = asyncio.get_running_loop()
        seen, since, idle = None, loop.time(), 0
        while True:
            if failure := self.supervisor.failed():
                return {str(failure): 1}
            try:
                under_way, marks = await self._look()
                # Between the outbox and the stream, say, an event is in neither figure.
                idle = 0 if under_way else idle + 1
                if idle >= _IDLE and not (under_way := +Counter(await more())):
                    return under_way
            except TransientError as error:
                under_way, marks, idle = Counter({str(error): 1}), 0, 0
            if (under_way, marks) != seen:
                seen, since = (under_way, marks), loop.time()
            elif under_way and loop.time() - since > quiet.total_seconds():
                return under_way
            await asyncio.sleep(_LOOK)

    async def _look(self) -> tuple[Counter[str], int]:
        """What is under way, by where it is; and a number that grows with every delivery."""
        found, marks = Counter(outbox=await self._unsent()), 0
        for stream in (self.stream, redrive_stream(self.context), ADVISORY_STREAM):
            for info in await self.app.broker.admin.consumers(stream):
                if not info.ephemeral:  # Whoever reads the stream is.
                    found[f"{stream} {info.durable}"] = info.num_pending + info.num_ack_pending
                    marks += info.consumer_seq + info.ack_floor
        return +found, marks

    async def _unsent(self) -> int:
        backlog = await self.store.backlog()
        if not backlog.parked:
            return backlog.count
        # What waits behind a parked event of its key waits for somebody's word.
        held = {one.message.key for one in await self.store.entries(parked=True, limit=_MANY)}
        entries = await self.store.entries(limit=_MANY)
        return sum(one.message.key not in held for one in entries)


@asynccontextmanager
async def opened(
    config: Path,
    content: Mapping[str, Any],
    context: str,
    said: Callable[[str], None],
    tables: str = "",
) -> AsyncIterator[Stage]:
    """``content`` in the file ``config``, the database with its tables, the streams and durables;
    nothing is at work yet. The servers must run. ``said`` is told of every death of a child."""
    settings = configured(config, content)
    await prepare(str(settings.database), tables)
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(Seaway(settings))
        wanted, admin = topology.desired(settings), app.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)
        supervisor = Supervisor(said)
        stack.push_async_callback(supervisor.stop)
        yield Stage(context, config, app, await app.open_store(), supervisor)


def configured(config: Path, content: Mapping[str, Any]) -> Settings:
    """``content`` written into the file, and read as settings."""
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_settings(config, environ={})


async def prepare(database: str, tables: str = "") -> None:
    """The library's tables, the ledger's and those of ``tables``, where they are missing."""
    store = await open_store(database)
    try:
        await store.schema.upgrade()
        await ledger.create(store, tables)
    finally:
        await store.close()


def configuration(
    nats: str,
    database: str,
    contexts: Iterable[str],
    durables: Iterable[Durable],
    *,
    replicas: int = 1,
    **options: Any,
) -> Mapping[str, Any]:
    """A ``seaway.yaml`` as a service has it: the streams of ``contexts``, and ``durables`` (each
    ``{service}__from_{context}``), all with the same ``options``."""
    return {
        "nats": {"url": nats},
        "database": database,
        "profile": "development",
        "profiles": {"development": {"replicas": replicas}},
        "streams": [
            {"name": events_stream(context), "subjects": [events_filter(context)]}
            for context in contexts
        ],
        "consumers": [
            {
                "stream": events_stream(durable.purpose.removeprefix("from_")),
                "durable": str(durable),
                **{name: _written(value) for name, value in options.items()},
            }
            for durable in durables
        ],
    }


def _written(value: object) -> object:
    return f"{value.total_seconds():g}s" if isinstance(value, timedelta) else value
