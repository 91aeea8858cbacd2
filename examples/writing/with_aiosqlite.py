"""SEAWAY_CONFIG=../seaway.yaml python with_aiosqlite.py cases.db"""

import asyncio
import sys

import aiosqlite
from events import TABLE, CaseOpened, app


async def open_case(db: aiosqlite.Connection, case_id: str, title: str) -> None:
    await db.execute("INSERT INTO cases VALUES (?, ?)", (case_id, title))
    await app.outbox.add(db, CaseOpened(case_id, title), key=case_id)
    await db.commit()


async def main(path: str) -> None:
    async with aiosqlite.connect(path) as connection:
        await connection.execute(TABLE)
        await open_case(connection, "case-1", "Broken window")


asyncio.run(main(sys.argv[1]))
