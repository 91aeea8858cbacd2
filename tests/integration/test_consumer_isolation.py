"""Consumers on databases above READ COMMITTED: conflicts, and exact effects."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from drivers.inboxes import KINDS, Kind
from seaway import Seaway, topology
from seaway.consumer import Delivery
from seaway.contracts import Message, Stored
from seaway.embedded.nats_server import NatsServer
from seaway.events import Registry, event, event_type_of
from seaway.stores import open_store
from seaway.testing.databases import Database, Databases

pytestmark = pytest.mark.server

EVENTS, ROWS = 120, 3
registry = Registry()


@event(context="sea", registry=registry)
@dataclass
class CaseOpened:
    number: int


@event(context="sea", registry=registry)
@dataclass
class TaskOpened:
    number: int


SUBJECT = str(event_type_of(CaseOpened).subject)
MADE = """
CREATE TABLE counted (row int PRIMARY KEY, times int NOT NULL);
INSERT INTO counted VALUES (0, 0), (1, 0), (2, 0)
"""
COUNT = "UPDATE counted SET times = times + 1 WHERE row = {row:d}"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize(
    "kind",
    [None, *(kind for kind in KINDS if kind.engine == "postgres")],
    ids=lambda kind: kind.__name__ if kind else "store",
)
async def test_handlers_that_change_the_same_rows(
    kind: type[Kind] | None,
    level: str,
    postgres_url: str,
    postgres_databases: Databases,
    nats_server_own: NatsServer,
) -> None:
    """A quarter of all events twice, eight workers, three rows."""
    database = Database(postgres_url, postgres_databases)
    database.run(MADE)
    name = postgres_url.rpartition("/")[2]
    database.run(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{level}'")
    app = Seaway.from_config(
        {
            "nats": {"url": nats_server_own.url},
            "database": postgres_url,
            "contexts": ["sea"],
            "profile": "one",
            "profiles": {"one": {"replicas": 1}},
            "streams": [{"name": "SEA_EVENTS", "replicas": 1, "duplicate_window": "100ms"}],
            "consumers": [
                {
                    "stream": "SEA_EVENTS",
                    "durable": "case_mgmt__from_sea",
                    "filter_subject": SUBJECT,
                    "ack_wait": "5s",
                }
            ],
        }
    )
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        given: Any = "store"
        if kind is not None:
            given = await stack.enter_async_context(kind(postgres_url).given())
        await stack.enter_async_context(app)
        await _apply(app)
        consumer = app.consumer("case_mgmt", from_context="sea", tx=given, workers=8)

        @consumer.handler(CaseOpened)
        async def count(event: CaseOpened, delivery: Delivery) -> None:
            statement = COUNT.format(row=event.number % ROWS)
            if kind is None:
                await delivery.tx.execute(statement)
            else:
                await kind(postgres_url).run(delivery.tx, statement)
            await delivery.add(TaskOpened(event.number), key=str(event.number))

        for numbers in (range(EVENTS), range(0, EVENTS, 4)):
            messages = [
                Message(
                    SUBJECT,
                    b'{"number":%d}' % n,
                    {"Nats-Msg-Id": f"id-{n}", "X-Ordering-Key": f"{n}"},
                )
                for n in numbers
            ]
            found = await app.broker.publish("SEA_EVENTS", messages, timeout=timedelta(seconds=5))
            assert all(isinstance(outcome, Stored) for outcome in found)
            await asyncio.sleep(0.2)  # longer than the stream remembers ids
        running = asyncio.create_task(app.run(stop))
        async with asyncio.timeout(60):
            while not await _settled(app):
                if running.done():
                    await running
                await asyncio.sleep(0.05)  # polling until the deadline above
        stop.set()
        await asyncio.wait_for(running, 30)
        assert await app.dead_letters.list() == []
    counted = database.run("SELECT sum(times) FROM counted")
    async with await open_store(postgres_url) as store:  # type: ignore[attr-defined]
        waiting = (await store.backlog()).count
        sent = len(await store.sent(limit=1000))
    assert (counted, waiting + sent) == (str(EVENTS), EVENTS)


def message(number: int) -> Message:
    headers = {"Nats-Msg-Id": f"id-{number}", "X-Ordering-Key": str(number)}
    return Message(SUBJECT, b'{"number":%d}' % number, headers)


async def _apply(app: Seaway) -> None:
    wanted = topology.desired(app.settings)
    actual = await topology.actual(app.broker.admin, wanted)
    await topology.apply(topology.plan(wanted, actual), app.broker.admin)


async def _settled(app: Seaway) -> bool:
    info = await app.broker.admin.consumer("SEA_EVENTS", "case_mgmt__from_sea")
    assert info is not None
    return info.settled
