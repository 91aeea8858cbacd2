"""Which driver serves which handle: found by the type's own name, imported when it first comes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from seaway.contracts import InboxStore
from seaway.errors import ConfigError
from seaway.inbox.connecting import ConnectingInbox
from seaway.inbox.transaction import Inbox
from seaway.tables import check_schema

_DRIVERS = {
    "asyncpg.pool.Pool": ("seaway.inbox.asyncpg_driver", "AsyncpgDriver"),
    "psycopg_pool.pool_async.AsyncConnectionPool": ("seaway.inbox.psycopg_driver", "over_pool"),
    "sqlalchemy.ext.asyncio.session.async_sessionmaker": (
        "seaway.inbox.sqlalchemy_driver",
        "AlchemyDriver",
    ),
    "sqlalchemy.ext.asyncio.engine.AsyncEngine": ("seaway.inbox.sqlalchemy_driver", "over_engine"),
}
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
    for base in type(tx).__mro__:
        found = _DRIVERS.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            module, make = found
            return Inbox(getattr(import_module(module), make)(tx, schema), committed)
    if isinstance(tx, str | Path) and "://" not in str(tx):
        return ConnectingInbox(_opening(Path(tx)), schema=None, committed=committed)
    if callable(tx) and not isinstance(tx, type):
        return ConnectingInbox(tx, schema=schema, committed=committed)
    shown = repr(tx) if isinstance(tx, type) else f"a {type(tx).__module__}.{type(tx).__qualname__}"
    raise ConfigError(f"{shown} gives no transactions to handlers", hint=f"tx= takes {_SUPPORTED}")


def _opening(path: Path) -> Callable[[], Any]:
    def opened() -> Any:
        from seaway.inbox.aiosqlite_driver import connect

        return connect(path)

    return opened
