"""What is SQLite's own: the file, its locks, other processes, and the driver's handle."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from seaway.contracts import Sent
from seaway.errors import ConfigError, SchemaMismatch, StoreUnavailable
from seaway.events import RawEvent
from seaway.outbox import Outbox
from seaway.stores import open_store, schema_script
from seaway.stores.sqlite import SqliteStore

EVENT = RawEvent("sea.event.case_created.v1", b"{}")
CONSUMER = "case_mgmt__from_sea"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(path, busy_timeout=timedelta(milliseconds=50)) as store:
        await store.schema.upgrade()
        yield store


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that says ``ready`` and then waits to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


HOLDS_LEASE = """
import asyncio, sys
from seaway.stores.sqlite import SqliteStore
async def main():
    store = await SqliteStore.open(sys.argv[1])
    async with store.lease() as lease:
        claimed = await lease.claim(10)
        assert len(claimed) == 1
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""

HOLDS_TRANSACTION = """
import asyncio, sys
from seaway.stores.sqlite import SqliteStore
async def main():
    store = await SqliteStore.open(sys.argv[1])
    async with store.transaction() as tx:
        assert await tx.claim("case_mgmt__from_sea", "e1")
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""

CLAIMS = """
import asyncio, sys
from seaway.stores.sqlite import SqliteStore
async def main():
    store = await SqliteStore.open(sys.argv[1])
    await store.schema.upgrade()
    won = 0
    for number in range(50):
        async with store.transaction() as tx:
            won += await tx.claim("case_mgmt__from_sea", str(number))
    await store.close()
    print(won, flush=True)
asyncio.run(main())
"""


async def add(store: SqliteStore, count: int = 1) -> list[str]:
    async with store.transaction() as tx:
        return await Outbox().add(tx.handle, *[EVENT] * count)


def locked(path: Path) -> AbstractContextManager[sqlite3.Connection]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return closing(other)


# ----------------------------------------------------------------------------- crashes


async def test_a_killed_relay_leaves_its_lease(store: SqliteStore, path: Path) -> None:
    await add(store)
    with child(HOLDS_LEASE, path) as process:
        async with store.lease() as lease:
            assert lease is None
        await add(store)
        process.kill()
        process.wait(30)
        async with store.lease() as lease:
            assert lease is not None
            assert len(await lease.claim(10)) == 2


async def test_a_killed_consumer_leaves_nothing(store: SqliteStore, path: Path) -> None:
    with child(HOLDS_TRANSACTION, path) as process:
        with pytest.raises(StoreUnavailable, match="locked"):
            await add(store)
        assert await store.processed("e1") == {}
        process.kill()
        process.wait(30)
        async with store.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")


def test_processes_share_a_new_file_from_its_first_moment(path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", CLAIMS, path], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    won = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(map(int, won)) == 50


# ----------------------------------------------------------------------------- locks and disk


async def test_a_lock_that_stays_is_transient(store: SqliteStore, path: Path) -> None:
    (event_id,) = await add(store)
    with locked(path):
        async with store.lease() as lease:
            assert lease is not None
            (entry,) = await lease.claim(1)
            with pytest.raises(StoreUnavailable, match="locked"):
                await lease.settle([Sent(entry, "SEA_EVENTS", 1)])
        with pytest.raises(StoreUnavailable, match="locked"):
            await add(store)
        assert (await store.entries(event_id=event_id))[0].event_id == event_id
    await add(store)


async def test_cancelled_while_waiting_for_the_lock_it_begins_nothing(
    store: SqliteStore, path: Path
) -> None:
    for turns in range(4):
        with locked(path):
            task = asyncio.create_task(add(store))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        with locked(path):
            pass
        await add(store)


async def test_a_full_disk_is_transient(store: SqliteStore) -> None:
    await add(store)

    async def body() -> None:
        async with store.transaction() as tx:
            await tx.claim(CONSUMER, "e1")
            await tx.handle.execute("PRAGMA max_page_count = 1")
            await tx.handle.execute("CREATE TABLE big (x)")
            await tx.handle.execute("INSERT INTO big VALUES (zeroblob(10000000))")

    with pytest.raises(StoreUnavailable, match="full"):
        await body()
    assert await store.processed("e1") == {}
    async with store.transaction() as tx:
        await tx.handle.execute("PRAGMA max_page_count = 1000000")
    await add(store)


# ----------------------------------------------------------------------------- the handle


@pytest.mark.parametrize("ending", ["commit", "rollback", "again"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_body_that_ends_the_transaction_is_found_out(
    store: SqliteStore, ending: str, fails: bool
) -> None:
    async def body() -> None:
        async with store.transaction() as tx:
            await tx.claim(CONSUMER, "e1")
            if ending == "rollback":
                await tx.handle.rollback()
            else:
                await tx.handle.commit()
            if ending == "again":
                await tx.handle.execute("BEGIN")
                await tx.handle.execute("CREATE TABLE half (x)")
            if fails:
                raise LookupError

    with pytest.raises(ConfigError, match="committed it or rolled it back itself"):
        await body()
    async with store.transaction() as tx:
        tables = await tx.handle.execute_fetchall("SELECT 1 FROM sqlite_master WHERE name='half'")
        assert list(tables) == []


async def test_a_handlers_own_error_comes_out_as_it_is(store: SqliteStore) -> None:
    async with store.transaction() as tx:
        await tx.handle.execute("CREATE TABLE cases (id PRIMARY KEY)")
        await tx.handle.execute("INSERT INTO cases VALUES (1)")

    async def body() -> None:
        async with store.transaction() as tx:
            await tx.claim(CONSUMER, "e1")
            await tx.handle.execute("INSERT INTO cases VALUES (1)")

    with pytest.raises(sqlite3.IntegrityError):
        await body()
    assert await store.processed("e1") == {}


async def test_a_deferred_constraint_fails_the_commit_and_nothing_stays(store: SqliteStore) -> None:
    async with store.transaction() as tx:
        await tx.handle.execute("CREATE TABLE cases (id PRIMARY KEY)")
        await tx.handle.execute(
            "CREATE TABLE tasks (x REFERENCES cases DEFERRABLE INITIALLY DEFERRED)"
        )

    async def body() -> None:
        async with store.transaction() as tx:
            await tx.claim(CONSUMER, "e1")
            await tx.handle.execute("INSERT INTO tasks VALUES (7)")

    handle = store._writer
    await handle.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError):
        await body()
    assert not handle.in_transaction
    assert await store.processed("e1") == {}


async def test_one_handlers_row_factory_is_not_the_nexts(store: SqliteStore) -> None:
    async with store.transaction() as tx:
        tx.handle.row_factory = sqlite3.Row
    async with store.transaction() as tx:
        assert tx.handle.row_factory is None


async def test_an_open_cursor_does_not_stop_the_commit(store: SqliteStore) -> None:
    await add(store, 3)
    async with store.transaction() as tx:
        cursor = await tx.handle.execute("SELECT event_id FROM seaway_outbox")
        await cursor.fetchone()
        await tx.claim(CONSUMER, "e1")
    await cursor.close()
    assert set(await store.processed("e1")) == {CONSUMER}


async def test_a_commit_is_on_the_disk_when_it_returns(store: SqliteStore) -> None:
    async with store.transaction() as tx:
        for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2)):
            ((value,),) = await tx.handle.execute_fetchall(f"PRAGMA {pragma}")
            assert value == expected


# ----------------------------------------------------------------------------- waiting, keeping


async def test_a_commit_of_the_application_ends_the_waiting(store: SqliteStore, path: Path) -> None:
    async with store.lease() as lease:
        assert lease is not None
        assert await lease.claim(1) == []
    waiting = asyncio.create_task(store.wait(timedelta(seconds=30)))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("BEGIN")
        Outbox().add(db, EVENT)
    await asyncio.wait_for(waiting, 5)


async def test_nothing_is_kept_where_nothing_shall_be(path: Path) -> None:
    async with await SqliteStore.open(path, keep_sent=False) as store:
        await store.schema.upgrade()
        await add(store, 2)
        async with store.lease() as lease:
            assert lease is not None
            entries = await lease.claim(10)
            await lease.settle([Sent(entry, "SEA_EVENTS", 1) for entry in entries])
        assert await store.sent() == []
        assert (await store.backlog()).count == 0


async def test_two_names_of_one_file_have_one_lease(store: SqliteStore, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with await SqliteStore.open(link) as other, store.lease() as mine:
        assert mine is not None
        async with other.lease() as theirs:
            assert theirs is None


# ----------------------------------------------------------------------------- opening


async def test_a_closed_store_says_so(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.backlog()


async def test_without_tables_it_says_what_to_run(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
            await store.backlog()
        with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
            async with store.transaction() as tx:
                await tx.claim(CONSUMER, "e1")


async def test_the_applications_own_tables_are_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE cases (id)")
        db.execute("INSERT INTO cases VALUES (1)")
    async with await SqliteStore.open(path) as store:
        await store.schema.upgrade()
        await store.schema.verify()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT id FROM cases").fetchall() == [(1,)]


async def test_files_that_cannot_be_a_database_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_bytes(b"This is no database. " * 100)
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    for path, words in (
        (text, "not an SQLite database"),
        (tmp_path, "directory"),
        (tmp_path / "missing" / "app.db", "does not exist"),
        (fifo, "not a regular file"),
    ):
        with pytest.raises(ConfigError, match=words):
            await open_store(f"sqlite:///{path}")
    assert text.read_bytes() == b"This is no database. " * 100


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("seaway.db", "not given as a URL"),
        ("", "not given as a URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite://host/app.db", "names no file"),
        ("sqlite:///:memory:", "cannot be shared"),
        ("sqlite:///app.db?mode=ro", "options"),
        ("sqlite:///app%00.db", "NUL"),
        ("mysql://me:geheim@host/db", "mysql"),
    ],
)
async def test_urls_that_name_no_file_are_refused(url: str, words: str) -> None:
    for refuse in (lambda: open_store(url), lambda: schema_script(url)):
        with pytest.raises(ConfigError, match=words) as caught:
            await refuse()  # type: ignore[misc]
        assert "geheim" not in str(caught.value)


async def test_urls_are_relative_or_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///a%20b.db", f"sqlite:///{tmp_path}/c.db"):
        store = await open_store(url)
        await store.close()
    assert {"a b.db", "c.db"} <= set(os.listdir(tmp_path))


async def test_forgetting_much_keeps_no_writer_waiting(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany(
            "INSERT INTO seaway_inbox VALUES ('a__b', ?, 1)", [(str(n),) for n in range(20_000)]
        )
    async with await SqliteStore.open(path, busy_timeout=timedelta(seconds=2)) as other:
        forgetting = asyncio.create_task(store.forget(datetime.now(UTC) - timedelta(days=1)))
        claimed = 0
        while not forgetting.done():
            # Of this process and of another, as SQLite sees it: neither is ever refused.
            for one in (store, other):
                async with one.transaction() as tx:
                    assert await tx.claim(CONSUMER, f"new-{claimed}")
                claimed += 1
        await forgetting
    assert claimed > 2
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM seaway_inbox").fetchone() == (claimed,)
