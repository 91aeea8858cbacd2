"""Settled events by day: a partition for each, made ahead and dropped whole.

Owns: the partitions of ``seaway_sent``. Guarantees: dropping leaves no dead row; whoever settles is
kept waiting for two seconds at most. A day without a partition goes to the default one and is
deleted there row by row; so is everything where this user may not make tables.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta

import asyncpg

from seaway.databases import statements
from seaway.stores.postgres.connection import Pool
from seaway.stores.postgres.errors import translating
from seaway.tables import within

logger = logging.getLogger("seaway.outbox")

DAY = timedelta(days=1)
_AHEAD_DAYS = 2
_BEGIN = "BEGIN; SET LOCAL lock_timeout = '2s'"
_LATER = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.CheckViolationError,
)
"""Somebody is at the table, or the default partition has events of that day already."""


class Retention:
    """The partitions of one outbox' settled events."""

    def __init__(self, pool: Pool, schema: str | None) -> None:
        self._pool = pool
        self._table = within("seaway_sent", schema)
        self._sql = statements.load("postgres/retention.sql", schema)
        self._warned = False

    async def prune(self, before: datetime) -> None:
        """Drop the days that ended before ``before``, and make today and the two that follow."""
        days = {_day(name) for (name,) in await self._pool.rows(self._sql["days"], self._table)}
        leftover = "prune_default"
        with translating(self._pool.shown):
            try:
                await self._by_day(days, before)
            except asyncpg.InsufficientPrivilegeError as error:
                leftover = "prune_all"
                if not self._warned:
                    self._warned = True
                    logger.warning("settled events are deleted singly, not by day: %s", error)
        await self._pool.run(self._sql[leftover], before)

    async def _by_day(self, days: Collection[date], before: datetime) -> None:
        today = datetime.now(UTC).date()
        ended = sorted(day for day in days if _start(day) + DAY <= before)
        for day in ended:
            await self._change("drop", _name(day))
        for day in (today + ahead * DAY for ahead in range(_AHEAD_DAYS + 1)):
            if day not in days or day in ended:
                bounds = (f"{moment:%Y-%m-%d}T00:00:00Z" for moment in (day, day + DAY))
                await self._change("make", _name(day), *bounds)

    async def _change(self, name: str, *parameters: object) -> None:
        """Run the definition that the statement ``name`` writes, quoted by the server itself."""
        try:
            async with self._pool.untranslated(_BEGIN) as connection:
                # Two that make the same day at once would collide in spite of IF NOT EXISTS.
                await connection.execute(self._sql["alone"], self._table)
                definition = await connection.fetchval(self._sql[name], self._table, *parameters)
                await connection.execute(definition)
        except _LATER as error:
            logger.debug("left for the next time: %s", error)


def _name(day: date) -> str:
    return f"seaway_sent_{day:%Y%m%d}"


def _day(name: str) -> date:
    return datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date()


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
