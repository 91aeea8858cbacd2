"""Publications and logical replication: what deletes rows goes on, and a replica can follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from seaway.databases.engines import POSTGRES
from seaway.embedded.postgres import PostgresServer
from seaway.events import new_event_id
from seaway.stores.postgres import PostgresStore
from seaway.stores.schema import migrations, record
from seaway.testing.conformance.outbox import add, fail, send
from seaway.testing.databases import Database, Databases

DAY = timedelta(days=1)
CONSUMER = "case_mgmt__from_sea"
BEFORE = 4
"""The migration that gives sent events an identity."""


@pytest.fixture(scope="module")
def logical_server() -> Iterator[PostgresServer]:
    """A PostgreSQL whose log can be decoded."""
    server = PostgresServer(settings={"wal_level": "logical"})
    try:
        server.launch()
        yield server
    finally:
        server.terminate()
        server.remove()


@pytest.fixture
def databases(logical_server: PostgresServer) -> Iterator[Databases]:
    opened = Databases(logical_server.url())
    yield opened
    opened.close()


@pytest.fixture
def database(databases: Databases) -> Iterator[Database]:
    """A fresh database with Seaway's tables on it."""
    name = databases.create()
    yield Database(databases.url(name), databases)
    databases.drop(name)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(database.url) as store:
        yield store


async def everything(store: PostgresStore) -> None:
    """What relay, consumers and operator write, and what is forgotten, by day and row by row."""
    now = datetime.now(UTC)
    await add(store)
    await send(store)  # before any day is made, so into the default partition
    await store.prune(now - 7 * DAY)
    await store.forget(now - 7 * DAY)
    await add(store)
    await send(store)
    (parked,) = await add(store)
    await fail(store, parked, park=False)
    await fail(store, parked, park=True)
    await store.unpark()
    async with store.transaction() as tx:
        assert await tx.claim(CONSUMER, new_event_id())
        assert await tx.claim(CONSUMER, "SEA_EVENTS:1")
        await tx.trying(CONSUMER, ["e1", "e2"])
        await tx.park(CONSUMER, "e1", "k", place=1, failed=True)
        await tx.set_letter(CONSUMER, "e1", 1)
        await tx.release(CONSUMER, ["e1"])
    await store.reshard(2)
    await send(store)
    after = now + 3 * DAY
    await store.prune(after)
    await store.forget(after)
    assert await store.overdue(after, after) == {}
    assert await store.sent() == []
    assert (await store.backlog()).count == 0


@pytest.mark.parametrize("published", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA public"])
async def test_under_a_publication_all_work_is_done(
    store: PostgresStore, database: Database, published: str
) -> None:
    version = int(database.run("SHOW server_version_num"))
    if version < 150000:
        published = "FOR ALL TABLES"
    database.run(f"CREATE PUBLICATION everything {published}")
    await everything(store)


async def test_what_is_deleted_can_be_decoded(store: PostgresStore, database: Database) -> None:
    database.run("CREATE PUBLICATION everything FOR ALL TABLES")
    database.run("SELECT pg_create_logical_replication_slot('reader', 'pgoutput')")
    try:
        await everything(store)
        changes = database.run(
            "SELECT chr(get_byte(data, 0)), count(*) FROM pg_logical_slot_get_binary_changes("
            "'reader', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything') "
            "GROUP BY 1"
        )
        kinds = dict(line.split("|") for line in changes.splitlines())
        assert int(kinds["I"]) > 0
        assert int(kinds["D"]) > 0
    finally:
        database.run("SELECT pg_drop_replication_slot('reader')")


async def test_a_replica_follows_over_days(
    store: PostgresStore, database: Database, databases: Databases
) -> None:
    """As the page has it: published under the parents' names, with a key of the replica's own."""
    database.run("CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root)")
    replica = Database(databases.url(databases.create()), databases)
    replica.run("ALTER TABLE seaway_sent ADD PRIMARY KEY (event_id, sent_at)")
    source = database.url
    slot = "replica"
    database.run(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    replica.run(
        f"CREATE SUBSCRIPTION replica CONNECTION '{source}' PUBLICATION everything "
        f"WITH (create_slot = false, slot_name = '{slot}', copy_data = false)"
    )
    try:
        await everything(store)
        await add(store)
        await send(store)
        (kept,) = await store.sent()
        count = "SELECT string_agg(event_id::text, ' ') FROM seaway_sent"
        async with asyncio.timeout(30):
            while replica.run(count) != kept.entry.event_id:
                await asyncio.sleep(0.1)  # polling until the deadline above
        assert replica.run("SELECT count(*) FROM seaway_outbox") == "0"
    finally:
        replica.run("ALTER SUBSCRIPTION replica DISABLE")
        replica.run("ALTER SUBSCRIPTION replica SET (slot_name = NONE)")
        replica.run("DROP SUBSCRIPTION replica")
        async with asyncio.timeout(30):
            while database.run("SELECT count(*) FROM pg_stat_replication") != "0":
                await asyncio.sleep(0.1)  # polling until the deadline above
        database.run(f"SELECT pg_drop_replication_slot('{slot}')")
        databases.drop(replica.url.rpartition("/")[2])


@pytest.fixture
async def old(databases: Databases) -> AsyncIterator[Database]:
    """A database of the version before, at work: days are made, and events were sent."""
    name = databases.create(tables=False)
    old = Database(databases.url(name), databases)
    for migration in migrations(POSTGRES):
        if migration.version == 1:
            create = "CREATE TABLE seaway_schema (version int PRIMARY KEY, name text NOT NULL, "
            old.run(create + "applied_at timestamptz NOT NULL DEFAULT now())")
        if migration.version < BEFORE:
            old.run(f"{migration.script}\n;{record(POSTGRES, migration)}")
    async with await PostgresStore.open(old.url) as store:
        for _ in range(2):
            await add(store)
            await send(store)
            await store.prune(datetime.now(UTC) - 7 * DAY)
    yield old
    databases.drop(name)


async def test_an_upgrade_of_tables_that_are_published(old: Database) -> None:
    old.run("CREATE PUBLICATION everything FOR ALL TABLES")
    async with await PostgresStore.open(old.url) as store:
        assert (await store.schema.upgrade("pre"))[0].name == "replica_identity"
        await store.schema.verify()
        unidentified = "SELECT count(*) FROM pg_class WHERE relname ~ '^seaway_sent(_[0-9a-z]+)?$'"
        assert old.run(f"{unidentified} AND relkind IN ('r', 'p') AND relreplident <> 'f'") == "0"
        await everything(store)


async def test_days_that_an_older_process_makes_afterwards_are_mended(
    store: PostgresStore, database: Database
) -> None:
    name = f"seaway_sent_{datetime.now(UTC) + 9 * DAY:%Y%m%d}"
    start, end = (f"{datetime.now(UTC).date() + n * DAY} 00:00+00" for n in (9, 10))
    values = f"FROM ('{start}') TO ('{end}')"
    database.run(f"CREATE TABLE {name} PARTITION OF seaway_sent FOR VALUES {values}")
    identity = f"SELECT relreplident FROM pg_class WHERE oid = '{name}'::regclass"  # noqa: S608
    assert database.run(identity) == "d"
    await store.prune(datetime.now(UTC) - 7 * DAY)
    assert database.run(identity) == "f"
