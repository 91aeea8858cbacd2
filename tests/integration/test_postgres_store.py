"""What the conformance suite does not ask of PostgreSQL: days, rights, lost servers, wake-ups."""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from seaway.contracts import Failed, Sent
from seaway.embedded.postgres import PostgresServer
from seaway.errors import ConfigError, SeawayError, StoreUnavailable
from seaway.events import RawEvent
from seaway.headers import TEXT_BYTES
from seaway.outbox import Outbox
from seaway.stores.postgres import PostgresStore
from seaway.testing.conformance.inbox import add_in, ids
from seaway.testing.conformance.outbox import add, claim_all, send
from seaway.testing.databases import Database, Databases

SUBJECT = "sea.event.case_moved.v1"
DAY = timedelta(days=1)
PARTITIONS = """
SELECT inhrelid::regclass::text FROM pg_inherits
WHERE inhparent = 'seaway_sent'::regclass ORDER BY 1
"""


@pytest.fixture
def database(postgres_url: str, postgres_databases: Databases) -> Database:
    return Database(postgres_url, postgres_databases)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(database.url) as store:
        yield store


def partitions(database: Database) -> list[str]:
    """The tables of ``seaway_sent``, by name."""
    return database.run(PARTITIONS).splitlines()


def unavailable() -> AbstractContextManager[object, bool]:
    """Expects the body to meet a database that is away."""
    return pytest.raises(StoreUnavailable)


def found_out() -> AbstractContextManager[object, bool]:
    """Expects the body to be told that it ended the transaction itself."""
    return pytest.raises(ConfigError, match="leave commit and rollback to Seaway")


def doubled() -> AbstractContextManager[object, bool]:
    """Expects the database to refuse a second row of one kind."""
    return pytest.raises(asyncpg.UniqueViolationError)


def day(moment: datetime) -> str:
    return f"seaway_sent_{moment:%Y%m%d}"


async def test_the_longest_key_and_correlation_can_be_parked_and_settled(
    store: PostgresStore,
) -> None:
    """An index takes no longer ones, unless they compress: the relay would stand still."""
    longest = secrets.token_hex(TEXT_BYTES // 2)
    async with store.transaction() as tx:
        handle: Any = tx.handle
        event = RawEvent(SUBJECT, b"{}", key=longest, correlation_id=longest)
        await Outbox().add(handle, event)
    async with store.lease() as lease:
        assert lease is not None
        [entry] = await lease.claim(10)
        await lease.settle([], [Failed(entry, "refused", park=True)])
    assert len(await store.entries(parked=True)) == 1
    await store.unpark()
    await send(store)
    assert len(await store.sent(correlation_id=longest)) == 1


# ------------------------------------------------------------------ settled events by day


async def test_days_are_made_ahead(store: PostgresStore, database: Database) -> None:
    assert partitions(database) == ["seaway_sent_default"]
    now = datetime.now(UTC)
    await store.prune(now - 7 * DAY)
    ahead = [day(now + number * DAY) for number in range(3)]
    assert partitions(database) == [*ahead, "seaway_sent_default"]
    await add(store)
    await send(store)
    assert database.run("SELECT DISTINCT tableoid::regclass FROM seaway_sent") == ahead[0]
    await store.prune(now - 7 * DAY)
    assert partitions(database) == [*ahead, "seaway_sent_default"]
    await store.schema.verify()


async def test_days_of_a_schema_of_its_own(database: Database) -> None:
    now = datetime.now(UTC)
    async with await PostgresStore.open(database.url, schema="events") as store:
        await store.schema.upgrade()
        await store.prune(now - DAY)
        async with store.transaction() as tx:
            handle: Any = tx.handle
            await Outbox(schema="events").add(handle, RawEvent(SUBJECT, b"{}"))
        await send(store)
        assert len(await store.sent()) == 1
        await store.prune(now + 2 * DAY)
        assert await store.sent() == []
        await store.schema.verify()
    days = database.run(
        "SELECT relname FROM pg_class WHERE relname ~ 'seaway_sent_[0-9]+$' ORDER BY 1"
    )
    assert days.splitlines() == [day(now + number * DAY) for number in range(3)]
    assert partitions(database) == ["seaway_sent_default"]


async def test_a_day_is_dropped_whole_and_not_before_it_ended(
    store: PostgresStore, database: Database
) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    old = today - 9 * DAY
    bounds = f"FROM ('{old.isoformat()}') TO ('{(old + DAY).isoformat()}')"
    database.run(f"CREATE TABLE {day(old)} PARTITION OF seaway_sent FOR VALUES {bounds}")
    await store.prune(old + DAY - timedelta(seconds=1))
    assert day(old) in partitions(database)
    await store.prune(old + DAY)
    assert day(old) not in partitions(database)


async def test_what_came_before_its_day_was_made_is_in_the_default_and_deleted(
    store: PostgresStore, database: Database
) -> None:
    await add(store)
    await send(store)
    assert database.run("SELECT count(*) FROM seaway_sent_default") == "1"
    # Its day cannot be made any more; the days after it can, and nothing fails.
    now = datetime.now(UTC)
    await store.prune(now - 7 * DAY)
    assert day(now) not in partitions(database)
    assert day(now + DAY) in partitions(database)
    await store.prune(datetime.now(UTC))
    assert await store.sent() == []
    await store.prune(now - 7 * DAY)
    assert day(now) in partitions(database)


async def test_many_may_prune_at_once(database: Database) -> None:
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(await PostgresStore.open(database.url))
            for _ in range(6)
        ]
        for _ in range(3):
            await asyncio.gather(*(one.prune(datetime.now(UTC) + 5 * DAY) for one in stores))
    assert len(partitions(database)) == 4


async def test_a_reader_of_a_day_holds_nobody_up_for_long(
    store: PostgresStore, database: Database
) -> None:
    now = datetime.now(UTC)
    await store.prune(now - DAY)
    async with await PostgresStore.open(database.url) as other, other.transaction() as report:
        await report.handle.fetch("SELECT * FROM seaway_sent")
        await asyncio.wait_for(store.prune(now + 2 * DAY), 30)
        await add(store)
        await asyncio.wait_for(send(store), 5)
    assert day(now) in partitions(database)


@pytest.fixture
def humble(database: Database) -> Iterator[str]:
    """The URL of a user who may use the tables and make none."""
    user = f"seaway_test_{uuid.uuid4().hex[:8]}"
    database.run(f"CREATE ROLE {user} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {user};")
    database.run(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {user}")
    yield database.url_of(user)
    database.run(f"DROP OWNED BY {user}; DROP ROLE {user}")


async def test_without_the_right_to_make_tables_they_are_deleted_singly_and_said_once(
    store: PostgresStore, database: Database, humble: str, caplog: pytest.LogCaptureFixture
) -> None:
    await store.prune(datetime.now(UTC) - DAY)  # The owner has made today.
    await add(store)
    await send(store)
    async with await PostgresStore.open(humble) as poor:
        with caplog.at_level(logging.WARNING, "seaway.outbox"):
            for _ in range(2):
                await poor.prune(datetime.now(UTC) + 2 * DAY)
        assert await poor.sent() == []
        assert day(datetime.now(UTC)) in partitions(database)
        await add(poor)
        await send(poor)
        assert len(await poor.sent()) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_told_to_keep_nothing_it_keeps_nothing(database: Database) -> None:
    async with await PostgresStore.open(database.url, keep_sent=False) as store:
        await add(store)
        await send(store)
        assert await store.sent() == []
        assert (await store.backlog()).count == 0
    assert database.run("SELECT count(*) FROM seaway_sent") == "0"


# ------------------------------------------------------------------ a server that goes away


@pytest.fixture
async def mortal(postgres_server_own: PostgresServer) -> AsyncIterator[PostgresStore]:
    """A store whose server may be stopped."""
    async with await PostgresStore.open(postgres_server_own.url()) as store:
        await store.schema.upgrade()
        yield store


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_lost_server_is_unavailable_and_heals_under_the_same_store(
    mortal: PostgresStore, postgres_server_own: PostgresServer, how: str
) -> None:
    server = postgres_server_own
    added = await add(mortal, RawEvent(SUBJECT, b"1"), RawEvent(SUBJECT, b"2"))

    async def down() -> None:
        await (server.stop() if how == "stop" else server.kill())

    async def up() -> None:
        await server.start()
        async with asyncio.timeout(60):
            while True:  # Until the pool has noticed which of its connections are dead.
                with suppress(StoreUnavailable):
                    await mortal.backlog()
                    return

    with unavailable():
        async with mortal.lease() as lease:
            assert lease is not None
            await lease.claim(1)
            await down()
            await lease.claim(1)
    for work in (mortal.backlog, mortal.entries, mortal.schema.verify):
        with unavailable():
            await work()
    with unavailable():
        async with mortal.lease():
            pass
    await up()
    assert ids(await claim_all(mortal)) == added

    with unavailable():
        async with mortal.lease() as lease:
            assert lease is not None
            (first, _) = await lease.claim(10)
            await down()
            await lease.settle([Sent(first, "SEA_EVENTS", 1)])
    await up()
    assert ids(await claim_all(mortal)) == added

    with unavailable():
        async with mortal.transaction() as tx:
            await tx.claim("a__b", "e1")
            await down()
            await tx.claim("a__b", "e2")
    await up()
    with unavailable():
        async with mortal.transaction() as tx:
            await tx.claim("a__b", "e1")
            await down()
    await up()
    assert await mortal.processed("e1") == {}
    await send(mortal)
    assert await mortal.entries() == []


async def test_a_listener_survives_a_restart_of_the_server(
    postgres_server_own: PostgresServer,
) -> None:
    async with AsyncExitStack() as stack:
        # Polls once in a while only: what ends the wait in time is the notification.
        open_store = PostgresStore.open(
            postgres_server_own.url(), listen=True, poll=timedelta(seconds=60)
        )
        store = await stack.enter_async_context(await open_store)
        writer = await stack.enter_async_context(
            await PostgresStore.open(postgres_server_own.url())
        )
        await store.schema.upgrade()
        await store.wait(timedelta())
        for restart in (False, True):
            if restart:
                await postgres_server_own.stop()
                await postgres_server_own.start()
            await listening(store)
            await claim_all(store)
            waiting = asyncio.create_task(store.wait(timedelta(seconds=60)))
            await asyncio.sleep(0)
            async with writer.transaction() as tx:
                handle: Any = tx.handle
                await Outbox(notify=True).add(handle, RawEvent(SUBJECT, b"{}"))
            await asyncio.wait_for(waiting, 10)
            await send(store)


async def listening(store: PostgresStore) -> None:
    async with asyncio.timeout(60):
        while store._listener is None or not store._listener.listening:
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------ a body that goes too far


async def test_a_statement_that_failed_and_was_passed_over_is_no_silent_rollback(
    store: PostgresStore,
) -> None:
    async def handle() -> None:
        async with store.transaction() as tx:
            await tx.claim("a__b", "e1")
            with pytest.raises(asyncpg.PostgresError):
                await tx.handle.execute("SELECT * FROM nowhere")

    with pytest.raises(SeawayError, match=r"connection\.transaction\(\)") as told:
        await handle()
    assert isinstance(told.value.__cause__, asyncpg.InFailedSQLTransactionError)
    assert await store.processed("e1") == {}


async def test_within_a_savepoint_a_statement_may_fail(store: PostgresStore) -> None:
    async with store.transaction() as tx:
        await tx.claim("a__b", "e1")
        with pytest.raises(asyncpg.PostgresError):
            async with tx.handle.transaction():
                await tx.handle.execute("SELECT * FROM nowhere")
        await add_in(tx.handle, RawEvent(SUBJECT, b"{}"))
    assert set(await store.processed("e1")) == {"a__b"}
    assert (await store.backlog()).count == 1


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_body_that_ends_the_transaction_is_found_out(
    store: PostgresStore, end: str
) -> None:
    with found_out():
        async with store.transaction() as tx:
            await tx.claim("a__b", "e1")
            await tx.handle.execute(end)
    with found_out():
        async with store.transaction() as tx:
            await tx.handle.execute("SAVEPOINT part")
            await tx.handle.execute(end)
    async with store.transaction() as tx:
        assert await tx.claim("a__b", "e2")


async def test_the_bodys_own_errors_are_its_own(store: PostgresStore, database: Database) -> None:
    database.run("CREATE TABLE effects (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(asyncpg.UndefinedTableError):
        async with store.transaction() as tx:
            await tx.handle.execute("SELECT * FROM nowhere")
    with doubled():
        async with store.transaction() as tx:
            await tx.claim("a__b", "e1")
            await tx.handle.execute("INSERT INTO effects VALUES (1), (1)")
    assert await store.processed("e1") == {}


@pytest.mark.parametrize("error", [TimeoutError, ConnectionRefusedError])
async def test_the_networks_errors_of_a_body_are_not_the_databases(
    store: PostgresStore, error: type[OSError]
) -> None:
    async def handle() -> None:
        async with store.transaction() as tx:
            await tx.claim("a__b", "e1")
            raise error("of somebody else's server")

    with pytest.raises(error):
        await handle()
    assert await store.processed("e1") == {}


async def test_a_closed_store_says_so(store: PostgresStore) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.backlog()
