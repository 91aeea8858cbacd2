"""Where the consumer drills play: two servers, the relay, and the processes of one durable.

    writers ──> outbox ──> relay ──> stream ──> service 1..n ──> effects
                                                     └─────────> dead letters

Owns: the servers, the topology, the ledger of what was committed, and the child processes. Breaks
nothing by itself. Guarantees: a row of the ledger commits with its event, so that a commit whose
answer was lost is counted for what it was.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from seaway import topology
from seaway.brokers.jetstream import connect
from seaway.config import load_settings
from seaway.contracts import Broker, ConsumerInfo, Store
from seaway.demo.supervisor import Child, Supervisor
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer
from seaway.errors import BrokerUnavailable, StoreUnavailable
from seaway.events import RawEvent
from seaway.naming import Durable, events_filter, events_stream
from seaway.outbox import Outbox
from seaway.stores import open_store
from seaway.testing.drills import service
from seaway.testing.drills.service import CONTEXT, SERVICE, Temper

SUBJECT = f"{CONTEXT}.event.case_moved.v1"
STREAM = events_stream(CONTEXT)
DURABLE = str(Durable.from_context(SERVICE, CONTEXT))

_TABLES = """
CREATE TABLE ledger (
    seq bigserial PRIMARY KEY, event_id text NOT NULL UNIQUE, key text NOT NULL,
    number int NOT NULL);
CREATE TABLE effects (
    seq bigserial PRIMARY KEY, event_id text NOT NULL, key text NOT NULL, deliveries int NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT clock_timestamp());
"""

_AGAIN = 0.1
_WRITERS = 4
_LARGEST_TRANSACTION = 50


@dataclass(slots=True)
class Stage:
    """The servers and what runs on them, while ``opened`` lasts."""

    postgres: PostgresServer
    nats: NatsServer
    store: Store
    broker: Broker
    supervisor: Supervisor
    folder: Path

    @property
    def notes(self) -> Path:
        """Where the services note their calls, a file for each process."""
        return self.folder / "calls"

    @property
    def services(self) -> list[Child]:
        """The processes of the durable."""
        return [
            child for name, child in self.supervisor.children.items() if name.startswith(SERVICE)
        ]

    async def start_relay(self) -> None:
        """Publish from now on."""
        config = str(self.folder / "seaway.yaml")
        await self.supervisor.start(
            "relay", ["seaway", "--config", config, "relay"], log=self.folder / "relay.log"
        )

    async def start_services(self, processes: int, temper: Temper, *, workers: int) -> None:
        """Handle from now on."""
        command = service.arguments(
            self.folder / "seaway.yaml", temper, self.notes, workers=workers
        )
        for number in range(1, processes + 1):
            name = f"{SERVICE} {number}"
            await self.supervisor.start(name, command, log=self.folder / f"{name}.log")

    @property
    def at_work(self) -> Child:
        """The process whose handler was called last."""

        def called_at(child: Child) -> float:
            noted = self.notes / str(child.pid)
            return noted.stat().st_mtime if self.called(child.pid) else 0.0

        return max(self.services, key=called_at)

    def called(self, pid: int | None) -> bool:
        """Whether the handler of this process was called."""
        noted = self.notes / str(pid)
        return noted.exists() and noted.stat().st_size > 0

    # ------------------------------------------------------------------ writing

    async def write(self, numbers: Iterator[int], *, keys: int, seed: int) -> None:
        """One event for each of ``numbers``, in transactions of some; an outage loses its own.

        Several write at a time, each on keys of its own: the ledger's order is each key's.
        """
        await asyncio.gather(
            *(
                self._write(numbers, range(first, keys, _WRITERS), random.Random(seed + first))
                for first in range(_WRITERS)
            )
        )

    async def _write(self, numbers: Iterator[int], keys: range, chance: random.Random) -> None:
        outbox = Outbox()
        while chosen := list(islice(numbers, chance.randint(1, _LARGEST_TRANSACTION))):
            rows = [(number, f"case-{chance.choice(keys)}") for number in chosen]
            try:
                await self._commit(outbox, rows)
            except StoreUnavailable:
                await self.rows("SELECT 1")

    async def _commit(self, outbox: Outbox, rows: Sequence[tuple[int, str]]) -> None:
        events = [
            RawEvent(SUBJECT, json.dumps({"number": number, "note": "x" * 180}).encode(), key=key)
            for number, key in rows
        ]
        async with self.store.transaction() as tx:
            added = outbox.add(tx.handle, *events)
            ids = added if isinstance(added, list) else await added
            await tx.handle.executemany(
                "INSERT INTO ledger (event_id, key, number) VALUES ($1, $2, $3)",
                [(id_, key, number) for id_, (number, key) in zip(ids, rows, strict=True)],
            )

    # ------------------------------------------------------------------ looking

    async def rows(self, query: str) -> Sequence[Any]:
        """What the database answers; waits for it where it is away."""
        while True:
            try:
                async with self.store.transaction() as tx:
                    found: Sequence[Any] = await tx.handle.fetch(query)
                    return found
            except StoreUnavailable:
                await asyncio.sleep(_AGAIN)

    async def effects(self) -> int:
        """How many there are."""
        return int((await self.rows("SELECT count(*) FROM effects"))[0][0])

    async def durable(self) -> ConsumerInfo:
        """What the server says of the durable; waits for the server where it is away."""
        while True:
            try:
                found = await self.broker.admin.consumer(STREAM, DURABLE)
            except BrokerUnavailable:
                await asyncio.sleep(_AGAIN)
                continue
            if found is None:
                raise LookupError(f"the server has lost the durable {DURABLE}")
            return found

    async def settled(self) -> bool:
        """Whether the outbox is empty and the server waits for nothing from the durable."""
        try:
            if (await self.store.backlog()).count:
                return False
        except StoreUnavailable:
            return False
        return (await self.durable()).settled


@asynccontextmanager
async def opened(
    *,
    ack_wait: timedelta,
    max_deliver: int,
    exclusive: bool,
    keep: Path | None,
    said: Callable[[str], None],
) -> AsyncIterator[Stage]:
    """Servers, topology and tables, and nothing at work yet. The end stops the children first.

    ``exclusive``: the durable's setting. ``keep``: an empty folder for the children's logs, which
    otherwise go with the stage.
    """
    async with (
        PostgresServer(settings={"max_connections": "250"}) as postgres,
        NatsServer() as nats,
    ):
        with tempfile.TemporaryDirectory(prefix="seaway-drill-") as name:
            folder = keep or Path(name)
            folder.mkdir(parents=True, exist_ok=True)
            settings = load_settings(
                _configure(folder, nats.url, postgres.url(), ack_wait, max_deliver, exclusive),
                environ={},
            )
            store = await open_store(settings.database)
            broker = await connect(settings.nats)
            stage = Stage(postgres, nats, store, broker, Supervisor(said), folder)
            stage.notes.mkdir()
            try:
                await store.schema.upgrade()
                async with store.transaction() as tx:
                    await tx.handle.execute(_TABLES)
                wanted = topology.desired(settings)
                await topology.apply(
                    topology.plan(wanted, await topology.actual(broker.admin, wanted)),
                    broker.admin,
                )
                yield stage
            finally:
                await stage.supervisor.stop()
                await broker.close()
                await store.close()


def _configure(
    folder: Path, nats: str, database: str, ack_wait: timedelta, max_deliver: int, exclusive: bool
) -> Path:
    durable = {
        "stream": STREAM,
        "durable": DURABLE,
        "ack_wait": f"{ack_wait.total_seconds():g}s",
        "max_deliver": max_deliver,
        "exclusive": exclusive,
        # Delayed negative acks keep their places: room for them and for every process.
        "max_ack_pending": 1000,
    }
    file = folder / "seaway.yaml"
    file.write_text(
        json.dumps(
            {
                "nats": {"url": nats},
                "database": database,
                "streams": [{"name": STREAM, "subjects": [events_filter(CONTEXT)], "replicas": 1}],
                "consumers": [durable],
            }
        )
    )
    return file
