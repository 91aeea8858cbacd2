"""Processes of the version before on one database with this one's, between the phases of 0005."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sqlite3
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from seaway.contracts import Store
from seaway.databases.engines import POSTGRES, SQLITE, Engine
from seaway.databases.queries import Statements
from seaway.errors import ConfigError, SchemaMismatch, TransactionConflict
from seaway.stores import schema
from seaway.stores.postgres import PostgresStore
from seaway.stores.schema import Migration, migrations, record
from seaway.stores.sqlite import SqliteStore
from seaway.testing.databases import Database, Databases
from seaway.waiting_events import WaitingEvent

C = "case_mgmt__from_sea"
KEYS = ("case-1", "case-2", "case-3")
NOW = {"sqlite": "0", "postgres": "now()"}
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


class Before(ABC):
    """The version before: its own tables, and its own words for an inbox."""

    engine: Engine

    def __init__(self, store: Store) -> None:
        self.store = store
        text = Path(__file__).with_name("before") / f"{self.engine.name}.sql"
        _, *parts = _NAME.split(text.read_text("utf-8"))
        self.words = dict(zip(parts[::2], (one.strip() for one in parts[1::2]), strict=True))
        self.tables = f"{Statements(self.engine)['create_versions']};"
        for known in self.known():
            self.tables += f"\n{known.script}\n{record(self.engine, known)};"

    def known(self) -> list[Migration]:
        """Its migrations."""
        return [one for one in migrations(self.engine) if one.version < 5]

    @abstractmethod
    async def say(self, name: str, *given: Any) -> list[tuple[Any, ...]]:
        """A statement in a transaction of its own; what it gives, or one row for each it touched.

        Given in the order of PostgreSQL's.
        """

    @abstractmethod
    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the store's schema be the one of the version before."""

    async def heads(self, consumer: str = C) -> list[WaitingEvent]:
        """What this version's ``parked_heads`` gives."""
        rows = await self.say("heads", consumer)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return [
            WaitingEvent(
                consumer, event_id, key, place, bool(failed), letter, epoch, bool(processed)
            )
            for event_id, key, place, failed, letter, _, processed in rows
        ]


class BeforePostgres(Before):
    engine = POSTGRES

    def __init__(self, store: Store, database: Database) -> None:
        super().__init__(store)
        self.url = database.url
        database.run(self.tables)

    async def say(self, name: str, *given: Any) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.url)
        try:
            while True:
                with suppress(asyncpg.DeadlockDetectedError):
                    if name in ("claim", "park", "release", "set_letter", "drop"):
                        tag = await connection.execute(self.words[name], *given)
                        return [()] * int(tag.rpartition(" ")[2])
                    return [tuple(one) for one in await connection.fetch(self.words[name], *given)]
        finally:
            await connection.close()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = self.known()
        monkeypatch.setattr(schema, "migrations", lambda engine: known)


class BeforeSqlite(Before):
    engine = SQLITE
    _PARAMETERS = {  # noqa: RUF012 - constant
        "claim": ("consumer", "event_id"),
        "claimed": ("consumer", "event_ids"),
        "parked_keys": ("consumer", "keys"),
        "standing": ("consumer", "event_id", "key"),
        "park": ("consumer", "event_id", "key", "place", "failed"),
        "set_letter": ("consumer", "event_id", "letter"),
        "release": ("consumer", "event_id"),
        "heads": ("consumer",),
        "drop": ("consumer", "event_id", "letter"),
    }

    def __init__(self, store: Store, path: Path) -> None:
        super().__init__(store)
        self.path = path
        with closing(sqlite3.connect(path)) as db:
            db.executescript(self.tables)

    async def say(self, name: str, *given: Any) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self._said, name, given)

    def _said(self, name: str, given: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        values = [json.dumps(one) if isinstance(one, list) else one for one in given]
        named = dict(zip(self._PARAMETERS[name], values, strict=True))
        with closing(sqlite3.connect(self.path, timeout=30)) as db, db:
            db.execute("BEGIN IMMEDIATE")
            cursor = db.execute(self.words[name], {**named, "now": 1})
            if cursor.description is None:
                return [()] * cursor.rowcount
            return cursor.fetchall()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = self.known()
        monkeypatch.setattr(schema, "migrations", lambda engine: known)


@pytest.fixture(params=["sqlite", "postgres"])
async def before(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Before]:
    if request.param == "sqlite":
        path = tmp_path / "app.db"
        async with await SqliteStore.open(path) as sqlite:
            yield BeforeSqlite(sqlite, path)
        return
    databases: Databases = request.getfixturevalue("postgres_databases")
    database = Database(request.getfixturevalue("empty_postgres_url"), databases)
    async with await PostgresStore.open(database.url) as postgres:
        yield BeforePostgres(postgres, database)


async def heads(store: Store, consumer: str = C) -> list[WaitingEvent]:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [replace(one, parked_at=epoch) for one in await store.parked_heads(consumer)]


async def test_without_the_first_phase_this_version_says_what_is_missing(before: Before) -> None:
    with pytest.raises(SchemaMismatch, match=r"0005_unhandled.*seaway db upgrade"):
        await before.store.schema.verify()
    with pytest.raises(ConfigError, match="seaway db upgrade"):
        async with before.store.transaction() as tx:
            await tx.trying(C, ["e1"])
    with pytest.raises(ConfigError, match="seaway db upgrade --pre"):
        await before.store.schema.upgrade("post")


async def test_between_the_phases_both_versions_are_content(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = await before.store.schema.upgrade("pre")
    assert [change.name for change in applied] == ["unhandled", "lost", "mending"]
    await before.store.schema.verify()
    with monkeypatch.context() as patched:
        before.install(patched)
        await before.store.schema.verify()
    await before.store.schema.upgrade("post")
    await before.store.schema.verify()
    before.install(monkeypatch)
    with pytest.raises(SchemaMismatch, match="pip install -U seaway"):
        await before.store.schema.verify()


async def test_a_row_of_an_unknown_state_cannot_be_written(before: Before) -> None:
    await before.store.schema.upgrade()
    insert = "INSERT INTO seaway_unhandled (consumer, event_id, state{}) VALUES ('c', 'e', {})"
    for columns, values in (("", "'mended'"), (", place", "'waiting', 1")):
        with pytest.raises(Exception, match=r"(?i)check constraint"):
            async with before.store.transaction() as tx:
                await tx.handle.execute(
                    insert.format(f"{columns}, noted_at", f"{values}, {NOW[before.engine.name]}")
                )


async def test_what_is_tried_is_new_to_the_version_before(before: Before) -> None:
    """Had it a row in the inbox, it would be acknowledged there, and lost."""
    await before.store.schema.upgrade("pre")
    async with before.store.transaction() as tx:
        assert await tx.trying(C, ["e1"]) == {"e1": 1}
    assert await before.say("claimed", C, ["e1"]) == []
    assert len(await before.say("claim", C, "e1")) == 1
    assert await before.say("claim", C, "e1") == []
    async with before.store.transaction() as tx:
        assert await tx.claim_many(C, ["e1", "e2"]) == {"e2"}
    assert await before.say("claim", C, "e2") == []


async def test_what_waits_for_one_version_waits_for_the_other(before: Before) -> None:
    store, say = before.store, before.say
    await say("park", C, "old", "case-1", 5, True)
    await say("set_letter", C, "old", 17)
    await store.schema.upgrade("pre")
    [head] = await heads(store)
    assert (head.event_id, head.key, head.place, head.failed, head.letter) == (
        *("old", "case-1", 5, True),
        17,
    )
    async with store.transaction() as tx:
        await tx.trying(C, ["new", "tried"])
        await tx.park(C, "new", "case-2", place=7, failed=True)
    assert await heads(store) == await before.heads()
    assert {key for (key,) in await say("parked_keys", C, ["case-1", "case-2", "case-3"])} == {
        *("case-1", "case-2")
    }
    await say("set_letter", C, "new", 18)
    await say("park", C, "tried", "case-3", 9, False)
    assert [(one.event_id, one.key, one.letter) for one in await heads(store)] == [
        ("old", "case-1", 17),
        ("new", "case-2", 18),
        ("tried", "case-3", None),
    ]
    async with store.transaction() as tx:
        await tx.park(C, "old", "case-1", place=99, failed=False)
        await tx.set_letter(C, "tried", 19)
        await tx.trying(C, ["old"])
    assert await heads(store) == await before.heads()
    assert [(one.place, one.failed, one.letter) for one in await heads(store)] == [
        (5, False, None),
        (7, True, 18),
        (9, False, 19),
    ]
    await say("release", C, "new")
    async with store.transaction() as tx:
        await tx.release(C, ["old"])
    assert [one.event_id for one in await heads(store)] == ["tried"]
    [tried] = await store.parked_heads(C)
    assert len(await say("drop", C, "tried", 18)) == 0
    assert await store.drop_parked(tried)
    assert await before.heads() == []


async def test_under_load_each_event_takes_effect_once_and_both_know_what_waits(
    before: Before,
) -> None:
    store, random_ = before.store, random.Random(5)
    events = [f"{number:03}" for number in range(60)]
    effects: list[str] = []
    await before.say("park", C, "000", "case-1", 1, True)

    async def old(event_id: str) -> None:
        key, place = KEYS[int(event_id) % 3], int(event_id)
        await before.say("park", C, event_id, key, place, True)
        await before.say("set_letter", C, event_id, place)
        if await before.say("claim", C, event_id):
            effects.append(event_id)
        if int(event_id) % 4:
            await before.say("release", C, event_id)

    async def new(event_id: str) -> None:
        key, place = KEYS[int(event_id) % 3], int(event_id)
        for step in range(3):
            while True:
                with suppress(TransactionConflict):
                    async with store.transaction() as tx:
                        if step == 0:
                            await tx.trying(C, [event_id])
                        elif step == 1:
                            await tx.park(C, event_id, key, place=place, failed=True)
                        elif await tx.claim(C, event_id):
                            effects.append(event_id)
                        if step == 2 and int(event_id) % 4:
                            await tx.release(C, [event_id])
                    break

    works = [work for event_id in events for work in (old, new) for _ in range(2)]
    given = [event_id for event_id in events for _ in range(4)]
    pairs = list(zip(works, given, strict=True))
    random_.shuffle(pairs)

    async def some(at: int) -> None:
        for work, event_id in pairs[at::4]:
            await work(event_id)

    await asyncio.gather(store.schema.upgrade("pre"), *(old(one) for one in events[::5]))
    await asyncio.gather(*(some(at) for at in range(4)))
    assert sorted(effects) == events
    assert await heads(store) == await before.heads()
    left = {f"{number:03}" for number in range(0, 60, 4)}
    for event_id in events:
        async with store.transaction() as tx:
            standing = await tx.standing(C, event_id, KEYS[int(event_id) % 3])
        own = [row for row in await before.say("standing", C, event_id, "") if row[0] == event_id]
        assert (standing.own is not None) == bool(own), event_id
        assert standing.own is not None or event_id not in left
    found = await heads(store)
    await store.schema.upgrade("post")
    assert await heads(store) == found


@pytest.fixture
def user(postgres_databases: Databases) -> Iterator[str]:
    name = f"seaway_test_{uuid.uuid4().hex[:8]}"
    postgres_databases.run(f"CREATE ROLE {name} LOGIN")
    yield name
    postgres_databases.run(f"DROP ROLE {name}")


@pytest.mark.parametrize("before", ["postgres"], indirect=True)
async def test_the_roles_of_the_version_before_need_no_other_rights(
    before: BeforePostgres, postgres_databases: Databases, user: str
) -> None:
    database = Database(before.url, postgres_databases)
    database.run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON seaway_parked TO {user}")
    database.run(f"GRANT SELECT, INSERT, DELETE ON seaway_inbox TO {user}")
    await before.store.schema.upgrade("pre")
    before.url = database.url_of(user)
    await before.say("park", C, "e1", "case-1", 5, True)
    [head] = await before.store.parked_heads(C)
    assert head.event_id == "e1"
    await before.say("release", C, "e1")
    assert list(await before.store.parked_heads(C)) == []
    database.run(f"DROP OWNED BY {user}")
