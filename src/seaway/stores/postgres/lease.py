"""The relay's exclusive right to some shards of a PostgreSQL outbox.

    free --pg_try_advisory_xact_lock(outbox, shard)--> held --the transaction ends--> free

Owns: those locks, the transaction that holds them, and what was claimed under them. A lock goes
with its session: kill -9 of the holder, a cut connection, or a holder that said nothing for 30 s
(a stopped process) end it, and no clock of ours is read (ADR 0008). The transaction writes nothing,
so it has no id and keeps no dead row from being vacuumed. Behind PgBouncer a transaction is what
one server session is held for. Claims' locks on the tables are released twice a second: otherwise
whoever wants a whole table (VACUUM FULL), and every writer behind it, would wait for us.

Authoritative: the outbox table. Everything here may be lost at any moment; the next lease claims
what is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from seaway.contracts import Failed, Loss, OutboxEntry, Sent, SentPlace
from seaway.databases.queries import Row
from seaway.databases.tasks import to_its_end
from seaway.drivers.asyncpg import Pooled as Handle
from seaway.drivers.asyncpg import translating
from seaway.errors import SchemaMismatch
from seaway.stores.postgres.begins import LEASE, SETTLING
from seaway.stores.postgres.pool import Pool
from seaway.stores.relational import entry_of_row
from seaway.stores.relational import sent as sent_of_row

_KEEP_ALIVE_SECONDS = 0.5
_LAST_PLACE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Share:
    """``held``: the shards that a lease holds, of ``shards`` in all. ``releases``: how often parked
    entries had been released when it was taken."""

    held: tuple[int, ...]
    shards: int
    releases: int

    @property
    def filter(self) -> list[int] | None:
        """For the statements: the shards, or ``None`` where all are held."""
        return None if len(self.held) == self.shards else list(self.held)


class PostgresLease:
    """``contracts.Lease``. Claims go over the session that holds the locks: a claim that came back
    proves that they were held then. What is read besides goes there, too; settlements go over
    another, so that they are durable at once.
    """

    def __init__(
        self,
        connection: Handle,
        pool: Pool,
        sql: Mapping[str, str],
        share: Share,
        *,
        horizon: Horizon,
        floor: int,
        hold: bool,
        keep_sent: bool,
    ) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._pool = pool
        self._sql = sql
        self._share = share
        self._horizon = horizon
        self._hold = hold
        self._keep_sent = keep_sent
        self._claims = 0
        self._parked = True
        """Whether any entry may be parked, so that claims have to look."""
        self._claimed: set[int] = set()
        self._blocked: set[str] = set()
        self._looked = 0
        """The position up to which nothing is left to claim under this lease."""
        self.floor = floor

    @property
    def shards(self) -> Collection[str]:
        """What it holds."""
        return [f"{shard} of {self._share.shards}" for shard in self._share.held]

    async def claim(self, limit: int) -> Sequence[OutboxEntry]:
        """The oldest entries not yet claimed under this lease; one short read, later two.

        Empty, from then on, once parked entries were released: the next lease begins with them.
        """
        share, sql = self._share, self._sql
        async with self._turn:
            with translating(self._pool.shown):
                if self._claims:  # The first one is what somebody waits for.
                    mark = await self._connection.fetchrow(sql["mark"])
                    xmin, last, self._parked = mark  # type: ignore[misc]
                    self._horizon.mark(xmin, last)
                self._claims += 1
                after = max(self.floor, self._looked)
                found = await self._connection.fetch(
                    sql["claim"],
                    after,
                    numbers(each for each in self._claimed if each > after),
                    list(self._blocked),
                    share.filter,
                    share.shards,
                    self._hold and self._parked,
                    share.releases,
                    limit,
                )
        entries = [entry_of_row(row) for row in found]
        self._claimed.update(entry.position for entry in entries)
        closed = self._horizon.closed
        self._looked = min(closed, entries[-1].position) if len(entries) == limit else closed
        if not self._blocked:
            # A late row of a blocked key may lie anywhere, and is in no claim of this lease.
            self.floor = floor_after(self.floor, self._horizon.closed, self._claimed)
        return entries

    async def settle(self, sent: Sequence[Sent], failed: Sequence[Failed] = ()) -> None:
        """One short write transaction, durable when it returns. Idempotent."""
        self._blocked.update(failure.entry.key for failure in failed)
        if not sent and not failed:
            return
        # Before the transaction has its id: this position was handed out before that.
        last, xid = self._horizon.last, None
        async with self._pool.transaction(SETTLING) as connection:
            for stream, settled in groupby(sent, key=lambda each: each.stream):
                one = list(settled)
                positions = numbers(each.entry.position for each in one)
                if self._keep_sent:
                    places = numbers(each.stream_seq for each in one)
                    xid = await connection.fetchval(self._sql["settle"], positions, places, stream)
                else:
                    xid = await connection.fetchval(self._sql["settle_and_forget"], positions)
            for each in failed:
                refused = each.entry
                await connection.execute(
                    self._sql["fail"], refused.position, refused.attempts, each.error, each.park
                )
        self._claimed.difference_update(each.entry.position for each in sent)
        if xid is not None:
            self._horizon.passed(last, xid)

    async def find(self, event_ids: Sequence[str]) -> Sequence[OutboxEntry]:
        """Those of ``event_ids`` that are in the outbox; one short read."""
        found = await self._read("find", uuids(event_ids))
        return sorted(map(entry_of_row, found), key=lambda entry: entry.position)

    async def confirm(self) -> None:
        """Return while the lease is still held, ``StoreUnavailable`` once it is lost."""
        async with self._turn:
            with translating(self._pool.shown):
                await self._connection.execute("SELECT 1")

    async def last_sent(
        self, stream: str, *, upto: int | None = None, of_all: bool = False
    ) -> SentPlace | None:
        """The highest place of its shards' sent events; one look into an index for each day."""
        highest = _LAST_PLACE if upto is None else upto
        found = await self._of_shards("last_sent", stream, highest, of_all=of_all)
        return SentPlace(*found[0]) if found else None

    async def first_sent(self, stream: str) -> int | None:
        """The lowest place that retention keeps."""
        [(place,)] = await self._read("first_sent", stream)
        return None if place is None else int(place)

    async def sent_streams(self) -> Sequence[str]:
        """The streams that anything was sent to."""
        return [stream for (stream,) in await self._read("sent_streams")]

    async def lose(self, stream: str, *, above: int) -> Loss:
        """One write transaction."""
        async with self._pool.transaction(SETTLING) as connection:
            [found] = await connection.fetch(self._sql["lose"], stream, above)
        return Loss(*found)

    async def lost_since(self, stream: str) -> datetime | None:
        """When the first of its shards' lost events was settled."""
        [(since,)] = await self._of_shards("lost_since", stream)
        return since  # type: ignore[no-any-return]

    async def lost(self, stream: str, *, limit: int) -> Sequence[Sent]:
        """The first of its shards' lost events, in outbox order."""
        return [sent_of_row(row) for row in await self._of_shards("lost", stream, limit)]

    async def find_lost(self, stream: str, event_ids: Sequence[str]) -> Sequence[Sent]:
        """Those of ``event_ids`` that are lost, of its shards."""
        found = await self._of_shards("find_lost", stream, uuids(event_ids))
        return [sent_of_row(row) for row in found]

    async def heal(self, sent: Sequence[Sent], *, again: bool = True) -> None:
        """One short write transaction, durable when it returns. Idempotent."""
        async with self._pool.transaction(SETTLING) as connection:
            await connection.execute(
                self._sql["heal"],
                uuids(each.entry.event_id for each in sent),
                [each.stream for each in sent],
                numbers(each.stream_seq for each in sent),
                again,
            )

    async def _of_shards(
        self, name: str, stream: str, *given: object, of_all: bool = False
    ) -> Sequence[Row]:
        share = self._share
        shards = None if of_all else share.filter
        return await self._read(name, stream, shards, share.shards, *given)

    async def _read(self, name: str, *given: object) -> Sequence[Row]:
        async with self._turn:
            with translating(self._pool.shown):
                return await self._connection.fetch(self._sql[name], *given)

    async def keep_alive(self) -> None:
        """Speak up for as long as the publishing takes, and let go of the tables that were read.

        Who wants the whole outbox (``VACUUM FULL``, ``REINDEX``) waits for whoever has read it in
        an open transaction, and all writers and our own settlements wait behind that. The shards'
        locks were had before the savepoint, and stay.
        """
        while True:
            await asyncio.sleep(_KEEP_ALIVE_SECONDS)
            async with self._turn:
                with translating(self._pool.shown):
                    await self._connection.execute(self._sql["let_go"])


@asynccontextmanager
async def take_shards(
    pool: Pool, sql: Mapping[str, str], outbox: int, *, first: int
) -> AsyncIterator[tuple[Handle, Share] | None]:
    """Hold a fair share of the free shards; ``None``: none is free, and we are in the queue.

    Fair: as many as there would be for each of those who hold or want some. ``outbox``: the
    table's object id. ``first``: where to begin looking.
    """
    async with pool.held(LEASE) as connection:
        with translating(pool.shown):
            found = await connection.fetch(sql["take"], outbox, first)
        held = tuple(sorted(shard for _, _, shard in found if shard is not None))
        if found and found[0][0] is None:
            raise SchemaMismatch(
                f"{pool.shown}: seaway_relay has lost its row: "
                "INSERT INTO seaway_relay DEFAULT VALUES"
            )
        if held:
            shards, releases, _ = found[0]
            with translating(pool.shown):
                await connection.execute(sql["hold"])
            yield connection, Share(held, shards, releases)
        else:
            yield None
        # Nothing was written: what ends the transaction is what gives the connection back.


async def outbox_id(pool: Pool, sql: Mapping[str, str], table: str) -> int:
    """The object id of the outbox's table, which its locks are named by."""
    (found,) = await pool.row(sql["outbox"], table)
    if found is None:
        raise SchemaMismatch(f"{pool.shown}: {table} is missing: run seaway db upgrade")
    return int(found)


@asynccontextmanager
async def kept_alive(lease: PostgresLease) -> AsyncIterator[PostgresLease]:
    """``lease`` while the server hears of its holder, however long the publishing takes."""
    speaking = asyncio.create_task(lease.keep_alive(), name="seaway lease")
    try:
        yield lease
    finally:
        speaking.cancel()
        await to_its_end(_ended(speaking))


async def _ended(task: asyncio.Task[None]) -> None:
    # What it met, the next claim meets too, and says.
    await asyncio.gather(task, return_exceptions=True)


# ------------------------------------------------------------------- the head of the outbox


class _Waiting(NamedTuple):
    position: int
    ended_at: int
    """The transaction id below which all must have ended."""


@dataclass(slots=True)
class Horizon:
    """The position up to which nothing new can appear, whatever the shard. Pure.

    A settled row leaves a dead one behind until it is vacuumed, and a report that runs for an hour
    keeps all of them. Looking past them at every claim would make the relay slower with every
    event it has sent; remembering the last position would skip the transactions that were slower
    than others and commit a lower position late. So a position counts as over only when nothing
    can appear below it any more:

        mark k       reads the last position handed out, L
        settlement   begins after mark k, and is given its own transaction id, X
        mark m       sees no transaction below xmin any more running, and xmin >= X

    A position is handed out to a transaction that has its id already (the column's default sees to
    it), so whoever was given one up to L has an id below X, and has ended by mark m: its rows are
    there for the claim that follows, or never will be.

    Only an id that was given out says which ones had been before. A snapshot does not: its
    ``xmax`` is one more than the newest that has ended, and any number beyond it may be at work.
    """

    closed: int = 0
    last: int = 0
    """The last position handed out, as of the latest mark."""
    _older: _Waiting | None = None
    _newer: _Waiting | None = None

    def mark(self, xmin: int, last: int) -> None:
        """Take in one mark, in the order in which they were read.

        A sequence that went back (a restored database, a truncated table) takes everything back.
        """
        if last < self.last:
            self.closed, self._older, self._newer = 0, None, None
        self.last = last
        while self._older is not None and xmin >= self._older.ended_at:
            self.closed = max(self.closed, self._older.position)
            self._older, self._newer = self._newer, None

    def passed(self, position: int, xid: int) -> None:
        """A transaction was given the id ``xid`` after ``position`` had been the ``last``."""
        if position > self.last:
            return  # The sequence went back meanwhile.
        if self._older is None:
            self._older = _Waiting(position, xid)
        else:
            self._newer = _Waiting(position, xid)


@dataclass(slots=True)
class Floors:
    """For each shard, the position up to which all of its entries are settled, parked or behind a
    parked one. Ends with a new division of the shards and with every release of parked entries."""

    shards: int = 1
    releases: int = -1
    _of: dict[int, int] = field(default_factory=dict)

    def of(self, held: Collection[int], *, shards: int, releases: int) -> int:
        """From where a lease on ``held`` has to look."""
        if (shards, releases) != (self.shards, self.releases):
            self.shards, self.releases, self._of = shards, releases, {}
        return min((self._of.get(shard, 0) for shard in held), default=0)

    def raise_to(self, floor: int, held: Collection[int], *, shards: int, releases: int) -> None:
        """Keep what a lease on ``held`` has found, unless things have changed since it began."""
        if (shards, releases) == (self.shards, self.releases):
            for shard in held:
                self._of[shard] = max(floor, self._of.get(shard, 0))


def floor_after(floor: int, closed: int, unsettled: Collection[int]) -> int:
    """The floor after a claim that looked above ``floor`` and returned the lowest there is.

    ``unsettled``: what was claimed, in that claim or before, and is not settled.
    """
    return max(floor, min(closed, min(unsettled, default=closed + 1) - 1))


# ------------------------------------------------------------------- arrays


def uuids(texts: Iterable[str]) -> list[UUID]:
    """Those of ``texts`` that can be an event's id at all."""
    found = []
    for text in texts:
        try:
            found.append(UUID(text))
        except ValueError:
            continue
    return found


def numbers(integers: Iterable[int]) -> str:
    """An array as text, for ``$1::text::bigint[]``: the driver's own arrays look at each member
    several times."""
    return "{" + ",".join(map(str, integers)) + "}"
