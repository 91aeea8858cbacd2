"""SEAWAY_CONFIG=seaway.yaml python with_store.py"""

import asyncio

from events import CaseOpened, TaskOpened

from seaway import Delivery, Seaway

app = Seaway.from_config()
cases = app.consumer("case_mgmt", from_context="sea")  # tx="store"


@cases.handler(CaseOpened)
async def open_case(event: CaseOpened, delivery: Delivery) -> None:
    # An asyncpg connection on PostgreSQL; on SQLite, as here, one of aiosqlite.
    await delivery.tx.execute("INSERT INTO cases VALUES (?, ?)", (event.case_id, event.title))
    await delivery.add(TaskOpened(event.case_id), key=event.case_id)


asyncio.run(app.run())
