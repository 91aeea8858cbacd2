"""SEAWAY_CONFIG=seaway.yaml python with_asyncpg.py"""

import asyncio

import asyncpg
from events import CaseOpened, TaskOpened

from seaway import Delivery, Seaway


async def open_case(event: CaseOpened, delivery: Delivery) -> None:
    db: asyncpg.Connection = delivery.tx
    await db.execute("INSERT INTO cases VALUES ($1, $2)", event.case_id, event.title)
    await delivery.add(TaskOpened(event.case_id), key=event.case_id)


async def main() -> None:
    app = Seaway.from_config()
    async with asyncpg.create_pool(app.settings.database) as pool:
        cases = app.consumer("case_mgmt", from_context="sea", tx=pool)
        cases.handler(CaseOpened)(open_case)
        await app.run()


asyncio.run(main())
