"""Settled events by day: a partition for each, made ahead and dropped whole.

Owns: the partitions of ``seaway_sent``. Guarantees: dropping leaves no dead row; whoever settles is
kept waiting for two seconds at most. A day without a partition goes to the default one and is
deleted there row by row; so does everything where this user may not make tables.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import asyncpg

from seaway.stores.postgres.connection import Pool
from seaway.stores.postgres.errors import translating

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


async def prune(pool: Pool, sql: Mapping[str, str], table: str, before: datetime) -> None:
    """Drop the days that ended before ``before``, and make today and the two that follow."""
    async with pool.transaction(_BEGIN) as connection:
        if not await connection.fetchval(sql["alone"], table):
            return  # Another process is at it.
        names = [name for (name,) in await connection.fetch(sql["days"], table)]
    days = {_day(name) for name in names}
    today = datetime.now(UTC).date()
    ended = sorted(day for day in days if _start(day) + DAY <= before)
    coming = [today + ahead * DAY for ahead in range(_AHEAD_DAYS + 1)]
    with translating(pool.shown):
        try:
            for day in ended:
                await _change(pool, sql["drop"], table, _name(day))
            for day in coming:
                if day not in days or day in ended:
                    bounds = (f"{moment:%Y-%m-%d}T00:00:00Z" for moment in (day, day + DAY))
                    await _change(pool, sql["make"], table, _name(day), *bounds)
        except asyncpg.InsufficientPrivilegeError as error:
            logger.warning("settled events are kept in one table, not by day: %s", error)
    await pool.run(sql["prune_default"], before)


async def _change(pool: Pool, statement: str, *parameters: object) -> None:
    """Run the definition that ``statement`` writes, quoted by the server itself."""
    try:
        async with pool.untranslated(_BEGIN) as connection:
            definition = await connection.fetchval(statement, *parameters)
            await connection.execute(definition)
    except _LATER as error:
        logger.debug("left for the next time: %s", error)


def _name(day: date) -> str:
    return f"seaway_sent_{day:%Y%m%d}"


def _day(name: str) -> date:
    return datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date()


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
