"""Connections to one PostgreSQL database: a pool, short transactions on it, and the sessions of
consumers' transactions.

Owns: how connections are made and given out. Must not know any table. Guarantees: what is asked
here runs in an explicit transaction, so that it is one session's work also behind PgBouncer in
transaction mode; a commit or rollback is never left half done by a cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias

import asyncpg
from asyncpg import connect_utils

from seaway.databases.tasks import statement_to_its_end, to_its_end
from seaway.drivers.asyncpg import (
    ERRORS,
    MEANS,
    AsyncpgSession,
    drop,
    in_transaction,
    lost,
    release,
    translating,
)
from seaway.drivers.asyncpg import Pooled as Handle
from seaway.drivers.protocols import nothing_committed
from seaway.errors import StoreUnavailable
from seaway.process import Opened
from seaway.stores.postgres.address import Address, options_of
from seaway.stores.postgres.begins import READING, WRITES, WRITING, Begin

Row: TypeAlias = "asyncpg.Record"

CONNECT_SECONDS = 10.0
_STATEMENTS = 256
_SPARE_SECONDS = 1.0
_BEGUN_SECONDS = 0.005
_LOST_WHILE_IDLE = 5
_DRIVERS_BEGIN = "BEGIN;"


class _HonestConnection(asyncpg.Connection):
    """Fails where a commit was answered with a rollback, and where a transaction may not write.

    The first is PostgreSQL's answer when an error inside the transaction was caught and passed
    over: an effect would be lost, and its message acknowledged. The driver's own transactions begin
    with what the role has by default; theirs may be read only.
    """

    def execute(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> Coroutine[Any, Any, str]:
        if query.startswith("COMMIT"):
            return self._commit(query, timeout)
        if query.startswith("BEGIN"):
            return self._begin(WRITES if query == _DRIVERS_BEGIN else query, timeout)
        running: Coroutine[Any, Any, str] = super().execute(query, *args, timeout=timeout)
        return running

    async def _begin(self, query: str, timeout: float | None) -> str:
        try:
            tag: str = await super().execute(query, timeout=timeout)
        except asyncpg.FeatureNotSupportedError as error:
            # READ WRITE, on a standby: what it says of a statement that writes heals, too.
            raise asyncpg.ReadOnlySQLTransactionError(str(error)) from error
        return tag

    async def _commit(self, query: str, timeout: float | None) -> str:
        tag: str = await super().execute(query, timeout=timeout)
        if tag == "ROLLBACK":
            raise asyncpg.InFailedSQLTransactionError(nothing_committed(MEANS.undoing))
        return tag


class _Begun(NamedTuple):
    """An empty transaction, since when it is open."""

    connection: Handle
    whole: asyncpg.transaction.Transaction
    at: float = 0.0


class Pool:
    """A few connections, made when they are first needed. ``open`` it, ``close`` it.

    What was given back is kept out of the driver's pool for a moment, since taking it there and
    back costs as much as a round trip to the server. ``COMMIT AND
    CHAIN`` opens the next transaction in the same round trip. It does nothing and holds nothing;
    where nobody takes it, it is ended within ``_BEGUN_SECONDS``: ``now()`` is never older in it.
    """

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], address: Address, schema: str | None
    ) -> None:
        self._pool = pool
        self._schema = schema
        self.opened = Opened(address.shown)
        self.address = address
        self.shown = address.shown
        self._chains = not address.pgbouncer  # Its server connections are for everybody.
        self._begun: list[_Begun] = []
        self._idle: list[Handle] = []
        self._spare = 0
        self._waiting = 0
        self._ending: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, address: Address, *, size: int, schema: str | None = None) -> Pool:
        """``size``: connections at the most. ``schema``: that of our tables, where statements name
        it. Connects once, to say early what is wrong."""
        options: dict[str, Any] = {"timeout": CONNECT_SECONDS, **options_of(address)}
        with translating(address.shown):
            driver = await asyncpg.create_pool(
                # Not one that the driver would keep up by itself: while the server is away, that
                # fills the log with its attempts.
                min_size=0,
                max_size=size,
                reset=_keep_as_it_is,
                connection_class=_HonestConnection,
                statement_cache_size=0 if address.pgbouncer else _STATEMENTS,
                **options,
            )
        pool = cls(driver, address, schema)
        try:
            await pool.return_to_driver(await pool.take())
        except BaseException:
            driver.terminate()
            raise
        return pool

    async def close(self) -> None:
        """Close every connection, after what is under way; cancelled, at once. Idempotent."""
        closing = asyncio.create_task(self._pool.close())
        for task in (self._ending, self._returning):
            if task is not None:
                task.cancel()
        try:
            while self._begun:
                await self.return_to_driver(await self._unbegun(self._begun.pop()))
            while self._idle:
                await self.return_to_driver(self._idle.pop())
            await closing
        except BaseException:
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            self._pool.terminate()
            raise

    @asynccontextmanager
    async def transaction(self, begin: Begin = WRITING) -> AsyncIterator[Handle]:
        """A short transaction of our own, committed on leaving without an error."""
        with translating(self.shown):
            async with self.untranslated(begin) as connection:
                yield connection

    @asynccontextmanager
    async def untranslated(self, begin: Begin = WRITING) -> AsyncIterator[Handle]:
        """The same, where the caller knows better what the driver's errors mean."""
        connection = await self._started(begin)
        try:
            yield connection
            await statement_to_its_end(connection.execute("COMMIT"))
        finally:
            await self.keep_for_next(connection)

    @asynccontextmanager
    async def held(self, begin: Begin) -> AsyncIterator[Handle]:
        """A connection of one's own with a transaction, which ends when it is given back."""
        with translating(self.shown):
            connection = await self._started(begin)
        try:
            yield connection
        finally:
            await self.keep_for_next(connection)

    async def _started(self, begin: Begin) -> Handle:
        """A connection on which a transaction has begun. One that was ended while it was idle
        (``idle_session_timeout``, a restart) may be known by its first statement only."""
        for _ in range(_LOST_WHILE_IDLE):
            connection = await self.take()
            try:
                await self.start(connection, begin)
                return connection
            except ERRORS:
                gone = lost(connection)
                await self.return_to_driver(connection)
                if not gone:
                    raise
            except BaseException:
                await self.return_to_driver(connection)
                raise
        raise StoreUnavailable(f"{self.shown}: sessions are ended as soon as they are idle")

    async def start(self, connection: Handle, begin: Begin) -> None:
        """Begin a transaction on ``connection``; one round trip."""
        server = connection.get_server_version().major
        script = begin.script(server, self._schema)
        await statement_to_its_end(connection.execute(script))

    async def rows(self, statement: str, *parameters: object) -> Sequence[Row]:
        """What ``statement`` returns, in a transaction of its own that only reads."""
        async with self.transaction(READING) as connection:
            return await connection.fetch(statement, *parameters)

    async def row(self, statement: str, *parameters: object) -> Row:
        """Its one row."""
        (row,) = await self.rows(statement, *parameters)
        return row

    async def take(self) -> Handle:
        """A connection of one's own, without a transaction. ``keep_for_next`` it."""
        self.opened.refuse_in_fork()
        if self._pool.is_closing():
            raise StoreUnavailable("the store is closed")
        while self._idle:
            connection = self._idle.pop()
            self._spare = min(self._spare, len(self._idle))
            if not lost(connection):
                return connection
            await self.return_to_driver(connection)
        if self._begun:
            return await self._unbegun(self._begun.pop(0))
        self._waiting += 1
        try:
            with translating(self.shown):
                return await self._pool.acquire()
        finally:
            self._waiting -= 1

    async def begin(self) -> tuple[Handle, asyncpg.transaction.Transaction]:
        """A transaction on a connection of one's own, that has done nothing. ``commit`` it, or end
        it and ``return_to_driver`` the connection."""
        self.opened.refuse_in_fork()
        latest = asyncio.get_running_loop().time() - _BEGUN_SECONDS
        if self._begun and self._begun[-1].at > latest:
            begun = self._begun.pop()
            if in_transaction(begun.connection):
                return begun.connection, begun.whole
            await self.return_to_driver(begun.connection)
        connection = await self.take()
        try:
            whole = connection.transaction()
            await whole.start()
        except BaseException:
            # The driver remembers one that was refused (on a standby) as open, and complains of it.
            drop(connection)
            await self.return_to_driver(connection)
            raise
        return connection, whole

    async def commit(self, connection: Handle, whole: asyncpg.transaction.Transaction) -> None:
        """Whole, even when cancelled meanwhile. The connection is given back whatever happens."""
        if self._waiting or self._pool.is_closing() or not self._chains:
            try:
                await statement_to_its_end(whole.commit())
            except BaseException:
                await self.return_to_driver(connection)
                raise
            await self.keep_for_next(connection)
            return
        try:
            await statement_to_its_end(connection.execute("COMMIT AND CHAIN"))
        except BaseException:
            # Committed all the same, refused, or lost: at most an empty transaction is to be ended.
            await self.return_to_driver(await self._unbegun(_Begun(connection, whole)))
            raise
        self._begun.append(_Begun(connection, whole, asyncio.get_running_loop().time()))
        if self._ending is None or self._ending.done():
            self._ending = asyncio.create_task(self._end_begun())

    async def _end_begun(self) -> None:
        """End those that nobody took."""
        while self._begun:
            await asyncio.sleep(_BEGUN_SECONDS)
            latest = asyncio.get_running_loop().time() - _BEGUN_SECONDS
            while self._begun and self._begun[0].at <= latest:
                await self.keep_for_next(await self._unbegun(self._begun.pop(0)))

    async def _unbegun(self, begun: _Begun) -> Handle:
        try:
            await statement_to_its_end(begun.whole.rollback())
        except ERRORS:
            drop(begun.connection)
        except BaseException:
            await self.return_to_driver(begun.connection)
            raise
        return begun.connection

    async def keep_for_next(self, connection: Handle) -> None:
        """Nothing is to stay open on it."""
        if self._waiting or self._pool.is_closing() or not _is_clean(connection):
            await self.return_to_driver(connection)
            return
        self._idle.append(connection)
        if self._returning is None or self._returning.done():
            self._returning = asyncio.create_task(self._return_spare())

    async def return_to_driver(self, connection: Handle) -> None:
        """Give it back to the driver's pool, which also sets its own books right."""
        await to_its_end(release(self._pool, connection))

    async def _return_spare(self) -> None:
        """Give back those that nobody took for a while: the driver's pool closes them in time."""
        while self._idle:
            self._spare = len(self._idle)
            await asyncio.sleep(_SPARE_SECONDS)
            while self._spare:
                self._spare -= 1
                await self.return_to_driver(self._idle.pop(0))


def _is_clean(connection: Handle) -> bool:
    return not lost(connection) and not connection.is_in_transaction()


async def _keep_as_it_is(connection: object) -> None:
    """Instead of a round trip that undoes session settings: we make none."""


def listening_options(address: Address) -> dict[str, Any]:
    """For a connection outside the pool, which is to listen."""
    return {"timeout": CONNECT_SECONDS, **options_of(address), "statement_cache_size": 0}


# ------------------------------------------------------------------- consumers' transactions


class PooledSession(AsyncpgSession):
    """See ``protocols.Session``. The transaction is begun ahead of use, and ends without giving the
    connection back to asyncpg's pool. On this pool's connections a COMMIT that the server answers
    with ROLLBACK raises."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.taken = False

    async def begin(self) -> None:
        self.handle, self._whole = await self._pool.begin()
        self.taken = True

    def commit(self) -> Coroutine[Any, Any, None]:
        """See ``protocols.Session``. The pool has the connection back, whatever happens."""
        self._require_open()
        self.taken = False
        return self._pool.commit(self.handle, self._whole)

    async def roll_back(self) -> None:
        self._require_open()
        if not self.lost:
            await statement_to_its_end(self._undone())

    async def _undone(self) -> None:
        try:
            await self._whole.rollback()
        except ERRORS:
            drop(self.handle)


class PooledSessions:
    """See ``protocols.Sessions``."""

    errors = MEANS

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.shown = pool.shown

    async def take(self) -> PooledSession:
        """See ``protocols.Sessions``. Its connection is taken when it begins."""
        return PooledSession(self._pool)

    async def give_back(self, session: PooledSession, *, failed: bool) -> None:
        if session.taken:
            await self._pool.return_to_driver(session.handle)

    async def close(self) -> None:
        """The pool is the store's."""


# ------------------------------------------------------------------- a defect of the driver

_Driver: Any = connect_utils.TLSUpgradeProto


class _Upgrade(_Driver):  # type: ignore[misc]
    """How the driver asks a server for TLS; its failure counts as seen.

    asyncpg (0.32) keeps a future for the answer. Cancelled between the socket's connection and the
    wait for that future, it fails the future, and asyncio reports "Future exception was never
    retrieved ... unexpected connection_lost()". A stop cancels what connects just then; so may the
    driver itself, which connects to cancel a statement. Nothing was lost: whoever waits for the
    future is still told, and nobody does here.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_data.done() and not self.on_data.cancelled():
            self.on_data.exception()


vars(connect_utils)["TLSUpgradeProto"] = _Upgrade
