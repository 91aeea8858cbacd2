"""What gives handles to an inbox: every kind that ``tx=`` takes, on the database at a URL."""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import aiosqlite
import asyncpg
import psycopg
from django.db.transaction import atomic
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from consuming import carrying
from drivers.framework import database
from drivers.threads import AcrossThreads, ThreadHandle
from seaway.contracts import InboxStore, Store
from seaway.drivers.django_threads import Django
from seaway.inbox import inbox_for
from seaway.inbox.opening import thread_inbox_for


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
        return handle

    def inbox(self, given: Any, store: Store) -> InboxStore:
        """The inbox over what was ``given``; ``store`` hears of its commits."""
        return inbox_for(given, committed=lambda: store.nudge())

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


class PlainKind(Kind):
    """The same of a synchronous handle: in its thread, or through ``AcrossThreads``."""

    plain = True

    def handler(self, handle: Callable[..., Coroutine[Any, Any, None]]) -> Any:
        return carrying(handle)

    def inbox(self, given: Any, store: Store) -> InboxStore:
        tell = partial(asyncio.get_running_loop().call_soon_threadsafe, lambda: store.nudge())
        if given == "store":
            return AcrossThreads(store.for_threads())
        return AcrossThreads(thread_inbox_for(given, committed=tell))

    async def run(self, handle: Any, sql: str) -> None:
        await _there(handle, lambda real: self.execute(real, sql))

    @asynccontextmanager
    async def savepoint(self, handle: Any) -> AsyncIterator[None]:
        part = await _there(handle, self.part)
        await _there(handle, lambda _: part.__enter__())
        try:
            yield
        except BaseException as error:
            failed = type(error), error, error.__traceback__
            await _there(handle, lambda _: part.__exit__(*failed) and None)
            raise
        await _there(handle, lambda _: part.__exit__(None, None, None))

    async def commit(self, handle: Any) -> None:
        await _there(handle, lambda real: real.commit())

    async def roll_back(self, handle: Any) -> None:
        await _there(handle, lambda real: real.rollback())

    def execute(self, real: Any, sql: str) -> None:
        real.execute(sql)

    def part(self, real: Any) -> AbstractContextManager[Any]:
        """A savepoint."""
        found: AbstractContextManager[Any] = real.transaction()
        return found


async def _there(handle: Any, act: Callable[[Any], Any]) -> Any:
    return await handle.do(act) if isinstance(handle, ThreadHandle) else act(handle)


class PlainPsycopgPool(PlainKind):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        kwargs = {"row_factory": dict_row}
        with ConnectionPool(self.url, min_size=0, max_size=30, kwargs=kwargs, open=True) as pool:
            yield pool


class PlainPsycopgFunction(PlainKind):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield lambda: psycopg.connect(self.url, autocommit=True)


class PlainPostgresStore(PlainKind):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield "store"


class PlainAlchemySessions(PlainKind):
    undoing = "begin_nested()"
    dialect: ClassVar[str] = "psycopg"

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        scheme, _, rest = self.url.partition("://")
        engine = create_engine(f"{scheme}+{self.dialect}://{rest}", pool_size=30)
        try:
            yield self.of(engine)
        finally:
            engine.dispose()

    def of(self, engine: Engine) -> Any:
        return sessionmaker(engine)

    def execute(self, real: Any, sql: str) -> None:
        real.execute(text(sql))

    def part(self, real: Any) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = real.begin_nested()
        return found


class PlainAlchemyScoped(PlainAlchemySessions):
    def of(self, engine: Engine) -> Any:
        return scoped_session(sessionmaker(engine))


class PlainAlchemySqliteEngine(PlainAlchemySessions):
    engine, dialect = "sqlite", "pysqlite"

    def of(self, engine: Engine) -> Any:
        return engine


class PlainSqliteFunction(PlainKind):
    engine, undoing = "sqlite", "SAVEPOINT"

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(self.path)
            connection.row_factory = sqlite3.Row
            return connection

        yield connect

    @contextmanager
    def part(self, real: Any) -> Iterator[None]:
        real.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            real.execute("ROLLBACK TO part")
            raise
        finally:
            real.execute("RELEASE part")


class PlainSqlitePath(PlainSqliteFunction):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield self.path


class PlainSqliteStore(PlainSqliteFunction):
    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield "store"


class DjangoPostgres(PlainKind):
    undoing = "an inner block of atomic()"

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        with database(self.url, "effects"):
            yield Django(using="effects")

    def execute(self, real: Any, sql: str) -> None:
        with real.cursor() as cursor:
            cursor.execute(sql)

    def part(self, real: Any) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = atomic(using=real.alias)
        return found

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
    PlainAlchemySessions,
    PlainAlchemyScoped,
    PlainAlchemySqliteEngine,
    PlainSqliteFunction,
    PlainSqlitePath,
    PlainSqliteStore,
    DjangoPostgres,
    DjangoSqlite,
)
"""Those for plain handlers."""
