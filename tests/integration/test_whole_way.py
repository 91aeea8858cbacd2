"""From the outbox to the effects and back from the queue, while the server is killed: exact.

On the server that the environment has, and on an older one, which lacks some of what a newer one
can do. ``make matrix`` takes it to all of them.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from seaway import Delivery, Poison, RawEvent, Seaway, topology
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.dead_letters import Letter
from seaway.embedded.nats_server import NatsServer
from seaway.errors import ConfigError, SeawayError
from seaway.naming import redrive_stream, stream_context
from seaway.outbox import Outbox
from seaway.stores import open_configured
from servers import OLDER, binary

pytestmark = pytest.mark.server

STREAM, DURABLE = "SEA_EVENTS", "case_mgmt__from_sea"
KEYS, EVENTS, POISONED = 20, 1000, (17, 400, 801)
TABLES = """
CREATE TABLE effects (seq INTEGER PRIMARY KEY, event_id TEXT, key TEXT, number INTEGER);
"""


@pytest.fixture(params=["the environment's", OLDER])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> NatsServer:
    if request.param == OLDER:
        monkeypatch.setenv("SEAWAY_NATS_SERVER", str(binary(OLDER)))
    return NatsServer(tmp_path / "nats")


def mapping(server: NatsServer, database: Path, **consumer: Any) -> dict[str, Any]:
    return {
        "nats": {"url": server.url},
        "database": f"sqlite:///{database}",
        "streams": [{"name": STREAM, "replicas": 1, "max_bytes": "1GB"}],
        "consumers": [
            {"stream": STREAM, "durable": DURABLE, "ack_wait": "2s", "max_deliver": 5, **consumer}
        ],
    }


class Way:
    """One application on one database, and what came of it."""

    def __init__(self, server: NatsServer, database: Path) -> None:
        self.server, self.database = server, database
        self.app = Seaway.from_config(mapping(server, database))
        consumer = self.app.consumer("case_mgmt", from_context="sea", workers=8)
        self.handled = 0

        @consumer.handler(RawEvent)
        async def handle(event: RawEvent, delivery: Delivery) -> None:
            self.handled += 1
            number = event.json()["number"]
            if number is None:
                raise Poison("it has no number")
            await delivery.tx.execute(
                "INSERT INTO effects (event_id, key, number) VALUES (?, ?, ?)",
                (delivery.event_id, event.key, number),
            )

    async def set_up(self) -> None:
        store = await open_configured(self.app.settings)
        await store.schema.upgrade()
        await store.close()
        with closing(sqlite3.connect(self.database)) as db:
            db.executescript(TABLES)
        async with self.app:
            admin, wanted = self.app.broker.admin, topology.desired(self.app.settings)
            await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)
            assert topology.plan(wanted, await topology.actual(admin, wanted)).empty

    def write(self) -> list[str]:
        """All events' ids, in order; some of them have no number."""
        outbox, ids = Outbox(), list[str]()
        with closing(sqlite3.connect(self.database, timeout=30)) as db:
            for first in range(0, EVENTS, 50):
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    for number in range(first, first + 50):
                        given = None if number in POISONED else number
                        payload = json.dumps({"number": given}).encode()
                        event = RawEvent("sea.event.moved.v1", payload, key=f"k{number % KEYS}")
                        ids += outbox.add(db, event)
        return ids

    def effects(self) -> list[tuple[str, str, int]]:
        with closing(sqlite3.connect(self.database)) as db:
            return db.execute("SELECT event_id, key, number FROM effects ORDER BY seq").fetchall()

    async def letters(self) -> list[Letter]:
        return list(await self.app.dead_letters.list())

    async def settled(self) -> bool:
        """Whether nothing waits anywhere; not while the server is away."""
        try:
            if (await (await self.app.open_store()).backlog()).count:
                return False
            for stream in (STREAM, "SEA_REDRIVE"):
                info = await self.app.broker.admin.consumer(stream, DURABLE)
                if info is None or info.num_pending or info.num_ack_pending:
                    return False
        except SeawayError:
            return False
        return True

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.02)

    async def until_settled(self, events: int) -> None:
        async with asyncio.timeout(60):
            while len(self.effects()) < events or not await self.settled():
                await asyncio.sleep(0.05)


async def test_the_whole_way_while_the_server_is_killed(server: NatsServer, tmp_path: Path) -> None:
    async with server:
        way = Way(server, tmp_path / "cases.db")
        await way.set_up()
        async with way.app:
            stop = asyncio.Event()
            running = asyncio.create_task(way.app.run(stop))
            writing = asyncio.create_task(asyncio.to_thread(way.write))
            for share in (EVENTS // 10, EVENTS // 2):
                await way.until(lambda at=share: way.handled >= at)  # type: ignore[misc]
                await server.kill()
                await server.start()
            written = await writing
            await way.until_settled(EVENTS - len(POISONED))
            letters = await way.letters()
            assert {one.event_id for one in letters} == {written[place] for place in POISONED}
            assert len(letters) == len(POISONED)
            exact(way, written, without=POISONED)
            for letter in letters:
                number = written.index(letter.event_id)
                payload = json.dumps({"number": number}).encode()
                await way.app.dead_letters.redrive(letter, payload=payload)
            await way.until_settled(EVENTS)
            assert await way.letters() == []
            stop.set()
            await running
            redriven = way.effects()[-len(POISONED) :]
            assert {number for _, _, number in redriven} == set(POISONED)
            on_stream = [one.event_id async for one in way.app.broker.admin.read(STREAM)]
            assert Counter(on_stream) == Counter(written)


def exact(way: Way, written: list[str], *, without: tuple[int, ...]) -> None:
    """Each event's effect is there once, and those of a key in the order of their writing."""
    effects = way.effects()
    expected = [each for place, each in enumerate(written) if place not in without]
    assert sorted(event_id for event_id, _, _ in effects) == sorted(expected)
    by_key = defaultdict(list)
    for _, key, number in effects:
        by_key[key].append(number)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


async def test_what_a_file_asks_for_that_the_server_lacks_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWAY_NATS_SERVER", str(binary(OLDER)))
    async with NatsServer() as server:
        broker = await connect(NatsSettings(url=server.url))
        with pytest.raises(ConfigError) as refused:
            await apply(broker, mapping(server, tmp_path / "a.db", exclusive=True))
        assert str(refused.value) == (
            f"consumer {STREAM} > {DURABLE}: exclusive: true needs nats-server 2.11 or later, "
            "and this one is 2.10 (upgrade the server, or take it out of the file)"
        )
        assert await broker.admin.streams() == []
        await broker.close()


@pytest.mark.seaway_since("2.12", "atomic batches")
async def test_after_the_servers_upgrade_the_plan_shows_what_can_be_switched_on(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path / "nats")
    with pytest.MonkeyPatch.context() as old:
        old.setenv("SEAWAY_NATS_SERVER", str(binary(OLDER)))
        await server.start()
    try:
        given = mapping(server, tmp_path / "a.db")
        broker = await connect(NatsSettings(url=server.url))
        assert (await apply(broker, given)).changes
        assert (await apply(broker, given)).empty
        await broker.close()
        await server.stop()
        await server.start()  # The environment's own.
        broker = await connect(NatsSettings(url=server.url))
        changes = (await apply(broker, given)).changes
        assert {one.kind for one in changes} == {"in_place"}
        found = {one.title: list(map(str, one.differences)) for one in changes}
        assert found.pop(f"stream {STREAM}") == ["allow_atomic: none -> true"]
        [(redrives, schedules)] = found.items()
        assert redrives == f"stream {redrive_stream(stream_context(STREAM))}"
        assert "allow_msg_schedules: none -> true" in schedules
        assert (await apply(broker, given)).empty
        await broker.close()
    finally:
        await server.stop()


async def apply(broker: JetStreamBroker, given: dict[str, Any]) -> topology.Plan:
    wanted = topology.desired(settings_from_mapping(given, environ={}))
    plan = topology.plan(wanted, await topology.actual(broker.admin, wanted))
    await topology.apply(plan, broker.admin)
    return plan
