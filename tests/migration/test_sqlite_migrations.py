"""Migrations: numbered, applied once, and together exactly the schema that is expected."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from seaway.databases.engines import POSTGRES, SQLITE
from seaway.errors import SchemaMismatch
from seaway.stores import schema_script
from seaway.stores.schema import migrations, split
from seaway.stores.sqlite import SqliteStore

SNAPSHOT = Path(__file__).with_name("sqlite_schema.sql")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(path) as store:
        yield store


def dump(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name LIKE 'seaway%' "
            "ORDER BY type DESC, name"
        ).fetchall()
    return "".join(f"{sql};\n" for (sql,) in rows)


def test_they_have_the_numbers_that_the_other_engines_have() -> None:
    """Django applies them by number, on whichever engine."""
    there = {(one.version, one.name) for one in migrations(POSTGRES)}
    assert {(one.version, one.name) for one in migrations(SQLITE)} <= there


async def test_together_they_are_the_schema(store: SqliteStore, path: Path) -> None:
    await store.schema.upgrade()
    assert dump(path) == SNAPSHOT.read_text("utf-8")


def test_the_script_gives_the_same_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema_script("sqlite:///app.db"))
    assert dump(path) == SNAPSHOT.read_text("utf-8")


async def test_tables_made_by_the_script_need_no_upgrade(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema_script("sqlite:///app.db"))
    assert list(await store.schema.upgrade()) == []
    await store.schema.verify()


async def test_the_plan_says_what_is_missing(store: SqliteStore) -> None:
    assert not any(change.applied for change in await store.schema.plan())
    with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
        await store.schema.verify()
    applied = await store.schema.upgrade()
    assert [change.version for change in applied] == [m.version for m in migrations(SQLITE)]
    assert all(change.applied for change in await store.schema.plan())
    assert list(await store.schema.upgrade()) == []


async def test_two_may_upgrade_at_once(path: Path) -> None:
    stores = [await SqliteStore.open(path) for _ in range(4)]
    done = await asyncio.gather(*[store.schema.upgrade() for store in stores])
    assert sum(map(len, done)) == len(migrations(SQLITE))
    for store in stores:
        await store.schema.verify()
        await store.close()


async def test_a_migration_that_fails_leaves_nothing(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE seaway_inbox (mine)")
    with pytest.raises(SchemaMismatch, match="already exists"):
        await store.schema.upgrade()
    with closing(sqlite3.connect(path)) as db:
        tables = db.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("seaway_inbox",)]


async def test_a_newer_first_phase_is_lived_with(store: SqliteStore, path: Path) -> None:
    await store.schema.upgrade()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO seaway_schema VALUES (9999, 'from_the_future', 0)")
        db.execute("ALTER TABLE seaway_outbox ADD COLUMN tenant TEXT")
    assert list(await store.schema.upgrade()) == []
    await store.schema.verify()


async def test_a_newer_schema_is_not_touched(store: SqliteStore, path: Path) -> None:
    await store.schema.upgrade()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO seaway_schema VALUES (9999, 'from_the_future.post', 0)")
    for work in (store.schema.plan, store.schema.upgrade, store.schema.verify):
        with pytest.raises(SchemaMismatch, match="upgrade seaway"):
            await work()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("DROP INDEX seaway_sent_event_id", "index seaway_sent_event_id is missing"),
        ("ALTER TABLE seaway_sent ADD COLUMN more TEXT", "table seaway_sent differs"),
        ("DROP TABLE seaway_inbox", "seaway_inbox.* is missing"),
    ],
)
async def test_tables_that_somebody_changed_are_found(
    store: SqliteStore, path: Path, damage: str, words: str
) -> None:
    await store.schema.upgrade()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(damage)
    with pytest.raises(SchemaMismatch, match=words):
        await store.schema.verify()


def test_a_script_is_split_at_its_statements() -> None:
    script = "-- first;\nCREATE TABLE a (x TEXT DEFAULT ';');\nINSERT INTO a\nVALUES (1);\n"
    assert list(split(script)) == [
        "-- first;\nCREATE TABLE a (x TEXT DEFAULT ';');",
        "INSERT INTO a\nVALUES (1);",
    ]
