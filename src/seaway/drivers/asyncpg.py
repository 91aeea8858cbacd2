"""asyncpg: connections, pooled or not, and pools.

asyncpg keeps book of its own transactions, so that a body's ``connection.transaction()`` nests in
ours; therefore it begins and ends ours, and no savepoint is needed to find out what the body did:
the connection knows whether a transaction is open, and one more round trip whether it is aborted.
Without that, PostgreSQL would answer COMMIT with ROLLBACK, which asyncpg passes over.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from seaway.databases import sqlstates
from seaway.databases.engines import POSTGRES
from seaway.databases.queries import Query, Row, Work, awaited
from seaway.databases.refusals import Refusal
from seaway.databases.tasks import to_its_end
from seaway.drivers import protocols
from seaway.drivers.protocols import SHOWN, Errors, Handles, Sources, Writer
from seaway.errors import ConfigError, SeawayError

T = TypeVar("T")

Pooled: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Handle: TypeAlias = "asyncpg.Connection[asyncpg.Record] | Pooled"

ENGINE = POSTGRES._replace(binary=True)

LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""The second is what asyncpg says of a session that was ended while it was idle."""
ERRORS = (asyncpg.PostgresError, *LOST)
"""All that the driver raises, and the network below it."""

# ------------------------------------------------------------------- what its errors mean


def refusal(error: BaseException) -> Refusal | None:
    """See ``protocols.Errors``."""
    if isinstance(error, asyncpg.PostgresError):
        return sqlstates.refusal(sqlstates.code_of(error))
    return Refusal.OTHER if isinstance(error, asyncpg.InterfaceError) else None


def translated(error: BaseException, where: str) -> SeawayError | None:
    """See ``protocols.Errors``."""
    if not isinstance(error, ERRORS):
        return None
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigError(f"{where}: {error}", hint="check the database's URL")
    # An error that is also a ValueError was raised before anything was sent: the database is not
    # away.
    away = isinstance(error, LOST) and not isinstance(error, ValueError)
    return sqlstates.translated(error, where, away=away)


MEANS = Errors(refusal, translated, "a block of connection.transaction()")


def translating(where: str) -> protocols.translating:
    """Turns the driver's errors of our own statements into Seaway's."""
    return protocols.translating(MEANS, where)


# ------------------------------------------------------------------- which transaction it is in


def lost(handle: Handle) -> bool:
    """Whether its session is gone."""
    try:
        return handle.is_closed()
    except asyncpg.InterfaceError:
        return True  # The pool has taken it away already.


def in_transaction(handle: Handle) -> bool:
    """Whether a transaction is open on it; false for a lost one."""
    return not lost(handle) and handle.is_in_transaction()


def drop(handle: Handle) -> None:
    """End its session at once: with it goes its transaction."""
    with suppress(asyncpg.InterfaceError):  # The pool has taken it away already.
        handle.terminate()


async def release(pool: asyncpg.Pool[asyncpg.Record], handle: Pooled) -> None:
    """Give it back to its pool, without what an error or a cancellation left open: that must not
    reach the next one."""
    if in_transaction(handle):
        try:
            await handle.execute("ROLLBACK")
        except ERRORS:
            drop(handle)
    try:
        await pool.release(handle)
    except asyncpg.InternalClientError:
        # Its session ended while the pool was taking it back, and the pool saw that first.
        if not lost(handle):
            raise


def require_transaction(handle: Handle) -> None:
    """See ``protocols.Writer``."""
    try:
        is_open = not handle.is_closed()
        within = is_open and handle.is_in_transaction()
    except asyncpg.InterfaceError as error:
        raise protocols.closed(error) from error
    if not is_open:
        raise protocols.closed("it is closed")
    if not within:
        raise protocols.outside()


# ------------------------------------------------------------------- statements


def run(handle: Handle, work: Work[T]) -> Coroutine[Any, Any, T]:
    """See ``protocols.Writer``. One round trip a query."""
    return awaited(work(ENGINE), partial(_rows, handle))


def _rows(handle: Handle, query: Query) -> Coroutine[Any, Any, Sequence[Row]]:
    return handle.fetch(query.statement, *query.parameters)


def touched(tag: str) -> int:
    """The rows of a command tag: ``DELETE 5``, ``INSERT 0 5``; 0 where it tells of none."""
    count = tag.rpartition(" ")[2]
    return int(count) if count.isdecimal() else 0


# ------------------------------------------------------------------- sessions


class _Ended(asyncpg.NoActiveSQLTransactionError):
    """No transaction is open any more."""


class AsyncpgSession:
    """See ``protocols.Session``."""

    engine = ENGINE

    def __init__(self, handle: Pooled) -> None:
        self.handle = handle
        self._whole = handle.transaction()

    @property
    def lost(self) -> bool:
        return lost(self.handle)

    async def begin(self) -> None:
        await self._whole.start()

    async def touched(self, query: Query) -> int:
        return touched(await self.handle.execute(query.statement, *query.parameters))

    async def rows(self, query: Query) -> Sequence[Row]:
        return await self.handle.fetch(query.statement, *query.parameters)

    async def commit(self) -> None:
        self._require_open()
        await to_its_end(self._commit())

    async def _commit(self) -> None:
        await self.handle.execute("SELECT")
        await self._whole.commit()

    async def roll_back(self) -> None:
        self._require_open()
        if not self.lost:
            await to_its_end(self._whole.rollback())

    def _require_open(self) -> None:
        if not in_transaction(self.handle) and not lost(self.handle):
            raise _Ended


class AsyncpgSessions:
    """See ``protocols.Sessions``. Of a pool of the user's."""

    errors, shown = MEANS, SHOWN

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def take(self) -> AsyncpgSession:
        try:
            return AsyncpgSession(await self._pool.acquire())
        except asyncpg.InterfaceError as error:
            raise ConfigError(f"the pool of tx= cannot be used: {error}") from error
        except ERRORS as error:
            raise translated(error, SHOWN) or error from error

    async def give_back(self, session: AsyncpgSession, *, failed: bool) -> None:
        await to_its_end(release(self._pool, session.handle))

    async def close(self) -> None:
        """The pool is the user's."""


HANDLES: Handles = {
    "asyncpg.connection.Connection": Writer(MEANS, require_transaction, run),
    "asyncpg.pool.PoolConnectionProxy": Writer(MEANS, require_transaction, run),
}
SOURCES: Sources = {"asyncpg.pool.Pool": AsyncpgSessions}
