"""The database drivers themselves."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiosqlite
import asyncpg
import psycopg
from psycopg.rows import dict_row

from drivers.base import Driver


class Asyncpg(Driver):
    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    def begun(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        transaction: AbstractAsyncContextManager[Any] = handle.transaction()
        return transaction

    def savepoint(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        return self.begun(handle)

    async def execute(self, handle: Any, sql: str) -> None:
        await handle.execute(sql)

    async def close(self, handle: Any) -> None:
        await handle.close()


class AsyncpgPool(Asyncpg):
    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        async with asyncpg.create_pool(self.url, min_size=1) as pool, pool.acquire() as connection:
            yield connection


class AsyncPsycopg(Driver):
    """With a row factory of the application's own, as ``dict_row`` is."""

    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        connection = await psycopg.AsyncConnection.connect(
            self.url, autocommit=autocommit, row_factory=dict_row
        )
        try:
            yield self.handle(connection)
        finally:
            await connection.close()

    def handle(self, connection: psycopg.AsyncConnection[Any]) -> Any:
        return connection

    def begun(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        return self._connection(handle).transaction()

    def savepoint(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        return self.begun(handle)

    async def execute(self, handle: Any, sql: str) -> None:
        await handle.execute(sql)

    async def close(self, handle: Any) -> None:
        await self._connection(handle).close()

    def _connection(self, handle: Any) -> psycopg.AsyncConnection[Any]:
        return handle.connection if isinstance(handle, psycopg.AsyncCursor) else handle


class AsyncPsycopgCursor(AsyncPsycopg):
    def handle(self, connection: psycopg.AsyncConnection[Any]) -> Any:
        return connection.cursor()


class Psycopg(Driver):
    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        connection = psycopg.connect(self.url, autocommit=autocommit, row_factory=dict_row)
        try:
            yield self.handle(connection)
        finally:
            connection.close()

    def handle(self, connection: psycopg.Connection[Any]) -> Any:
        return connection

    @asynccontextmanager
    async def begun(self, handle: Any) -> AsyncIterator[Any]:
        with self._connection(handle).transaction():
            yield

    def savepoint(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        return self.begun(handle)

    async def execute(self, handle: Any, sql: str) -> None:
        handle.execute(sql)

    async def close(self, handle: Any) -> None:
        self._connection(handle).close()

    def _connection(self, handle: Any) -> psycopg.Connection[Any]:
        return handle.connection if isinstance(handle, psycopg.Cursor) else handle


class PsycopgCursor(Psycopg):
    def handle(self, connection: psycopg.Connection[Any]) -> Any:
        return connection.cursor()


class PsycopgClientCursor(Psycopg):
    def handle(self, connection: psycopg.Connection[Any]) -> Any:
        connection.cursor_factory = psycopg.ClientCursor
        return connection


class Sqlite(Driver):
    engine = "sqlite"

    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        level = None if autocommit else ""
        db = sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=level)  # type: ignore[arg-type]
        try:
            yield db
        finally:
            db.close()

    @asynccontextmanager
    async def begun(self, handle: Any) -> AsyncIterator[Any]:
        with handle:
            handle.execute("BEGIN")
            yield

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[Any]:
        handle.execute("SAVEPOINT mine")
        try:
            yield
        except BaseException:
            handle.execute("ROLLBACK TO mine")
            raise
        handle.execute("RELEASE mine")

    async def execute(self, handle: Any, sql: str) -> None:
        handle.execute(sql)

    async def close(self, handle: Any) -> None:
        handle.close()


class Aiosqlite(Driver):
    engine = "sqlite"

    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        level = None if autocommit else ""
        path = self.url.removeprefix("sqlite:///")
        async with aiosqlite.connect(path, isolation_level=level) as db:
            yield db

    @asynccontextmanager
    async def begun(self, handle: Any) -> AsyncIterator[Any]:
        await handle.execute("BEGIN")
        try:
            yield
        except BaseException:
            await handle.rollback()
            raise
        await handle.commit()

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[Any]:
        await handle.execute("SAVEPOINT mine")
        try:
            yield
        except BaseException:
            await handle.execute("ROLLBACK TO mine")
            raise
        await handle.execute("RELEASE mine")

    async def execute(self, handle: Any, sql: str) -> None:
        await handle.execute(sql)

    async def close(self, handle: Any) -> None:
        await handle.close()


ASYNCPG: tuple[type[Driver], ...] = (Asyncpg, AsyncpgPool)
PSYCOPG: tuple[type[Driver], ...] = (
    Psycopg,
    PsycopgCursor,
    PsycopgClientCursor,
    AsyncPsycopg,
    AsyncPsycopgCursor,
)
SQLITE: tuple[type[Driver], ...] = (Sqlite, Aiosqlite)
