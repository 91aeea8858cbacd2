"""What gives handles to an inbox: every kind that ``tx=`` takes, on the database at a URL."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ClassVar, Literal

import aiosqlite
import asyncpg
import psycopg
from django.db.transaction import atomic
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from drivers.framework import database
from seaway.drivers.django_threads import Django
from seaway.inbox.threads import carried_through


class Kind(ABC):
    """One kind of ``tx=``."""

    engine: ClassVar[Literal["postgres", "sqlite"]] = "postgres"
    undoing: ClassVar[str] = "connection.transaction()"
    """What its users know as a savepoint."""

    plain: ClassVar[bool] = False
    """Whether it is for plain handlers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def handler(self, handle: Callable[..., Coroutine[Any, Any, None]]) -> Any:
        """``handle``, which awaits nothing but this kind's own and ``delivery.add``, as a handler
        for it."""
        if not self.plain:
            return handle

        @wraps(handle)
        def plain(event: Any, delivery: Any) -> None:
            carried_through(handle(event, delivery))

        return plain

    @abstractmethod
    def given(self) -> Any:
        """What the user gives as ``tx=``, as an asynchronous context."""

    async def run(self, handle: Any, sql: str) -> None:
        """A statement of the application's own."""
        await handle.execute(sql)

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[None]:
        """A part that an exception undoes alone, in the handle's own way."""
        async with handle.transaction():
            yield

    async def commit(self, handle: Any) -> None:
        """What a handler must not do."""
        await handle.execute("COMMIT")

    async def roll_back(self, handle: Any) -> None:
        """Nor this."""
        await handle.execute("ROLLBACK")

    @property
    def path(self) -> str:
        """Of an SQLite file."""
        return self.url.removeprefix("sqlite:///")


class AsyncpgPool(Kind):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        async with asyncpg.create_pool(self.url, min_size=1, max_size=30) as pool:
            yield pool


class PsycopgPool(Kind):
    kwargs: ClassVar[dict[str, Any]] = {"row_factory": dict_row}
    pool: ClassVar[type[AsyncConnectionPool[Any]]] = AsyncConnectionPool

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        pool = self.pool(self.url, min_size=0, max_size=30, kwargs=self.kwargs, open=False)
        await pool.open()
        try:
            yield pool
        finally:
            await pool.close()

    async def commit(self, handle: Any) -> None:
        await handle.commit()

    async def roll_back(self, handle: Any) -> None:
        await handle.rollback()


class PsycopgAutocommitPool(PsycopgPool):
    kwargs = {"autocommit": True}  # noqa: RUF012 - declared above
    pool = AsyncNullConnectionPool


class PsycopgFunction(PsycopgPool):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        async def connect() -> psycopg.AsyncConnection[Any]:
            return await psycopg.AsyncConnection.connect(self.url)

        yield connect


class AlchemyEngine(Kind):
    undoing = "begin_nested()"
    dialect: ClassVar[str] = "asyncpg"

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        scheme, _, rest = self.url.partition("://")
        engine = create_async_engine(
            f"{scheme}+{self.dialect}://{rest}", pool_size=30, pool_timeout=30
        )
        try:
            yield self.of(engine)
        finally:
            await engine.dispose()

    def of(self, engine: AsyncEngine) -> Any:
        return engine

    async def run(self, handle: Any, sql: str) -> None:
        await handle.execute(text(sql))

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[None]:
        async with handle.begin_nested():
            yield

    async def commit(self, handle: Any) -> None:
        await handle.commit()

    async def roll_back(self, handle: Any) -> None:
        await handle.rollback()


class AlchemySessions(AlchemyEngine):
    def of(self, engine: AsyncEngine) -> Any:
        return async_sessionmaker(engine)


class AlchemyPsycopgSessions(AlchemySessions):
    dialect = "psycopg"


class AlchemySqliteSessions(AlchemySessions):
    engine, dialect = "sqlite", "aiosqlite"


class SqlitePath(Kind):
    engine, undoing = "sqlite", "SAVEPOINT"

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[None]:
        await handle.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            await handle.execute("ROLLBACK TO part")
            raise
        finally:
            await handle.execute("RELEASE part")

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield self.path


class SqliteFunction(SqlitePath):
    """With a row factory of the application's own, and the transactions that sqlite3 begins."""

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        async def connect() -> aiosqlite.Connection:
            connection = await aiosqlite.connect(self.path)
            connection.row_factory = aiosqlite.Row
            return connection

        yield connect


# ------------------------------------------------------------------- for plain handlers


class PlainPsycopgPool(Kind):
    plain = True

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        kwargs = {"row_factory": dict_row}
        with ConnectionPool(self.url, min_size=0, max_size=30, kwargs=kwargs, open=True) as pool:
            yield pool

    async def run(self, handle: Any, sql: str) -> None:
        handle.execute(sql)

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[None]:
        with handle.transaction():
            yield

    async def commit(self, handle: Any) -> None:
        handle.commit()

    async def roll_back(self, handle: Any) -> None:
        handle.rollback()


class PlainPsycopgFunction(PlainPsycopgPool):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield lambda: psycopg.connect(self.url, autocommit=True)


class PlainPostgresStore(PlainPsycopgPool):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield "store"


class PlainSqliteFunction(Kind):
    engine, undoing, plain = "sqlite", "SAVEPOINT", True

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(self.path)
            connection.row_factory = sqlite3.Row
            return connection

        yield connect

    async def run(self, handle: Any, sql: str) -> None:
        handle.execute(sql)

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[None]:
        handle.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            handle.execute("ROLLBACK TO part")
            raise
        finally:
            handle.execute("RELEASE part")

    async def commit(self, handle: Any) -> None:
        handle.commit()

    async def roll_back(self, handle: Any) -> None:
        handle.rollback()


class PlainSqlitePath(PlainSqliteFunction):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield self.path


class PlainSqliteStore(PlainSqliteFunction):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield "store"


class DjangoPostgres(Kind):
    plain, undoing = True, "an inner block of atomic()"

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        with database(self.url, "effects"):
            yield Django(using="effects")

    async def run(self, handle: Any, sql: str) -> None:
        with handle.cursor() as cursor:
            cursor.execute(sql)

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[None]:
        with atomic(using=handle.alias):
            yield

    async def commit(self, handle: Any) -> None:
        await self.run(handle, "COMMIT")  # Django itself refuses `transaction.commit()`.

    async def roll_back(self, handle: Any) -> None:
        await self.run(handle, "ROLLBACK")


class DjangoSqlite(DjangoPostgres):
    engine = "sqlite"


KINDS: tuple[type[Kind], ...] = (
    AsyncpgPool,
    PsycopgPool,
    PsycopgAutocommitPool,
    PsycopgFunction,
    AlchemyEngine,
    AlchemySessions,
    AlchemyPsycopgSessions,
    AlchemySqliteSessions,
    SqlitePath,
    SqliteFunction,
)

PLAIN: tuple[type[Kind], ...] = (
    PlainPsycopgPool,
    PlainPsycopgFunction,
    PlainPostgresStore,
    PlainSqliteFunction,
    PlainSqlitePath,
    PlainSqliteStore,
    DjangoPostgres,
    DjangoSqlite,
)
"""Those for plain handlers."""
