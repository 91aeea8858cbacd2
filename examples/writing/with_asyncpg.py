"""SEAWAY_CONFIG=../seaway.yaml python with_asyncpg.py postgresql://user@host/database"""

import asyncio
import sys

import asyncpg
from events import TABLE, CaseOpened, app


async def open_case(pool: asyncpg.Pool, case_id: str, title: str) -> None:
    async with pool.acquire() as db, db.transaction():
        await db.execute("INSERT INTO cases VALUES ($1, $2)", case_id, title)
        await app.outbox.add(db, CaseOpened(case_id, title), key=case_id)


async def main(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=1) as pool:
        await pool.execute(TABLE)
        await open_case(pool, "case-1", "Broken window")


asyncio.run(main(sys.argv[1]))
