"""The relay before a stream too small for what waits: what fits goes, in order by key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.contracts import Store
from seaway.embedded.nats_server import NatsServer
from seaway.events import RawEvent
from seaway.outbox import Outbox
from seaway.relay import Relay
from seaway.retry import Backoff
from seaway.stores.postgres import PostgresStore
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import Parked, RelayPaused, RelayResumed, Signal, Telemetry

pytestmark = pytest.mark.server

QUICK = Backoff(base=timedelta(milliseconds=20), cap=timedelta(milliseconds=200))
DURABLE = "case_mgmt__from_tests"
EVENTS = int(os.environ.get("SEAWAY_TEST_BOUNDED_EVENTS", "3000"))
"""How many go through a stream of 100; 20,000 take half a minute."""

Writable = SqliteStore | PostgresStore


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Writable]:
    opened: Writable
    if request.param == "sqlite":
        opened = await SqliteStore.open(tmp_path / "outbox.db")
        await opened.schema.upgrade()
    else:
        opened = await PostgresStore.open(request.getfixturevalue("postgres_url"))
    async with opened:
        yield opened


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(tmp_path / "lite.db") as opened:
        await opened.schema.upgrade()
        yield opened


class Stage:
    """A relay that runs, and what it says."""

    def __init__(self, store: Store, broker: JetStreamBroker, **options: Any) -> None:
        self.said: list[Signal] = []
        self.telemetry = Telemetry()
        self.telemetry.subscribe(self.said.append)
        options.setdefault("backoff", QUICK)
        self.relay = Relay(store, broker, telemetry=self.telemetry, **options)

    def of(self, kind: type) -> list[Any]:
        return [signal for signal in self.said if isinstance(signal, kind)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.relay.run(stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(60):
                await task


async def until(true: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.01)


async def make_stream(
    broker: JetStreamBroker, context: str, *, durable: bool = False, **config: Any
) -> str:
    name = f"{context.upper()}_EVENTS"
    await broker.admin.create_stream(
        {
            "name": name,
            "subjects": [f"{context}.event.>"],
            "allow_atomic": True,
            "discard": "new",
            **config,
        }
    )
    if durable:
        config = {"name": DURABLE, "durable_name": DURABLE, "ack_policy": "explicit"}
        await broker.admin.create_consumer(name, {**config, "max_ack_pending": 10_000})
    return name


async def write(store: Writable, *events: RawEvent) -> list[str]:
    written: list[str] = []
    for first in range(0, len(events), 2000):
        async with store.transaction() as transaction:
            written += await Outbox().add(transaction.handle, *events[first : first + 2000])
    return written


def moved(context: str, number: int, *, keys: int = 5, kind: str = "moved") -> RawEvent:
    return RawEvent(f"{context}.event.{kind}.v1", b"%d" % number, key=f"case-{number % keys}")


async def count(broker: JetStreamBroker, stream: str) -> int:
    info = await broker.admin.stream(stream)
    assert info is not None
    return info.messages


async def subjects(broker: JetStreamBroker, stream: str) -> list[str]:
    return [each.message.subject async for each in broker.admin.read(stream)]


def in_order(numbers: list[int], *, keys: int) -> None:
    """Nothing twice, and the numbers of each key ascend without a gap."""
    for key in range(keys):
        mine = [number for number in numbers if number % keys == key]
        assert mine == list(range(key, key + keys * len(mine), keys))


BOUNDS = {
    "max_msgs": {"retention": "workqueue", "max_msgs": 100},
    "max_bytes": {"retention": "workqueue", "max_bytes": 30_000},
    "per subject": {
        "retention": "workqueue",
        "max_msgs_per_subject": 100,
        "discard_new_per_subject": True,
    },
    "interest": {"retention": "interest", "max_msgs": 100},
}


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("bound", BOUNDS)
async def test_a_backlog_larger_than_a_streams_room_trickles_in_order_by_key(
    lite: SqliteStore, broker: JetStreamBroker, context_name: str, bound: str, atomic: bool
) -> None:
    stream = await make_stream(
        broker, context_name, durable=True, allow_atomic=atomic, **BOUNDS[bound]
    )
    await write(lite, *(moved(context_name, number, keys=7) for number in range(600)))
    stage = Stage(lite, broker, max_attempts=1)
    found: list[int] = []
    async with stage.running(), broker.subscribe(stream, DURABLE) as pull:
        await until(lambda: has(broker, stream, 60))
        await until(lambda: said(stage, RelayPaused))
        async with asyncio.timeout(30):
            while len(found) < 600:
                batch = await pull.next(100, timeout=timedelta(seconds=1))
                assert await count(broker, stream) <= 150
                found += [int(each.message.payload) for each in batch]
                await pull.ack(*batch)
        await until(lambda: empty(lite))
        await until(lambda: said(stage, RelayResumed))
    in_order(found, keys=7)
    assert stage.of(Parked) == []
    [paused] = stage.of(RelayPaused)
    assert stream in paused.reason
    assert "10077" in paused.reason
    assert stage.telemetry.waits == []


async def has(broker: JetStreamBroker, stream: str, least: int) -> bool:
    return await count(broker, stream) >= least


async def empty(store: Store) -> bool:
    return (await store.backlog()).count == 0


async def said(stage: Stage, kind: type) -> bool:
    return bool(stage.of(kind))


async def test_many_events_go_through_a_small_stream(
    store: Writable, broker: JetStreamBroker, context_name: str
) -> None:
    stream = await make_stream(
        broker, context_name, durable=True, retention="workqueue", max_msgs=100
    )
    await write(store, *(moved(context_name, number, keys=50) for number in range(EVENTS)))
    stage = Stage(store, broker, backoff=Backoff(timedelta(milliseconds=100)))
    found: list[int] = []
    async with stage.running(), broker.subscribe(stream, DURABLE) as pull:
        async with asyncio.timeout(60):
            while len(found) < EVENTS:
                batch = await pull.next(50, timeout=timedelta(seconds=1))
                found += [int(each.message.payload) for each in batch]
                await pull.ack(*batch)
        await until(lambda: empty(store))
    in_order(found, keys=50)


async def test_a_subject_without_room_holds_up_no_other_and_holds_its_keys(
    store: Writable, broker: JetStreamBroker, context_name: str
) -> None:
    stream = await make_stream(
        broker, context_name, max_msgs_per_subject=10, discard_new_per_subject=True
    )
    full = f"{context_name}.event.full.v1"
    behind = moved(context_name, 0, keys=1, kind="behind")
    others = [
        RawEvent(f"{context_name}.event.other_{n % 9}.v1", b"{}", key=f"o{n}") for n in range(81)
    ]
    written = [RawEvent(full, b"{}", key=f"case-{n % 30}") for n in range(2500)]
    await write(store, *written, behind, *others)
    stage = Stage(store, broker, max_attempts=1)
    async with stage.running():
        await until(lambda: has(broker, stream, 91))
        [wait] = stage.telemetry.waits
        assert (wait.part, wait.about) == ("relay", stream)
        assert full in wait.reason
        assert behind.subject not in await subjects(broker, stream)
        late = f"{context_name}.event.late.v1"
        await write(store, *(RawEvent(late, b"{}", key=f"o{n}") for n in range(10)))
        await until(lambda: has(broker, stream, 101))
        info = await broker.admin.stream(stream)
        assert info is not None
        wide = {**info.config, "max_msgs_per_subject": 5000}
        await broker.admin.update_stream(wide)
        await until(lambda: empty(store))
        await until(lambda: said(stage, RelayResumed))
    found = await subjects(broker, stream)
    assert found[-1] == behind.subject or found.index(behind.subject) > 91
    assert len(found) == 2500 + 1 + 81 + 10
    assert stage.of(Parked) == []
    assert stage.telemetry.waits == []


async def test_a_long_head_without_room_starves_nothing_behind_it(
    store: Writable, broker: JetStreamBroker, context_name: str
) -> None:
    stream = await make_stream(
        broker, context_name, max_msgs_per_subject=10, discard_new_per_subject=True
    )
    full = f"{context_name}.event.full.v1"
    await write(store, *(RawEvent(full, b"{}", key=f"k{n}") for n in range(50_000)))
    await write(store, *(moved(context_name, n, kind=f"other_{n}") for n in range(100)))
    stage = Stage(store, broker)
    async with stage.running():
        await until(lambda: has(broker, stream, 110))
        await write(store, *(moved(context_name, n, kind=f"late_{n}") for n in range(100)))
        await until(lambda: has(broker, stream, 210))


async def test_what_is_small_enough_goes_where_a_large_one_has_no_room(
    lite: SqliteStore, broker: JetStreamBroker, context_name: str
) -> None:
    stream = await make_stream(broker, context_name, max_bytes=20_000)
    kind = f"{context_name}.event.moved.v1"
    await write(
        lite,
        RawEvent(kind, b"x" * 10_000, key="first"),
        RawEvent(kind, b"x" * 15_000, key="large"),
        RawEvent(kind, b"behind", key="large"),
        *(RawEvent(kind, b"%d" % n, key=f"k{n}") for n in range(10)),
    )
    stage = Stage(lite, broker, max_attempts=1)
    async with stage.running():
        await until(lambda: has(broker, stream, 11))
        assert await broker.admin.delete_message(stream, 1)
        await until(lambda: empty(lite))
    assert stage.of(Parked) == []


async def test_an_event_larger_than_its_whole_stream_is_parked_with_the_way_out(
    lite: SqliteStore, broker: JetStreamBroker, context_name: str
) -> None:
    stream = await make_stream(broker, context_name, max_bytes=20_000)
    kind = f"{context_name}.event.moved.v1"
    await write(
        lite,
        RawEvent(kind, b"x" * 30_000, key="large"),
        *(RawEvent(kind, b"%d" % n, key=f"k{n}") for n in range(10)),
    )
    stage = Stage(lite, broker)
    async with asyncio.timeout(60):
        assert await stage.relay.drain() == 10
    assert await count(broker, stream) == 10
    [parked] = stage.of(Parked)
    assert "max_bytes" in parked.error
    assert "20000" in parked.error


@pytest.mark.parametrize("atomic", [True, False])
async def test_an_account_without_room_uses_up_no_attempts(lite: SqliteStore, atomic: bool) -> None:
    users = "users: [{user: a, password: a}]"
    config = f"accounts {{ A {{ jetstream: {{max_file: 30000}}, {users} }} }}"
    async with NatsServer(extra_config=config) as server:
        url = server.url.replace("nats://", "nats://a:a@")
        broker = await connect(NatsSettings(url=url))
        stream = await make_stream(broker, "sea", allow_atomic=atomic)
        payload = b"x" * 1000
        await write(
            lite, *(RawEvent("sea.event.moved.v1", payload, key=f"k{n % 3}") for n in range(40))
        )
        stage = Stage(lite, broker, max_attempts=1)
        async with stage.running():
            await until(lambda: has(broker, stream, 15))
            await until(lambda: said(stage, RelayPaused))
            async for each in broker.admin.read(stream):
                await broker.admin.delete_message(stream, each.stream_seq)
            await until(lambda: has(broker, stream, 10))
        assert stage.of(Parked) == []
        assert all(entry.attempts == 0 for entry in await lite.entries(limit=40))
        await broker.close()
