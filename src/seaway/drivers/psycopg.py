"""psycopg: connections and cursors of both kinds, pools, and functions that connect.

Statements of ours run through a cursor of their own, so the caller's row factory, cursor class and
pending results are left alone. In pipeline mode a writer waits for what was sent before: an error
of an earlier statement is raised as it is, and only then is the transaction's state known.

A consumer's connection is begun as it begins itself: by its first statement, or where it is in
autocommit mode by a BEGIN. Those of plain handlers are in ``psycopg_threads``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from seaway.databases import sqlstates
from seaway.databases.engines import POSTGRES
from seaway.databases.queries import RELEASE, SAVE, UNDO, Query, Row, Work, awaited, carried_out
from seaway.databases.refusals import Refusal
from seaway.databases.tasks import to_its_end
from seaway.drivers import protocols
from seaway.drivers.protocols import (
    SHOWN,
    Errors,
    Handles,
    Kept,
    Source,
    Sources,
    Writer,
    translating,
)
from seaway.drivers.psycopg_threads import PooledKeeper, PsycopgThreadSessions, rows
from seaway.errors import ConfigError, SeawayError

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

T = TypeVar("T")

Connection: TypeAlias = "psycopg.Connection[Any]"
AsyncConnection: TypeAlias = "psycopg.AsyncConnection[Any]"
Handle: TypeAlias = "Connection | psycopg.Cursor[Any]"
AsyncHandle: TypeAlias = "AsyncConnection | psycopg.AsyncCursor[Any]"

# ------------------------------------------------------------------- what its errors mean


def refusal(error: BaseException) -> Refusal | None:
    """See ``protocols.Errors``."""
    if not isinstance(error, psycopg.Error):
        return None
    return Refusal.AWAY if _away(error) else sqlstates.refusal(sqlstates.code_of(error))


def translated(error: BaseException, where: str) -> SeawayError | None:
    """See ``protocols.Errors``."""
    if not isinstance(error, psycopg.Error):
        return None
    return sqlstates.translated(error, where, away=_away(error))


def _away(error: psycopg.Error) -> bool:
    """psycopg's own word for a lost connection; PostgreSQL's words have a SQLSTATE."""
    return isinstance(error, psycopg.OperationalError) and not error.sqlstate


MEANS = Errors(refusal, translated, "a block of connection.transaction()")

# ------------------------------------------------------------------- which transaction it is in


def require_transaction(handle: Handle | AsyncHandle) -> None:
    """See ``protocols.Writer``.

    While a statement runs nothing can be said; ``_settled`` decides when it has ended.
    """
    connection: Connection | AsyncConnection = _connection(handle)
    if connection.closed:
        raise protocols.closed("it is closed")
    status = connection.info.transaction_status
    if status != TransactionStatus.ACTIVE and not _in_pipeline(connection):
        _settled(connection)


def _settled(connection: Connection | AsyncConnection) -> None:
    """Refuse unless a transaction is open. Inside the connection's lock, where none of another
    task's or thread's statements can be about to begin or end one."""
    match connection.info.transaction_status:
        case TransactionStatus.IDLE:
            raise protocols.outside()
        case TransactionStatus.INERROR:
            raise protocols.aborted(MEANS.undoing)
        case TransactionStatus.ACTIVE:
            raise protocols.closed("another statement is running on it")
        case _:
            pass


def _connection(handle: Any) -> Any:
    return handle.connection if isinstance(handle, psycopg.Cursor | psycopg.AsyncCursor) else handle


def _in_pipeline(connection: Connection | AsyncConnection) -> bool:
    """Whether statements are sent without waiting for their results."""
    return connection.pgconn.pipeline_status != PipelineStatus.OFF


# ------------------------------------------------------------------- statements


def run(handle: Handle, work: Work[T]) -> T:
    """See ``protocols.Writer``. One round trip a query."""
    connection: Connection = _connection(handle)
    with connection.pipeline() if _in_pipeline(connection) else nullcontext():
        with connection.lock:
            _settled(connection)
        return carried_out(work(POSTGRES), partial(rows, connection))


async def run_async(handle: AsyncHandle, work: Work[T]) -> T:
    """The same, awaited."""
    connection: AsyncConnection = _connection(handle)
    async with connection.pipeline() if _in_pipeline(connection) else nullcontext():
        async with connection.lock:
            _settled(connection)
        return await awaited(work(POSTGRES), partial(_rows_async, connection))


async def _rows_async(connection: AsyncConnection, query: Query) -> Sequence[Row]:
    async with _cursor(connection) as cursor:
        await cursor.execute(query.statement.encode(), query.parameters)
        return await cursor.fetchall() if query.gives else ()


def _cursor(connection: AsyncConnection) -> psycopg.AsyncRawCursor[tuple[Any, ...]]:
    return psycopg.AsyncRawCursor(connection, row_factory=tuple_row)


# ------------------------------------------------------------------- sessions


class PsycopgSession:
    """See ``protocols.Session``."""

    engine = POSTGRES

    def __init__(self, handle: AsyncConnection) -> None:
        self.handle = handle

    @property
    def lost(self) -> bool:
        return self.handle.closed

    async def begin(self) -> None:
        await self._run(f"BEGIN; {SAVE}" if self.handle.autocommit else SAVE)

    async def touched(self, query: Query) -> int:
        async with _cursor(self.handle) as cursor:
            await cursor.execute(query.statement.encode(), query.parameters)
            return cursor.rowcount

    async def rows(self, query: Query) -> Sequence[Row]:
        return await _rows_async(self.handle, query)

    async def commit(self) -> None:
        await to_its_end(self._run(f"{RELEASE}; COMMIT"))

    async def roll_back(self) -> None:
        await to_its_end(self._run(f"{UNDO}; ROLLBACK"))

    async def _run(self, script: str) -> None:
        async with _cursor(self.handle) as cursor:
            # Prepared, it could be one statement only.
            await cursor.execute(script.encode(), prepare=False)


class PsycopgSessions:
    """See ``protocols.Sessions``."""

    errors, shown = MEANS, SHOWN

    def __init__(self, source: Source) -> None:
        self._source = source

    async def take(self) -> PsycopgSession:
        with translating(MEANS, SHOWN):
            return PsycopgSession(await self._source.take())

    async def give_back(self, session: PsycopgSession, *, failed: bool) -> None:
        await to_its_end(self._give_back(session.handle))

    async def _give_back(self, handle: AsyncConnection) -> None:
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

    async def close(self) -> None:
        await self._source.close()


class _Pooled:
    """See ``protocols.Source``. Of a pool of the user's, which stays the user's."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def take(self) -> AsyncConnection:
        if self._pool.closed:
            raise ConfigError(
                "the pool of tx= is not open", hint="await pool.open() before consumers start"
            )
        connection: AsyncConnection = await self._pool.getconn()
        return connection

    async def give_back(self, connection: AsyncConnection, *, lost: bool = False) -> None:
        """See ``protocols.Source``. The pool sees for itself which are lost."""
        await self._pool.putconn(connection)

    async def close(self) -> None:
        """The pool is the user's."""


def over_pool(pool: AsyncConnectionPool[Any]) -> PsycopgSessions:
    """Sessions of a ``psycopg_pool.AsyncConnectionPool``."""
    return PsycopgSessions(_Pooled(pool))


def over_plain_pool(pool: ConnectionPool[Any]) -> PsycopgThreadSessions:
    """Sessions of a ``psycopg_pool.ConnectionPool``."""
    return PsycopgThreadSessions(MEANS, PooledKeeper(pool))


_WRITER = Writer(MEANS, require_transaction, run)
_ASYNC_WRITER = Writer(MEANS, require_transaction, run_async)

HANDLES: Handles = {
    "psycopg.Connection": _WRITER,
    "psycopg.Cursor": _WRITER,
    "psycopg.AsyncConnection": _ASYNC_WRITER,
    "psycopg.AsyncCursor": _ASYNC_WRITER,
}
SOURCES: Sources = {
    "psycopg_pool.pool_async.AsyncConnectionPool": over_pool,
    "psycopg_pool.pool.ConnectionPool": over_plain_pool,
}
KEPT: Kept = {
    "psycopg.AsyncConnection": PsycopgSessions,
    "psycopg.Connection": partial(PsycopgThreadSessions, MEANS),
}
