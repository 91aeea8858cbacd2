"""``SqliteStore``: outbox, inbox and schema in one SQLite file.

Owns: two connections to the file, each on a thread of its own. The writer is handed from one
transaction to the next in the order they asked; the reader never writes. The application's own
connections are not its business. Guarantees: what ``contracts.Store`` says, over any number of
processes on one machine.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from seaway.contracts import Backlog, Capabilities
from seaway.databases import times
from seaway.databases.engines import SQLITE
from seaway.databases.queries import Query, Row, Statements, Steps, carried_out
from seaway.databases.sqlite_codes import translating
from seaway.databases.tasks import Turns, to_its_end
from seaway.drivers.keeping import Kept
from seaway.drivers.sqlite3 import SqliteThreadSessions
from seaway.errors import ConfigError
from seaway.inbox.transaction import ThreadInbox
from seaway.process import running_time
from seaway.stores import file_of
from seaway.stores.relational import RelationalStore
from seaway.stores.schema import Migration, SqlSchema, migrations, split
from seaway.stores.sqlite.connection import (
    Connection,
    WriterSessions,
    checked,
    connect,
    made_now,
    read,
)
from seaway.stores.sqlite.lease import Pulse, SqliteLease, read_pulse, relay_lock

T = TypeVar("T")

_SQL = Statements(SQLITE)
_CHUNK = 1000


class SqliteStore(RelationalStore[Connection]):
    """``contracts.Store`` on one file. Made by ``open``; ``close`` it, or use ``async with``."""

    capabilities = Capabilities(durable=True, shared=True, concurrent_transactions=False)
    engine = SQLITE
    shortest_poll = timedelta(milliseconds=10)
    nudge_is_news = False

    def __init__(
        self,
        path: Path,
        writer: Connection,
        reader: Connection,
        *,
        keep_sent: bool,
        poll: timedelta,
        busy_timeout: timedelta,
    ) -> None:
        self._turns = Turns()
        super().__init__(WriterSessions(writer, self._turns, str(path)), None, poll=poll)
        self.path = path
        self._busy_timeout = busy_timeout
        self._writer = writer
        self._reader = reader
        self._keep_sent = keep_sent
        self._schema = SqliteSchema(writer, str(path))
        self._pulse: Pulse | None = None
        self._opened_at = running_time()
        self._newest: datetime | None = None

    @classmethod
    async def from_url(cls, url: str, *, schema: None, listen: bool, **options: Any) -> SqliteStore:
        """See ``stores.open_store``; writers that notify are heard of by looking."""
        return await cls.open(file_of(url), **options)

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
        wrote. ``ConfigError`` where the file cannot be a database. Cancelled, it leaves nothing
        open.
        """
        path = checked(Path(path), create=create)
        connecting = partial(connect, path, busy_timeout=busy_timeout, create=create)
        async with AsyncExitStack() as failed:
            writer = await connecting(read_only=False)
            failed.push_async_callback(writer.close)
            reader = await connecting(read_only=True)
            failed.push_async_callback(reader.close)
            store = cls(
                *(path, writer, reader), keep_sent=keep_sent, poll=poll, busy_timeout=busy_timeout
            )
            await store._look_for_the_newest()
            failed.pop_all()
            return store

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

    def for_threads(self) -> ThreadInbox[Any]:
        """See ``contracts.Store``: connections of the standard library, one a thread. Their
        transactions and the store's take turns."""
        made = partial(made_now, self.path, busy_timeout=self._busy_timeout)
        return self._for_threads(SqliteThreadSessions(Kept(made), self._turns, str(self.path)))

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
        if await self._read("is_made"):
            ((newest,),) = await self._read("newest")
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
                self._write_at_once,
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

    async def backlog(self) -> Backlog:
        """How much waits."""
        ((count, parked, oldest, held),) = await self._read("backlog")
        if oldest is not None:
            oldest = times.moment(min(oldest, times.now()))  # Another's clock may be ahead.
        return Backlog(count, parked, oldest, oldest_held=bool(held))

    async def prune(self, before: datetime) -> None:
        """Forget what was settled before then."""
        await self._delete("prune", before)

    async def forget(self, before: datetime) -> None:
        """Drop inbox rows written before then."""
        await self._delete("forget", before)
        await self._delete("forget_tried", before)

    async def overdue(self, sent: datetime, processed: datetime) -> Mapping[str, int]:
        """How many rows ``prune``, ``forget`` and ``forget_discarded`` would remove."""
        found = {}
        for table, statement, before in (
            ("seaway_sent", "overdue_sent", sent),
            ("seaway_inbox", "overdue_processed", processed),
            ("seaway_unhandled", "overdue_tried", processed),
            ("seaway_discarded", "overdue_discarded", None),
        ):
            ((count,),) = await self._read(statement, before=before)
            if count:
                found[table] = int(count)
        return found

    async def _delete(self, statement: str, before: datetime) -> None:
        """In short transactions, with pauses as long: writers of other processes come between.

        Their pages are used again by the rows that follow, so nothing is given back to the file
        system: that would move pages at every commit, and the file is the application's.
        """
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            if await self._touch(statement, before=before, limit=_CHUNK) < _CHUNK:
                return
            await asyncio.sleep(loop.time() - began)

    # ------------------------------------------------------------------- the engine's own

    async def _read(self, name: str, **given: Any) -> Sequence[Row]:
        with translating(str(self.path)):
            return await self._reader.run(partial(read, query=self._sql.of(name, given)))

    async def _write(self, steps: Steps[T]) -> T:
        return await self._write_at_once(lambda db: carried_out(steps, partial(_run, db)))

    async def _write_at_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work`` in a transaction of its own, all in one hop."""

        with translating(str(self.path)):
            async with self._turns.own():
                result = await to_its_end(self._writer.run(partial(_in_transaction, work)))
        self.nudge()
        return result

    async def _news(self) -> bool:
        with translating(str(self.path)):
            return await self._reader.run(read_pulse) != self._pulse

    def _note_pulse(self, pulse: Pulse) -> None:
        self._pulse = pulse


def _in_transaction(work: Callable[[sqlite3.Connection], T], db: sqlite3.Connection) -> T:
    db.execute("BEGIN IMMEDIATE")
    try:
        result = work(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return result


def _run(db: sqlite3.Connection, query: Query) -> Sequence[Row]:
    if query.gives:
        return read(db, query)
    return [(db.execute(query.statement, query.parameters).rowcount,)]


# ------------------------------------------------------------------- the schema


class SqliteSchema(SqlSchema):
    """See ``SqlSchema``."""

    engine = SQLITE

    def __init__(self, connection: Connection, path: str) -> None:
        super().__init__(path)
        self._connection = connection

    async def _recorded(self) -> Mapping[int, str]:
        with translating(self._where):
            return await self._connection.run(self._applied)

    def _applied(self, db: sqlite3.Connection) -> Mapping[int, str]:
        if not db.execute(_SQL["has_versions"]).fetchone()[0]:
            return {}
        recorded = dict(db.execute(_SQL["versions"]).fetchall())
        self._refuse_newer(recorded)
        return recorded

    async def _apply(self, migration: Migration) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            # Read under the write lock: another process may just have applied it.
            db.execute(_SQL["create_versions"])
            if migration.version in self._applied(db):
                return False
            for statement in split(migration.script):
                db.execute(statement)
            given = {"version": migration.version, "name": migration.name}
            db.execute(*_SQL.of("record", given)[:2])
            return True

        with translating(self._where):
            return await to_its_end(self._connection.run(partial(_in_transaction, work)))

    async def _difference(self, recorded: Mapping[int, str]) -> str | None:
        with translating(self._where):
            found = await self._connection.run(_objects)
        for name, sql in _expected().items():
            if found.get(name) != sql:
                return f"{name} {'differs' if name in found else 'is missing'}"
        return None


def _objects(db: sqlite3.Connection) -> dict[str, str]:
    return {name: " ".join(sql.split()) for name, sql in db.execute(_SQL["objects"]).fetchall()}


@cache
def _expected() -> dict[str, str]:
    db = sqlite3.connect(":memory:")
    try:
        db.execute(_SQL["create_versions"])
        for migration in migrations(SQLITE):
            db.executescript(migration.script)
        return _objects(db)
    finally:
        db.close()
