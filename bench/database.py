"""What every PostgreSQL contender's database gets before its run and is asked after it."""

from __future__ import annotations

import asyncio

import asyncpg


async def settle(database: asyncpg.Connection) -> None:
    """After a bulk load: statistics, visibility and a checkpoint, so that no run pays for them."""
    await database.execute("VACUUM ANALYZE")
    await database.execute("CHECKPOINT")


async def until_empty(database: asyncpg.Connection, remaining: str) -> None:
    """Return when the query ``remaining`` finds no row."""
    while await database.fetchrow(remaining) is not None:
        await asyncio.sleep(0.005)
