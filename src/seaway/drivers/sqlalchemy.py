"""SQLAlchemy: sessions and connections of both kinds, on PostgreSQL and SQLite, whichever the
dialect. Nothing is flushed for an event's sake.

On PostgreSQL statements run through ``text()``, so that whatever dialect is there binds the
parameters its own way. On SQLite those of a writer run on the driver's connection below. What is
asynchronous runs on the synchronous session or connection inside, as SQLAlchemy itself runs every
statement of these.

A consumer's session begins, nests and commits as SQLAlchemy has it, so pending objects are flushed
with the commit and a savepoint undoes them too. On SQLite its transactions take turns, since it has
one writer. Those of plain handlers are in ``sqlalchemy_threads``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from sqlalchemy import AdaptedConnection, Connection, CursorResult, TextClause, text
from sqlalchemy import Engine as PlainEngine
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InvalidRequestError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
    TimeoutError,
    UnboundExecutionError,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from seaway import drivers
from seaway.databases import engines, sqlstates
from seaway.databases.engines import SQLITE, Engine, of_dialect
from seaway.databases.queries import (
    RELEASE,
    SAVE,
    UNDO,
    Query,
    Row,
    Work,
    awaited,
    by_name,
    carried_out,
    named,
)
from seaway.databases.refusals import Refusal
from seaway.databases.tasks import Turns, to_its_end
from seaway.drivers import protocols, sqlite_handles
from seaway.drivers.protocols import SHOWN, Errors, Handles, Sources, ThreadSessions, Writer
from seaway.errors import ConfigError, SeawayError, StoreUnavailable

if TYPE_CHECKING:  # Without greenlet it cannot be imported, and nobody comes with any of these.
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_scoped_session,
    )

T = TypeVar("T")

Handle: TypeAlias = "Session | scoped_session[Session] | Connection"
AsyncHandle: TypeAlias = "AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection"

# ------------------------------------------------------------------- what its errors mean


def refusal(error: BaseException) -> Refusal | None:
    """See ``protocols.Errors``."""
    if isinstance(error, PendingRollbackError):
        return Refusal.ABORTED
    if not isinstance(error, SQLAlchemyError):
        return None
    below = _below(error)
    if (means := drivers.means_below(type(below))) is not None:
        return means.refusal(below)
    if _away(error):
        return Refusal.AWAY
    return sqlstates.refusal(sqlstates.code_of(below))


def translated(error: BaseException, where: str) -> SeawayError | None:
    """See ``protocols.Errors``. The driver below tells; where Seaway has none, a SQLSTATE."""
    if isinstance(error, UnboundExecutionError):
        return _unbound()
    if isinstance(error, OSError):
        return StoreUnavailable(f"{where}: {error}")
    below = _below(error)
    if (means := drivers.means_below(type(below))) is not None:
        return means.translated(below, where)
    if _away(error):
        return StoreUnavailable(f"{where}: {error}")
    if isinstance(error, SQLAlchemyError) or sqlstates.code_of(error):
        return sqlstates.translated(below, where)
    return None


def _below(error: BaseException) -> BaseException:
    """The driver's own error."""
    return error.orig if isinstance(error, DBAPIError) and error.orig else error


def _away(error: BaseException) -> bool:
    if isinstance(error, TimeoutError):
        return True  # The pool's.
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    known = sqlstates.code_of(_below(error))
    return isinstance(error, OperationalError | InterfaceError) and not known


MEANS = Errors(refusal, translated, "a block of begin_nested()")

# ------------------------------------------------------------------- which transaction it is in


def require_transaction(handle: Handle | AsyncHandle) -> None:
    """See ``protocols.Writer``. A session's transaction is open as soon as it is used."""
    found = _unscoped(handle)
    if getattr(found, "closed", False):  # A connection; a closed session begins anew.
        raise protocols.closed("it is closed")
    if not found.in_transaction():
        raise protocols.outside()


def _unscoped(handle: Any) -> Any:
    """The session of a scoped one, which is called for it."""
    return handle() if callable(handle) else handle


# ------------------------------------------------------------------- statements


def run(handle: Handle, work: Work[T]) -> T:
    """See ``protocols.Writer``. But for SQLite one round trip a query."""
    connection = _connection(handle)
    dialect = connection.dialect
    if (engine := _known(dialect.name, cast(Any, dialect.dbapi))) is None:
        raise protocols.unsupported(f"SQLAlchemy's dialect {dialect.name}")
    below: Any = connection.connection.dbapi_connection
    if engine is not SQLITE:
        # With some drivers it is a method.
        if getattr(below, "autocommit", False) is True:
            raise protocols.autocommit()
        return carried_out(work(engine), partial(_rows, connection))
    if isinstance(below, AdaptedConnection):
        done: T = below.run_async(partial(_run_below, work))
        return done
    if sqlite_handles.must_begin(below):
        below.execute("BEGIN")
    return carried_out(work(SQLITE), partial(sqlite_handles.rows, below))


@lru_cache(maxsize=32)
def _known(dialect: str, driver: Any) -> Engine | None:
    """The engine of a dialect over a driver whose errors are known."""
    engine = of_dialect(dialect)
    if engine is not None:
        drivers.require_explained(engine, driver, f"SQLAlchemy's dialect {dialect}")
    return engine


async def run_async(handle: AsyncHandle, work: Work[T]) -> T:
    """The same, awaited."""
    done: T = await _unscoped(handle).run_sync(run, work)
    return done


def _connection(handle: Handle) -> Connection:
    if isinstance(handle, Connection):
        return handle
    try:
        with _usable():
            return handle.connection()
    except UnboundExecutionError as error:
        raise ConfigError(
            "the session has no single database to write to",
            hint="pass session.connection(bind_arguments=...)",
        ) from error
    except (DBAPIError, OSError) as error:
        raise translated(error, "the session's database") or error from error


def _rows(connection: Connection, query: Query) -> Sequence[Row]:
    with _usable():
        found = connection.execute(*as_text(query))
    return found.all() if query.gives else ()


@contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except UnboundExecutionError:
        raise
    except PendingRollbackError as error:
        raise protocols.aborted(MEANS.undoing) from error
    except InvalidRequestError as error:
        raise protocols.closed(error) from error


async def _run_below(work: Work[T], db: Any) -> T:
    if sqlite_handles.must_begin(db):
        await db.execute("BEGIN")
    return await awaited(work(SQLITE), partial(sqlite_handles.awaited_rows, db))


def as_text(query: Query) -> tuple[TextClause, Mapping[str, Any]]:
    """A statement and its parameters as SQLAlchemy takes them."""
    if isinstance(query.parameters, Mapping):
        return compiled(query.statement), query.parameters
    return compiled(named(query.statement, ":{}")), by_name(*query.parameters)


@lru_cache(maxsize=128)
def compiled(statement: str) -> TextClause:
    """The same object each time: SQLAlchemy keeps what it compiled of it."""
    return text(statement)


# ------------------------------------------------------------------- sessions


class AlchemySession:
    """See ``protocols.Session``."""

    def __init__(self, handle: AsyncSession, engine: Engine) -> None:
        self.handle = handle
        self.engine = engine
        self._connection: AsyncConnection | None = None

    @property
    def lost(self) -> bool:
        return self._connection is not None and self._connection.invalidated

    async def begin(self) -> None:
        connecting = self.handle.connection()
        if self.engine is SQLITE:
            # Cut short, an opened file would be nobody's to close.
            self._connection = await to_its_end(connecting)
            await self._begin_writing(self._connection)
        else:
            self._connection = await connecting
        try:
            await self.handle.execute(compiled(SAVE))
        except DBAPIError as error:
            if self.engine is SQLITE or refusal(error) is not Refusal.ENDED:
                raise
            raise autocommit() from error

    async def touched(self, query: Query) -> int:
        return (await self._execute(query)).rowcount

    async def rows(self, query: Query) -> Sequence[Row]:
        return (await self._execute(query)).all()

    async def commit(self) -> None:
        """See ``protocols.Session``. Savepoints that the body left open are released."""
        await to_its_end(self._commit())

    async def _commit(self) -> None:
        while (nested := self.handle.get_nested_transaction()) is not None:
            await nested.commit()
        await self.handle.execute(compiled(RELEASE))
        await self.handle.commit()

    async def flush(self) -> None:
        """Write what is pending."""
        await self.handle.flush()

    async def roll_back(self) -> None:
        await to_its_end(self._roll_back())

    async def _roll_back(self) -> None:
        try:
            await self.handle.execute(compiled(UNDO))
        finally:
            await self.handle.rollback()

    async def _execute(self, query: Query) -> CursorResult[Any]:
        return cast("CursorResult[Any]", await self.handle.execute(*as_text(query)))

    async def _begin_writing(self, connection: AsyncConnection) -> None:
        # The driver begins with the first change, if ever: our savepoint would be the whole
        # transaction then, and its release the commit.
        below: Any = (await connection.get_raw_connection()).driver_connection
        if not below.in_transaction:
            await self.handle.execute(compiled("BEGIN IMMEDIATE"))


class AlchemySessions:
    """See ``protocols.Sessions``. Of sessions that ``make`` makes."""

    errors, shown = MEANS, SHOWN

    def __init__(self, make: Callable[[], AsyncSession]) -> None:
        self._make = make
        self._turns = Turns()

    async def take(self) -> AlchemySession:
        handle = self._make()
        session = AlchemySession(handle, engine_of(handle))
        if session.engine is SQLITE:
            await self._turns.take()
        return session

    async def give_back(self, session: AlchemySession, *, failed: bool) -> None:
        try:
            await to_its_end(_close(session.handle))
        finally:
            if session.engine is SQLITE:
                self._turns.leave()

    async def close(self) -> None:
        """The engine is the user's."""


def over_engine(engine: AsyncEngine) -> AlchemySessions:
    """Sessions of an ``AsyncEngine``."""
    from sqlalchemy.ext.asyncio import async_sessionmaker

    return AlchemySessions(async_sessionmaker(engine, expire_on_commit=False))


def engine_of(session: AsyncSession | Session) -> Engine:
    """Of the one database that ``session`` is for; ``ConfigError`` where there is no such."""
    try:
        dialect = session.get_bind().dialect
    except UnboundExecutionError as error:
        raise _unbound() from error
    if (engine := _known(dialect.name, cast(Any, dialect.dbapi))) is None:
        raise ConfigError(
            f"the inbox cannot work through SQLAlchemy's dialect {dialect.name}",
            hint=f"it takes {engines.SHOWN}",
        )
    return engine


def autocommit() -> ConfigError:
    """What is said to sessions that cannot have a transaction."""
    return ConfigError(
        "the engine of tx= is in autocommit mode, so effects and inbox row cannot be committed "
        "together",
        hint="use one whose isolation level is not AUTOCOMMIT",
    )


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


def _for_threads(make: sessionmaker[Session] | scoped_session[Session]) -> ThreadSessions:
    from seaway.drivers.sqlalchemy_threads import AlchemyThreadSessions

    return AlchemyThreadSessions(make)


def _over_plain_engine(engine: PlainEngine) -> ThreadSessions:
    return _for_threads(sessionmaker(engine, expire_on_commit=False))


_WRITER = Writer(MEANS, require_transaction, run)
_ASYNC_WRITER = Writer(MEANS, require_transaction, run_async)

HANDLES: Handles = {
    "sqlalchemy.engine.base.Connection": _WRITER,
    "sqlalchemy.orm.session.Session": _WRITER,
    "sqlalchemy.orm.scoping.scoped_session": _WRITER,
    "sqlalchemy.ext.asyncio.engine.AsyncConnection": _ASYNC_WRITER,
    "sqlalchemy.ext.asyncio.session.AsyncSession": _ASYNC_WRITER,
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session": _ASYNC_WRITER,
}
SOURCES: Sources = {
    "sqlalchemy.ext.asyncio.session.async_sessionmaker": AlchemySessions,
    "sqlalchemy.ext.asyncio.engine.AsyncEngine": over_engine,
    "sqlalchemy.orm.session.sessionmaker": _for_threads,
    "sqlalchemy.orm.scoping.scoped_session": _for_threads,
    "sqlalchemy.engine.base.Engine": _over_plain_engine,
}
