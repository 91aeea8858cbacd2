"""Writes outbox rows through Django's database connections. Never commits.

On PostgreSQL through a cursor of Django's, so its instrumentation sees the statement. On SQLite
through the driver's connection below, with the statements and the savepoint of the adapter for it.
Other databases are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import DatabaseError, InterfaceError
from django.db.backends.base.base import BaseDatabaseWrapper

from seaway.databases.statements import by_name, named
from seaway.outbox import postgres_statements as s
from seaway.outbox import refusals
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, ids_of

_VENDORS = ("postgresql", "sqlite")


def require_transaction(handle: BaseDatabaseWrapper) -> None:
    """See ``Adapter``. ``atomic()`` opens one, and so does switching autocommit off."""
    vendor = getattr(handle, "vendor", None)
    if vendor not in _VENDORS:
        raise refusals.unsupported(f"Django's {vendor or 'handle without a database'}")
    if handle.needs_rollback:
        raise refusals.aborted(handle)
    if not handle.in_atomic_block and (handle.connection is None or handle.autocommit):
        raise refusals.outside(
            what="this connection is not inside atomic()",
            hint="make your change and add the event inside transaction.atomic()",
        )
    if handle.closed_in_transaction:
        raise refusals.closed("it was closed inside its transaction")


def insert(handle: BaseDatabaseWrapper, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    """See ``Adapter``. On PostgreSQL one statement, one round trip."""
    if handle.vendor == "sqlite":
        from seaway.outbox import sqlite3_adapter

        handle.validate_thread_sharing()
        return sqlite3_adapter.insert_deferred(handle.connection, rows, place)
    try:
        with handle.cursor() as cursor:
            statement, parameters = s.adding(rows, place)
            cursor.execute(named(statement, "%({})s"), by_name(*parameters))
            added = [event_id for (event_id,) in cursor.fetchall()]
            refusal = s.known(rows, added)
            if refusal is not None:
                take_back = s.take_back_statement(place)
                cursor.execute(named(take_back, "%({})s"), by_name(added))
                raise refusal
    except (DatabaseError, InterfaceError) as error:
        driver = error.__cause__
        code = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
        raise s.explain(error, code, handle) from error
    return ids_of(rows)
