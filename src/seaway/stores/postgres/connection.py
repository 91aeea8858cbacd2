"""Connections to one PostgreSQL database: a pool, and short transactions on it.

Owns: how connections are made and given out. Must not know any table. Guarantees: what is asked
here runs in an explicit transaction, so that it is one session's work also behind PgBouncer in
transaction mode; a commit or rollback is never left half done by a cancellation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from seaway.databases.ending import to_its_end
from seaway.errors import StoreUnavailable
from seaway.stores.postgres.address import Address
from seaway.stores.postgres.errors import DRIVER_ERRORS, translating

Handle: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Row: TypeAlias = "asyncpg.Record"

CONNECT_SECONDS = 10.0
_STATEMENTS = 256


class _HonestConnection(asyncpg.Connection):
    """Fails where a commit was answered with a rollback.

    That is PostgreSQL's answer when an error inside the transaction was caught and passed over: an
    effect would be lost, and its message acknowledged.
    """

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        tag: str = await super().execute(query, *args, timeout=timeout)
        if tag == "ROLLBACK" and query.startswith("COMMIT"):
            raise asyncpg.InFailedSQLTransactionError(
                "nothing was committed, since a statement had failed before: undo such a part "
                "with a savepoint"
            )
        return tag


class Pool:
    """A few connections, made when they are first needed. ``open`` it, ``close`` it."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], address: Address) -> None:
        self._pool = pool
        self.shown = address.shown

    @classmethod
    async def open(cls, address: Address, *, size: int) -> Pool:
        """``size``: connections at the most. Connects once, to say early what is wrong."""
        options: dict[str, Any] = {"timeout": CONNECT_SECONDS, **address.options}
        with translating(address.shown):
            pool = await asyncpg.create_pool(
                min_size=1,
                max_size=size,
                reset=_keep_as_it_is,
                connection_class=_HonestConnection,
                statement_cache_size=0 if address.pgbouncer else _STATEMENTS,
                **options,
            )
        return cls(pool, address)

    async def close(self) -> None:
        """Close every connection, after what is under way. Idempotent."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Handle]:
        """A connection of one's own; none of its transactions is open before or after."""
        if self._pool.is_closing():
            raise StoreUnavailable("the store is closed")
        with translating(self.shown):
            connection = await self._pool.acquire()
        try:
            yield connection
        finally:
            await to_its_end(self._give_back(connection))

    @asynccontextmanager
    async def transaction(self, begin: str = "BEGIN") -> AsyncIterator[Handle]:
        """A short transaction: ``begin`` at its start, committed on leaving without an error."""
        with translating(self.shown):
            async with self.untranslated(begin) as connection:
                yield connection

    @asynccontextmanager
    async def untranslated(self, begin: str = "BEGIN") -> AsyncIterator[Handle]:
        """The same, where the caller knows better what the driver's errors mean."""
        async with self.connection() as connection:
            await to_its_end(connection.execute(begin))
            yield connection
            await to_its_end(connection.execute("COMMIT"))

    async def rows(self, statement: str, *parameters: object) -> Sequence[Row]:
        """What ``statement`` returns, in a transaction of its own."""
        async with self.transaction() as connection:
            return await connection.fetch(statement, *parameters)

    async def row(self, statement: str, *parameters: object) -> Row:
        """Its one row."""
        (row,) = await self.rows(statement, *parameters)
        return row

    async def run(self, statement: str, *parameters: object) -> int:
        """Run ``statement`` in a transaction of its own; how many rows it touched."""
        async with self.transaction() as connection:
            return touched(await connection.execute(statement, *parameters))

    async def _give_back(self, connection: Handle) -> None:
        if in_transaction(connection):
            # Left by an error or a cancellation: what it did must not reach the next one.
            try:
                await connection.execute("ROLLBACK")
            except DRIVER_ERRORS:
                drop(connection)
        await self._pool.release(connection)


def lost(connection: Handle) -> bool:
    """Whether its session is gone."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # The pool has taken it away already.


def in_transaction(connection: Handle) -> bool:
    """Whether a transaction is open on it; false for a lost one."""
    return not lost(connection) and connection.is_in_transaction()


def drop(connection: Handle) -> None:
    """End its session at once: with it goes its transaction."""
    with suppress(asyncpg.InterfaceError):  # The pool has taken it away already.
        connection.terminate()


def touched(tag: str) -> int:
    """The rows of a command tag: ``DELETE 5``, ``INSERT 0 5``."""
    return int(tag.rpartition(" ")[2])


async def _keep_as_it_is(connection: object) -> None:
    """Instead of a round trip that undoes session settings: we make none."""


def listening_options(address: Address) -> dict[str, Any]:
    """For a connection outside the pool, which is to listen."""
    return {"timeout": CONNECT_SECONDS, **address.options, "statement_cache_size": 0}
