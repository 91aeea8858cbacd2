"""Writes outbox rows through SQLAlchemy sessions and connections. Never commits, never flushes.

On PostgreSQL through ``text()``, so that whatever dialect is there binds the parameters its own
way. On SQLite through the driver's connection below SQLAlchemy's, with the statements and the
savepoint of the adapters for it. Other databases are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import AdaptedConnection, Connection, TextClause, text
from sqlalchemy.exc import (
    DBAPIError,
    InvalidRequestError,
    PendingRollbackError,
    UnboundExecutionError,
)
from sqlalchemy.orm import Session, scoped_session

from seaway.databases.statements import by_name, named
from seaway.errors import ConfigError
from seaway.outbox import postgres_statements as s
from seaway.outbox import refusals
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, ids_of

Handle: TypeAlias = "Session | scoped_session[Session] | Connection"


def require_transaction(handle: Handle) -> None:
    """See ``Adapter``. A session's transaction is open as soon as it has begun to be used."""
    if isinstance(handle, scoped_session):
        handle = handle()
    if isinstance(handle, Connection) and handle.closed:
        raise refusals.closed("it is closed")
    if not handle.in_transaction():
        raise refusals.outside()


def insert(handle: Handle, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    """See ``Adapter``. On PostgreSQL one statement, one round trip."""
    try:
        connection = handle if isinstance(handle, Connection) else handle.connection()
        if connection.dialect.name == "postgresql":
            return _into_postgres(connection, rows, place)
        if connection.dialect.name == "sqlite":
            return _into_sqlite(connection, rows, place)
        raise refusals.unsupported(f"SQLAlchemy's dialect {connection.dialect.name}")
    except UnboundExecutionError as error:
        raise ConfigError(
            "the session has no single database to write to",
            hint="pass session.connection(bind_arguments=...)",
        ) from error
    except PendingRollbackError as error:
        raise refusals.aborted(handle) from error
    except InvalidRequestError as error:
        raise refusals.closed(error) from error
    except DBAPIError as error:
        driver = error.orig
        code = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
        raise s.explain(driver or error, code, handle) from error
    except OSError as error:
        raise s.explain(error, None, handle) from error


def _into_postgres(connection: Connection, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise refusals.autocommit()
    statement, parameters = s.adding(rows, place)
    added = connection.execute(_text(statement), by_name(*parameters)).scalars().all()
    refusal = s.known(rows, added)
    if refusal is not None:
        connection.execute(_text(s.take_back_statement(place)), by_name(added))
        raise refusal
    return ids_of(rows)


def _into_sqlite(connection: Connection, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    below: Any = connection.connection.dbapi_connection
    if isinstance(below, AdaptedConnection):
        from seaway.outbox import aiosqlite_adapter

        added: list[str] = below.run_async(
            lambda db: aiosqlite_adapter.insert_deferred(db, rows, place)
        )
        return added
    from seaway.outbox import sqlite3_adapter

    return sqlite3_adapter.insert_deferred(below, rows, place)


@lru_cache(maxsize=64)
def _text(statement: str) -> TextClause:
    """The same object each time: SQLAlchemy keeps what it compiled of it."""
    return text(named(statement, ":{}"))
