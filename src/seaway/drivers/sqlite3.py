"""sqlite3: connections and cursors of the standard library's own, and for plain handlers those
that a function makes. SQLite has one writer, so a consumer's transactions take turns."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from seaway.databases.engines import SQLITE
from seaway.databases.queries import RELEASE, SAVE, UNDO, Query, Row, Work, carried_out
from seaway.databases.tasks import Turns
from seaway.drivers import ending, protocols
from seaway.drivers.protocols import SHOWN, Handles, Keeper, Kept, Writer, translating
from seaway.drivers.sqlite_handles import MEANS, outside, rows

__all__ = ["HANDLES", "KEPT", "MEANS", "require_transaction", "run"]

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


# ------------------------------------------------------------------- sessions of plain handlers


class SqliteThreadSession:
    """See ``protocols.ThreadSession``."""

    engine = SQLITE

    def __init__(self, handle: sqlite3.Connection) -> None:
        self.handle = handle
        self._interrupted = self._cut = False

    @property
    def lost(self) -> bool:
        if self._cut:
            return True
        try:
            self.handle.in_transaction  # noqa: B018 - asked for its refusal
        except sqlite3.ProgrammingError:
            return True
        return False

    async def begin(self) -> None:
        """See ``protocols.Session``. At once for writing: a reader could not become one later."""
        if self._always_open and self.handle.in_transaction:
            self.handle.execute("ROLLBACK")  # Python's own, begun for reading.
        if not self.handle.in_transaction:
            self.handle.execute("BEGIN IMMEDIATE")
        self.handle.execute(SAVE)

    async def touched(self, query: Query) -> int:
        return self.handle.execute(query.statement, query.parameters).rowcount

    async def rows(self, query: Query) -> Sequence[Row]:
        return rows(self.handle, query)

    async def commit(self) -> None:
        self.handle.execute(RELEASE)
        if self._always_open:
            self.handle.commit()
        else:
            self.handle.execute("COMMIT")

    async def roll_back(self) -> None:
        """See ``protocols.Session``. An interrupt undoes a whole transaction that was writing."""
        if self._interrupted and not self.handle.in_transaction:
            return
        self.handle.execute(UNDO)
        self.handle.rollback()
        if self.handle.in_transaction and not self._always_open:
            self.handle.execute("ROLLBACK")

    def interrupt(self) -> None:
        """See ``protocols.ThreadSession``."""
        self._interrupted = ending.interrupt(self.handle)

    def cut(self) -> None:
        """See ``protocols.ThreadSession``."""
        self._cut = True
        ending.cut(self.handle)

    @property
    def _always_open(self) -> bool:
        """Python 3.12's ``autocommit=False``: it begins a transaction itself, after each."""
        return getattr(self.handle, "autocommit", None) is False


class SqliteThreadSessions:
    """See ``protocols.ThreadSessions``."""

    plain, errors = True, MEANS

    def __init__(self, source: Keeper, turns: Turns | None = None, shown: str = SHOWN) -> None:
        self._source = source
        self.turns = turns or Turns()
        self.shown = shown

    async def take(self) -> SqliteThreadSession:
        with translating(MEANS, self.shown):
            return SqliteThreadSession(self._source.take())

    async def give_back(self, session: SqliteThreadSession, *, failed: bool) -> None:
        lost = failed and session.lost
        try:
            if failed and not lost and session.handle.in_transaction:
                session.handle.rollback()
        except sqlite3.Error:
            lost = True
        self._source.give_back(session.handle, lost=lost)

    async def close(self) -> None:
        self._source.close()


def connect(path: Path) -> sqlite3.Connection:
    """Open the database at ``path``, which must be there."""
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        check_same_thread=False,
    )


_WRITER = Writer(MEANS, require_transaction, run)

HANDLES: Handles = {"sqlite3.Connection": _WRITER, "sqlite3.Cursor": _WRITER}
KEPT: Kept = {"sqlite3.Connection": SqliteThreadSessions}
