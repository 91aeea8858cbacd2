"""The inbox of a consumer's run: which driver serves what is given as ``tx=``, and whether that is
the application's own database.

If it were not, effects would be committed where no relay looks for the events beside them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from seaway import drivers, logs
from seaway.contracts import InboxStore, InboxTransaction, Store
from seaway.drivers.functions import FunctionSessions
from seaway.drivers.keeping import ThreadFunctionSessions
from seaway.drivers.protocols import Sessions, ThreadSessions, serves_threads
from seaway.errors import ConfigError, SchemaMismatch, StoreUnavailable
from seaway.inbox.threads import Threads
from seaway.inbox.transaction import Inbox, ThreadInbox
from seaway.retry import Backoff
from seaway.tables import check_schema
from seaway.waiting import set_within

logger = logs.logger("seaway.inbox")

_OUTAGE = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))
_SUPPORTED = {
    False: f'"store", {drivers.SOURCES_TAKEN}, a function that gives {drivers.KEPT_TAKEN}, or the '
    "path of an SQLite file",
    True: f'"store", {drivers.PLAIN_SOURCES_TAKEN}, a function that gives '
    f"{drivers.PLAIN_KEPT_TAKEN}, or the path of an SQLite file",
}
"""By whether handlers are plain."""


def inbox_for(
    tx: object, *, schema: str | None = None, committed: Callable[[], object] | None = None
) -> InboxStore:
    """The inbox over what ``tx`` gives; does no I/O. Close it: it closes nothing of the user's.

    Takes an asyncpg ``Pool``; a SQLAlchemy ``async_sessionmaker`` or ``AsyncEngine``; a psycopg
    ``AsyncConnectionPool``; a function without arguments that gives a psycopg ``AsyncConnection``
    or an aiosqlite ``Connection`` (it may be asynchronous; what it gives is kept and closed here);
    or the path of an SQLite file that is there. ``schema``: where Seaway's tables are on
    PostgreSQL, default the connection's search path. ``committed`` is called after each commit.

    ``ConfigError`` for anything else.
    """
    sessions = _sessions_of(tx, schema, plain=False)
    assert not serves_threads(sessions)
    return Inbox(sessions, schema, committed)


def thread_inbox_for(
    tx: object, *, schema: str | None = None, committed: Callable[[], object] | None = None
) -> ThreadInbox[Any]:
    """The same for plain handlers: its transactions are to be carried through in a thread.

    Takes a SQLAlchemy ``sessionmaker``, ``scoped_session`` or ``Engine``; a psycopg
    ``ConnectionPool``; a function without arguments that gives a psycopg
    ``Connection`` or a ``sqlite3.Connection`` (called once a thread; what it gives is kept and
    closed there); the path of an SQLite file that is there; or ``drivers.protocols.ThreadSessions``
    themselves. ``committed`` is called in the thread.
    """
    sessions = _sessions_of(tx, schema, plain=True)
    assert serves_threads(sessions)
    return ThreadInbox(sessions, schema, committed)


def _sessions_of(tx: object, schema: str | None, *, plain: bool) -> Sessions | ThreadSessions:
    if schema is not None:
        check_schema(schema)
    found: Sessions | ThreadSessions | None = None
    if serves_threads(tx):
        found = tx
    elif (sessions_of := drivers.driver_entry("SOURCES", type(tx))) is not None:
        found = sessions_of(tx)
    elif isinstance(tx, str | Path) and "://" not in str(tx):
        return _over_file(Path(tx), plain=plain)
    elif callable(tx) and not isinstance(tx, type):
        return ThreadFunctionSessions(tx) if plain else FunctionSessions(tx)
    if found is not None and serves_threads(found) == plain:
        return found
    shown = repr(tx) if isinstance(tx, type) else f"a {drivers.name(type(tx))}"
    if found is not None:
        kind, other = ("plain", "async") if plain else ("async", "plain")
        raise ConfigError(
            f"the handlers are {kind}, and {shown} is for {other} ones",
            hint=f"for {kind} handlers tx= takes {_SUPPORTED[plain]}",
        )
    raise ConfigError(
        f"{shown} gives no transactions to handlers", hint=f"tx= takes {_SUPPORTED[plain]}"
    )


def _over_file(path: Path, *, plain: bool) -> Sessions | ThreadSessions:
    if plain:

        def made() -> Any:
            from seaway.drivers.sqlite3 import connect

            return connect(path)

        return ThreadFunctionSessions(made)

    def opened() -> Any:
        from seaway.drivers.aiosqlite import connect

        return connect(path)

    return FunctionSessions(opened)


@asynccontextmanager
async def inbox_of(
    tx: object, store: Store, *, schema: str | None, consumer: str, stop: asyncio.Event
) -> AsyncIterator[InboxStore]:
    """``store`` for ``"store"`` and ``None``, else the inbox over what ``tx`` gives, closed after.

    Writes a probe row through the inbox, and gives the inbox once ``store`` shows that row, or
    ``stop`` is set; waits for a database that is away. That leaves no row. ``ConfigError`` where
    the two are not the same database, ``SchemaMismatch`` where the handle finds no inbox; both name
    the consumer.
    """
    if tx is None:
        _warn_of_none(consumer)
    if tx is None or tx == "store":
        yield store
        return
    with _naming(consumer):
        inbox = inbox_for(tx, schema=schema, committed=store.nudge)

    async def through(work: _Work) -> None:
        async with inbox.transaction() as opened:
            await work(opened)

    try:
        await _reached(through, store, consumer, stop)
        yield inbox
    finally:
        await inbox.close()


@asynccontextmanager
async def threads_of(
    tx: object, store: Store, *, schema: str | None, consumer: str, stop: asyncio.Event
) -> AsyncIterator[Threads]:
    """The same for plain handlers: threads over such an inbox, ended after."""
    if tx is None:
        _warn_of_none(consumer)
        async with Threads(consumer, None) as threads:
            yield threads
        return
    if tx == "store":
        async with Threads(consumer, store.for_threads()) as threads:
            yield threads
        return
    tell = partial(asyncio.get_running_loop().call_soon_threadsafe, store.nudge)
    with _naming(consumer):
        inbox = thread_inbox_for(tx, schema=schema, committed=tell)
    async with Threads(consumer, inbox) as threads:

        async def through(work: _Work) -> None:
            async def carried(_: object) -> None:
                async with inbox.transaction() as opened:
                    await work(opened)

            await threads.carry(carried)

        await _reached(through, store, consumer, stop)
        yield threads


_Work: TypeAlias = Callable[[InboxTransaction], Coroutine[Any, Any, object]]
_Through: TypeAlias = Callable[[_Work], Coroutine[Any, Any, None]]
"""Runs work in a transaction of the handlers' inbox."""


@contextmanager
def _naming(consumer: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"consumer {consumer}: {error}") from error


def _warn_of_none(consumer: str) -> None:
    logger.warning("%s has no database: its effects are at least once", consumer)


async def _reached(
    through: _Through, store: InboxStore, consumer: str, stop: asyncio.Event
) -> None:
    attempt = 0
    while not stop.is_set():
        try:
            await _reach(through, store, consumer)
            return
        except StoreUnavailable as error:
            attempt += 1
            logger.warning("%s waits for its database: %s", consumer, error)
            await set_within(_OUTAGE.delay(attempt), stop)


async def _reach(through: _Through, store: InboxStore, consumer: str) -> None:
    probe = f"seaway-start-{uuid.uuid4()}"

    async def write(tx: InboxTransaction) -> None:
        await tx.claim_many(consumer, [])
        await tx.trying(consumer, [probe])

    try:
        await through(write)
    except SchemaMismatch as error:
        raise SchemaMismatch(
            f"consumer {consumer} finds no inbox through the handle given as tx=: run seaway db "
            f"upgrade on that database, which must be the application's own ({error})"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"consumer {consumer}: {error}") from error
    async with store.transaction() as own:
        tried = await own.trying(consumer, [probe])
        await own.release(consumer, [probe])
    if tried[probe] == 1:
        await through(lambda tx: tx.release(consumer, [probe]))
        raise ConfigError(
            f"consumer {consumer} works in another database than the application's: events added "
            "there would never be published",
            hint="let tx= and database: name the same one, and the same database_schema",
        )
