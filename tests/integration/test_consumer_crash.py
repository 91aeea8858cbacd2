"""kill -9 of a consumer in the middle, again and again: effects exactly once, order exact.

The module is also the program that is killed: ``python test_consumer_crash.py URL DATABASE``.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from seaway import topology
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.consumer import Consumer, Delivery
from seaway.contracts import Message, Stored
from seaway.dead_letters import DeadLetters
from seaway.embedded.nats_server import NatsServer
from seaway.errors import Retry
from seaway.events import RawEvent
from seaway.naming import Durable
from seaway.outbox import Outbox
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import Telemetry

pytestmark = pytest.mark.server

STREAM = "CRASH_EVENTS"
DURABLE = Durable.from_context("case_mgmt", "crash")
EVENTS, KEYS = 600, 7


async def consume(url: str, path: str) -> None:
    broker = await connect(NatsSettings(url=url), wait=True)
    consumer = Consumer(DURABLE, stream=STREAM, batch=10)

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        number = int(event.payload)
        if number % 50 == 3 and delivery.deliveries == 1:
            raise Retry(after=timedelta(milliseconds=30))
        await delivery.tx.execute(
            "INSERT INTO effect (event_id, key, number) VALUES (?, ?, ?)",
            (delivery.event_id, delivery.key, number),
        )
        await asyncio.sleep(0.002)

    async with await SqliteStore.open(path) as store:
        await consumer.run(
            broker,
            store=store,
            outbox=Outbox(),
            dead_letters=DeadLetters(broker),
            telemetry=Telemetry(),
            stop=asyncio.Event(),
        )


def effects(path: Path) -> list[tuple[str, str, int]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT event_id, key, number FROM effect ORDER BY position").fetchall()


async def prepare(url: str, path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute(
                "CREATE TABLE effect "
                "(position INTEGER PRIMARY KEY, event_id TEXT, key TEXT, number INTEGER)"
            )
    broker = await connect(NatsSettings(url=url))
    try:
        wanted = topology.desired(
            settings_from_mapping(
                {
                    "streams": [{"name": STREAM, "subjects": ["crash.event.>"], "replicas": 1}],
                    "consumers": [
                        {
                            "stream": STREAM,
                            "durable": str(DURABLE),
                            "ack_wait": "2s",
                            "max_deliver": 100,
                        }
                    ],
                },
                environ={},
            )
        )
        await topology.apply(
            topology.plan(wanted, await topology.actual(broker.admin, wanted)), broker.admin
        )
        messages = [
            Message(
                "crash.event.stepped.v1",
                str(number).encode(),
                {"Nats-Msg-Id": f"e{number}", "X-Ordering-Key": f"case-{number % KEYS}"},
            )
            for number in range(EVENTS)
        ]
        stored = await broker.publish(STREAM, messages, timeout=timedelta(seconds=5))
        assert all(isinstance(one, Stored) for one in stored)
    finally:
        await broker.close()


async def until_effects(path: Path, count: int) -> None:
    """Poll until so many effects are there."""
    async with asyncio.timeout(60):
        while len(effects(path)) < count:
            await asyncio.sleep(0.02)


async def test_killed_again_and_again_it_takes_effect_once_and_in_order(
    nats_server_own: NatsServer, tmp_path: Path
) -> None:
    path = tmp_path / "app.db"
    await prepare(nats_server_own.url, path)
    for alive_until in (50, 170, 290, 410, EVENTS):
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, nats_server_own.url, str(path)
        )
        try:
            await until_effects(path, alive_until)
        finally:
            process.kill()
            await process.wait()

    found = effects(path)
    assert Counter(event_id for event_id, _, _ in found) == {f"e{n}": 1 for n in range(EVENTS)}
    for key in range(KEYS):
        assert [number for _, its, number in found if its == f"case-{key}"] == list(
            range(key, EVENTS, KEYS)
        )


if __name__ == "__main__":
    asyncio.run(consume(*sys.argv[1:]))
