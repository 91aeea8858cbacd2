"""One transaction of the consuming service on SQLite, from BEGIN to its end.

Owns: beginning, the inbox row, the row of a parked event, savepoints and the end. Guarantees:
committed whole or not at all, whatever the body does, also when it is cancelled; a body that ends
the transaction itself is found out, because a savepoint of ours spans the whole of it and dies
with any COMMIT or ROLLBACK.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from seaway.databases import sqlite_times as times
from seaway.databases import statements
from seaway.databases.causes import causes
from seaway.databases.ending import to_its_end
from seaway.databases.sqlite_codes import is_transient, translated, translating
from seaway.errors import ConfigError, StoreUnavailable
from seaway.parked import Standing
from seaway.stores.sqlite.connection import Connection

_SQL = {**statements.load("sqlite/inbox.sql"), **statements.load("sqlite/parking.sql")}
_GUARD = "seaway_transaction"


class SqliteTransaction:
    """``contracts.InboxTransaction``; ``handle`` is the aiosqlite connection."""

    def __init__(self, connection: Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._savepoints = 0
        self._left: str | None = None

    @property
    def handle(self) -> Connection:
        """The connection, in an open transaction. Not to be committed or rolled back."""
        return self._connection

    async def claim(self, consumer: str, event_id: str) -> bool:
        """Write the inbox row. False: it was there, so the effects are too."""
        row = {"consumer": consumer, "event_id": event_id, "now": times.now()}
        with translating(self._path):
            return await self._connection.run(
                lambda db: db.execute(_SQL["claim"], row).rowcount == 1
            )

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        """Write the inbox rows in one statement; those that were new."""
        given = {"consumer": consumer, "event_ids": json.dumps(list(event_ids)), "now": times.now()}
        with translating(self._path):
            found = await self._connection.run(
                lambda db: db.execute(_SQL["claim_many"], given).fetchall()
            )
        return {event_id for (event_id,) in found}

    async def trying(self, consumer: str, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Note that each of these is tried once more; how often by now."""
        ids = json.dumps(sorted(set(event_ids)))
        return dict(await self._rows("trying", consumer=consumer, event_ids=ids, now=times.now()))

    async def parked_keys(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` of which anything is parked."""
        found = await self._rows("parked_keys", consumer=consumer, keys=json.dumps(list(keys)))
        return {key for (key,) in found}

    async def standing(self, consumer: str, event_id: str, key: str) -> Standing:
        """Where an event stands among the parked ones of its key."""
        found = await self._rows("standing", consumer=consumer, event_id=event_id, key=key)
        return Standing.of(consumer, event_id, map(times.parked, found))

    async def park(
        self, consumer: str, event_id: str, key: str, *, place: int, failed: bool
    ) -> None:
        """Write its row, or make it one without a letter again."""
        own = {"consumer": consumer, "event_id": event_id, "key": key}
        await self._rows("park", **own, place=place, failed=failed, now=times.now())

    async def set_letter(self, consumer: str, event_id: str, letter: int) -> None:
        """Its letter is stored."""
        await self._rows("set_letter", consumer=consumer, event_id=event_id, letter=letter)

    async def release(self, consumer: str, event_id: str) -> None:
        """Remove its row. Idempotent."""
        await self._rows("release", consumer=consumer, event_id=event_id)

    async def _rows(self, name: str, **given: object) -> list[tuple[Any, ...]]:
        with translating(self._path):
            return await self._connection.run(lambda db: db.execute(_SQL[name], given).fetchall())

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Part of the transaction that an exception undoes alone. May be nested."""
        self._savepoints += 1
        name = f"seaway_savepoint_{self._savepoints}"
        run, left = self._connection.run, self._left
        self._left = None
        with translating(self._path):
            await run(lambda db: _enter(db, name, left, self._path))
        try:
            yield
        except BaseException:
            self._left = None
            await to_its_end(run(lambda db: _undo_to(db, name)))
            raise
        # Released with the next savepoint or the commit: one trip to the thread less for each.
        self._left = name


@asynccontextmanager
async def transaction(connection: Connection, path: str) -> AsyncIterator[SqliteTransaction]:
    """A transaction on ``connection``, which nobody else may use meanwhile."""
    try:
        with translating(path):
            await connection.run(_begin)
    except BaseException:
        # Cancelled while BEGIN was under way: it may have begun all the same.
        await to_its_end(connection.run(_roll_back))
        raise
    try:
        yield SqliteTransaction(connection, path)
    except BaseException as error:
        intact = await to_its_end(connection.run(_roll_back))
        if not isinstance(error, Exception):
            raise
        for found in causes(error):
            # Whatever the body made of it.
            if isinstance(found, sqlite3.Error) and is_transient(found):
                raise translated(found, path) from error
        if not intact and not isinstance(error, StoreUnavailable):
            raise _ended_by_body() from error
        raise
    await to_its_end(connection.run(lambda db: _commit(db, path)))


def _begin(db: sqlite3.Connection) -> None:
    # What the last body set for its own reading must not reach the next one.
    db.row_factory, db.text_factory = None, str
    db.execute("BEGIN IMMEDIATE")
    db.execute(f"SAVEPOINT {_GUARD}")


def _enter(db: sqlite3.Connection, name: str, left: str | None, path: str) -> None:
    if left is not None:
        _leave(db, left, path)
    db.execute(f"SAVEPOINT {name}")


def _commit(db: sqlite3.Connection, path: str) -> None:
    _leave(db, _GUARD, path)
    try:
        db.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(db)
        if isinstance(error, sqlite3.IntegrityError):
            # A deferred constraint: the body's own doing, and its own error.
            raise
        raise translated(error, path) from error


def _roll_back(db: sqlite3.Connection) -> bool:
    """Leave no transaction open; whether it was still the one that we began."""
    if not db.in_transaction:
        return False
    try:
        db.execute(f"ROLLBACK TO {_GUARD}")
        intact = True
    except sqlite3.OperationalError:
        intact = False
    if db.in_transaction:
        db.execute("ROLLBACK")
    return intact


def _leave(db: sqlite3.Connection, savepoint: str, path: str) -> None:
    try:
        db.execute(f"RELEASE {savepoint}")
    except sqlite3.OperationalError as error:
        _roll_back(db)
        if is_transient(error):
            raise translated(error, path) from error
        raise _ended_by_body() from error


def _undo_to(db: sqlite3.Connection, savepoint: str) -> None:
    try:
        db.execute(f"ROLLBACK TO {savepoint}")
        db.execute(f"RELEASE {savepoint}")
    except sqlite3.OperationalError:
        # Gone with its transaction; the end of that says so.
        return


def _ended_by_body() -> ConfigError:
    return ConfigError(
        "the code inside the transaction committed it or rolled it back itself, so its effects "
        "and its inbox row may not agree",
        hint="leave commit and rollback to Seaway; use savepoint() to undo a part",
    )
