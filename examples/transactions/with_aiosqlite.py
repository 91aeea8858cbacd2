"""SEAWAY_CONFIG=seaway.yaml python with_aiosqlite.py"""

import asyncio

import aiosqlite
from events import CaseOpened, TaskOpened

from seaway import Delivery, Seaway

app = Seaway.from_config()


async def connect() -> aiosqlite.Connection:
    db = await aiosqlite.connect(app.settings.database.removeprefix("sqlite:///"))
    await db.execute("PRAGMA foreign_keys = ON")
    return db


cases = app.consumer("case_mgmt", from_context="sea", tx=connect)  # or tx="path/of/the.db"


@cases.handler(CaseOpened)
async def open_case(event: CaseOpened, delivery: Delivery) -> None:
    db: aiosqlite.Connection = delivery.tx
    await db.execute("INSERT INTO cases VALUES (?, ?)", (event.case_id, event.title))
    await delivery.add(TaskOpened(event.case_id), key=event.case_id)


asyncio.run(app.run())
