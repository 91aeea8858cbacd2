"""Rows that are kept for a while, by day: a partition for each, made ahead and dropped whole.

Owns: the partitions of ``seaway_sent`` and ``seaway_inbox``. Guarantees: dropping leaves no dead
row; a day goes when none of its rows is young any more; one process at a time is at a table, and
whoever writes there is kept waiting for two seconds at most. What is in no day is deleted row by
row, in short transactions; so is everything where this user may not make tables.

The inbox cannot be divided by the age of its rows, since its key must be unique over all of them.
It is divided by the time that event ids (UUIDv7) begin with: the row of an event that was handled
late keeps that event's day alive, or is in no day where that is gone (ADR 0011).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import asyncpg

from seaway import logs
from seaway.databases.engines import POSTGRES
from seaway.databases.queries import Statements
from seaway.drivers.asyncpg import Pooled as Handle
from seaway.drivers.asyncpg import touched, translating
from seaway.errors import SchemaMismatch
from seaway.stores.postgres.begins import COUNTING, DELETING, TAKING_A_TABLE, Begin
from seaway.stores.postgres.pool import Pool
from seaway.tables import within

DAY = timedelta(days=1)
_AHEAD_DAYS = 2
_CHUNK = 5000
_LATER = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.CheckViolationError,
    asyncpg.DuplicateTableError,
    asyncpg.UndefinedTableError,
)
"""Somebody is at the table, the default partition has rows of that day already, or another process
was quicker."""


class _Elsewhere(Exception):
    """Another process is at this table, and does what there is to do."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A table by day. ``moment``: the column that says a row's age; ``first``: the bound at which
    a day begins, of column ``by``; ``by_moment``: that is ``moment``, so that no row of a day is
    younger than the day."""

    table: str
    moment: str
    first: Callable[[date], str]
    by_moment: bool
    by: str
    logger: logging.Logger

    def name(self, day: date) -> str:
        """The partition's."""
        return f"{self.table}_{day:%Y%m%d}"

    def day(self, name: str) -> date | None:
        """The day of the partition ``name``; ``None`` for one that is no day."""
        text = name.removeprefix(f"{self.table}_")
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date() if _is(text) else None


def _is(text: str) -> bool:
    return len(text) == 8 and text.isdigit()


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _coming(now: datetime) -> list[date]:
    """Today and the days that follow, as far as they are made ahead."""
    today = now.astimezone(UTC).date()
    return [today + ahead * DAY for ahead in range(_AHEAD_DAYS + 1)]


def first_id(day: date) -> str:
    """Where the UUIDv7s of ``day`` (UTC) begin, as text."""
    digits = f"{int(_start(day).timestamp()) * 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}"


SENT = Kept(
    "seaway_sent",
    "sent_at",
    lambda day: _start(day).isoformat(),
    True,
    "sent_at",
    logs.logger("seaway.outbox"),
)
INBOX = Kept(
    "seaway_inbox", "processed_at", first_id, False, "event_id", logs.logger("seaway.inbox")
)


@dataclass(slots=True)
class _Found:
    """The partitions that there are, in the schema ``place``, by the database's clock at ``now``.

    ``whole_rows``: a row is its own replica identity. ``unidentified``: partitions without one, of
    an older Seaway.
    """

    place: str
    now: datetime
    whole_rows: bool
    days: set[date] = field(default_factory=set)
    others: list[str] = field(default_factory=list)
    unidentified: list[str] = field(default_factory=list)

    def ended(self, before: datetime) -> list[date]:
        return sorted(day for day in self.days if _start(day) + DAY <= before)


class Retention:
    """The partitions of one such table."""

    def __init__(self, pool: Pool, schema: str | None, kept: Kept) -> None:
        self._pool = pool
        self._kept = kept
        self._table = within(kept.table, schema)
        self._sql = Statements(POSTGRES, file="retention.sql")
        self._warned = False
        self.table = kept.table

    async def lacking(self) -> tuple[int, int]:
        """How many of today and the days that follow have no partition, and how many rows of those
        lie where a day's own cannot take them in."""
        found = await self._look()
        days = [day for day in _coming(found.now) if day not in found.days]
        rows = 0
        for name in found.others if days else ():
            for day in days:
                count = self._sql["misplaced"].format(
                    name=f"{found.place}.{name}",
                    by=self._kept.by,
                    first=self._kept.first(day),
                    next=self._kept.first(day + DAY),
                )
                ((counted,),) = await self._pool.rows(count)
                rows += counted
        return len(days), rows

    async def prune(self, before: datetime) -> None:
        """Drop the days that ended before ``before``, and make today and the two that follow.

        Ends early where another process is doing so.
        """
        found = await self._look()
        singly = found.others
        with translating(self._pool.shown):
            try:
                try:
                    await self._drop(found, before)
                    await self._make(found)
                    await self._identify(found)
                except asyncpg.InsufficientPrivilegeError as error:
                    singly = [self._kept.table]
                    self._warn(error)
                for name in singly:
                    await self._delete(found.place, name, before)
            except _Elsewhere:
                self._kept.logger.debug("another process is pruning %s", self._table)

    async def overdue(self, before: datetime) -> Mapping[str, int]:
        """How many rows ``prune`` would remove, by partition; those without any are left out."""
        found = await self._look()
        counted = {}
        for name in [*(self._kept.name(day) for day in found.ended(before)), *found.others]:
            whole = name not in found.others
            async with self._pool.transaction(COUNTING) as connection:
                if not (whole and await self._has_young(connection, found.place, name, before)):
                    count = self._write("count", found.place, name)
                    counted[name] = int(await connection.fetchval(count, before))
        return {name: count for name, count in counted.items() if count}

    async def _look(self) -> _Found:
        rows = await self._pool.rows(self._sql["partitions"], self._table)
        if not rows:
            raise SchemaMismatch(
                f"{self._pool.shown}: {self._table} is missing or old: run seaway db verify"
            )
        place, _, _, whole_rows, now = rows[0]
        found = _Found(place, now, whole_rows)
        for _, name, unidentified, *_ in rows:
            if unidentified:
                found.unidentified.append(name)
            day = self._kept.day(name)
            if day is None:
                found.others.append(name)
            else:
                found.days.add(day)
        return found

    async def _drop(self, found: _Found, before: datetime) -> None:
        held_up = False
        for day in found.ended(before):
            name = self._kept.name(day)
            async with self._pool.untranslated(COUNTING) as connection:
                if await self._has_young(connection, found.place, name, before):
                    continue
            # Its space is free even where handlers that take minutes keep it from being dropped:
            # emptying waits for those of this day alone.
            await self._remove("empty", found.place, name, before, locked=name)
            if not held_up:
                table = self._kept.table
                if await self._remove("drop", found.place, name, before, locked=table):
                    found.days.discard(day)
                else:
                    held_up = True

    async def _remove(
        self, how: str, place: str, name: str, before: datetime, *, locked: str
    ) -> bool:
        try:
            async with self._alone() as connection:
                # A row that came between the look and the deed would be lost with its day. The
                # table comes before its partition, as in claims: no deadlock.
                await connection.execute(self._write("keep_out", place, locked))
                if await self._has_young(connection, place, name, before):
                    return False
                await connection.execute(self._write(how, place, name))
        except _LATER as error:
            self._kept.logger.debug("%s is left for the next time: %s", name, error)
            return False
        return True

    async def _make(self, found: _Found) -> None:
        for day in _coming(found.now):
            if day in found.days:
                continue
            definition = self._sql["make"].format(
                table=f"{found.place}.{self._kept.table}",
                name=f"{found.place}.{self._kept.name(day)}",
                first=self._kept.first(day),
                next=self._kept.first(day + DAY),
                identity="FULL" if found.whole_rows else "DEFAULT",
            )
            try:
                async with self._alone() as connection:
                    await connection.execute(definition)
            except _LATER as error:
                self._kept.logger.debug("%s is left for the next time: %s", day, error)

    async def _identify(self, found: _Found) -> None:
        for name in found.unidentified:
            try:
                async with self._alone() as connection:
                    await connection.execute(self._write("identify", found.place, name))
            except _LATER as error:
                self._kept.logger.debug("%s is left for the next time: %s", name, error)

    async def _delete(self, place: str, name: str, before: datetime) -> None:
        delete, count = self._write("delete", place, name), _CHUNK
        try:
            while count == _CHUNK:
                async with self._alone(DELETING) as connection:
                    count = touched(await connection.execute(delete, before))
        except _LATER as error:
            self._kept.logger.debug("%s is left for the next time: %s", name, error)

    async def _has_young(self, connection: Handle, place: str, name: str, before: datetime) -> bool:
        if self._kept.by_moment:
            return False  # Reading them all would take longer than the table may be had.
        return bool(await connection.fetchval(self._write("young", place, name), before))

    @asynccontextmanager
    async def _alone(self, begin: Begin = TAKING_A_TABLE) -> AsyncIterator[Handle]:
        async with self._pool.untranslated(begin) as connection:
            if not await connection.fetchval(self._sql["alone"], self._table):
                raise _Elsewhere
            yield connection

    def _write(self, statement: str, place: str, name: str) -> str:
        return self._sql[statement].format(
            name=f"{place}.{name}", moment=self._kept.moment, limit=_CHUNK
        )

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            self._kept.logger.warning(
                "rows of %s are deleted singly, not by day: %s", self._table, error
            )
