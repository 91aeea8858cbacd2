"""``Outbox.add`` on every kind of handle: atomic with the caller's transaction, or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from seaway.errors import (
    ConfigError,
    EventTooLarge,
    OutsideTransaction,
    SchemaMismatch,
    StoreUnavailable,
)
from seaway.events import RawEvent, new_event_id
from seaway.outbox import Outbox
from seaway.stores import schema_script

SUBJECT = "sea.event.case_created.v1"
EVENT = RawEvent(SUBJECT, b"{}")
outbox = Outbox()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema_script("sqlite:///app.db"))
        db.execute("CREATE TABLE cases (id)")
    return path


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=0.05)) as db:
        yield db


def stored(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT event_id FROM seaway_outbox ORDER BY position").fetchall()
    return [event_id for (event_id,) in rows]


def test_it_is_there_when_the_transaction_commits(db: sqlite3.Connection, path: Path) -> None:
    db.execute("INSERT INTO cases VALUES (1)")
    added = outbox.add(db, EVENT, EVENT)
    assert stored(path) == []
    db.commit()
    assert stored(path) == added
    assert len(set(added)) == 2


def test_it_never_ends_the_transaction(db: sqlite3.Connection, path: Path) -> None:
    with db:
        db.execute("INSERT INTO cases VALUES (1)")
        (first,) = outbox.add(db, EVENT)
        db.execute("SAVEPOINT mine")
        outbox.add(db, EVENT, EVENT)
        db.execute("ROLLBACK TO mine")
        outbox.add(db.cursor(), EVENT)
        db.execute("ROLLBACK TO mine")
        assert db.in_transaction
    assert stored(path) == [first]
    db.execute("INSERT INTO cases VALUES (1)")
    outbox.add(db, EVENT)
    db.rollback()
    assert stored(path) == [first]


def test_no_events_are_no_rows(db: sqlite3.Connection, path: Path) -> None:
    with db:
        db.execute("BEGIN")
        assert outbox.add(db) == []
    assert stored(path) == []


def test_outside_a_transaction_it_is_refused(db: sqlite3.Connection, path: Path) -> None:
    with pytest.raises(OutsideTransaction, match="BEGIN IMMEDIATE"):
        outbox.add(db, EVENT)
    assert not db.in_transaction
    assert stored(path) == []


def test_a_closed_handle_is_refused(path: Path) -> None:
    db = sqlite3.connect(path)
    db.close()
    with pytest.raises(ConfigError, match="closed"):
        outbox.add(db, EVENT)


@pytest.mark.parametrize("handle", [object(), "app.db", None, {}])
def test_an_unknown_handle_is_refused_by_name(handle: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{type(handle).__qualname__}.*connections of sqlite3"):
        outbox.add(handle, EVENT)


def test_a_subclass_is_known(path: Path) -> None:
    class Own(sqlite3.Connection):
        pass

    with closing(sqlite3.connect(path, factory=Own)) as db, db:
        db.execute("BEGIN")
        outbox.add(db, EVENT)
    assert len(stored(path)) == 1


def test_missing_tables_say_what_to_run() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        for events in ([EVENT], [EVENT, EVENT]):
            db.execute("BEGIN")
            with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
                outbox.add(db, *events)
            db.rollback()


def test_one_bad_event_leaves_none(db: sqlite3.Connection, path: Path) -> None:
    known = RawEvent(SUBJECT, b"{}", event_id=new_event_id())
    db.row_factory = lambda _, row: {"a": row}
    with db:
        db.execute("BEGIN")
        outbox.add(db, known)
        for events in ([known], [EVENT, known, EVENT]):
            with pytest.raises(ConfigError, match=str(known.event_id)):
                outbox.add(db, *events)
        with pytest.raises(EventTooLarge):
            outbox.add(db, EVENT, RawEvent(SUBJECT, bytes(1024 * 1024)), EVENT)
    assert stored(path) == [known.event_id]


def test_a_lock_of_another_writer_is_transient(db: sqlite3.Connection, path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        db.execute("BEGIN")
        for events in ([EVENT], [EVENT, EVENT]):
            with pytest.raises(StoreUnavailable, match="roll back"):
                outbox.add(db, *events)
    db.rollback()
    assert stored(path) == []


async def test_an_asynchronous_handle_is_awaited(path: Path) -> None:
    async with aiosqlite.connect(path) as db:
        with pytest.raises(OutsideTransaction):
            await outbox.add(db, EVENT)
        await db.execute("INSERT INTO cases VALUES (1)")
        added = await outbox.add(db, EVENT)
        added += await outbox.add(db, EVENT, EVENT)
        assert stored(path) == []
        await db.commit()
        assert stored(path) == added
        known = RawEvent(SUBJECT, b"{}", event_id=added[0])
        await db.execute("BEGIN")
        for events in ([known], [EVENT, known]):
            with pytest.raises(ConfigError, match=added[0]):
                await outbox.add(db, *events)
        await db.commit()
    assert stored(path) == added
    with pytest.raises(ConfigError, match="cannot be used"):
        await outbox.add(db, EVENT)


async def test_missing_tables_say_so_asynchronously() -> None:
    async with aiosqlite.connect(":memory:") as db:
        for events in ([EVENT], [EVENT, EVENT]):
            await db.execute("BEGIN")
            with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
                await outbox.add(db, *events)
            await db.rollback()


async def test_cancelled_adding_leaves_the_transaction_to_its_owner(path: Path) -> None:
    async with aiosqlite.connect(path) as db:
        for turns in range(8):
            await db.execute("BEGIN IMMEDIATE")
            task = asyncio.ensure_future(outbox.add(db, EVENT, EVENT))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await db.rollback()
            assert not db.in_transaction
    assert stored(path) == []


def test_sqlalchemy_without_greenlet_is_written_through(path: Path) -> None:
    """Whoever has nothing asynchronous may not have it."""
    code = (
        "import sys; sys.modules['greenlet'] = None\n"
        "from sqlalchemy import create_engine\n"
        "from seaway.events import RawEvent\n"
        "from seaway.outbox import Outbox\n"
        f"with create_engine('sqlite:///{path}').begin() as db:\n"
        f"    Outbox().add(db, RawEvent({SUBJECT!r}, b''))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert len(stored(path)) == 1
