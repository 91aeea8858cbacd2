"""SEAWAY_CONFIG=../seaway.yaml python with_psycopg_async.py postgresql://user@host/database"""

import asyncio
import sys

import psycopg
from events import TABLE, CaseOpened, app


async def open_case(db: psycopg.AsyncConnection, case_id: str, title: str) -> None:
    async with db.transaction():
        await db.execute("INSERT INTO cases VALUES (%s, %s)", (case_id, title))
        await app.outbox.add(db, CaseOpened(case_id, title), key=case_id)


async def main(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(TABLE)
        await open_case(connection, "case-1", "Broken window")


asyncio.run(main(sys.argv[1]))
