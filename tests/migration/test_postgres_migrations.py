"""PostgreSQL's migrations: together the expected schema, by script or upgrade, in two phases."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from seaway.databases.engines import POSTGRES
from seaway.databases.queries import Statements
from seaway.errors import ConfigError, SchemaMismatch
from seaway.stores import schema as schema_module
from seaway.stores import schema_script
from seaway.stores.postgres import PostgresStore
from seaway.stores.postgres.schema import expected
from seaway.stores.schema import Migration, migrations
from seaway.testing.databases import Database, Databases

KNOWN = migrations(POSTGRES)
PRE = Migration(len(KNOWN) + 1, "add_tenant", "ALTER TABLE seaway_outbox ADD COLUMN tenant text")
POST = Migration(
    PRE.version + 1, "drop_added_at.post", "ALTER TABLE seaway_outbox DROP COLUMN added_at"
)
LATER = Migration(POST.version + 1, "add_more", "ALTER TABLE seaway_outbox ADD COLUMN more text")


def record(database: Database, name: str, version: int = 9999) -> None:
    insert = "INSERT INTO seaway_schema (version, name) VALUES (VERSION, 'NAME')"
    database.run(insert.replace("VERSION", str(version)).replace("NAME", name))


@pytest.fixture
def database(empty_postgres_url: str, postgres_databases: Databases) -> Database:
    return Database(empty_postgres_url, postgres_databases)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(database.url) as store:
        yield store


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A version of Seaway with two migrations more, one for each phase."""
    with monkeypatch.context() as patched:
        patched.setattr(schema_module, "migrations", lambda engine: (*KNOWN, PRE, POST))
        yield


def test_they_are_numbered_without_gaps() -> None:
    assert [one.version for one in KNOWN] == list(range(1, len(KNOWN) + 1))


@pytest.mark.parametrize("schema", [None, "events"])
async def test_together_they_are_what_is_expected(database: Database, schema: str | None) -> None:
    async with await PostgresStore.open(database.url, schema=schema) as store:
        await store.schema.upgrade()
        assert tuple(await store.schema.objects()) == expected()
        await store.schema.verify()


@pytest.mark.parametrize("schema", [None, "events"])
async def test_the_script_is_the_upgrade(database: Database, schema: str | None) -> None:
    database.run(schema_script(database.url, schema))
    async with await PostgresStore.open(database.url, schema=schema) as store:
        assert list(await store.schema.upgrade()) == []
        assert tuple(await store.schema.objects()) == expected()


async def test_two_schemas_of_one_database_do_not_meet(database: Database) -> None:
    for schema in ("one", "two"):
        async with await PostgresStore.open(database.url, schema=schema) as store:
            with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
                await store.schema.verify()
            assert len(await store.schema.upgrade()) == len(KNOWN)
            await store.schema.verify()


async def test_many_may_upgrade_at_once(database: Database) -> None:
    stores = [await PostgresStore.open(database.url) for _ in range(4)]
    done = await asyncio.gather(*(store.schema.upgrade() for store in stores))
    assert sum(map(len, done)) == len(KNOWN)
    for store in stores:
        await store.schema.verify()
        await store.close()


async def test_a_migration_that_fails_leaves_nothing(
    store: PostgresStore, database: Database
) -> None:
    database.run("CREATE TABLE seaway_inbox (mine int)")
    with pytest.raises(ConfigError, match="already exists"):
        await store.schema.upgrade()
    assert database.run("SELECT relname FROM pg_class WHERE relname LIKE 'seaway%'") == (
        "seaway_inbox"
    )


# ------------------------------------------------------------------ a rolling upgrade


async def test_a_rolling_upgrade_has_two_phases(
    store: PostgresStore, database: Database, newer: None
) -> None:
    for known in KNOWN:
        database.run(f"{Statements(POSTGRES)['create_versions']}; {known.script}")
        record(database, known.name, known.version)
    with pytest.raises(ConfigError, match="seaway db upgrade --pre"):
        await store.schema.upgrade("post")
    first = await store.schema.upgrade("pre")
    assert [change.version for change in first] == [PRE.version]
    plan = await store.schema.plan()
    assert [(change.phase, change.applied) for change in plan[-2:]] == [
        ("pre", True),
        ("post", False),
    ]
    await store.schema.verify()
    assert list(await store.schema.upgrade("pre")) == []
    second = await store.schema.upgrade("post")
    assert [change.name for change in second] == [POST.name]
    assert all(change.applied for change in await store.schema.plan())


async def test_a_later_first_phase_does_not_wait_for_the_second_before_it(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.schema.upgrade()
    monkeypatch.setattr(schema_module, "migrations", lambda engine: (*KNOWN, POST, LATER))
    applied = await store.schema.upgrade("pre")
    assert [change.version for change in applied] == [LATER.version]
    applied = await store.schema.upgrade("post")
    assert [change.version for change in applied] == [POST.version]


async def test_over_the_first_phase_the_old_version_goes_on(
    store: PostgresStore, database: Database
) -> None:
    await store.schema.upgrade()
    database.run(PRE.script)
    record(database, PRE.name, PRE.version)
    await store.schema.verify()
    assert list(await store.schema.upgrade()) == []
    assert (await store.backlog()).count == 0


async def test_after_the_second_phase_the_old_version_refuses(
    store: PostgresStore, database: Database
) -> None:
    await store.schema.upgrade()
    record(database, POST.name)
    for work in (store.schema.plan, store.schema.upgrade, store.schema.verify):
        with pytest.raises(SchemaMismatch, match="pip install -U seaway"):
            await work()


# ------------------------------------------------------------------ who may not


@pytest.fixture
def stranger(database: Database) -> Iterator[str]:
    """The URL of a user who may connect and nothing else."""
    user = f"seaway_test_{uuid.uuid4().hex[:8]}"
    database.run(f"CREATE ROLE {user} LOGIN")
    database.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield database.url_of(user)
    database.run(f"DROP OWNED BY {user}; DROP ROLE {user}")


@pytest.mark.parametrize("schema", [None, "events"])
async def test_without_rights_an_upgrade_says_so(
    database: Database, stranger: str, schema: str | None
) -> None:
    async with await PostgresStore.open(stranger, schema=schema) as store:
        with pytest.raises(ConfigError, match=r"permission denied.*grant the right"):
            await store.schema.upgrade()
    assert database.run("SELECT count(*) FROM pg_class WHERE relname LIKE 'seaway%'") == "0"


async def test_with_rights_in_a_ready_made_schema_an_upgrade_needs_no_other(
    database: Database, stranger: str
) -> None:
    user = urlsplit(stranger).username
    database.run(f"CREATE SCHEMA events; GRANT USAGE, CREATE ON SCHEMA events TO {user}")
    async with await PostgresStore.open(stranger, schema="events") as store:
        await store.schema.upgrade()
        await store.schema.verify()
