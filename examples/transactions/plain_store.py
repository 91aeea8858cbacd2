"""SEAWAY_CONFIG=seaway.yaml python plain_store.py"""

import asyncio
import sqlite3

from events import CaseOpened, TaskOpened

from seaway import Delivery, Seaway

app = Seaway.from_config()
cases = app.consumer("case_mgmt", from_context="sea")  # tx="store"


@cases.handler(CaseOpened)
def open_case(event: CaseOpened, delivery: Delivery) -> None:
    db: sqlite3.Connection = delivery.tx  # On PostgreSQL a psycopg.Connection.
    db.execute("INSERT INTO cases VALUES (?, ?)", (event.case_id, event.title))
    delivery.add(TaskOpened(event.case_id), key=event.case_id)


asyncio.run(app.run())
