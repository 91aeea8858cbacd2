"""aiosqlite: connections of the application's own, and those that a function makes.

One row takes one hop to the connection's thread. Cancelled, a row may be in the transaction or not;
its owner's rollback takes it away either way. SQLite has one writer, so a consumer's transactions
take turns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiosqlite

from seaway.databases.engines import SQLITE
from seaway.databases.queries import RELEASE, SAVE, UNDO, Query, Row, Work, awaited
from seaway.databases.tasks import Turns, opened_in_thread, to_its_end
from seaway.drivers import protocols
from seaway.drivers.protocols import SHOWN, Handles, Kept, Source, Writer, translating
from seaway.drivers.sqlite_handles import MEANS, awaited_rows, outside

T = TypeVar("T")
A = TypeVar("A", bound=aiosqlite.Connection)

# ------------------------------------------------------------------- which transaction it is in


def _lost(handle: aiosqlite.Connection) -> BaseException | None:
    """What says that it is closed."""
    try:
        handle.in_transaction  # noqa: B018 - asked for its refusal
    except (ValueError, sqlite3.ProgrammingError) as error:
        return error
    return None


def require_transaction(handle: aiosqlite.Connection) -> None:
    """See ``protocols.Writer``."""
    if (error := _lost(handle)) is not None:
        raise protocols.closed(error) from error
    if not handle.in_transaction:
        raise outside()


# ------------------------------------------------------------------- statements


async def run(handle: aiosqlite.Connection, work: Work[T]) -> T:
    """See ``protocols.Writer``."""
    return await awaited(work(SQLITE), partial(_rows, handle))


async def _rows(handle: aiosqlite.Connection, query: Query) -> Sequence[Row]:
    try:
        return await awaited_rows(handle, query)
    except (ValueError, sqlite3.ProgrammingError) as error:
        # aiosqlite's word for a connection that was closed in the meantime.
        raise protocols.closed(error) from error


# ------------------------------------------------------------------- sessions


class AiosqliteSession:
    """See ``protocols.Session``."""

    engine = SQLITE

    def __init__(self, handle: aiosqlite.Connection) -> None:
        self.handle = handle

    @property
    def lost(self) -> bool:
        return _lost(self.handle) is not None

    async def begin(self) -> None:
        """See ``protocols.Session``. At once for writing: a reader could not become one later."""
        if not self.handle.in_transaction:
            await self._run("BEGIN IMMEDIATE")
        await self._run(SAVE)

    async def touched(self, query: Query) -> int:
        async with self.handle.execute(query.statement, query.parameters) as cursor:
            return cursor.rowcount

    async def rows(self, query: Query) -> Sequence[Row]:
        return await awaited_rows(self.handle, query)

    async def commit(self) -> None:
        await to_its_end(self._run_both(RELEASE, "COMMIT"))

    async def roll_back(self) -> None:
        await to_its_end(self._run_both(UNDO, "ROLLBACK"))

    async def _run_both(self, first: str, then: str) -> None:
        await self._run(first)
        await self._run(then)

    async def _run(self, statement: str) -> None:
        async with self.handle.execute(statement):
            pass


class AiosqliteSessions:
    """See ``protocols.Sessions``."""

    errors, shown = MEANS, SHOWN

    def __init__(self, source: Source) -> None:
        self._source = source
        self._turns = Turns()

    async def take(self) -> AiosqliteSession:
        await self._turns.take()
        try:
            with translating(MEANS, SHOWN):
                return AiosqliteSession(await self._source.take())
        except BaseException:
            self._turns.leave()
            raise

    async def give_back(self, session: AiosqliteSession, *, failed: bool) -> None:
        try:
            await to_its_end(self._give_back(session, failed))
        finally:
            self._turns.leave()

    async def _give_back(self, session: AiosqliteSession, failed: bool) -> None:
        lost = failed and session.lost
        try:
            if failed and not lost:
                # Whether it is in a transaction or not: the connection's thread may have a BEGIN
                # before it whose caller was cancelled.
                await session.handle.rollback()
        except sqlite3.Error:
            lost = True
        await self._source.give_back(session.handle, lost=lost)

    async def close(self) -> None:
        await self._source.close()


async def opened(
    connect: Callable[[], sqlite3.Connection], over: Callable[[sqlite3.Connection], A]
) -> A:
    """The handle that ``over`` makes of what ``connect`` opens, in a thread. Cancelled, it leaves
    nothing open."""
    # Opened before aiosqlite has its thread, which would answer a closed loop where that fails.
    connection = await opened_in_thread(connect)
    handle = over(connection)
    try:
        await to_its_end(_started(handle))
    except BaseException:
        await to_its_end(handle.close())
        connection.close()
        raise
    return handle


async def _started(handle: aiosqlite.Connection) -> None:
    await handle


async def connect(path: Path) -> aiosqlite.Connection:
    """Open the database at ``path``, which must be there. Cancelled, it leaves nothing open."""

    def connector() -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )

    return await opened(connector, lambda ready: aiosqlite.Connection(lambda: ready, 64))


HANDLES: Handles = {"aiosqlite.core.Connection": Writer(MEANS, require_transaction, run)}
KEPT: Kept = {"aiosqlite.core.Connection": AiosqliteSessions}
