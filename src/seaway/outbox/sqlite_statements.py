"""What both SQLite adapters share: the statements, and the meaning of SQLite's refusals.

Must not run anything. Guarantees: an error is told by its code, never by its text.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from seaway.errors import ConfigError, OutsideTransaction, SchemaMismatch, StoreUnavailable
from seaway.outbox import refusals
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, ids_of

_ADD, _ADD_OWN = (
    files("seaway.outbox").joinpath(f"sql/{name}.sql").read_text("utf-8")
    for name in ("sqlite_add", "sqlite_add_own")
)
SAVEPOINT = "SAVEPOINT seaway_add"
RELEASE = "RELEASE seaway_add"
ROLLBACK_TO = "ROLLBACK TO seaway_add"
KNOWN = """
    WITH given AS (SELECT value AS event_id FROM json_each(?))
    SELECT event_id FROM given NATURAL JOIN seaway_outbox
    UNION ALL
    SELECT event_id FROM given NATURAL JOIN seaway_sent
    LIMIT 1
"""
_TWICE = (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_NOTNULL)

_TRANSIENT = {
    sqlite3.SQLITE_BUSY: "the database is locked by another writer",
    sqlite3.SQLITE_LOCKED: "the table is locked by another statement",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk failed",
}


def add(place: Place) -> str:
    """The statement that adds a row."""
    return _ADD_OWN if place.own_ids else _ADD


def ids_json(rows: Sequence[OutboxRow]) -> str:
    """The parameter of ``KNOWN``."""
    return json.dumps(ids_of(rows))


def is_duplicate(error: sqlite3.Error) -> bool:
    """Whether one of the rows has an id that the outbox holds already, or has sent."""
    return getattr(error, "sqlite_errorcode", None) in _TWICE


def explain(error: sqlite3.Error) -> ConfigError | StoreUnavailable:
    """The error of ours that says what the writer does next."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary == sqlite3.SQLITE_ERROR:
        # The statement never changes, so what does not fit it is the table.
        return SchemaMismatch(
            f"Seaway's tables are missing or old ({error}): run seaway db upgrade"
        )
    if primary in _TRANSIENT:
        return StoreUnavailable(f"{_TRANSIENT[primary]}: roll back and try again ({error})")
    return ConfigError(f"the database refused the outbox row: {error}")


def commits_each_statement(db: Any) -> bool:
    """Whether a connection without a transaction begins none of itself."""
    # Python 3.12's attribute; before it, and by default, ``isolation_level`` decides.
    return db.isolation_level is None or getattr(db, "autocommit", -1) is True


def outside() -> OutsideTransaction:
    """The refusal to write an event that would be atomic with nothing."""
    return refusals.outside(hint='make your own change first, or execute "BEGIN IMMEDIATE"')
