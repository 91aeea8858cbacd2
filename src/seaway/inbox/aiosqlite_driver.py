"""Inboxes over ``aiosqlite`` connections. SQLite has one writer, so transactions take turns."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from seaway.databases import sqlite_codes
from seaway.databases.ending import to_its_end
from seaway.databases.turns import Turns
from seaway.errors import SeawayError, StoreUnavailable
from seaway.inbox import driver as d
from seaway.inbox.connections import Connections
from seaway.inbox.queries import Query, SqliteQueries
from seaway.inbox.sqlite_refusals import refusal_of


class AiosqliteSession:
    """See ``driver.Session``."""

    def __init__(self, handle: aiosqlite.Connection, queries: SqliteQueries) -> None:
        self.handle = handle
        self.queries = queries

    @property
    def lost(self) -> bool:
        """See ``driver.Session``."""
        try:
            self.handle.in_transaction  # noqa: B018 - asked for its refusal
        except (ValueError, sqlite3.ProgrammingError):
            return True
        return False

    async def begin(self) -> None:
        """See ``driver.Session``. At once for writing: a reader could not become a writer later."""
        if not self.handle.in_transaction:
            await self._run("BEGIN IMMEDIATE")
        await self._run(d.SAVE)

    async def touched(self, query: Query) -> int:
        """See ``driver.Session``."""
        async with self.handle.execute(query.statement, query.parameters) as cursor:
            return cursor.rowcount

    async def rows(self, query: Query) -> Sequence[tuple[Any, ...]]:
        """See ``driver.Session``."""
        async with self.handle.cursor() as cursor:
            cursor.row_factory = None
            await cursor.execute(query.statement, query.parameters)
            return [tuple(row) for row in await cursor.fetchall()]

    async def commit(self) -> None:
        """See ``driver.Session``."""
        await self._run(d.RELEASE)
        await self._run("COMMIT")

    async def roll_back(self) -> None:
        """See ``driver.Session``."""
        await self._run(d.UNDO)
        await self._run("ROLLBACK")

    async def _run(self, statement: str) -> None:
        async with self.handle.execute(statement):
            pass


class AiosqliteDriver:
    """See ``driver.Driver``."""

    def __init__(self, connections: Connections[aiosqlite.Connection]) -> None:
        self._connections = connections
        self._queries = SqliteQueries()
        self._turns = Turns()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AiosqliteSession]:
        """See ``driver.Driver``."""
        async with self._turns.own():
            try:
                handle = await self._connections.take()
            except sqlite3.Error as error:
                raise self.translated(error) from error
            session = AiosqliteSession(handle, self._queries)
            try:
                yield session
            except BaseException:
                await to_its_end(self._clear(session))
                raise
            await to_its_end(self._connections.give_back(handle))

    async def _clear(self, session: AiosqliteSession) -> None:
        lost = session.lost
        if not lost:
            try:
                # Whether it is in a transaction or not: the connection's thread may have a BEGIN
                # before it whose caller was cancelled.
                await session.handle.rollback()
            except sqlite3.Error:
                lost = True
        await self._connections.give_back(session.handle, lost=lost)

    def caused(self, error: BaseException) -> bool:
        """See ``driver.Driver``."""
        return isinstance(error, sqlite3.Error)

    def refusal(self, error: BaseException) -> d.Refusal | None:
        """See ``driver.Driver``."""
        return refusal_of(error) if isinstance(error, sqlite3.Error) else None

    def translated(self, error: BaseException) -> SeawayError:
        """See ``driver.Driver``."""
        if isinstance(error, sqlite3.Error):
            return sqlite_codes.translated(error, d.SHOWN)
        return StoreUnavailable(f"{d.SHOWN}: {error}")

    async def close(self) -> None:
        """See ``driver.Driver``."""
        await self._connections.close()


async def connect(path: Path) -> aiosqlite.Connection:
    """Open the database at ``path``, which must be there."""

    def opened() -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )

    # Opened before aiosqlite has its thread, which would answer a closed loop where that fails.
    ready = await asyncio.to_thread(opened)
    connection = aiosqlite.Connection(lambda: ready, 64)
    await connection
    return connection
