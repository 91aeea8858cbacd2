"""Connections to one SQLite file: how they are opened, and work in one hop.

Owns: pragmas, the checks on the file, and the thread that each connection lives on. Must not know
any table. Guarantees: WAL and ``synchronous=FULL``, so a commit that returned survives a crash of
the machine; a file that cannot serve is refused in words.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from seaway.databases.sqlite_codes import translating
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
        self.opened.check()
        done: T = await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        return done

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
    are ours."""

    def connector() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode={'rwc' if create else 'rw'}",
            uri=True,
            timeout=busy_timeout.total_seconds(),
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _prepare(connection, read_only=read_only, create=create)
        except BaseException:
            connection.close()
            raise
        return connection

    with translating(str(path)):
        # Opened before aiosqlite has its thread: where opening fails, that thread would answer a
        # loop which is closed by then.
        opened = await asyncio.to_thread(connector)
        connection = Connection(opened, path)
        await connection
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
