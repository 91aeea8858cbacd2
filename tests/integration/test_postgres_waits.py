"""Somebody wants a whole table of ours (VACUUM FULL, REINDEX, ALTER TABLE), or keeps it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TypeAlias

import asyncpg
import pytest

from seaway.brokers.jetstream import JetStreamBroker
from seaway.contracts import Sent
from seaway.databases.engines import POSTGRES
from seaway.errors import StoreUnavailable
from seaway.events import RawEvent, new_event_id
from seaway.relay import Relay
from seaway.stores.postgres import PostgresStore
from seaway.stores.postgres import schema as schema_module
from seaway.stores.schema import Migration, migrations
from seaway.telemetry import Telemetry
from seaway.testing.conformance.inbox import add_in, ids
from seaway.testing.conformance.outbox import add, claim_all
from shell import busy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SUBJECT = "sea.event.case_moved.v1"
CONSUMER = "case_mgmt__from_sea"
KNOWN = migrations(POSTGRES)


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(postgres_url) as store:
        yield store


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[Connection]:
    """Somebody else's session."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def keeping(
    other: Connection, table: str, mode: str = "ACCESS EXCLUSIVE"
) -> AsyncIterator[None]:
    async with other.transaction():
        await other.execute(f"LOCK TABLE {table} IN {mode} MODE")
        yield


class Stops:
    """How long each piece of work took at the most, while others were at it."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.times = 0

    async def repeat(self, work: Callable[[], Awaitable[None]], until: asyncio.Event) -> None:
        while not until.is_set():
            began = time.monotonic()
            await work()
            self.longest = max(self.longest, time.monotonic() - began)
            self.times += 1


# ------------------------------------------------------------------ the outbox


async def test_a_lease_lets_go_of_what_it_has_read(store: PostgresStore, other: Connection) -> None:
    """However long it is kept: looking through a stream takes minutes."""
    (event_id,) = await add(store)
    async with store.lease() as lease:
        assert lease is not None
        (entry,) = await lease.claim(10)
        await lease.find([event_id])
        async with asyncio.timeout(5):
            await other.execute("VACUUM FULL seaway_outbox")
            await other.execute("REINDEX TABLE seaway_outbox")
        await lease.confirm()
        async with store.lease() as second:
            assert second is None, "the shard is still held"
        assert await lease.claim(10) == []
        await lease.settle([Sent(entry, "SEA_EVENTS", 1)])
    assert (await store.backlog()).count == 0


@pytest.mark.parametrize("table", ["seaway_outbox", "seaway_sent"])
async def test_a_settlement_gives_up_in_time(
    store: PostgresStore, other: Connection, table: str
) -> None:
    await add(store)
    async with store.lease() as lease:
        assert lease is not None
        (entry,) = await lease.claim(10)
        await asyncio.sleep(0)
        async with AsyncExitStack() as stack:
            await asyncio.wait_for(stack.enter_async_context(keeping(other, table)), 5)
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"VACUUM FULL.*pg_blocking_pids"):
                await lease.settle([Sent(entry, "SEA_EVENTS", 1)])
            assert time.monotonic() - began < 4 * busy()
        await lease.settle([Sent(entry, "SEA_EVENTS", 1)])
    assert (await store.backlog()).count == 0


async def test_nothing_that_asks_waits_without_end(store: PostgresStore, other: Connection) -> None:
    await claim_all(store)
    async with keeping(other, "seaway_outbox"), keeping_also(store, "seaway_inbox"):
        for ask in (
            store.backlog(),
            store.entries(),
            store.unpark(),
            store.wait(timedelta(seconds=30)),
            store.processed("e1"),
            claim_all(store),
        ):
            with pytest.raises(StoreUnavailable, match="pg_blocking_pids"):
                await asyncio.wait_for(ask, 10)


@asynccontextmanager
async def keeping_also(store: PostgresStore, table: str) -> AsyncIterator[None]:
    async with store._pool.transaction() as connection:
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


async def test_writers_go_on_while_the_outbox_is_vacuumed_whole(
    store: PostgresStore, other: Connection, broker: JetStreamBroker, context_name: str
) -> None:
    stream = f"{context_name.upper()}_EVENTS"
    await broker.admin.create_stream(
        {
            "name": stream,
            "subjects": [f"{context_name}.event.>"],
            "allow_atomic": True,
            "duplicate_window": 120_000_000_000,
        }
    )
    written: list[str] = []
    telemetry, stops = Telemetry(), Stops()
    subject, stop, done = f"{context_name}.event.case_moved.v1", asyncio.Event(), asyncio.Event()

    async def write() -> None:
        event = RawEvent(subject, b"{}", key=f"case-{len(written) % 7}")
        written.extend(await add(store, event))

    async def vacuum() -> int:
        for _ in range(8):
            await other.execute("VACUUM FULL seaway_outbox")
            await asyncio.sleep(0.3)  # between two of them, as their schedule has it
        done.set()
        return 8

    relay = Relay(store, broker, telemetry=telemetry)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(relay.run(stop))
        for _ in range(3):
            group.create_task(stops.repeat(write, done))
        await group.create_task(vacuum())
        while (await store.backlog()).count or telemetry.waits:
            await asyncio.sleep(0.05)  # polling until the deadline above
        stop.set()
        await running
    stored = [each.event_id async for each in broker.admin.read(stream)]
    assert sorted(stored) == sorted(written)
    assert stops.longest < 3, stops.longest


async def test_a_relay_says_what_it_waits_for_and_goes_on(
    store: PostgresStore, other: Connection, broker: JetStreamBroker, context_name: str
) -> None:
    stream, subject = f"{context_name.upper()}_EVENTS", f"{context_name}.event.case_moved.v1"
    await broker.admin.create_stream({"name": stream, "subjects": [f"{context_name}.event.>"]})
    telemetry, stop = Telemetry(), asyncio.Event()
    written = await add(store, *[RawEvent(subject, b"{}") for _ in range(5)])
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        async with keeping(other, "seaway_outbox"):
            running = group.create_task(Relay(store, broker, telemetry=telemetry).run(stop))
            while not telemetry.waits:
                await asyncio.sleep(0.05)  # polling until the deadline above
            (wait,) = telemetry.waits
            assert (wait.part, wait.about) == ("relay", "outbox")
            assert "VACUUM FULL" in wait.reason
            assert "pg_blocking_pids" in wait.reason
        while (await store.backlog()).count or telemetry.waits:
            await asyncio.sleep(0.05)  # polling until the deadline above
        stop.set()
        await running
    assert [each.event_id async for each in broker.admin.read(stream)] == written


# ------------------------------------------------------------------ the inbox


async def test_claims_go_on_while_the_inbox_is_vacuumed_whole(
    store: PostgresStore, other: Connection
) -> None:
    stops, done = Stops(), asyncio.Event()

    async def claim() -> None:
        async with store.transaction() as tx:
            assert await tx.claim(CONSUMER, new_event_id())
            await add_in(tx.handle, RawEvent(SUBJECT, b"{}"))

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(stops.repeat(claim, done))
        for _ in range(5):
            for table in ("seaway_inbox", "seaway_outbox"):
                await other.execute(f"VACUUM FULL {table}")
        done.set()
    assert stops.longest < 3, stops.longest
    assert len(ids(await store.entries(limit=10**6))) == stops.times


# ------------------------------------------------------------------ an upgrade


async def test_an_upgrade_behind_a_report_lets_writers_go_on(
    store: PostgresStore, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = Migration(KNOWN[-1].version + 1, "more", "ALTER TABLE seaway_outbox ADD more text")
    monkeypatch.setattr("seaway.stores.schema.migrations", lambda engine: (*KNOWN, more))
    monkeypatch.setattr(schema_module, "_PAUSE_SECONDS", 0.2)
    stops, done = Stops(), asyncio.Event()

    async def write() -> None:
        await add(store)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        async with keeping(other, "seaway_outbox", "ACCESS SHARE"):
            upgrading = group.create_task(store.schema.upgrade())
            writing = group.create_task(stops.repeat(write, done))
            # Two attempts and more, with writers between them.
            began = time.monotonic()
            while time.monotonic() - began < 5 or stops.times <= 50:
                await asyncio.sleep(0.1)  # polling until the deadline above
            assert not upgrading.done()
        assert [change.name for change in await upgrading] == ["more"]
        done.set()
        await writing
    assert stops.longest < 4, stops.longest
    assert stops.times > 50


async def test_an_upgrade_that_never_gets_its_table_says_so(
    store: PostgresStore, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = Migration(KNOWN[-1].version + 1, "more", "ALTER TABLE seaway_outbox ADD more text")
    monkeypatch.setattr("seaway.stores.schema.migrations", lambda engine: (*KNOWN, more))
    monkeypatch.setattr(schema_module, "_ATTEMPTS", 1)
    async with keeping(other, "seaway_outbox", "ACCESS SHARE"):
        with pytest.raises(StoreUnavailable, match="pg_blocking_pids"):
            await store.schema.upgrade()
