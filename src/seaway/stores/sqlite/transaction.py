"""The sessions of an inbox on a store's own writer: several statements in one trip to its thread.

Owns: nothing but that; what a transaction guarantees, ``inbox.transaction`` says. As with other
handles, a savepoint of ours spans the whole of it and dies with any COMMIT or ROLLBACK.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from seaway.databases.ending import to_its_end
from seaway.databases.engines import SQLITE
from seaway.databases.guard import RELEASE, SAVE, UNDO
from seaway.databases.sqlite_codes import translated
from seaway.databases.steps import Query, Row
from seaway.databases.turns import Turns
from seaway.drivers import sqlite_handles
from seaway.stores.sqlite.connection import Connection


class _Ended(sqlite3.OperationalError):
    """The transaction is not the one that was begun."""

    sqlite_errorcode = sqlite3.SQLITE_ERROR


class WriterSession:
    """See ``seam.Session``. One trip to the connection's thread for each of these."""

    engine = SQLITE
    lost = False
    """Once it is closed, it says so itself."""

    def __init__(self, handle: Connection, shown: str) -> None:
        self.handle = handle
        self._shown = shown
        self.over = False

    async def begin(self) -> None:
        """See ``seam.Session``."""
        await self.handle.run(_begin)

    async def touched(self, query: Query) -> int:
        """See ``seam.Session``."""
        return await self.handle.run(
            lambda db: db.execute(query.statement, query.parameters).rowcount
        )

    async def rows(self, query: Query) -> Sequence[Row]:
        """See ``seam.Session``."""
        return await self.handle.run(lambda db: sqlite_handles.rows(db, query))

    async def commit(self) -> None:
        """See ``seam.Session``."""
        await to_its_end(self.handle.run(lambda db: _commit(db, self._shown)))

    async def roll_back(self) -> None:
        """See ``seam.Session``."""
        intact = await to_its_end(self.handle.run(roll_back))
        self.over = True
        if not intact:
            raise _Ended


class WriterSessions:
    """See ``seam.Sessions``. The writer is handed on in the order in which it is asked for."""

    errors = sqlite_handles.MEANS

    def __init__(self, writer: Connection, turns: Turns, shown: str) -> None:
        self._writer = writer
        self._turns = turns
        self.shown = shown

    async def take(self) -> WriterSession:
        """See ``seam.Sessions``."""
        await self._turns.take()
        return WriterSession(self._writer, self.shown)

    async def give_back(self, session: WriterSession, *, failed: bool) -> None:
        """See ``seam.Sessions``."""
        try:
            if failed and not session.over:
                await to_its_end(session.handle.run(roll_back))
        finally:
            self._turns.leave()

    async def close(self) -> None:
        """The writer is the store's."""


def _begin(db: sqlite3.Connection) -> None:
    # What the last body set for its own reading must not reach the next one.
    db.row_factory, db.text_factory = None, str
    db.execute("BEGIN IMMEDIATE")
    db.execute(SAVE)


def _commit(db: sqlite3.Connection, shown: str) -> None:
    db.execute(RELEASE)
    try:
        db.execute("COMMIT")
    except sqlite3.IntegrityError:
        # A deferred constraint: the body's own doing, and its own error.
        raise
    except sqlite3.Error as error:
        raise translated(error, shown) from error


def roll_back(db: sqlite3.Connection) -> bool:
    """Leave no transaction open; whether it was still the one that we began."""
    if not db.in_transaction:
        return False
    try:
        db.execute(UNDO)
        intact = True
    except sqlite3.OperationalError:
        intact = False
    if db.in_transaction:
        db.execute("ROLLBACK")
    return intact
