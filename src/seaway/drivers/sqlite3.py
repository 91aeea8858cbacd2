"""sqlite3: connections and cursors of the standard library's own."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import TypeAlias, TypeVar

from seaway.databases.engines import SQLITE
from seaway.databases.queries import Work, carried_out
from seaway.drivers import protocols
from seaway.drivers.protocols import Handles, Writer
from seaway.drivers.sqlite_handles import MEANS, outside, rows

__all__ = ["HANDLES", "MEANS", "require_transaction", "run"]

T = TypeVar("T")

Handle: TypeAlias = sqlite3.Connection | sqlite3.Cursor


def require_transaction(handle: Handle) -> None:
    """See ``protocols.Writer``."""
    try:
        is_open = _connection(handle).in_transaction
    except sqlite3.ProgrammingError as error:
        raise protocols.closed(error) from error
    if not is_open:
        raise outside()


def run(handle: Handle, work: Work[T]) -> T:
    """See ``protocols.Writer``."""
    return carried_out(work(SQLITE), partial(rows, _connection(handle)))


def _connection(handle: Handle) -> sqlite3.Connection:
    return handle.connection if isinstance(handle, sqlite3.Cursor) else handle


_WRITER = Writer(MEANS, require_transaction, run)

HANDLES: Handles = {"sqlite3.Connection": _WRITER, "sqlite3.Cursor": _WRITER}
