"""The last delivery of a message, and what its process does to itself meanwhile: one end, not two.

The module is also that process: ``python test_last_delivery.py deadly|frozen NATS_URL FOLDER``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import pytest

from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.consumer import Consumer, Delivery
from seaway.contracts import Message
from seaway.dead_letters import DeadLetters, Sweeper
from seaway.embedded.nats_server import NatsServer
from seaway.events import RawEvent
from seaway.naming import ADVISORY_STREAM, Durable
from seaway.outbox import Outbox
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import Telemetry

pytestmark = pytest.mark.server

STREAM = "LAST_EVENTS"
DURABLE = Durable.from_context("case_mgmt", "last")
EVENTS, BAD = 12, 5
DEADLINE_SECONDS = 45.0


def the_consumer(how: str, folder: Path) -> Consumer:
    consumer = Consumer(DURABLE, stream=STREAM)

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if int(event.payload) == BAD:
            if how == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            while not (folder / "go").exists():
                time.sleep(0.02)  # noqa: ASYNC251 - the fault: no heartbeat gets out meanwhile.
        await delivery.tx.execute("INSERT INTO effect VALUES (?)", (delivery.event_id,))

    return consumer


async def consume(how: str, url: str, folder: Path) -> None:
    broker = await connect(NatsSettings(url=url), wait=True)
    async with await SqliteStore.open(folder / "app.db") as store:
        await the_consumer(how, folder).run(
            broker,
            store=store,
            outbox=Outbox(),
            dead_letters=DeadLetters(broker),
            telemetry=Telemetry(),
            stop=asyncio.Event(),
        )


@pytest.fixture
async def broker(nats_server_own: NatsServer) -> AsyncIterator[JetStreamBroker]:
    connected = await connect(NatsSettings(url=nats_server_own.url))
    yield connected
    await connected.close()


async def prepare(broker: JetStreamBroker, folder: Path, *, max_deliver: int) -> None:
    async with await SqliteStore.open(folder / "app.db") as store:
        await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE effect (event_id TEXT)")
    durable = {"stream": STREAM, "durable": str(DURABLE), "ack_wait": "1s"}
    wanted = topology.desired(
        settings_from_mapping(
            {
                "streams": [{"name": STREAM, "replicas": 1}],
                "consumers": [{**durable, "max_deliver": max_deliver}],
            },
            environ={},
        )
    )
    actual = await topology.actual(broker.admin, wanted)
    await topology.apply(topology.plan(wanted, actual), broker.admin)
    messages = [
        Message("last.event.stepped.v1", str(n).encode(), {"Nats-Msg-Id": f"e{n}"})
        for n in range(EVENTS)
    ]
    await broker.publish(STREAM, messages, timeout=timedelta(seconds=5))


def effects(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "app.db")) as db:
        return [event_id for (event_id,) in db.execute("SELECT event_id FROM effect")]


async def letters(broker: JetStreamBroker) -> list[tuple[str, str]]:
    return [(one.event_id, one.reason) for one in await DeadLetters(broker).list()]


async def given_up(broker: JetStreamBroker) -> bool:
    """Whether the sweeper was told that a last delivery has run out."""
    info = await broker.admin.consumer(ADVISORY_STREAM, "seaway__sweeper")
    return info is not None and bool(info.consumer_seq)


async def until(holds: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < ends, f"not within the deadline: {what}"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def kept_running(how: str, url: str, folder: Path) -> AsyncIterator[None]:
    """The process, started anew whenever it dies, as whatever keeps services running would."""

    async def keep() -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, how, url, str(folder)
            )
            try:
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


@asynccontextmanager
async def sweeping(broker: JetStreamBroker, folder: Path) -> AsyncIterator[None]:
    """The sweeper of another process of the same service."""
    stop = asyncio.Event()
    async with await SqliteStore.open(folder / "app.db") as store:
        consumers = {str(DURABLE): the_consumer("", folder)}
        sweeper = Sweeper(broker, store=store, consumers=consumers)
        work = asyncio.create_task(sweeper.run(stop))
        try:
            yield
        finally:
            stop.set()
            await work


async def test_a_process_that_dies_on_every_attempt_leaves_one_letter(
    broker: JetStreamBroker, nats_server_own: NatsServer, tmp_path: Path
) -> None:
    await prepare(broker, tmp_path, max_deliver=3)
    async with (
        sweeping(broker, tmp_path),
        kept_running("deadly", nats_server_own.url, tmp_path),
    ):
        await until(lambda: len(effects(tmp_path)) == EVENTS - 1, "all others handled")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await letters(broker):
                await asyncio.sleep(0.05)
    assert await letters(broker) == [(f"e{BAD}", "exhausted")]
    assert sorted(effects(tmp_path)) == sorted(f"e{n}" for n in range(EVENTS) if n != BAD)


async def test_a_process_that_wakes_after_its_last_delivery_has_no_effect(
    broker: JetStreamBroker, nats_server_own: NatsServer, tmp_path: Path
) -> None:
    await prepare(broker, tmp_path, max_deliver=1)
    async with (
        sweeping(broker, tmp_path),
        kept_running("frozen", nats_server_own.url, tmp_path),
    ):
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await given_up(broker):
                await asyncio.sleep(0.05)
        assert await letters(broker) == [], "it has the database locked, and may yet commit"
        (tmp_path / "go").touch()
        everything = {f"e{n}" for n in range(EVENTS)}
        async with asyncio.timeout(DEADLINE_SECONDS):
            # What it had in hand beside that one gets its letter in its own time.
            while everything != {one for one, _ in await letters(broker)} | set(effects(tmp_path)):
                await asyncio.sleep(0.05)
        dead = [event_id for event_id, _ in await letters(broker)]
    assert f"e{BAD}" in dead
    assert sorted(dead + effects(tmp_path)) == sorted(everything)


if __name__ == "__main__":
    asyncio.run(consume(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
