"""Inboxes over users' handles when the database is away, in another's way, or not the right one."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import ConnectionPool
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from drivers.inboxes import KINDS, AlchemySessions, AsyncpgPool, Kind, PsycopgPool, SqlitePath
from seaway.contracts import InboxStore, Store
from seaway.embedded.postgres import PostgresServer
from seaway.errors import (
    ConfigError,
    SchemaMismatch,
    SeawayError,
    StoreUnavailable,
    TransactionConflict,
)
from seaway.events import new_event_id
from seaway.inbox import inbox_for, inbox_of
from seaway.inbox.opening import thread_inbox_for
from seaway.stores import open_store
from seaway.testing.databases import Databases

CONSUMER = "case_mgmt__from_sea"
POSTGRES = [kind for kind in KINDS if kind.engine == "postgres"]
SQLITE = [kind for kind in KINDS if kind.engine == "sqlite"]
each_postgres = pytest.mark.parametrize("kind", POSTGRES, ids=lambda kind: kind.__name__)
each_sqlite = pytest.mark.parametrize("kind", SQLITE, ids=lambda kind: kind.__name__)


@asynccontextmanager
async def inbox_over(kind: type[Kind], url: str) -> AsyncIterator[tuple[Kind, InboxStore]]:
    made = kind(url)
    async with made.given() as given:
        inbox = inbox_for(given)
        try:
            yield made, inbox
        finally:
            await inbox.close()


async def claims(inbox: InboxStore) -> bool:
    async with inbox.transaction() as tx:
        return await tx.claim(CONSUMER, new_event_id())


@each_postgres
async def test_sessions_that_are_ended_are_unavailable_and_heal(
    kind: type[Kind], postgres_url: str, postgres_databases: Databases
) -> None:
    end = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "  # noqa: S608 - our own
        f"WHERE datname = '{postgres_url.rpartition('/')[2]}'"
    )
    async with inbox_over(kind, postgres_url) as (made, inbox):

        async def handle(when: str) -> None:
            async with inbox.transaction() as tx:
                await tx.claim(CONSUMER, f"e-{when}")
                postgres_databases.run(end)
                if when == "in a statement":
                    await made.run(tx.handle, "SELECT 1")

        for when in ("in a statement", "at the commit"):
            with pytest.raises(StoreUnavailable):
                await handle(when)
            async with asyncio.timeout(30):
                while not await tried(claims, inbox):
                    pass
        assert await inbox.claimed(CONSUMER, ["e-in a statement"]) == set()


async def tried(work: Callable[[InboxStore], Awaitable[bool]], inbox: InboxStore) -> bool:
    try:
        return await work(inbox)
    except StoreUnavailable:
        return False


@each_postgres
async def test_a_database_that_is_away_is_unavailable(
    kind: type[Kind], postgres_server_own: PostgresServer
) -> None:
    url = postgres_server_own.url()
    async with await open_store(url) as store:  # type: ignore[attr-defined]
        await store.schema.upgrade()
    async with inbox_over(kind, url) as (_, inbox):
        assert await claims(inbox)
        postgres_server_own.terminate()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(40):
                await claims(inbox)
        postgres_server_own.launch()
        async with asyncio.timeout(40):
            while not await tried(claims, inbox):
                pass


@each_postgres
async def test_a_deadlock_is_a_conflict(kind: type[Kind], postgres_url: str) -> None:
    async with inbox_over(kind, postgres_url) as (made, inbox):
        async with inbox.transaction() as tx:
            await made.run(tx.handle, "CREATE TABLE effects (number integer)")
            await made.run(tx.handle, "INSERT INTO effects VALUES (1), (2)")
        both = asyncio.Barrier(2)

        async def handle(first: int, second: int) -> None:
            async with inbox.transaction() as tx:
                await made.run(tx.handle, touch(first))
                await asyncio.wait_for(both.wait(), 10)
                await made.run(tx.handle, touch(second))

        outcomes = await asyncio.gather(handle(1, 2), handle(2, 1), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {TransactionConflict, type(None)}


def touch(number: int) -> str:
    return f"UPDATE effects SET number = number WHERE number = {number:d}"  # noqa: S608 - a number


@each_postgres
async def test_a_serialization_failure_is_a_conflict(
    kind: type[Kind], postgres_url: str, postgres_databases: Databases
) -> None:
    postgres_databases.run(
        f"ALTER DATABASE {postgres_url.rpartition('/')[2]} "
        "SET default_transaction_isolation = 'repeatable read'"
    )
    async with inbox_over(kind, postgres_url) as (made, inbox):
        async with inbox.transaction() as tx:
            await made.run(tx.handle, "CREATE TABLE effects (number integer)")
            await made.run(tx.handle, "INSERT INTO effects VALUES (1)")

        async def handle() -> None:
            async with inbox.transaction() as mine:
                await made.run(mine.handle, "SELECT * FROM effects")
                async with inbox.transaction() as theirs:
                    await made.run(theirs.handle, touch(1))
                await made.run(mine.handle, touch(1))

        with pytest.raises(TransactionConflict):
            await handle()


@each_postgres
async def test_a_constraint_that_is_checked_at_the_commit_is_the_bodys_own_error(
    kind: type[Kind], postgres_url: str, postgres_databases: Databases
) -> None:
    postgres_databases.run(
        "CREATE TABLE effects (number int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        postgres_url.rpartition("/")[2],
    )

    async def handle(inbox: InboxStore, made: Kind) -> None:
        async with inbox.transaction() as tx:
            await tx.claim(CONSUMER, "e1")
            await made.run(tx.handle, "INSERT INTO effects VALUES (1), (1)")

    async with inbox_over(kind, postgres_url) as (made, inbox):
        with pytest.raises(Exception, match="duplicate key") as raised:
            await handle(inbox, made)
        assert not isinstance(raised.value, SeawayError)
        assert await inbox.claimed(CONSUMER, ["e1"]) == set()
        assert await claims(inbox)


@each_postgres
@pytest.mark.parametrize("error", [TimeoutError, ConnectionRefusedError, OSError])
async def test_the_networks_errors_of_a_handler_are_not_the_databases(
    kind: type[Kind], error: type[OSError], postgres_url: str
) -> None:
    """Else the consumer would wait for a database that is there, and burn no delivery ever."""

    async def handle(inbox: InboxStore) -> None:
        async with inbox.transaction() as tx:
            await tx.claim(CONSUMER, "e1")
            raise error("of somebody else's server")

    async with inbox_over(kind, postgres_url) as (_, inbox):
        with pytest.raises(error):
            await handle(inbox)
        assert await inbox.claimed(CONSUMER, ["e1"]) == set()


@each_sqlite
async def test_a_database_that_stays_locked_is_unavailable(
    kind: type[Kind], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    store = await open_store(url)
    await store.schema.upgrade()
    await store.close()
    async with inbox_over(kind, url) as (_, inbox):
        assert await claims(inbox)
        with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                await claims(inbox)
            other.execute("ROLLBACK")
        assert await claims(inbox)


# --------------------------------------------------------------------- which database


@asynccontextmanager
async def stored(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()


async def opened(tx: object, store: Store, **more: Any) -> InboxStore:
    stop = asyncio.Event()
    async with inbox_of(tx, store, schema=None, consumer=CONSUMER, stop=stop, **more) as inbox:
        return inbox


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_handle_without_an_inbox_names_the_consumer_and_the_way_out(
    kind: type[Kind], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    own = tmp_path / "own.db"
    sqlite3.connect(tmp_path / "empty.db").close()
    empty = f"sqlite:///{tmp_path}/empty.db"
    if kind.engine == "postgres":
        empty = request.getfixturevalue("empty_postgres_url")
    async with stored(f"sqlite:///{own}") as store, kind(empty).given() as given:
        await store.schema.upgrade()
        with pytest.raises(SchemaMismatch, match=f"{CONSUMER}.*seaway db upgrade"):
            await opened(given, store)


@pytest.mark.parametrize("kind", [AsyncpgPool, PsycopgPool, AlchemySessions])
async def test_two_databases_are_told_apart(
    kind: type[Kind], postgres_url: str, postgres_databases: Databases
) -> None:
    other = postgres_databases.create()
    try:
        async with stored(postgres_url) as store:
            async with kind(postgres_databases.url(other)).given() as given:
                with pytest.raises(ConfigError, match=f"{CONSUMER} works in another database"):
                    await opened(given, store)
            async with kind(postgres_url).given() as given:
                await opened(given, store)
    finally:
        postgres_databases.drop(other)


async def test_two_files_are_told_apart(tmp_path: Path) -> None:
    async with (
        stored(f"sqlite:///{tmp_path}/one.db") as store,
        stored(f"sqlite:///{tmp_path}/two.db") as other,
    ):
        await store.schema.upgrade()
        await other.schema.upgrade()
        with pytest.raises(ConfigError, match="another database"):
            await opened(str(tmp_path / "two.db"), store)
        await opened(tmp_path / "one.db", store)


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    async with stored(f"sqlite:///{tmp_path}/one.db") as store:
        with pytest.raises(ConfigError, match=f"{CONSUMER}.*cannot be opened"):
            await opened(str(tmp_path / "two.db"), store)
    assert not (tmp_path / "two.db").exists()


async def test_it_waits_for_a_database_that_is_away_until_it_is_told_to_stop(
    postgres_server_own: PostgresServer, tmp_path: Path
) -> None:
    postgres_server_own.terminate()
    stop = asyncio.Event()
    async with stored(f"sqlite:///{tmp_path}/one.db") as store:
        made = AlchemySessions(postgres_server_own.url())
        async with made.given() as given:

            async def wait() -> None:
                async with inbox_of(given, store, schema=None, consumer=CONSUMER, stop=stop):
                    assert stop.is_set()

            waiting = asyncio.create_task(wait())
            stop.set()
            await asyncio.wait_for(waiting, 30)


async def test_without_a_database_it_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stored(f"sqlite:///{tmp_path}/one.db") as store:
        with caplog.at_level(logging.WARNING, "seaway"):
            assert await opened(None, store) is store
            assert await opened("store", store) is store
    assert [r.getMessage() for r in caplog.records] == [
        f"{CONSUMER} has no database: its effects are at least once"
    ]


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "tx", [17, object(), AsyncpgPool, "postgresql://user@host/database", b"path"]
)
def test_what_gives_no_transactions_is_refused_by_name(tx: object) -> None:
    for opened in (inbox_for, thread_inbox_for):
        with pytest.raises(ConfigError, match="gives no transactions"):
            opened(tx)


async def test_a_function_that_gives_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gives a builtins\.int"):
        await claims(inbox_for(lambda: 17))


async def test_what_is_for_the_other_kind_of_handlers_is_refused_with_what_is_for_this(
    postgres_url: str, tmp_path: Path
) -> None:
    for given, wanted in (
        (sessionmaker(), "are async, and .*sessionmaker is for plain ones .*an asyncpg Pool"),
        (ConnectionPool(postgres_url, open=False), "psycopg AsyncConnectionPool"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            inbox_for(given)
    with pytest.raises(ConfigError, match=r"are plain, and .*for async ones .*SQLAlchemy session"):
        thread_inbox_for(async_sessionmaker())
    with pytest.raises(ConfigError, match=r"gives a sqlite3\.Connection .*aiosqlite"):
        await claims(inbox_for(lambda: sqlite3.connect(tmp_path / "one.db")))
    for gives, named in ((asyncpg_connection, "to be awaited"), (lambda: 17, r"builtins\.int")):
        with pytest.raises(ConfigError, match=rf"{named} .*a psycopg Connection"):
            await thread_inbox_for(gives).transaction().__aenter__()


async def asyncpg_connection() -> None: ...


async def test_a_pool_that_is_not_open_is_refused(postgres_url: str) -> None:
    made = PsycopgPool(postgres_url)
    with pytest.raises(ConfigError, match="not open"):
        await claims(inbox_for(made.pool(postgres_url, open=False)))
    with pytest.raises(ConfigError, match="not open"):
        await thread_inbox_for(ConnectionPool(postgres_url, open=False)).transaction().__aenter__()


async def test_an_engine_in_autocommit_mode_is_refused(postgres_url: str) -> None:
    url = postgres_url.replace("://", "+asyncpg://", 1)
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    with pytest.raises(ConfigError, match="autocommit"):
        await claims(inbox_for(engine))
    await engine.dispose()


async def test_sessions_without_a_single_database_are_refused() -> None:
    with pytest.raises(ConfigError, match="no single database"):
        await claims(inbox_for(async_sessionmaker()))


async def test_another_dialect_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    monkeypatch.setattr(engine.dialect, "name", "unheard")
    with pytest.raises(ConfigError, match="unheard"):
        await claims(inbox_for(engine))
    await engine.dispose()


async def test_a_handles_error_of_its_own_is_no_error_of_ours(tmp_path: Path) -> None:
    async with stored(f"sqlite:///{tmp_path}/one.db") as store:
        await store.schema.upgrade()
        inbox = inbox_for(SqlitePath(f"sqlite:///{tmp_path}/one.db").path)

        async def handle() -> None:
            async with inbox.transaction() as tx:
                await tx.handle.execute("SELECT * FROM nowhere")

        with pytest.raises(sqlite3.OperationalError, match="nowhere") as raised:
            await handle()
        assert not isinstance(raised.value, SeawayError)
        await inbox.close()
