"""The README's quickstart in one file: a service that writes cases, and a consumer of its events.

Write:  python case_service.py "Broken window" "Lost key"
Handle: seaway run case_service:app
"""

import sqlite3
import sys
import uuid
from contextlib import closing
from dataclasses import dataclass

from seaway import Delivery, Poison, Seaway, event

TABLES = """
CREATE TABLE IF NOT EXISTS cases (id TEXT PRIMARY KEY, title TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (case_id TEXT NOT NULL, what TEXT NOT NULL);
"""


@event(context="sea", version=1)  # travels as sea.event.case_opened.v1
@dataclass
class CaseOpened:
    case_id: str
    title: str


# --- the writing side: one transaction for the case and for its event

app = Seaway.from_config("seaway.yaml")  # connects to nothing yet


def open_case(db: sqlite3.Connection, title: str) -> str:
    case_id = str(uuid.uuid4())
    with db:  # commits both rows, or neither
        db.execute("INSERT INTO cases VALUES (?, ?)", (case_id, title))
        app.outbox.add(db, CaseOpened(case_id, title), key=case_id)
    return case_id


def main(titles: list[str]) -> None:
    with closing(sqlite3.connect("cases.db")) as db:
        db.executescript(TABLES)
        for title in titles:
            print(open_case(db, title), title)


# --- the consuming side: one transaction for the inbox row and for what the handler does

case_mgmt = app.consumer("case_mgmt", from_context="sea")  # the durable case_mgmt__from_sea


@case_mgmt.handler(CaseOpened)
async def add_task(event: CaseOpened, delivery: Delivery) -> None:
    if not event.title:
        raise Poison("a case needs a title")
    await delivery.tx.execute(
        "INSERT INTO tasks VALUES (?, ?)", (event.case_id, f"look into: {event.title}")
    )


if __name__ == "__main__":
    main(sys.argv[1:])
