"""``PostgresStore``: outbox, inbox and schema in one PostgreSQL database.

Owns: a pool of connections, and what is known of the outbox's head. The application's own
connections are not its business. Guarantees: what ``contracts.Store`` says, over any number of
processes and machines, also through PgBouncer in transaction mode (``?pgbouncer=true``).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from seaway.contracts import Backlog, Capabilities, Notice, OutboxEntry, Sent
from seaway.databases import statements, times
from seaway.drivers.asyncpg import Pooled as Handle
from seaway.drivers.asyncpg import touched
from seaway.inbox.transaction import Inbox, Transaction
from seaway.parked import ParkedEvent
from seaway.stores.postgres import rows
from seaway.stores.postgres.address import parse
from seaway.stores.postgres.begins import RESHARDING
from seaway.stores.postgres.connection import Pool
from seaway.stores.postgres.head import Floors, Horizon
from seaway.stores.postgres.lease import PostgresLease, Share, kept_alive, outbox_id, take
from seaway.stores.postgres.listener import Listener
from seaway.stores.postgres.retention import DAY, INBOX, SENT, Retention
from seaway.stores.postgres.schema import PostgresSchema, name
from seaway.stores.postgres.transaction import PooledSessions
from seaway.waiting import set_within

_SHORTEST_POLL = timedelta(milliseconds=5)


class PostgresStore:
    """``contracts.Store`` on one database. Made by ``open``; ``close`` it, or ``async with`` it."""

    capabilities = Capabilities(
        durable=True, shared=True, concurrent_transactions=True, shards=True, pruned_by=DAY
    )

    def __init__(
        self,
        pool: Pool,
        *,
        schema: str | None,
        keep_sent: bool,
        poll: timedelta,
        listener: Listener | None,
    ) -> None:
        self._pool = pool
        self._keep_sent = keep_sent
        self._longest_poll = poll
        self._listener = listener
        self._schema = PostgresSchema(pool, schema)
        self._outbox = name("seaway_outbox", schema)
        self._estimated = [name(table, schema) for table in ("seaway_sent", "seaway_inbox")]
        self._relay_sql = statements.load("postgres/relay.sql", schema)
        self._outbox_sql = statements.load("postgres/outbox.sql", schema)
        self._inbox_sql = {
            **statements.load("postgres/inbox.sql", schema),
            **statements.load("postgres/parking.sql", schema),
        }
        self._processes_sql = statements.load("postgres/processes.sql", schema)
        self._transactions: Inbox[Handle] = Inbox(PooledSessions(pool), schema, self.nudge)
        self._sent = Retention(pool, schema, SENT)
        self._inbox = Retention(pool, schema, INBOX)
        self._horizon, self._floors = Horizon(), Floors()
        self._outbox_id: int | None = None
        self._first = itertools.count()
        self._last: tuple[Share, bool] | None = None
        self._nudge = asyncio.Event()

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        schema: str | None = None,
        keep_sent: bool = True,
        listen: bool = False,
        poll: timedelta = timedelta(milliseconds=100),
        connections: int = 20,
    ) -> PostgresStore:
        """Connect to ``url`` (see ``address.parse``).

        ``schema``: where Seaway's tables are, default the search path's. ``keep_sent=False`` keeps
        no settled events: they cannot be traced or sent again. ``listen``: be woken by writers that
        notify (``Outbox(notify=True)``), but not through PgBouncer. ``poll``: the longest pause
        between two looks at an empty outbox. ``connections``: how many at the most. Raises
        ``StoreUnavailable`` where the database is away, ``ConfigError`` where we are not let in.
        """
        address = parse(url)
        pool = await Pool.open(address, size=connections, schema=schema)
        store = cls(pool, schema=schema, keep_sent=keep_sent, poll=poll, listener=None)
        if listen and not address.pgbouncer:
            store._listener = Listener(address, store.nudge)
        return store

    async def __aenter__(self) -> PostgresStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def schema(self) -> PostgresSchema:
        """The library's own tables in this database."""
        return self._schema

    async def close(self) -> None:
        """Close every connection, after what is under way. Idempotent; in a fork, nothing."""
        if self._pool.opened.elsewhere:
            return  # It would end the parent's sessions.
        if self._listener is not None:
            await self._listener.close()
        await self._pool.close()

    async def now(self) -> datetime:
        """What the server's clock says: it dates every row."""
        (found,) = await self._pool.row(self._outbox_sql["now"])
        return found  # type: ignore[no-any-return]

    async def before(self, retention: timedelta) -> datetime:
        """The time before which rows are older than ``retention``."""
        return await self.now() - retention

    # ------------------------------------------------------------------- the outbox

    @asynccontextmanager
    async def lease(self, *, hold: bool = True) -> AsyncIterator[PostgresLease | None]:
        """A fair share of the free shards, at once; ``None`` where none is free."""
        try:
            if self._outbox_id is None:
                self._outbox_id = await outbox_id(self._pool, self._relay_sql, self._outbox)
            async with take(
                self._pool, self._relay_sql, self._outbox_id, first=next(self._first)
            ) as taken:
                if taken is None:
                    yield None
                    return
                connection, share = taken
                shards, releases = share.shards, share.releases
                lease = PostgresLease(
                    connection,
                    self._pool,
                    self._relay_sql,
                    share,
                    horizon=self._horizon,
                    floor=self._floors.of(share.held, shards=shards, releases=releases),
                    hold=hold,
                    keep_sent=self._keep_sent,
                )
                self._last = share, hold
                async with kept_alive(lease):
                    yield lease
                self._floors.raise_to(lease.floor, share.held, shards=shards, releases=releases)
        except BaseException:
            # Whatever it was: another database may answer next, restored from a backup.
            self._horizon, self._floors, self._outbox_id = Horizon(), Floors(), None
            raise

    async def reshard(self, shards: int) -> None:
        """Divide the ordering keys anew, between two leases; at once where they are so already."""
        if await self._pool.rows(self._relay_sql["divided"], shards):
            return
        async with self._pool.transaction(RESHARDING) as connection:
            await connection.execute(self._relay_sql["divide"], self._outbox)
            await connection.execute(self._relay_sql["reshard"], shards)

    async def wait(self, timeout: timedelta) -> None:
        """Return when there are entries for this process' shards, at the latest after ``timeout``.

        A nudge (a transaction of this store, a notification) ends it at once; otherwise it looks
        every 5 ms at first and every ``poll`` in the end.
        """
        if self._listener is not None:
            self._listener.start()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        pause = _SHORTEST_POLL
        while True:
            nudge = self._nudge
            if await self._anything_waits():
                return
            left = deadline - loop.time()
            if left <= 0:
                return
            if await set_within(min(timedelta(seconds=left), pause), nudge):
                return
            listening = self._listener is not None and self._listener.listening
            pause = timeout if listening else min(pause * 1.25, self._longest_poll)

    def nudge(self) -> None:
        """End ``wait`` now."""
        self._nudge.set()
        self._nudge = asyncio.Event()

    async def backlog(self) -> Backlog:
        """How much waits, and how much is dead by the server's last estimate."""
        statement = self._outbox_sql["backlog"]
        count, parked, age, *others = await self._pool.row(
            statement, self._outbox, *self._estimated
        )
        oldest_at = None if age is None else datetime.now(UTC) - max(age, timedelta())
        return Backlog(count, parked, oldest_at, *others)

    async def entries(
        self, *, parked: bool | None = None, event_id: str | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        """Unsettled entries in outbox order."""
        wanted = None if event_id is None else rows.uuids([event_id])
        found = await self._pool.rows(self._outbox_sql["entries"], wanted, parked, limit)
        return [rows.entry(row) for row in found]

    async def unpark(self, event_ids: Sequence[str] | None = None) -> int:
        """Let parked entries be tried again, with their attempts counted anew."""
        wanted = None if event_ids is None else rows.uuids(event_ids)
        async with self._pool.transaction() as connection:
            count = touched(await connection.execute(self._outbox_sql["unpark"], wanted))
            if count:
                await connection.execute(self._outbox_sql["release"])
        self.nudge()
        return count

    async def discard(self, event_ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give parked entries up for good."""
        async with self._pool.transaction() as connection:
            found = await connection.fetch(
                self._outbox_sql["discard"], rows.uuids(event_ids), reason
            )
            if found:
                await connection.execute(self._outbox_sql["release"])
        self.nudge()
        return [event_id for (event_id,) in found]

    async def discarded(self, *, limit: int = 100) -> Sequence[Sent]:
        """The entries that were given up, newest first."""
        return [
            rows.sent(row) for row in await self._pool.rows(self._outbox_sql["discarded"], limit)
        ]

    async def sent(
        self, *, event_id: str | None = None, correlation_id: str | None = None, limit: int = 100
    ) -> Sequence[Sent]:
        """Settled entries that retention still keeps, newest first."""
        wanted = None if event_id is None else rows.uuids([event_id])
        # The event that started a chain has no correlation but itself.
        first = rows.uuids([correlation_id] if correlation_id else [])
        found = await self._pool.rows(
            self._outbox_sql["sent"], wanted, correlation_id, limit, first
        )
        return [rows.sent(row) for row in found]

    async def prune(self, before: datetime) -> None:
        """Drop the days that ended before then, and make those that come."""
        await self._sent.prune(before)

    # ------------------------------------------------------------------- the inbox

    def transaction(self) -> Transaction[Handle]:
        """A transaction on a connection of its own; others may be open at the same time."""
        return self._transactions.transaction()

    async def processed(self, event_id: str) -> Mapping[str, datetime]:
        """Which consumers have this event's effects, and since when."""
        found = await self._pool.rows(self._inbox_sql["processed"], event_id)
        return {consumer: times.moment(at) for consumer, at in found}

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """Those of them that have the consumer's inbox row."""
        found = await self._pool.rows(self._inbox_sql["claimed"], consumer, list(event_ids))
        return {event_id for (event_id,) in found}

    async def forget(self, before: datetime) -> None:
        """Drop the days of events all of whose rows are older, and make those that come."""
        await self._inbox.prune(before)
        await self._pool.run(self._inbox_sql["forget_tried"], before)

    async def parked_heads(self, consumer: str) -> Sequence[ParkedEvent]:
        """The first parked event of each key, by key."""
        found = await self._pool.rows(self._inbox_sql["heads"], consumer)
        return [ParkedEvent(consumer, *times.parked(row)) for row in found]

    async def drop_parked(self, event: ParkedEvent) -> bool:
        """Remove its row, unless it has another letter by now; whether that was done."""
        given = event.consumer, event.event_id, event.letter
        return bool(await self._pool.run(self._inbox_sql["drop"], *given))

    async def overdue(self, sent: datetime, processed: datetime) -> Mapping[str, int]:
        """How many rows ``prune`` and ``forget`` would remove, by partition."""
        found = {**await self._sent.overdue(sent), **await self._inbox.overdue(processed)}
        (tried,) = await self._pool.row(self._inbox_sql["overdue_tried"], processed)
        return {**found, "seaway_unhandled": tried} if tried else found

    # ------------------------------------------------------------------- the processes

    async def tell(self, process: str, notices: Sequence[Notice]) -> None:
        """Replace what ``process`` says of itself."""
        said = [(one.part, one.about, one.reason, one.lasts.total_seconds()) for one in notices]
        columns = [[row[place] for row in said] for place in range(4)]
        async with self._pool.transaction() as connection:
            await connection.execute(self._processes_sql["forget"], process)
            if said:
                await connection.execute(self._processes_sql["tell"], process, *columns)

    async def notices(self) -> Sequence[Notice]:
        """What every process says of itself."""
        return [Notice(*row) for row in await self._pool.rows(self._processes_sql["notices"])]

    async def _anything_waits(self) -> bool:
        if self._last is None:
            return True
        share, hold = self._last
        floor = self._floors.of(share.held, shards=share.shards, releases=share.releases)
        found: bool
        (found,) = await self._pool.row(
            self._relay_sql["waiting"], floor, share.filter, share.shards, hold
        )
        return found
