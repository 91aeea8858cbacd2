"""Writes outbox rows through ``aiosqlite`` connections. Never commits.

One row takes one hop to the connection's thread. Cancelled, a row may be in the transaction or
not; the caller's rollback takes it away either way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import aiosqlite

from seaway.outbox import refusals
from seaway.outbox import sqlite_statements as s
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, duplicate, ids_of


def require_transaction(handle: aiosqlite.Connection) -> None:
    """See ``Adapter``."""
    try:
        is_open = handle.in_transaction
    except (ValueError, sqlite3.ProgrammingError) as error:
        raise refusals.closed(error) from error
    if not is_open:
        raise s.outside()


async def insert(
    handle: aiosqlite.Connection, rows: Sequence[OutboxRow], place: Place
) -> list[str]:
    """See ``Adapter``. A savepoint keeps a failure half way from leaving some of the rows."""
    try:
        if len(rows) == 1:
            await handle.execute(s.add(place), rows[0])
            return ids_of(rows)
        await handle.execute(s.SAVEPOINT)
        try:
            await handle.executemany(s.add(place), rows)
        except sqlite3.Error:
            if handle.in_transaction:
                await handle.execute(s.ROLLBACK_TO)
                await handle.execute(s.RELEASE)
            raise
        await handle.execute(s.RELEASE)
        return ids_of(rows)
    except sqlite3.Error as error:
        if s.is_duplicate(error):
            (known,) = await handle.execute_fetchall(s.KNOWN, (s.ids_json(rows),))
            raise duplicate(str(known[0])) from error
        raise s.explain(error) from error
    except ValueError as error:
        # aiosqlite's word for a connection that was closed in the meantime.
        raise refusals.closed(error) from error


async def insert_deferred(
    db: aiosqlite.Connection, rows: Sequence[OutboxRow], place: Place
) -> list[str]:
    """As ``sqlite3_adapter.insert_deferred``."""
    if not db.in_transaction:
        if s.commits_each_statement(db):
            raise refusals.autocommit()
        await db.execute("BEGIN")
    return await insert(db, rows, place)
