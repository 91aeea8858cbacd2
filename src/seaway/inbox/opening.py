"""The inbox of a consumer's run: which driver serves what is given as ``tx=``, and whether that is
the application's own database.

If it were not, effects would be committed where no relay looks for the events beside them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from seaway import drivers, logs
from seaway.contracts import InboxStore, Store
from seaway.drivers.functions import FunctionSessions
from seaway.errors import ConfigError, SchemaMismatch, StoreUnavailable
from seaway.inbox.transaction import Inbox
from seaway.retry import Backoff
from seaway.tables import check_schema
from seaway.waiting import set_within

logger = logs.logger("seaway.inbox")

_OUTAGE = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))
_SUPPORTED = (
    f"{drivers.SOURCES_TAKEN}, a function that gives {drivers.KEPT_TAKEN}, or the path of an "
    "SQLite file"
)


def inbox_for(
    tx: object, *, schema: str | None = None, committed: Callable[[], None] | None = None
) -> InboxStore:
    """The inbox over what ``tx`` gives; does no I/O. Close it: it closes nothing of the user's.

    Takes an asyncpg ``Pool``; a SQLAlchemy ``async_sessionmaker`` or ``AsyncEngine``; a psycopg
    ``AsyncConnectionPool``; a function without arguments that gives a psycopg ``AsyncConnection``
    or an aiosqlite ``Connection`` (it may be asynchronous; what it gives is kept and closed here);
    or the path of an SQLite file that is there. ``schema``: where Seaway's tables are on
    PostgreSQL, default the connection's search path. ``committed`` is called after each commit.

    ``ConfigError`` for anything else.
    """
    if schema is not None:
        check_schema(schema)
    sessions_of = drivers.driver_entry("SOURCES", type(tx))
    if sessions_of is not None:
        return Inbox(sessions_of(tx), schema, committed)
    if isinstance(tx, str | Path) and "://" not in str(tx):
        return Inbox(FunctionSessions(_opening(Path(tx))), schema, committed)
    if callable(tx) and not isinstance(tx, type):
        return Inbox(FunctionSessions(tx), schema, committed)
    shown = repr(tx) if isinstance(tx, type) else f"a {drivers.name(type(tx))}"
    raise ConfigError(f"{shown} gives no transactions to handlers", hint=f"tx= takes {_SUPPORTED}")


def _opening(path: Path) -> Callable[[], Any]:
    def opened() -> Any:
        from seaway.drivers.aiosqlite import connect

        return connect(path)

    return opened


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
        logger.warning("%s has no database: its effects are at least once", consumer)
    if tx is None or tx == "store":
        yield store
        return
    inbox = inbox_for(tx, schema=schema, committed=store.nudge)
    try:
        await _reached(inbox, store, consumer, stop)
        yield inbox
    finally:
        await inbox.close()


async def _reached(
    inbox: InboxStore, store: InboxStore, consumer: str, stop: asyncio.Event
) -> None:
    attempt = 0
    while not stop.is_set():
        try:
            await _reach(inbox, store, consumer)
            return
        except StoreUnavailable as error:
            attempt += 1
            logger.warning("%s waits for its database: %s", consumer, error)
            await set_within(_OUTAGE.delay(attempt), stop)


async def _reach(inbox: InboxStore, store: InboxStore, consumer: str) -> None:
    probe = f"seaway-start-{uuid.uuid4()}"
    try:
        async with inbox.transaction() as tx:
            await tx.claim_many(consumer, [])
            await tx.trying(consumer, [probe])
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
        async with inbox.transaction() as tx:
            await tx.release(consumer, [probe])
        raise ConfigError(
            f"consumer {consumer} works in another database than the application's: events added "
            "there would never be published",
            hint="let tx= and database: name the same one, and the same database_schema",
        )
