"""Inboxes over asynchronous ``psycopg`` connections, from a pool or from a function.

The user's connection is begun as it begins itself: by its first statement, or where it is in
autocommit mode by a BEGIN. Ours run through a cursor of their own, so the connection's row factory
and cursor class are left alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from seaway.databases.ending import to_its_end
from seaway.errors import ConfigError, SeawayError
from seaway.inbox import driver as d
from seaway.inbox.queries import PostgresQueries, Query

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

Handle: TypeAlias = "psycopg.AsyncConnection[Any]"


class Source(Protocol):
    """Where connections come from, and whose they are."""

    async def take(self) -> Handle: ...
    async def give_back(self, connection: Handle, *, lost: bool = False) -> None: ...
    async def close(self) -> None: ...


class PsycopgSession:
    """See ``driver.Session``."""

    def __init__(self, handle: Handle, queries: PostgresQueries) -> None:
        self.handle = handle
        self.queries = queries

    @property
    def lost(self) -> bool:
        """See ``driver.Session``."""
        return self.handle.closed

    async def begin(self) -> None:
        """See ``driver.Session``."""
        await self._run(f"BEGIN; {d.SAVE}" if self.handle.autocommit else d.SAVE)

    async def touched(self, query: Query) -> int:
        """See ``driver.Session``."""
        async with self._cursor() as cursor:
            await cursor.execute(query.statement.encode(), list(query.parameters))
            return cursor.rowcount

    async def rows(self, query: Query) -> Sequence[tuple[Any, ...]]:
        """See ``driver.Session``."""
        async with self._cursor() as cursor:
            await cursor.execute(query.statement.encode(), list(query.parameters))
            return await cursor.fetchall()

    async def commit(self) -> None:
        """See ``driver.Session``."""
        await self._run(f"{d.RELEASE}; COMMIT")

    async def roll_back(self) -> None:
        """See ``driver.Session``."""
        await self._run(f"{d.UNDO}; ROLLBACK")

    async def _run(self, script: str) -> None:
        async with self._cursor() as cursor:
            # Prepared, it could be one statement only.
            await cursor.execute(script.encode(), prepare=False)

    def _cursor(self) -> psycopg.AsyncRawCursor[tuple[Any, ...]]:
        return psycopg.AsyncRawCursor(self.handle, row_factory=tuple_row)


class PsycopgDriver:
    """See ``driver.Driver``."""

    def __init__(self, source: Source, schema: str | None) -> None:
        self._source = source
        self._queries = PostgresQueries(schema)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[PsycopgSession]:
        """See ``driver.Driver``."""
        try:
            handle = await self._source.take()
        except psycopg.Error as error:
            raise self.translated(error) from error
        try:
            yield PsycopgSession(handle, self._queries)
        finally:
            await to_its_end(self._give_back(handle))

    async def _give_back(self, handle: Handle) -> None:
        try:
            match handle.info.transaction_status:
                case TransactionStatus.INTRANS | TransactionStatus.INERROR:
                    await handle.rollback()
                case TransactionStatus.ACTIVE:
                    # A statement whose end nobody saw.
                    await handle.close()
        except psycopg.Error:
            await handle.close()
        await self._source.give_back(handle, lost=handle.closed)

    def caused(self, error: BaseException) -> bool:
        """See ``driver.Driver``."""
        return isinstance(error, psycopg.Error)

    def refusal(self, error: BaseException) -> d.Refusal | None:
        """See ``driver.Driver``."""
        if not isinstance(error, psycopg.Error):
            return None
        if _away(error):
            return d.Refusal.AWAY
        return d.refusal(d.sqlstate(error))

    def translated(self, error: BaseException) -> SeawayError:
        """See ``driver.Driver``."""
        return d.translated(error, away=_away(error))

    async def close(self) -> None:
        """See ``driver.Driver``."""
        await self._source.close()


class Pooled:
    """From a pool of the user's, which stays the user's."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def take(self) -> Handle:
        """See ``Source``."""
        if self._pool.closed:
            raise ConfigError(
                "the pool of tx= is not open", hint="await pool.open() before consumers start"
            )
        connection: Handle = await self._pool.getconn()
        return connection

    async def give_back(self, connection: Handle, *, lost: bool = False) -> None:
        """See ``Source``. The pool sees for itself which are lost."""
        await self._pool.putconn(connection)

    async def close(self) -> None:
        """The pool is the user's."""


def over_pool(pool: AsyncConnectionPool[Any], schema: str | None) -> PsycopgDriver:
    """The driver of a ``psycopg_pool.AsyncConnectionPool``."""
    return PsycopgDriver(Pooled(pool), schema)


def _away(error: BaseException) -> bool:
    """psycopg's own word for a lost connection; PostgreSQL's words have a SQLSTATE."""
    return isinstance(error, psycopg.OperationalError) and not error.sqlstate
