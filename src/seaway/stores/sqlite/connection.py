"""Connections to one SQLite file: how they are opened, work in one hop, and the sessions of
consumers' transactions on the store's writer.

Owns: pragmas, the checks on the file, and the thread that each connection lives on. Must not know
any table. Guarantees: WAL and ``synchronous=FULL``, so a commit that returned survives a crash of
the machine; a file that cannot serve is refused in words.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from seaway.databases.engines import SQLITE
from seaway.databases.queries import RELEASE, SAVE, UNDO, Query, Row
from seaway.databases.sqlite_codes import translated, translating
from seaway.databases.tasks import Turns, to_its_end
from seaway.drivers import sqlite_handles
from seaway.drivers.aiosqlite import opened
from seaway.errors import ConfigError, NoDatabase, StoreUnavailable
from seaway.process import Opened

T = TypeVar("T")

OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables."""


class Connection(aiosqlite.Connection):
    """An aiosqlite connection that can also run several statements in one hop to its thread."""

    def __init__(self, opened: sqlite3.Connection, path: Path) -> None:
        super().__init__(lambda: opened, 64)
        self.opened = Opened(str(path))

    async def _execute(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self.opened.refuse_in_fork()
        done: T = await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        return done

    async def close(self) -> None:
        """Close it and end its thread; to its end, even when cancelled. Idempotent."""
        await to_its_end(super().close())

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work`` on the connection's thread. ``StoreUnavailable`` once it is closed.

        Cancelled, ``work`` may still run: in its turn, before anything that is asked for later.
        """
        try:
            connection = self._conn
        except ValueError as error:
            raise StoreUnavailable("the store is closed") from error
        return await self._execute(work, connection)


def checked(path: Path, *, create: bool) -> Path:
    """The absolute path without links; ``ConfigError`` where no database can be there, or is not
    and may not be made (``create``).

    Two names of one file give one path, and so one lock for its relays.
    """
    path = path.resolve()
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old", hint=f"{oldest} or newer")
    if not create and not path.exists():
        raise NoDatabase(
            f"{path} does not exist: name another file, or make it with seaway db upgrade"
        )
    if path.is_dir():
        raise ConfigError(f"{path} is a directory", hint="name a database file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist", hint="create it first")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is not a regular file")
    if not os.access(path if path.exists() else path.parent, os.R_OK | os.W_OK):
        raise ConfigError(f"{path} is not writable", hint="check its permissions")
    return path


async def connect(
    path: Path, *, busy_timeout: timedelta, read_only: bool, create: bool
) -> Connection:
    """Open ``path``, where ``create`` says so also one that is not there. Autocommit: transactions
    are ours. Cancelled, it leaves nothing open."""

    def connector() -> sqlite3.Connection:
        made = made_now(path, busy_timeout=busy_timeout, read_only=read_only, create=create)
        made.isolation_level = None
        return made

    with translating(str(path)):
        return await opened(connector, lambda ready: Connection(ready, path))


def made_now(
    path: Path, *, busy_timeout: timedelta, read_only: bool = False, create: bool = False
) -> sqlite3.Connection:
    """The same at once, for any thread. It begins transactions as Python does by default."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={'rwc' if create else 'rw'}",
        uri=True,
        timeout=busy_timeout.total_seconds(),
        check_same_thread=False,
    )
    try:
        _prepare(connection, read_only=read_only, create=create)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, *, read_only: bool, create: bool) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    # Another application's file, named by mistake, stays as it is.
    if mode != "wal" and (create or _is_ours(connection)):
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
    # A commit is what the outbox promises: it has to be on the disk when it returns.
    connection.execute("PRAGMA synchronous = FULL")
    if read_only:
        connection.execute("PRAGMA query_only = ON")


def _is_ours(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'seaway_schema'")
    return found.fetchone() is not None


def read(db: sqlite3.Connection, query: Query) -> Sequence[Row]:
    """All rows of a query. Bytes that are no text are shown as escapes, so that one such row holds
    up no other: the module's own reading refuses the whole page."""
    try:
        return db.execute(query.statement, query.parameters).fetchall()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) is not None:
            raise  # The database's own word, not that of the reading.
    db.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
    try:
        return db.execute(query.statement, query.parameters).fetchall()
    finally:
        db.text_factory = str


# ------------------------------------------------------------------- consumers' transactions


class _Ended(sqlite3.OperationalError):
    """The transaction is not the one that was begun."""

    sqlite_errorcode = sqlite3.SQLITE_ERROR


class WriterSession:
    """See ``protocols.Session``. One trip to the connection's thread for each of these. As with
    other handles, a savepoint of ours spans the whole of it."""

    engine = SQLITE
    lost = False
    """Once it is closed, it says so itself."""

    def __init__(self, handle: Connection, shown: str) -> None:
        self.handle = handle
        self._shown = shown
        self.over = False

    async def begin(self) -> None:
        await self.handle.run(_begin)

    async def touched(self, query: Query) -> int:
        return await self.handle.run(
            lambda db: db.execute(query.statement, query.parameters).rowcount
        )

    async def rows(self, query: Query) -> Sequence[Row]:
        return await self.handle.run(lambda db: sqlite_handles.rows(db, query))

    async def commit(self) -> None:
        await to_its_end(self.handle.run(lambda db: _commit(db, self._shown)))

    async def roll_back(self) -> None:
        intact = await to_its_end(self.handle.run(roll_back))
        self.over = True
        if not intact:
            raise _Ended


class WriterSessions:
    """See ``protocols.Sessions``. The writer is handed on in the order in which it is asked for."""

    errors = sqlite_handles.MEANS

    def __init__(self, writer: Connection, turns: Turns, shown: str) -> None:
        self._writer = writer
        self._turns = turns
        self.shown = shown

    async def take(self) -> WriterSession:
        await self._turns.take()
        return WriterSession(self._writer, self.shown)

    async def give_back(self, session: WriterSession, *, failed: bool) -> None:
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
