"""Relay and consumer on databases and roles whose defaults suit somebody else, events exact."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from seaway.brokers.jetstream import JetStreamBroker
from seaway.contracts import Lease, Sent
from seaway.embedded.postgres import PostgresServer
from seaway.errors import SchemaMismatch, StoreUnavailable
from seaway.events import RawEvent
from seaway.outbox import Outbox
from seaway.relay import Relay
from seaway.stores import schema_script
from seaway.stores.postgres import PostgresStore
from seaway.telemetry import RelayPaused, Telemetry
from seaway.testing.conformance.inbox import add_in, ids
from seaway.testing.conformance.outbox import add, claim_all, fail, send
from seaway.testing.databases import Database, Databases
from shell import SEAWAY, Shell

SUBJECT = "sea.event.case_moved.v1"
CONSUMER = "case_mgmt__from_sea"
LEVELS = ("repeatable read", "serializable")
DAY = timedelta(days=1)

HOSTILE: Mapping[str, Mapping[str, str]] = {
    "repeatable read": {"default_transaction_isolation": "'repeatable read'"},
    "serializable": {
        "default_transaction_isolation": "'serializable'",
        "default_transaction_deferrable": "on",
    },
    "read only": {"default_transaction_read_only": "on"},
    "short patience": {
        "statement_timeout": "15",
        "lock_timeout": "1",
        "idle_in_transaction_session_timeout": "20",
    },
    "short sessions": {"idle_session_timeout": "20"},
    "short transactions": {"transaction_timeout": "20"},
}
SINCE = {"idle_session_timeout": 14, "transaction_timeout": 17}


@pytest.fixture
def database(postgres_url: str, postgres_databases: Databases) -> Database:
    return Database(postgres_url, postgres_databases)


def set_defaults(database: Database, settings: Mapping[str, str]) -> None:
    """For all sessions to come; what this server does not know is left out."""
    name = database.url.rpartition("/")[2]
    version = int(database.run("SHOW server_version_num")) // 10000
    for setting, value in settings.items():
        if version >= SINCE.get(setting, 0):
            database.run(f'ALTER DATABASE "{name}" SET {setting} = {value}')


async def one(lease: Lease, limit: int) -> list[str]:
    entries = await lease.claim(limit)
    await lease.settle([Sent(entry, "SEA_EVENTS", entry.position) for entry in entries])
    return ids(entries)


@pytest.mark.parametrize("level", LEVELS)
async def test_nothing_is_claimed_again_or_stranded(database: Database, level: str) -> None:
    """A position that commits late, under a lease that has claimed others meanwhile."""
    set_defaults(database, {"default_transaction_isolation": f"'{level}'"})
    slow = await asyncpg.connect(database.url)
    async with await PostgresStore.open(database.url) as store:
        added = [
            event_id
            for number in range(4)
            for event_id in await add(store, RawEvent(SUBJECT, b"{}", key=f"k{number}"))
        ]
        async with store.lease() as lease:
            assert lease is not None
            claimed = await one(lease, 1)
            await slow.execute("BEGIN")
            (late,) = await add_in(slow, RawEvent(SUBJECT, b"{}", key="late"))
            (quick,) = await add(store, RawEvent(SUBJECT, b"{}", key="quick"))
            for _ in range(5):
                claimed += await one(lease, 1)
        assert claimed == [*added, quick]
        await slow.execute("COMMIT")
        for _ in range(3):
            async with store.lease() as lease:
                assert lease is not None
                claimed += await one(lease, 10)
        assert claimed == [*added, quick, late]
    await slow.close()


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=list(HOSTILE))
async def test_a_relay_publishes_each_event_once(
    database: Database,
    broker: JetStreamBroker,
    context_name: str,
    settings: Mapping[str, str],
) -> None:
    stream, subject = f"{context_name.upper()}_EVENTS", f"{context_name}.event.case_moved.v1"
    await broker.admin.create_stream(
        {
            "name": stream,
            "subjects": [f"{context_name}.event.>"],
            "allow_atomic": True,
            "duplicate_window": 120_000_000_000,
        }
    )
    written: list[str] = []
    writer = await asyncpg.connect(database.url)  # with the settings of before
    set_defaults(database, settings)
    telemetry, stop = Telemetry(), asyncio.Event()
    sent: list[int] = []
    telemetry.subscribe(lambda signal: sent.append(getattr(signal, "sent", 0)))
    paused: list[RelayPaused] = []
    telemetry.subscribe(lambda s: paused.append(s) if isinstance(s, RelayPaused) else None)
    async with await PostgresStore.open(database.url) as store:
        relay = Relay(store, broker, telemetry=telemetry, batch=100)
        running = asyncio.create_task(relay.run(stop))
        for batch in range(20):
            async with writer.transaction():
                events = [
                    RawEvent(subject, b"x" * 2000, key=f"case-{batch % 3}-{n % 7}")
                    for n in range(150)
                ]
                written += await Outbox().add(writer, *events)
        async with asyncio.timeout(60):
            while (await store.backlog()).count:
                await asyncio.sleep(0.05)  # polling until the deadline above
        stop.set()
        await asyncio.wait_for(running, 10)
        await store.prune(datetime.now(UTC) - 7 * DAY)
        await store.forget(datetime.now(UTC) - 7 * DAY)
        after = datetime.now(UTC) + 4 * DAY
        await store.prune(after)
        assert await store.overdue(after, after) == {}
        await store.reshard(4)
        await store.schema.verify()
        assert await store.schema.upgrade() == []
    await writer.close()
    stored = [each.event_id async for each in broker.admin.read(stream)]
    assert stored == written
    assert sum(sent) <= len(written), "none was published and settled twice"
    # What ended between its commit and the word of it was an outage, and said.
    assert sum(sent) == len(written) or paused
    assert telemetry.waits == []


@pytest.mark.parametrize("settings", HOSTILE.values(), ids=list(HOSTILE))
async def test_tables_are_made_and_looked_at(
    empty_postgres_url: str, postgres_databases: Databases, settings: Mapping[str, str]
) -> None:
    database = Database(empty_postgres_url, postgres_databases)
    set_defaults(database, settings)
    stores = [await PostgresStore.open(database.url, schema="events") for _ in range(3)]
    await asyncio.gather(*(store.schema.upgrade() for store in stores))
    for store in stores:
        await store.schema.verify()
        assert (await store.backlog()).count == 0
        await store.close()


async def test_a_listener_outlives_its_idleness(database: Database) -> None:
    set_defaults(database, {"idle_session_timeout": "50"})
    async with await PostgresStore.open(database.url, listen=True) as store:
        await claim_all(store)
        await store.wait(timedelta())
        assert store._listener is not None
        async with asyncio.timeout(10):
            while not store._listener.listening:
                await asyncio.sleep(0.01)  # polling until the deadline above
        for _ in range(30):
            await asyncio.sleep(0.01)  # six times as long, in which it would be gone
            assert store._listener.listening


# ------------------------------------------------------------------ the search path

SHADOWS = """
CREATE SCHEMA evil;
CREATE TABLE evil.seaway_outbox (LIKE public.seaway_outbox);
CREATE TABLE evil.seaway_inbox (consumer text, event_id text);
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz 'epoch' $$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT timestamptz 'epoch' $$;
CREATE FUNCTION evil.pg_try_advisory_xact_lock(integer, integer) RETURNS boolean LANGUAGE sql AS
    $$ SELECT true $$;
CREATE FUNCTION evil.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql AS
    $$ SELECT 0::bigint $$;
"""


@pytest.mark.parametrize("path", ["evil, pg_catalog", "''", "nowhere"])
async def test_a_schema_that_is_named_is_found_whatever_the_search_path(
    empty_postgres_url: str, postgres_databases: Databases, path: str
) -> None:
    database = Database(empty_postgres_url, postgres_databases)
    async with await PostgresStore.open(database.url, schema="events") as store:
        await store.schema.upgrade()
    database.run(SHADOWS.replace("public.", "events."))
    set_defaults(database, {"search_path": path})
    async with await PostgresStore.open(database.url, schema="events") as store:
        async with store.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")
            (event_id,) = await Outbox(schema="events").add(tx.handle, RawEvent(SUBJECT, b"{}"))
        async with store.lease() as lease, store.lease() as none:
            assert lease is not None
            assert none is None
            assert await one(lease, 10) == [event_id]
        await store.prune(datetime.now(UTC) - 7 * DAY)
        await store.forget(datetime.now(UTC) - 7 * DAY)
        (sent,) = await store.sent()
        assert sent.entry.event_id == event_id
        assert datetime.now(UTC) - sent.entry.added_at < DAY
        assert set(await store.processed("e1")) == {CONSUMER}
        await store.schema.verify()
    assert database.run("SELECT count(*) FROM evil.seaway_outbox") == "0"


async def test_tables_that_the_path_does_not_lead_to_are_missed_by_name(database: Database) -> None:
    set_defaults(database, {"search_path": "nowhere"})
    async with await PostgresStore.open(database.url) as store:
        with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
            await claim_all(store)


# ------------------------------------------------------------------ encodings


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
async def encoded(
    request: pytest.FixtureRequest, postgres_databases: Databases
) -> AsyncIterator[PostgresStore]:
    """A store in a database of that encoding."""
    name = f"seaway_test_{uuid.uuid4().hex[:12]}"
    postgres_databases.run(
        f'CREATE DATABASE "{name}" TEMPLATE template0 ENCODING {request.param} '
        "LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    async with await PostgresStore.open(postgres_databases.url(name)) as store:
        await store.schema.upgrade()
        yield store
    postgres_databases.drop(name)


async def test_a_database_of_another_encoding(encoded: PostgresStore) -> None:
    store = encoded
    await store.schema.verify()
    (event_id,) = await add(
        store, RawEvent(SUBJECT, "日本".encode()), key="süd", headers={"X-T": "süd"}
    )
    async with store.lease() as lease:
        assert lease is not None
        (entry,) = await lease.claim(10)
        assert (entry.key, entry.message.headers["X-T"]) == ("süd", "süd")
    await fail(store, event_id, park=True)
    assert await store.unpark() == 1
    await send(store)
    (sent,) = await store.sent(event_id=event_id)
    assert sent.entry.message.payload.decode() == "日本"
    async with store.transaction() as tx:
        assert await tx.claim(CONSUMER, "süd")
    assert set(await store.processed("süd")) == {CONSUMER}


# ------------------------------------------------------------------ a standby


@pytest.fixture
def standby() -> Iterator[PostgresServer]:
    """One with Seaway's tables and an event in the outbox."""
    primary = PostgresServer()
    primary.launch()
    try:
        database = Database(primary.url(), Databases(primary.url()))
        database.run(schema_script(primary.url()))
        database.run(
            "INSERT INTO seaway_outbox (event_id, subject, ordering_key, payload, headers) "
            "VALUES (gen_random_uuid(), 'sea.event.case_moved.v1', 'k', '{}', '{}')"
        )
    finally:
        primary.terminate()
    (primary.directory / "data" / "standby.signal").touch()
    standby = PostgresServer(primary.directory)
    try:
        standby.launch()
        yield standby
    finally:
        standby.terminate()
        primary.remove()


async def test_a_standby_is_read_and_waited_for(standby: PostgresServer) -> None:
    """After a switch to it, until it is promoted: an outage, and nothing is published twice."""
    async with await PostgresStore.open(standby.url()) as store:
        await store.schema.verify()
        assert (await store.backlog()).count == 1
        with pytest.raises(StoreUnavailable, match="25006"):
            async with store.lease():
                pass
        with pytest.raises(StoreUnavailable, match="25006"):
            async with store.transaction() as tx:
                await tx.claim(CONSUMER, "e1")
        Database(standby.url(), Databases(standby.url())).run("SELECT pg_promote()")
        async with store.lease() as lease:
            assert lease is not None
            assert len(await one(lease, 10)) == 1
        async with store.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")


def test_on_a_standby_commands_that_look_work_and_others_say_why_not(
    standby: PostgresServer, tmp_path: Path
) -> None:
    (tmp_path / "seaway.yaml").write_text("contexts: [sea]\n")
    event = {"subject": "sea.event.case_moved.v1", "payload": {}}
    (tmp_path / "events.jsonl").write_text(json.dumps(event))
    shell = Shell(tmp_path, "nats://127.0.0.1:9")
    seaway = [*SEAWAY, "--database", standby.url()]
    for looking, code in (
        (["outbox", "status"], 0),
        (["outbox", "list"], 0),
        (["outbox", "list", "--discarded"], 0),
        (["db", "plan"], 0),
        (["db", "verify"], 0),
        (["db", "upgrade"], 0),  # There is nothing to do.
        (["db", "prune", "--dry-run"], 0),
        (["check", "--sample", "0"], 3),
    ):
        ended = shell.ended(*seaway, *looking, code=code)
        assert "standby" not in ended.stdout + ended.stderr
    event_id = shell.json("--database", standby.url(), "outbox", "list")[0]["event_id"]
    for writing in (
        ["outbox", "add", "events.jsonl"],
        ["outbox", "retry", "--all"],
        ["outbox", "discard", event_id, "--why", "a typo", "--yes"],
        ["db", "prune"],
    ):
        code = 1 if "discard" in writing else 3  # Nothing is parked.
        ended = shell.ended(*seaway, *writing, code=code)
        if code == 3:
            assert ended.stderr.count("\n") == 1, ended.stderr
            assert "a standby can be looked at only" in ended.stderr
