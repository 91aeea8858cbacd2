"""``PostgresStore``: outbox, inbox and schema in one PostgreSQL database.

Owns: a pool of connections, and what is known of the outbox's head. The application's own
connections are not its business. Guarantees: what ``contracts.Store`` says, over any number of
processes and machines, also through PgBouncer in transaction mode (``?pgbouncer=true``).
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from seaway.contracts import Backlog, Capabilities, OpenTransaction, Vitals
from seaway.databases.engines import POSTGRES
from seaway.databases.queries import Query, Row, Statements, Steps, awaited
from seaway.drivers.asyncpg import Pooled as Handle
from seaway.drivers.asyncpg import touched
from seaway.errors import MissingExtra
from seaway.inbox.transaction import ThreadInbox
from seaway.stores.postgres.address import parse
from seaway.stores.postgres.begins import RESHARDING
from seaway.stores.postgres.lease import (
    Floors,
    Horizon,
    PostgresLease,
    Share,
    kept_alive,
    outbox_id,
    take_shards,
    uuids,
)
from seaway.stores.postgres.listener import Listener
from seaway.stores.postgres.pool import Pool, PooledSessions
from seaway.stores.postgres.retention import DAY, INBOX, SENT, Retention
from seaway.stores.postgres.schema import PostgresSchema
from seaway.stores.relational import RelationalStore
from seaway.tables import within

T = TypeVar("T")


class PostgresStore(RelationalStore[Handle]):
    """``contracts.Store`` on one database. Made by ``open``; ``close`` it, or ``async with`` it."""

    capabilities = Capabilities(
        durable=True, shared=True, concurrent_transactions=True, shards=True, pruned_by=DAY
    )

    engine = POSTGRES
    shortest_poll = timedelta(milliseconds=5)
    nudge_is_news = True

    def __init__(
        self,
        pool: Pool,
        *,
        schema: str | None,
        keep_sent: bool,
        poll: timedelta,
        listener: Listener | None,
    ) -> None:
        super().__init__(PooledSessions(pool), schema, poll=poll)
        self._pool = pool
        self._keep_sent = keep_sent
        self._listener = listener
        self._schema = PostgresSchema(pool, schema)
        self._tables = {
            name: within(f"seaway_{name}", schema) for name in ("outbox", "sent", "inbox")
        }
        self._relay_sql = Statements(POSTGRES, schema, "relay.sql")
        self._sent = Retention(pool, schema, SENT)
        self._inbox = Retention(pool, schema, INBOX)
        self._horizon, self._floors = Horizon(), Floors()
        self._outbox_id: int | None = None
        self._first = itertools.count()
        self._last: tuple[Share, bool] | None = None

    @classmethod
    async def from_url(cls, url: str, *, create: bool, **options: Any) -> PostgresStore:
        """See ``stores.open_store``; no database is ever created."""
        return await cls.open(url, **options)

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
        store.capabilities = replace(cls.capabilities, connections=connections)
        if listen and not address.pgbouncer:
            store._listener = Listener(address, store.nudge)
        return store

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

    def for_threads(self) -> ThreadInbox[Any]:
        """See ``contracts.Store``: psycopg's connections, one a thread."""
        try:
            from seaway.stores.postgres.threads import StoreThreadSessions
        except ModuleNotFoundError as error:
            raise MissingExtra("psycopg", "a plain handler on PostgreSQL") from error
        return self._for_threads(StoreThreadSessions(self._pool.address))

    async def now(self) -> datetime:
        """What the server's clock says: it dates every row."""
        ((found,),) = await self._read("now")
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
                self._outbox_id = await outbox_id(
                    self._pool, self._relay_sql, self._tables["outbox"]
                )
            async with take_shards(
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
            await connection.execute(self._relay_sql["divide"], self._tables["outbox"])
            await connection.execute(self._relay_sql["reshard"], shards)

    async def wait(self, timeout: timedelta) -> None:
        """Return when there are entries for this process' shards, at the latest after
        ``timeout``; a transaction of this store and a notification end it at once."""
        if self._listener is not None:
            self._listener.start()
        await super().wait(timeout)

    async def backlog(self) -> Backlog:
        """How much waits, and how much is dead by the server's last estimate."""
        ((count, parked, age, *others),) = await self._read("backlog", **self._tables)
        oldest_at = None if age is None else datetime.now(UTC) - max(age, timedelta())
        return Backlog(count, parked, oldest_at, *others)

    async def prune(self, before: datetime) -> None:
        """Drop the days that ended before then, and make those that come."""
        await self._sent.prune(before)

    async def forget(self, before: datetime) -> None:
        """Drop the days of events all of whose rows are older, and make those that come."""
        await self._inbox.prune(before)
        await self._touch("forget_tried", before=before)

    async def overdue(self, sent: datetime, processed: datetime) -> Mapping[str, int]:
        """How many rows ``prune``, ``forget`` and ``forget_discarded`` would remove, by
        partition."""
        found = {**await self._sent.overdue(sent), **await self._inbox.overdue(processed)}
        ((tried,),) = await self._read("overdue_tried", before=processed)
        ((discarded,),) = await self._read("overdue_discarded")
        others = {"seaway_unhandled": tried, "seaway_discarded": discarded}
        return found | {table: count for table, count in others.items() if count}

    async def vitals(self, streams: Mapping[str, datetime] | None = None) -> Vitals:
        """What the server says of its sessions, which days have a partition, where events went."""
        found = await super().vitals(streams)
        ((clock, connections, most, hidden, pid, *open_),) = await self._read("vitals")
        lacking = [(one.table, await one.lacking()) for one in (self._sent, self._inbox)]
        return replace(
            found,
            clock=clock,
            connections=connections,
            most_connections=most,
            oldest=None if pid is None else OpenTransaction(pid, *open_),
            hidden=hidden,
            without_a_day={table: days for table, (days, _) in lacking if days},
            misplaced={table: rows for table, (_, rows) in lacking if rows},
        )

    # ------------------------------------------------------------------- the engine's own

    async def _read(self, name: str, **given: Any) -> Sequence[Row]:
        query = self._sql.of(name, given)
        return await self._pool.rows(query.statement, *query.parameters)

    async def _write(self, steps: Steps[T]) -> T:
        async with self._pool.transaction() as connection:
            return await awaited(steps, partial(_run, connection))

    async def _news(self) -> bool:
        if self._last is None:
            return True
        share, hold = self._last
        floor = self._floors.of(share.held, shards=share.shards, releases=share.releases)
        found: bool
        (found,) = await self._pool.row(
            self._relay_sql["waiting"], floor, share.filter, share.shards, hold
        )
        return found

    def _listening(self) -> bool:
        return self._listener is not None and self._listener.listening

    def _known(self, event_ids: Sequence[str]) -> Sequence[UUID]:
        return uuids(event_ids)


async def _run(connection: Handle, query: Query) -> Sequence[Row]:
    if query.gives:
        return await connection.fetch(query.statement, *query.parameters)
    return [(touched(await connection.execute(query.statement, *query.parameters)),)]
