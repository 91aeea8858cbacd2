"""Processes whose clocks are weeks ahead or behind: the database's decides what is old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

import pytest

from seaway import process
from seaway.brokers.jetstream import JetStreamBroker
from seaway.cli import db as cli_db
from seaway.contracts import Store
from seaway.databases import times
from seaway.events import RawEvent, new_event_id
from seaway.outbox import encoding
from seaway.relay import Relay
from seaway.relay import loop as relay_loop
from seaway.stores import open_store
from seaway.stores.postgres import PostgresStore
from seaway.stores.postgres import retention as postgres_retention
from seaway.stores.postgres import store as postgres_store
from seaway.stores.sqlite import SqliteStore
from seaway.stores.sqlite import store as sqlite_store
from seaway.telemetry import Telemetry
from seaway.testing.conformance.inbox import SUBJECT
from seaway.testing.conformance.outbox import add, send
from seaway.testing.databases import Database, Databases
from seaway.upkeep import Forgetting

WEEKS = timedelta(days=40)
WEEK = timedelta(days=7)
CONSUMER = "case_mgmt__from_sea"
MODULES = (
    cli_db,
    encoding,
    postgres_retention,
    postgres_store,
    relay_loop,
    sqlite_store,
    times,
)


def clock_off_by(off: timedelta) -> type[datetime]:
    """A process' clock, as the modules see it."""

    class Off(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            found = datetime.now(tz) + off
            return cls.combine(found.date(), found.timetz())

    return Off


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """This process' clock is off from then on."""

    def set_it(off: timedelta) -> None:
        for module in MODULES:
            if hasattr(module, "datetime"):
                monkeypatch.setattr(module, "datetime", clock_off_by(off))

    return set_it


@pytest.fixture(params=["postgres", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: object) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/app.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """A store whose clock is right, with a row of today's in each table."""
    store = await open_store(url)
    await store.schema.upgrade()
    now = datetime.now(UTC)
    await store.prune(now - WEEK)
    await store.forget(now - WEEK)
    await add(store)
    await send(store)
    async with store.transaction() as tx:
        assert await tx.claim(CONSUMER, new_event_id())
        assert await tx.claim(CONSUMER, "SEA_EVENTS:1")
    yield store
    await store.close()


async def rows(store: Store) -> dict[str, int]:
    """What there is, by partition."""
    ever = datetime.now(UTC) + 100 * WEEKS
    return dict(await store.overdue(ever, ever))


@pytest.mark.parametrize("off", [WEEKS, -WEEKS], ids=["ahead", "behind"])
async def test_a_process_whose_clock_is_off_forgets_nothing_of_today(
    store: Store,
    url: str,
    set_clock: Callable[[timedelta], None],
    broker: JetStreamBroker,
    off: timedelta,
) -> None:
    before = await rows(store)
    set_clock(off)
    stop = asyncio.Event()
    async with asyncio.timeout(30):
        other = await open_store(url)
        relay = Relay(other, broker, telemetry=Telemetry(), retention=WEEK)
        await relay.drain()
        forgetting = asyncio.create_task(Forgetting(other, WEEK).run(stop))
        await asyncio.sleep(0.5)  # it begins at once
        stop.set()
        await forgetting
        await other.close()
    assert await rows(store) == before
    assert (await other_days(store)) == []


async def other_days(store: Store) -> list[str]:
    """Partitions of days that are not near."""
    if not isinstance(store, PostgresStore):
        return []
    near = {f"{datetime.now(UTC) + timedelta(days=n):%Y%m%d}" for n in range(-2, 5)}
    found = await store._pool.rows(
        "SELECT relname FROM pg_class WHERE relname ~ '^seaway_(sent|inbox)_[0-9]{8}$'"
    )
    return [name for (name,) in found if name[-8:] not in near]


@pytest.mark.parametrize("off", [WEEKS, -WEEKS], ids=["ahead", "behind"])
async def test_an_event_is_never_younger_than_now(
    store: Store, url: str, set_clock: Callable[[timedelta], None], off: timedelta
) -> None:
    """Written by a process whose clock is off, looked at by one whose clock is right; and back."""
    set_clock(off)
    async with await open_store(url) as other:  # type: ignore[attr-defined]
        await add(other)
    set_clock(timedelta())
    backlog = await store.backlog()
    assert backlog.oldest_at is not None
    assert backlog.oldest_at <= datetime.now(UTC)
    set_clock(-off)
    async with await open_store(url) as other:  # type: ignore[attr-defined]
        backlog = await other.backlog()
        assert backlog.oldest_at is not None
        assert backlog.oldest_at <= clock_off_by(-off).now(UTC)


@pytest.mark.parametrize("off", [WEEKS, -WEEKS], ids=["ahead", "behind"])
async def test_what_was_sent_long_ago_is_looked_up_whatever_the_writers_clock_said(
    postgres_url: str,
    postgres_databases: Databases,
    set_clock: Callable[[timedelta], None],
    broker: JetStreamBroker,
    context_name: str,
    off: timedelta,
) -> None:
    """A relay died between publishing and settling; the stream has forgotten the id since."""
    stream, subject = f"{context_name.upper()}_EVENTS", f"{context_name}.event.case_moved.v1"
    await broker.admin.create_stream(
        {
            "name": stream,
            "subjects": [f"{context_name}.event.>"],
            "allow_atomic": True,
            "duplicate_window": 100_000_000,
        }
    )
    set_clock(off)
    async with await PostgresStore.open(postgres_url) as store:
        (event_id,) = await add(store, RawEvent(subject, b"{}"))
        async with store.lease() as lease:
            assert lease is not None
            (entry,) = await lease.claim(10)
            await broker.publish(stream, [entry.message], timeout=timedelta(seconds=5))
        database = Database(postgres_url, postgres_databases)
        database.run("SELECT pg_sleep(0.3)")
        set_clock(-off)
        await Relay(store, broker, telemetry=Telemetry()).drain()
        stored = [each.event_id async for each in broker.admin.read(stream)]
        assert stored == [event_id]


async def test_a_file_that_was_long_at_rest_forgets_by_what_it_has(
    tmp_path: object, set_clock: Callable[[timedelta], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to its newest row, and as time passes while it is open."""
    path = f"{tmp_path}/app.db"
    for off in (-3 * WEEKS, -2 * WEEKS):
        set_clock(off)
        async with await SqliteStore.open(path) as store:
            await store.schema.upgrade()
            await add(store, RawEvent(SUBJECT, b"{}"))
            await send(store)
    set_clock(timedelta())
    passed = timedelta()
    began = process.running_time()
    monkeypatch.setattr(sqlite_store, "running_time", lambda: began + passed.total_seconds())
    async with await SqliteStore.open(path) as store:
        await store.prune(await store.before(WEEK))
        assert len(await store.sent()) == 1
        passed = timedelta(days=8)
        await store.prune(await store.before(WEEK))
        assert await store.sent() == []
