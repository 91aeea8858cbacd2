"""SEAWAY_CONFIG=seaway.yaml python with_psycopg.py"""

import asyncio

import psycopg
from events import CaseOpened, TaskOpened
from psycopg_pool import AsyncConnectionPool

from seaway import Delivery, Seaway


async def open_case(event: CaseOpened, delivery: Delivery) -> None:
    db: psycopg.AsyncConnection = delivery.tx
    await db.execute("INSERT INTO cases VALUES (%s, %s)", (event.case_id, event.title))
    await delivery.add(TaskOpened(event.case_id), key=event.case_id)


async def main() -> None:
    app = Seaway.from_config()
    async with AsyncConnectionPool(app.settings.database, open=False) as pool:
        cases = app.consumer("case_mgmt", from_context="sea", tx=pool)
        cases.handler(CaseOpened)(open_case)
        await app.run()


asyncio.run(main())
