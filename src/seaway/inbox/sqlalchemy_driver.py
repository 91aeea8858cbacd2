"""Inboxes over SQLAlchemy's ``AsyncSession``, on PostgreSQL and SQLite, whichever the dialect.

The session begins, nests and commits as SQLAlchemy has it, so pending objects are flushed with the
commit and a savepoint undoes them too. On SQLite transactions take turns, since it has one writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import CursorResult, TextClause, text
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
    TimeoutError,
    UnboundExecutionError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from seaway.databases import sqlite_codes
from seaway.databases.ending import to_its_end
from seaway.databases.statements import by_name, named
from seaway.databases.turns import Turns
from seaway.errors import ConfigError, SeawayError, StoreUnavailable
from seaway.inbox import driver as d
from seaway.inbox.queries import PostgresQueries, Queries, Query, SqliteQueries
from seaway.inbox.sqlite_refusals import refusal_of as sqlite_refusal


class AlchemySession:
    """See ``driver.Session``."""

    def __init__(self, handle: AsyncSession, queries: Queries, *, sqlite: bool) -> None:
        self.handle = handle
        self.queries = queries
        self._sqlite = sqlite
        self._connection: AsyncConnection | None = None

    @property
    def lost(self) -> bool:
        """See ``driver.Session``."""
        return self._connection is not None and self._connection.invalidated

    async def begin(self) -> None:
        """See ``driver.Session``."""
        connecting = self.handle.connection()
        if self._sqlite:
            # Cut short, an opened file would be nobody's to close.
            self._connection = await to_its_end(connecting)
            await self._begin_writing(self._connection)
        else:
            self._connection = await connecting
        try:
            await self.handle.execute(_text(d.SAVE))
        except DBAPIError as error:
            if self._sqlite or d.refusal(_sqlstate(error)) is not d.Refusal.ENDED:
                raise
            raise ConfigError(
                "the engine of tx= is in autocommit mode, so effects and inbox row cannot be "
                "committed together",
                hint="use one whose isolation level is not AUTOCOMMIT",
            ) from error

    async def touched(self, query: Query) -> int:
        """See ``driver.Session``."""
        return (await self._execute(query)).rowcount

    async def rows(self, query: Query) -> Sequence[tuple[Any, ...]]:
        """See ``driver.Session``."""
        return [tuple(row) for row in await self._execute(query)]

    async def commit(self) -> None:
        """See ``driver.Session``. Savepoints that the body left open are released."""
        while (nested := self.handle.get_nested_transaction()) is not None:
            await nested.commit()
        await self.handle.execute(_text(d.RELEASE))
        await self.handle.commit()

    async def roll_back(self) -> None:
        """See ``driver.Session``."""
        try:
            await self.handle.execute(_text(d.UNDO))
        finally:
            await self.handle.rollback()

    async def _execute(self, query: Query) -> CursorResult[Any]:
        if isinstance(query.parameters, Mapping):
            statement, parameters = query.statement, query.parameters
        else:
            statement, parameters = named(query.statement, ":{}"), by_name(*query.parameters)
        result = await self.handle.execute(_text(statement), parameters)
        return cast("CursorResult[Any]", result)

    async def _begin_writing(self, connection: AsyncConnection) -> None:
        # The driver begins with the first change, if ever: our savepoint would be the whole
        # transaction then, and its release the commit.
        below: Any = (await connection.get_raw_connection()).driver_connection
        if not below.in_transaction:
            await self.handle.execute(_text("BEGIN IMMEDIATE"))


class AlchemyDriver:
    """See ``driver.Driver``."""

    def __init__(self, make: Callable[[], AsyncSession], schema: str | None) -> None:
        self._make = make
        self._schema = schema
        self._queries: dict[str, Queries] = {}
        self._turns = Turns()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AlchemySession]:
        """See ``driver.Driver``."""
        handle = self._make()
        dialect = _dialect(handle)
        sqlite = dialect == "sqlite"
        turn: AbstractAsyncContextManager[None] = self._turns.own() if sqlite else nullcontext()
        async with turn:
            try:
                yield AlchemySession(handle, self._queries_of(dialect), sqlite=sqlite)
            finally:
                await to_its_end(_close(handle))

    def caused(self, error: BaseException) -> bool:
        """See ``driver.Driver``. What a dialect lets through as it is has a SQLSTATE at least."""
        return isinstance(error, (SQLAlchemyError, OSError)) or bool(d.sqlstate(error))

    def refusal(self, error: BaseException) -> d.Refusal | None:
        """See ``driver.Driver``."""
        if isinstance(error, PendingRollbackError):
            return d.Refusal.ABORTED
        if not isinstance(error, SQLAlchemyError):
            return None
        if _away(error):
            return d.Refusal.AWAY
        if isinstance(error, DBAPIError) and isinstance(error.orig, sqlite3.Error):
            return sqlite_refusal(error.orig)
        return d.refusal(_sqlstate(error))

    def translated(self, error: BaseException) -> SeawayError:
        """See ``driver.Driver``."""
        if isinstance(error, UnboundExecutionError):
            return _unbound()
        if isinstance(error, OSError) or _away(error):
            return StoreUnavailable(f"{d.SHOWN}: {error}")
        found = error.orig if isinstance(error, DBAPIError) and error.orig else error
        if isinstance(found, sqlite3.Error):
            return sqlite_codes.translated(found, d.SHOWN)
        return d.translated(found, away=False)

    async def close(self) -> None:
        """The engine is the user's."""

    def _queries_of(self, dialect: str) -> Queries:
        if dialect not in self._queries:
            match dialect:
                case "postgresql":
                    self._queries[dialect] = PostgresQueries(self._schema)
                case "sqlite":
                    self._queries[dialect] = SqliteQueries()
                case _:
                    raise ConfigError(
                        f"the inbox cannot work through SQLAlchemy's dialect {dialect}",
                        hint="it takes PostgreSQL and SQLite",
                    )
        return self._queries[dialect]


def over_engine(engine: AsyncEngine, schema: str | None) -> AlchemyDriver:
    """The driver of an ``AsyncEngine``."""
    return AlchemyDriver(async_sessionmaker(engine, expire_on_commit=False), schema)


def _dialect(session: AsyncSession) -> str:
    try:
        return session.get_bind().dialect.name
    except UnboundExecutionError as error:
        raise _unbound() from error


def _unbound() -> ConfigError:
    return ConfigError(
        "the sessions of tx= have no single database",
        hint="give a sessionmaker with bind=, the engine whose database has the inbox",
    )


async def _close(session: AsyncSession) -> None:
    try:
        await session.close()
    except (SQLAlchemyError, OSError):
        await session.invalidate()


def _sqlstate(error: BaseException) -> str:
    return d.sqlstate(error.orig) if isinstance(error, DBAPIError) and error.orig else ""


def _away(error: BaseException) -> bool:
    if isinstance(error, TimeoutError):
        return True  # The pool's.
    if not isinstance(error, DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    if error.connection_invalidated:
        return True
    return isinstance(error, (OperationalError, InterfaceError)) and not _sqlstate(error)


@lru_cache(maxsize=64)
def _text(statement: str) -> TextClause:
    """The same object each time: SQLAlchemy keeps what it compiled of it."""
    return text(statement)
