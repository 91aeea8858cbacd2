"""SQLAlchemy: sessions and connections on each dialect that has an outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from drivers.base import Driver


class Alchemy(Driver):
    undoing = "begin_nested()"
    dialect: ClassVar[str]

    def options(self, autocommit: bool) -> dict[str, Any]:
        return {"poolclass": NullPool} | ({"isolation_level": "AUTOCOMMIT"} if autocommit else {})

    @property
    def engine_url(self) -> str:
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}+{self.dialect}://{rest}"

    @asynccontextmanager
    async def committing_each(self) -> AsyncIterator[Any]:
        async with self.connected(autocommit=True) as handle, self.begun(handle):
            yield handle


class AlchemyConnection(Alchemy):
    dialect = "psycopg"

    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        engine = create_engine(self.engine_url, **self.options(autocommit))
        handle = self.handle(engine)
        try:
            yield handle
        finally:
            handle.close()
            engine.dispose()

    def handle(self, engine: Any) -> Any:
        return engine.connect()

    @asynccontextmanager
    async def begun(self, handle: Any) -> AsyncIterator[Any]:
        with handle.begin():
            yield

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[Any]:
        with handle.begin_nested():
            yield

    async def execute(self, handle: Any, sql: str) -> None:
        handle.execute(text(sql))

    async def close(self, handle: Any) -> None:
        handle.close()


class AlchemySession(AlchemyConnection):
    def handle(self, engine: Any) -> Any:
        return Session(engine, close_resets_only=False)


class AlchemyScopedSession(AlchemyConnection):
    def handle(self, engine: Any) -> Any:
        return scoped_session(sessionmaker(engine))


class AlchemyAsyncConnection(Alchemy):
    dialect = "asyncpg"

    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        engine = create_async_engine(self.engine_url, **self.options(autocommit))
        async with self.handle(engine) as handle:
            yield handle

    def handle(self, engine: Any) -> Any:
        return engine.connect()

    def begun(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        transaction: AbstractAsyncContextManager[Any] = handle.begin()
        return transaction

    def savepoint(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        nested: AbstractAsyncContextManager[Any] = handle.begin_nested()
        return nested

    async def execute(self, handle: Any, sql: str) -> None:
        await handle.execute(text(sql))

    async def close(self, handle: Any) -> None:
        await handle.close()


class OwnSession(AsyncSession):
    pass


class AlchemyAsyncSession(AlchemyAsyncConnection):
    def handle(self, engine: Any) -> Any:
        return async_sessionmaker(engine, class_=OwnSession)()


class AlchemyAsyncPsycopgSession(AlchemyAsyncSession):
    dialect = "psycopg"


class AlchemyAsyncScopedSession(AlchemyAsyncConnection):
    @asynccontextmanager
    async def connected(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        engine = create_async_engine(self.engine_url, **self.options(autocommit))
        session = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
        try:
            yield session
        finally:
            await session.remove()


class AlchemySqliteConnection(AlchemyConnection):
    engine, dialect = "sqlite", "pysqlite"


class AlchemySqliteSession(AlchemySession):
    engine, dialect = "sqlite", "pysqlite"


class AlchemyAiosqliteConnection(AlchemyAsyncConnection):
    engine, dialect = "sqlite", "aiosqlite"


class AlchemyAiosqliteSession(AlchemyAsyncSession):
    engine, dialect = "sqlite", "aiosqlite"


SQLALCHEMY: tuple[type[Driver], ...] = (
    AlchemyConnection,
    AlchemySession,
    AlchemyScopedSession,
    AlchemyAsyncConnection,
    AlchemyAsyncSession,
    AlchemyAsyncPsycopgSession,
    AlchemyAsyncScopedSession,
    AlchemySqliteConnection,
    AlchemySqliteSession,
    AlchemyAiosqliteConnection,
    AlchemyAiosqliteSession,
)
