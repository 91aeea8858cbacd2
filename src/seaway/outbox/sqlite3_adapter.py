"""Writes outbox rows through ``sqlite3`` connections and cursors. Never commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from seaway.outbox import refusals
from seaway.outbox import sqlite_statements as s
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, duplicate, ids_of


def require_transaction(handle: sqlite3.Connection | sqlite3.Cursor) -> None:
    """See ``Adapter``."""
    try:
        is_open = _connection(handle).in_transaction
    except sqlite3.ProgrammingError as error:
        raise refusals.closed(error) from error
    if not is_open:
        raise s.outside()


def insert(
    handle: sqlite3.Connection | sqlite3.Cursor, rows: Sequence[OutboxRow], place: Place
) -> list[str]:
    """See ``Adapter``. A savepoint keeps a failure half way from leaving some of the rows."""
    connection = _connection(handle)
    try:
        if len(rows) == 1:
            connection.execute(s.add(place), rows[0])
            return ids_of(rows)
        connection.execute(s.SAVEPOINT)
        try:
            connection.executemany(s.add(place), rows)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute(s.ROLLBACK_TO)
                connection.execute(s.RELEASE)
            raise
        connection.execute(s.RELEASE)
        return ids_of(rows)
    except sqlite3.Error as error:
        if s.is_duplicate(error):
            cursor = connection.cursor()
            cursor.row_factory = None
            (event_id,) = cursor.execute(s.KNOWN, (s.ids_json(rows),)).fetchone()
            raise duplicate(event_id) from error
        raise s.explain(error) from error


def insert_deferred(db: sqlite3.Connection, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    """``insert`` for a framework whose transaction is open before its driver has begun one.

    Without a BEGIN the savepoint would be the whole transaction, and its release the commit.
    """
    if not db.in_transaction:
        if s.commits_each_statement(db):
            raise refusals.autocommit()
        db.execute("BEGIN")
    return insert(db, rows, place)


def _connection(handle: sqlite3.Connection | sqlite3.Cursor) -> sqlite3.Connection:
    return handle.connection if isinstance(handle, sqlite3.Cursor) else handle
