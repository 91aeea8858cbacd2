"""An application with consumers forgets what they handled long ago, in ``run`` and ``lifespan``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from seaway import Delivery, event, topology
from seaway.app import Seaway
from seaway.embedded.nats_server import NatsServer
from seaway.stores.postgres import PostgresStore
from seaway.testing.databases import Database, Databases

pytestmark = pytest.mark.server

OLD = """
INSERT INTO seaway_inbox VALUES
('c__d', 'SEA_EVENTS:1', now() - interval '15 days'), ('c__d', 'SEA_EVENTS:2', now())
"""


@event(context="sea", version=1)
@dataclass(frozen=True)
class CaseFiled:
    number: int


Run = Callable[[Seaway, asyncio.Event], Coroutine[Any, Any, None]]


async def run(app: Seaway, stop: asyncio.Event) -> None:
    await app.run(stop)


async def lifespan(app: Seaway, stop: asyncio.Event) -> None:
    async with app.lifespan():
        await stop.wait()


@pytest.mark.parametrize("how", [run, lifespan])
async def test_old_rows_go_while_it_runs(
    how: Run, postgres_url: str, postgres_databases: Databases, nats_server: NatsServer
) -> None:
    database = Database(postgres_url, postgres_databases)
    database.run(OLD)
    app = Seaway.from_config(
        {
            "nats": {"url": nats_server.url},
            "database": postgres_url,
            "contexts": ["sea"],
            "profile": "one",
            "profiles": {"one": {"replicas": 1}},
        }
    )
    consumer = app.consumer("sea", purpose="default")

    @consumer.handler(CaseFiled)
    async def file(case: CaseFiled, delivery: Delivery) -> None:
        raise AssertionError("nothing is published here")

    wanted = topology.desired(app.settings)
    async with app:
        found = await topology.actual(app.broker.admin, wanted)
        await topology.apply(topology.plan(wanted, found), app.broker.admin)
    stop = asyncio.Event()
    work = asyncio.create_task(how(app, stop))
    async with asyncio.timeout(60), await PostgresStore.open(postgres_url) as store:
        while await store.processed("SEA_EVENTS:1"):
            assert not work.done()
            await asyncio.sleep(0.05)
        assert set(await store.processed("SEA_EVENTS:2")) == {"c__d"}
        # The days that come are there as well.
        today = f"seaway_inbox_{datetime.now(UTC):%Y%m%d}"
        while database.run(f"SELECT to_regclass('{today}') IS NULL") == "t":
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(work, 20)
