"""The simulated service's database side: rows and events in one transaction.

Owns: the service's own tables. The ledger is written in the same transactions. Guarantees: a
transaction is counted as done in itself, so a writer that is killed anywhere goes on with the next
one; each case's events form a chain (correlation: the case's first event; causation: the one
before).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

from seaway.demo.scenario import Change
from seaway.events import RawEvent, event_type_of
from seaway.outbox import Outbox
from seaway.proof import ledger

T = TypeVar("T")

_FULL = timedelta(milliseconds=50)
"""How long the writer waits before it looks for room again."""

TABLES = """
CREATE TABLE IF NOT EXISTS cases (
    case_id TEXT PRIMARY KEY, status TEXT NOT NULL, events INTEGER NOT NULL,
    first_event_id TEXT NOT NULL, last_event_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS transactions (
    tx INTEGER PRIMARY KEY, events INTEGER NOT NULL, committed_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS rolled_back (event_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS doubles (
    event_id TEXT NOT NULL UNIQUE, suppressed INTEGER NOT NULL)
"""
"""The service's own, and what a run notes beside the ledger."""


@dataclass(slots=True)
class Writer:
    """Makes planned changes, one transaction a group; ``committed`` counts events.

    ``pace`` stretches the writing: at least this long between two transactions, between which
    ``room`` is asked: while it says no, nothing is written.
    """

    database: Path
    outbox: Outbox
    pace: timedelta = timedelta(0)
    room: Callable[[], bool] = lambda: True
    committed: int = 0
    _connection: sqlite3.Connection = field(init=False)

    async def run(self, groups: Iterator[tuple[Change, ...]]) -> None:
        """Commit every group that is not yet committed. Cancelled, it ends between two."""
        self._connection = sqlite3.connect(
            self.database, timeout=30, isolation_level=None, check_same_thread=False
        )
        try:
            begun, self.committed = self._connection.execute(
                "SELECT count(*), coalesce(sum(events), 0) FROM transactions"
            ).fetchone()
            left = enumerate(groups, 1)
            await in_thread(lambda: next(islice(left, begun, begun), None))
            while True:
                if not self.room():
                    await asyncio.sleep(_FULL.total_seconds())
                elif await in_thread(lambda: self._next(left)):
                    await asyncio.sleep(self.pace.total_seconds())
                else:
                    return
        finally:
            self._connection.close()

    def _next(self, left: Iterator[tuple[int, tuple[Change, ...]]]) -> bool:
        for number, changes in left:
            self.committed += self._commit(number, changes)
            return True
        return False

    def _commit(self, number: int, changes: tuple[Change, ...]) -> int:
        undone: list[str] = []
        if any(change.attempt == "rolled_back" for change in changes):
            with _transaction(self._connection, keep=False):
                undone += (event_id for change in changes for event_id in self._make(0, change))
        with _transaction(self._connection):
            written = 0
            for change in changes:
                if change.attempt == "savepoint":
                    self._connection.execute("SAVEPOINT attempt")
                    undone += self._make(0, change)
                    self._connection.execute("ROLLBACK TO attempt")
                    self._connection.execute("RELEASE attempt")
                written += len(self._make(number, change))
            self._connection.executemany(
                "INSERT INTO rolled_back (event_id) VALUES (?)", [(one,) for one in undone]
            )
            self._connection.execute(
                "INSERT INTO transactions (tx, events, committed_at) VALUES (?, ?, ?)",
                (number, written, time.time()),
            )
        return written

    def _make(self, number: int, change: Change) -> list[str]:
        """The case's row, its events, and the ledger; the ids of the events."""
        known = self._connection.execute(
            "SELECT first_event_id, last_event_id, events FROM cases WHERE case_id = ?",
            (change.case_id,),
        ).fetchone()
        first, last, step = known or (None, None, 0)
        made: list[str] = []
        for event in change.events:
            step += 1
            (last,) = self.outbox.add(
                self._connection,
                event,
                key=change.case_id,
                correlation_id=first,
                causation_id=last,
            )
            first = first or last
            made.append(last)
            noted = (last, change.case_id, step, _subject(event), number)
            self._connection.execute(ledger.NOTE, noted)
        self._connection.execute(
            "INSERT INTO cases (case_id, status, events, first_event_id, last_event_id)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (case_id) DO UPDATE SET"
            " status = excluded.status, events = excluded.events,"
            " last_event_id = excluded.last_event_id",
            (change.case_id, change.status, step, first, last),
        )
        return made


@contextmanager
def _transaction(connection: sqlite3.Connection, *, keep: bool = True) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT" if keep else "ROLLBACK")


def _subject(event: object) -> str:
    return event.subject if isinstance(event, RawEvent) else str(event_type_of(event).subject)


async def in_thread(call: Callable[[], T]) -> T:
    """``call`` in a thread that is always waited for: its transaction is never abandoned."""
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
