"""A PostgreSQL store's connections: kept at hand, begun ahead, and in order for whoever is next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from seaway.drivers.asyncpg import release
from seaway.embedded.postgres import PostgresServer
from seaway.embedded.process import free_port
from seaway.errors import ConfigError, SeawayError
from seaway.stores import open_store
from seaway.stores.postgres import PostgresStore
from seaway.testing.databases import Database, Databases

CONSUMER = "case_mgmt__from_sea"
IDLE = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = $1"


@pytest.fixture
def database(postgres_url: str, postgres_databases: Databases) -> Database:
    return Database(postgres_url, postgres_databases)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(database.url, connections=2) as opened:
        yield opened


async def handle(store: PostgresStore, event_id: str, statement: str = "SELECT 1") -> None:
    async with store.transaction() as tx:
        assert await tx.claim_many(CONSUMER, [event_id]) == {event_id}
        with suppress(asyncpg.DivisionByZeroError):
            await tx.handle.execute(statement)


async def sessions(witness: asyncpg.Connection, state: str) -> int:
    found: int = await witness.fetchval(IDLE, state)
    return found


async def test_what_was_begun_ahead_is_ended_where_nobody_takes_it(
    store: PostgresStore, database: Database
) -> None:
    witness = await asyncpg.connect(database.url)
    await asyncio.gather(*(handle(store, f"e{number}") for number in range(20)))
    async with asyncio.timeout(5):
        while await sessions(witness, "idle in transaction"):
            await asyncio.sleep(0.002)
    assert await sessions(witness, "idle") >= 1
    await witness.close()


class _EndsWhileGivenBack(asyncpg.Connection):
    """Its session ends between the pool's look at it and the pool's task that takes it back."""

    def _on_release(self, stacklevel: int = 1) -> None:
        asyncio.get_running_loop().call_soon(self.terminate)


async def test_a_session_that_ends_while_it_is_given_back_is_given_back(
    database: Database,
) -> None:
    async with asyncpg.create_pool(
        database.url, min_size=0, max_size=1, connection_class=_EndsWhileGivenBack
    ) as pool:
        for _ in range(3):
            async with asyncio.timeout(5):
                taken = await pool.acquire()
            assert await taken.fetchval("SELECT 1") == 1
            await release(pool, taken)


async def test_a_transaction_begun_ahead_is_never_old(store: PostgresStore) -> None:
    await handle(store, "e1")
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: _be_frozen(loop))
    await asyncio.sleep(0)
    async with store.transaction() as tx:
        begun: datetime = await tx.handle.fetchval("SELECT now()")
        asked: datetime = await tx.handle.fetchval("SELECT clock_timestamp()")
    assert asked - begun < timedelta(milliseconds=100)


def _be_frozen(loop: asyncio.AbstractEventLoop) -> None:
    until = loop.time() + 0.3
    while loop.time() < until:
        pass


async def test_others_get_a_connection_while_all_are_begun_ahead(store: PostgresStore) -> None:
    for number in range(20):
        await asyncio.gather(*(handle(store, f"e{number}-{side}") for side in "ab"))
        found = await asyncio.gather(*(store.processed(f"e{number}-{side}") for side in "abab"))
        assert [set(one) for one in found] == [{CONSUMER}] * 4


async def test_a_body_that_ends_its_transaction_spoils_no_other(store: PostgresStore) -> None:
    for ending in ("COMMIT", "ROLLBACK", "COMMIT"):
        with pytest.raises(ConfigError, match="committed it or rolled it back itself"):
            async with store.transaction() as tx:
                await tx.handle.execute(ending)
        for number in range(3):
            async with store.transaction() as tx:
                assert await tx.claim(CONSUMER, f"{ending}-{number}") or ending == "COMMIT"
                async with tx.handle.transaction():
                    await tx.handle.execute("SELECT 1")


@pytest.mark.parametrize(
    ("statement", "told"),
    [("INSERT INTO pairs VALUES (1, 2)", asyncpg.PostgresError), ("SELECT 1 / 0", SeawayError)],
)
async def test_a_refused_commit_leaves_nothing_and_spoils_no_other(
    store: PostgresStore, database: Database, statement: str, told: type[Exception]
) -> None:
    database.run(
        "CREATE TABLE pairs (id int PRIMARY KEY, other int REFERENCES pairs "
        "DEFERRABLE INITIALLY DEFERRED)"
    )
    for number in range(4):
        refused = f"refused-{number}"
        with pytest.raises(told):
            await handle(store, refused, statement)
        assert await store.processed(refused) == {}
        await handle(store, f"e{number}")


async def test_a_store_closes_behind_its_last_commit(database: Database) -> None:
    witness = await asyncpg.connect(database.url)
    store = await PostgresStore.open(database.url)
    await asyncio.gather(*(handle(store, f"e{number}") for number in range(5)))
    await asyncio.wait_for(store.close(), 5)
    async with asyncio.timeout(5):
        while await sessions(witness, "idle") + await sessions(witness, "idle in transaction"):
            await asyncio.sleep(0.002)
    await witness.close()


async def test_a_password_file_and_several_hosts_reach_the_server(
    postgres_server_own: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres_server_own
    Databases(server.url()).run(r"ALTER ROLE postgres PASSWORD 'a:b\c'")
    file = tmp_path / "pass"
    file.write_text(rf"127.0.0.1:{server.port}:*:postgres:a\:b\\c")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    nobody = free_port()
    url = f"postgresql://postgres@127.0.0.1:{nobody},127.0.0.1:{server.port}/postgres"
    store = await open_store(url)
    await store.close()
