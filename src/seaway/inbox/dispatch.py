"""Which driver serves what is given as ``tx=``: told by its type's own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seaway import drivers
from seaway.contracts import InboxStore
from seaway.drivers.kept import FunctionSessions
from seaway.errors import ConfigError
from seaway.inbox.transaction import Inbox
from seaway.tables import check_schema

_SUPPORTED = (
    "an asyncpg Pool, a psycopg AsyncConnectionPool, a SQLAlchemy async_sessionmaker or "
    "AsyncEngine, a function that gives a psycopg AsyncConnection or an aiosqlite Connection, or "
    "the path of an SQLite file"
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
    sessions_of = drivers.entry("SOURCES", type(tx))
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
