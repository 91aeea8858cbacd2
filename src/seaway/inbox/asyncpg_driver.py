"""Inboxes over an ``asyncpg`` pool of the user's.

asyncpg keeps book of its own transactions, so that the body's ``connection.transaction()`` nests in
ours; therefore it begins and ends ours, and no savepoint is needed to find out what the body did:
the connection knows whether a transaction is open, and one more round trip whether it is aborted.
Without that, PostgreSQL would answer COMMIT with ROLLBACK, which asyncpg passes over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from seaway.databases.ending import to_its_end
from seaway.errors import ConfigError, SeawayError
from seaway.inbox import driver as d
from seaway.inbox.queries import PostgresQueries, Query

Handle: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class _Ended(asyncpg.NoActiveSQLTransactionError):
    """No transaction is open any more."""


class AsyncpgSession:
    """See ``driver.Session``."""

    def __init__(self, handle: Handle, queries: PostgresQueries) -> None:
        self.handle = handle
        self.queries = queries
        self._whole = handle.transaction()

    @property
    def lost(self) -> bool:
        """See ``driver.Session``."""
        try:
            return self.handle.is_closed()
        except asyncpg.InterfaceError:
            return True  # The pool has taken it away already.

    @property
    def open(self) -> bool:
        """Whether a transaction is open on it."""
        return not self.lost and self.handle.is_in_transaction()

    async def begin(self) -> None:
        """See ``driver.Session``."""
        await self._whole.start()

    async def touched(self, query: Query) -> int:
        """See ``driver.Session``."""
        tag = await self.handle.execute(query.statement, *query.parameters)
        return int(tag.rpartition(" ")[2])

    async def rows(self, query: Query) -> Sequence[tuple[Any, ...]]:
        """See ``driver.Session``."""
        found = await self.handle.fetch(query.statement, *query.parameters)
        return [tuple(row) for row in found]

    async def commit(self) -> None:
        """See ``driver.Session``."""
        self._require_open()
        await self.handle.execute("SELECT")
        await self._whole.commit()

    async def roll_back(self) -> None:
        """See ``driver.Session``."""
        self._require_open()
        if self.open:
            await self._whole.rollback()

    def _require_open(self) -> None:
        if not self.lost and not self.handle.is_in_transaction():
            raise _Ended


class AsyncpgDriver:
    """See ``driver.Driver``."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], schema: str | None) -> None:
        self._pool = pool
        self._queries = PostgresQueries(schema)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncpgSession]:
        """See ``driver.Driver``."""
        try:
            handle = await self._pool.acquire()
        except asyncpg.InterfaceError as error:
            raise ConfigError(f"the pool of tx= cannot be used: {error}") from error
        except (asyncpg.PostgresError, *_LOST) as error:
            raise self.translated(error) from error
        session = AsyncpgSession(handle, self._queries)
        try:
            yield session
        finally:
            await to_its_end(self._give_back(session))

    async def _give_back(self, session: AsyncpgSession) -> None:
        if session.open:
            # Left by a cancellation while it began: it must not reach the next one.
            try:
                await session.handle.execute("ROLLBACK")
            except (asyncpg.PostgresError, *_LOST):
                session.handle.terminate()
        await self._pool.release(session.handle)

    def caused(self, error: BaseException) -> bool:
        """See ``driver.Driver``."""
        return isinstance(error, (asyncpg.PostgresError, *_LOST))

    def refusal(self, error: BaseException) -> d.Refusal | None:
        """See ``driver.Driver``."""
        if isinstance(error, asyncpg.PostgresError):
            return d.refusal(d.sqlstate(error))
        return d.Refusal.OTHER if isinstance(error, asyncpg.InterfaceError) else None

    def translated(self, error: BaseException) -> SeawayError:
        """See ``driver.Driver``."""
        return d.translated(error, away=isinstance(error, _LOST))

    async def close(self) -> None:
        """The pool is the user's."""
