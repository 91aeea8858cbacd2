"""``SqliteStore``: outbox, inbox and schema in one SQLite file.

Owns: two connections to the file, each on a thread of its own. The writer is handed from one
transaction to the next in the order they asked; the reader never writes. The application's own
connections are not its business. Guarantees: what ``contracts.Store`` says, over any number of
processes on one machine.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from seaway.contracts import Backlog, Capabilities, Notice, OutboxEntry, Sent
from seaway.databases import statements, times
from seaway.databases.ending import to_its_end
from seaway.databases.sqlite_codes import translating
from seaway.databases.turns import Turns
from seaway.errors import ConfigError
from seaway.inbox.transaction import Inbox, Transaction
from seaway.parked import ParkedEvent
from seaway.process import running_time
from seaway.stores.sqlite import processes, rows
from seaway.stores.sqlite.connection import Connection, checked, connect
from seaway.stores.sqlite.lease import Pulse, SqliteLease, read_pulse, relay_lock
from seaway.stores.sqlite.schema import SqliteSchema
from seaway.stores.sqlite.transaction import WriterSessions
from seaway.waiting import set_within

T = TypeVar("T")

_OUTBOX = statements.load("sqlite/outbox.sql")
_INBOX = {**statements.load("sqlite/inbox.sql"), **statements.load("sqlite/parking.sql")}

_SHORTEST_POLL = timedelta(milliseconds=10)
_CHUNK = 1000


class SqliteStore:
    """``contracts.Store`` on one file. Made by ``open``; ``close`` it, or use ``async with``."""

    capabilities = Capabilities(durable=True, shared=True, concurrent_transactions=False)

    def __init__(
        self,
        path: Path,
        writer: Connection,
        reader: Connection,
        *,
        keep_sent: bool,
        poll: timedelta,
    ) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self._keep_sent = keep_sent
        self._longest_poll = poll
        self._schema = SqliteSchema(writer, str(path))
        self._turns = Turns()
        sessions = WriterSessions(writer, self._turns, str(path))
        self._transactions: Inbox[Connection] = Inbox(sessions, committed=self.nudge)
        self._nudge = asyncio.Event()
        self._pulse: Pulse | None = None
        self._opened_at = running_time()
        self._newest: datetime | None = None

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        busy_timeout: timedelta = timedelta(seconds=5),
        keep_sent: bool = True,
        poll: timedelta = timedelta(milliseconds=100),
        create: bool = True,
    ) -> SqliteStore:
        """Open ``path``, creating an empty database where there is none.

        Without ``create`` that is ``NoDatabase``, and no file is changed but Seaway's.

        ``busy_timeout``: how long a write waits for writers of other processes before it raises
        ``StoreUnavailable``. ``keep_sent=False`` keeps no settled events: they cannot be traced
        or sent again. ``poll``: the longest pause between two looks for what other connections
        wrote. ``ConfigError`` where the file cannot be a database.
        """
        path = checked(Path(path), create=create)
        writer = await connect(path, busy_timeout=busy_timeout, read_only=False, create=create)
        try:
            reader = await connect(path, busy_timeout=busy_timeout, read_only=True, create=create)
        except BaseException:
            await to_its_end(writer.close())
            raise
        store = cls(path, writer, reader, keep_sent=keep_sent, poll=poll)
        await store._look_for_the_newest()
        return store

    async def __aenter__(self) -> SqliteStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def schema(self) -> SqliteSchema:
        """The library's own tables in this file."""
        return self._schema

    async def close(self) -> None:
        """Close both connections, after what is under way. Idempotent; in a fork, nothing."""
        if self._writer.opened.elsewhere:
            return
        await to_its_end(self._close())

    async def _close(self) -> None:
        async with self._turns.own():
            try:
                await self._reader.close()
            finally:
                await self._writer.close()

    async def now(self) -> datetime:
        """Our own clock: whoever writes dates the rows."""
        return datetime.now(UTC)

    async def before(self, retention: timedelta) -> datetime:
        """Before when a row is older than ``retention``.

        Where nothing was younger than that when the file was opened, either it was long at rest, or
        our clock is ahead and those rows are of today. So the newest counts as new then, and what
        was there grows older as time passes: a file that was long at rest keeps the last of its
        rows for longer.
        """
        passed = timedelta(seconds=running_time() - self._opened_at)
        now, newest = datetime.now(UTC), self._newest
        if newest is not None and newest < now - passed - retention:
            now = newest + passed
        return now - retention

    async def _look_for_the_newest(self) -> None:
        if await self._read(lambda db: db.execute(_OUTBOX["is_made"]).fetchone()):
            (newest,) = await self._read(lambda db: db.execute(_OUTBOX["newest"]).fetchone())
            self._newest = None if newest is None else times.moment(newest)

    # ------------------------------------------------------------------- the outbox

    @asynccontextmanager
    async def lease(self, *, hold: bool = True) -> AsyncIterator[SqliteLease | None]:
        """The relay's right to this file, at once; ``None`` where another relay has it."""
        async with relay_lock(self._reader, self.path) as held:
            if not held:
                yield None
                return
            yield SqliteLease(
                self._reader,
                self._write,
                str(self.path),
                hold=hold,
                keep_sent=self._keep_sent,
                on_pulse=self._note_pulse,
            )

    async def reshard(self, shards: int) -> None:
        """There is one: SQLite has one writer."""
        if shards != 1:
            raise ConfigError(
                "an SQLite outbox has one shard", hint="leave outbox.shards out, or use PostgreSQL"
            )

    async def wait(self, timeout: timedelta) -> None:
        """Return when entries came since the last claim, at the latest after ``timeout``.

        Transactions of this store wake it at once; those of other connections within ``poll``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        pause = _SHORTEST_POLL
        while True:
            nudge = self._nudge
            if await self._read(read_pulse) != self._pulse:
                return
            left = deadline - loop.time()
            if left <= 0:
                return
            if not await set_within(min(timedelta(seconds=left), pause), nudge):
                pause = min(pause * 1.25, self._longest_poll)

    async def backlog(self) -> Backlog:
        """How much waits."""
        count, parked, oldest, held = await self._read(
            lambda db: db.execute(_OUTBOX["backlog"]).fetchone()
        )
        if oldest is not None:
            oldest = times.moment(min(oldest, times.now()))  # Another's clock may be ahead.
        return Backlog(count, parked, oldest, oldest_held=bool(held))

    async def entries(
        self, *, parked: bool | None = None, event_id: str | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        """Unsettled entries in outbox order."""
        given = {"parked": parked, "event_id": event_id, "limit": limit}
        return await self._read(
            lambda db: [rows.entry(row) for row in rows.read(db, _OUTBOX["entries"], given)]
        )

    async def unpark(self, event_ids: Sequence[str] | None = None) -> int:
        """Let parked entries be tried again, with their attempts counted anew."""
        given = {"event_ids": None if event_ids is None else json.dumps(list(event_ids))}
        return await self._write(lambda db: db.execute(_OUTBOX["unpark"], given).rowcount)

    async def discard(self, event_ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give parked entries up for good."""
        given = {"event_ids": json.dumps(list(event_ids)), "reason": reason, "now": times.now()}

        def work(db: sqlite3.Connection) -> list[str]:
            db.execute(_OUTBOX["give_up"], given)
            return [event_id for (event_id,) in rows.read(db, _OUTBOX["drop_given_up"], given)]

        return await self._write(work)

    async def discarded(self, *, limit: int = 100) -> Sequence[Sent]:
        """The entries that were given up, newest first."""
        given = {"limit": limit}
        return await self._read(
            lambda db: [rows.sent(row) for row in rows.read(db, _OUTBOX["discarded"], given)]
        )

    async def sent(
        self, *, event_id: str | None = None, correlation_id: str | None = None, limit: int = 100
    ) -> Sequence[Sent]:
        """Settled entries that retention still keeps, newest first."""
        given = {"event_id": event_id, "correlation_id": correlation_id, "limit": limit}
        if event_id is not None:
            statement = _OUTBOX["sent_of_event"]
        elif correlation_id is not None:
            statement = _OUTBOX["sent_of_correlation"]
        else:
            statement = _OUTBOX["sent"]
        return await self._read(
            lambda db: [rows.sent(row) for row in rows.read(db, statement, given)]
        )

    async def prune(self, before: datetime) -> None:
        """Forget what was settled before then."""
        await self._delete(_OUTBOX["prune"], before)

    # ------------------------------------------------------------------- the inbox

    def transaction(self) -> Transaction[Connection]:
        """The writer, in a transaction; others of this process wait their turn."""
        return self._transactions.transaction()

    async def processed(self, event_id: str) -> Mapping[str, datetime]:
        """Which consumers have this event's effects, and since when."""
        given = {"event_id": event_id}
        found = await self._read(lambda db: db.execute(_INBOX["processed"], given).fetchall())
        return {consumer: times.moment(processed_at) for consumer, processed_at in found}

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """Those of them that have the consumer's inbox row."""
        given = {"consumer": consumer, "event_ids": json.dumps(list(event_ids))}
        found = await self._read(lambda db: db.execute(_INBOX["claimed"], given).fetchall())
        return {event_id for (event_id,) in found}

    async def forget(self, before: datetime) -> None:
        """Drop inbox rows written before then."""
        await self._delete(_INBOX["forget"], before)
        await self._delete(_INBOX["forget_tried"], before)

    async def parked_heads(self, consumer: str) -> Sequence[ParkedEvent]:
        """The first parked event of each key, by key."""
        given = {"consumer": consumer}
        found = await self._read(lambda db: db.execute(_INBOX["heads"], given).fetchall())
        return [ParkedEvent(consumer, *times.parked(row)) for row in found]

    async def drop_parked(self, event: ParkedEvent) -> bool:
        """Remove its row, unless it has another letter by now; whether that was done."""
        given = {"consumer": event.consumer, "event_id": event.event_id, "letter": event.letter}
        return bool(await self._write(lambda db: db.execute(_INBOX["drop"], given).rowcount))

    async def overdue(self, sent: datetime, processed: datetime) -> Mapping[str, int]:
        """How many rows ``prune`` and ``forget`` would remove."""
        found = {}
        for table, statement, before in (
            ("seaway_sent", _OUTBOX["overdue"], sent),
            ("seaway_inbox", _INBOX["overdue"], processed),
            ("seaway_unhandled", _INBOX["overdue_tried"], processed),
        ):
            given = {"before": times.microseconds(before)}
            found[table] = await self._read(partial(_count, statement, given))
        return {table: count for table, count in found.items() if count}

    # ------------------------------------------------------------------- the processes

    async def tell(self, process: str, notices: Sequence[Notice]) -> None:
        """Replace what ``process`` says of itself."""
        await self._write(lambda db: processes.tell(db, process, notices))

    async def notices(self) -> Sequence[Notice]:
        """What every process says of itself."""
        return await self._read(processes.notices)

    async def _delete(self, statement: str, before: datetime) -> None:
        """In short transactions, with pauses as long: writers of other processes come between.

        Their pages are used again by the rows that follow, so nothing is given back to the file
        system: that would move pages at every commit, and the file is the application's.
        """
        given = {"before": times.microseconds(before), "limit": _CHUNK}
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            deleted = await self._write(lambda db: db.execute(statement, given).rowcount)
            if deleted < _CHUNK:
                return
            await asyncio.sleep(loop.time() - began)

    # ------------------------------------------------------------------- the connections

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translating(str(self.path)):
            return await self._reader.run(work)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work`` in a transaction of its own, all in one hop."""

        def whole(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return result

        async with self._turns.own():
            with translating(str(self.path)):
                result = await to_its_end(self._writer.run(whole))
        self.nudge()
        return result

    def _note_pulse(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def nudge(self) -> None:
        """End ``wait`` now: let it look whether anything came."""
        self._nudge.set()
        self._nudge = asyncio.Event()


def _count(statement: str, given: Mapping[str, int], db: sqlite3.Connection) -> int:
    (count,) = db.execute(statement, given).fetchone()
    return int(count)
