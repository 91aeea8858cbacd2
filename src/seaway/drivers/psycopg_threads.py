"""psycopg's synchronous connections for plain handlers: sessions over a pool, and over functions
that connect. As those of ``psycopg``, in the thread of the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from seaway.databases.engines import POSTGRES
from seaway.databases.queries import RELEASE, SAVE, UNDO, Query, Row
from seaway.drivers import ending
from seaway.drivers.protocols import SHOWN, Errors, Keeper, translating
from seaway.errors import ConfigError

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool


def rows(connection: psycopg.Connection[Any], query: Query) -> Sequence[Row]:
    """What the query gives. One round trip."""
    with _cursor(connection) as cursor:
        cursor.execute(query.statement.encode(), query.parameters)
        return cursor.fetchall() if query.gives else ()


def _cursor(connection: psycopg.Connection[Any]) -> psycopg.RawCursor[tuple[Any, ...]]:
    return psycopg.RawCursor(connection, row_factory=tuple_row)


class PsycopgThreadSession:
    """See ``protocols.ThreadSession``."""

    engine = POSTGRES
    begins: ClassVar[str] = "BEGIN"
    """How a transaction begins on a connection in autocommit mode."""

    def __init__(self, handle: psycopg.Connection[Any]) -> None:
        self.handle = handle
        self._cut = False

    @property
    def lost(self) -> bool:
        return self._cut or self.handle.closed

    async def begin(self) -> None:
        self._run(f"{self.begins}; {SAVE}" if self.handle.autocommit else SAVE)

    async def touched(self, query: Query) -> int:
        with _cursor(self.handle) as cursor:
            cursor.execute(query.statement.encode(), query.parameters)
            return cursor.rowcount

    async def rows(self, query: Query) -> Sequence[Row]:
        return rows(self.handle, query)

    async def commit(self) -> None:
        self._run(f"{RELEASE}; COMMIT")

    async def roll_back(self) -> None:
        self._run(f"{UNDO}; ROLLBACK")

    def interrupt(self) -> None:
        """See ``protocols.ThreadSession``: a cancel request, answered by the server."""
        ending.interrupt(self.handle)

    def cut(self) -> None:
        """See ``protocols.ThreadSession``: its socket."""
        self._cut = True
        ending.cut(self.handle)

    def _run(self, script: str) -> None:
        with _cursor(self.handle) as cursor:
            # Prepared, it could be one statement only.
            cursor.execute(script.encode(), prepare=False)


class PsycopgThreadSessions:
    """See ``protocols.ThreadSessions``."""

    plain, turns, shown = True, None, SHOWN
    session: ClassVar[type[PsycopgThreadSession]] = PsycopgThreadSession

    def __init__(self, errors: Errors, source: Keeper) -> None:
        self.errors = errors
        self._source = source

    async def take(self) -> PsycopgThreadSession:
        with translating(self.errors, self.shown):
            return self.session(self._source.take())

    async def give_back(self, session: PsycopgThreadSession, *, failed: bool) -> None:
        handle = session.handle
        try:
            match handle.info.transaction_status:
                case TransactionStatus.INTRANS | TransactionStatus.INERROR:
                    handle.rollback()
                case TransactionStatus.ACTIVE:
                    # A statement whose end nobody saw.
                    handle.close()
        except psycopg.Error:
            handle.close()
        if session.lost:
            handle.close()
        self._source.give_back(handle, lost=session.lost)

    async def close(self) -> None:
        self._source.close()


class PooledKeeper:
    """See ``protocols.Keeper``. Of a pool of the user's, which stays the user's."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    def take(self) -> psycopg.Connection[Any]:
        """As long as the pool has patience."""
        if self._pool.closed:
            raise ConfigError(
                "the pool of tx= is not open", hint="call pool.open() before consumers start"
            )
        connection: psycopg.Connection[Any] = self._pool.getconn()
        return connection

    def give_back(self, connection: psycopg.Connection[Any], *, lost: bool = False) -> None:
        """The pool sees for itself which are lost."""
        self._pool.putconn(connection)

    def close(self) -> None:
        """The pool is the user's."""
