"""What gives handles to an inbox: every kind that ``tx=`` takes, on the database at a URL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal

import aiosqlite
import asyncpg
import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine


class Kind(ABC):
    """One kind of ``tx=``."""

    engine: ClassVar[Literal["postgres", "sqlite"]] = "postgres"
    undoing: ClassVar[str] = "connection.transaction()"
    """What its users know as a savepoint."""

    def __init__(self, url: str) -> None:
        self.url = url

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
