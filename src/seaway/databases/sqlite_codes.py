"""SQLite's refusals as Seaway's errors: told by code, never by text."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from seaway.databases.refusals import Refusal
from seaway.errors import (
    ConfigError,
    SchemaMismatch,
    SeawayError,
    StoreRefused,
    StoreUnavailable,
)

_TRANSIENT = {
    sqlite3.SQLITE_BUSY: "is locked by another writer",
    sqlite3.SQLITE_LOCKED: "has a locked table",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk failed",
    sqlite3.SQLITE_NOMEM: "cannot be used: out of memory",
    sqlite3.SQLITE_INTERRUPT: "was interrupted",
}
_WRONG_FILE = {
    sqlite3.SQLITE_NOTADB: ("is not an SQLite database", "name another file"),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "restore it from a backup"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "check the path and its permissions"),
    sqlite3.SQLITE_READONLY: ("is read-only", "make the file and its folder writable"),
    sqlite3.SQLITE_PERM: ("may not be opened", "check its permissions"),
}


_TWICE = (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_NOTNULL)
"""The second of what we make NULL for being there already."""


def primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; ``None`` where the driver itself refused."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def is_twice(error: Exception) -> bool:
    """Whether a row of ours has an id that is there already."""
    return getattr(error, "sqlite_errorcode", None) in _TWICE


def refusal(error: sqlite3.Error) -> Refusal:
    """What it says of the transaction that met it."""
    if is_transient(error):
        return Refusal.AWAY
    # Of the savepoint that spans the transaction, it says that there is none.
    return Refusal.ENDED if primary_code(error) == sqlite3.SQLITE_ERROR else Refusal.OTHER


def is_transient(error: sqlite3.Error) -> bool:
    """Whether the same statement may succeed later."""
    return primary_code(error) in _TRANSIENT


def translated(error: sqlite3.Error, path: str) -> SeawayError:
    """The error that tells the caller's next move."""
    code = primary_code(error)
    if code in _TRANSIENT:
        return StoreUnavailable(f"{path} {_TRANSIENT[code]} ({error})")
    if code in _WRONG_FILE:
        what, hint = _WRONG_FILE[code]
        return ConfigError(f"{path} {what} ({error})", hint=hint)
    if code == sqlite3.SQLITE_ERROR:
        # Our statements never change, so what does not fit them is the schema.
        return SchemaMismatch(
            f"{path}: Seaway's tables are missing or old ({error}): run seaway db upgrade"
        )
    if code is None:
        return StoreUnavailable(f"{path}: {error}")
    return StoreRefused(f"{path}: {error} (SQLite code {code})")


@contextmanager
def translating(path: str) -> Iterator[None]:
    """Turns ``sqlite3`` errors of our own statements into Seaway's."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, path) from error
