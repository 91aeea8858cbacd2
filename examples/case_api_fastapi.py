"""FastAPI: requests write cases, and the events are relayed and handled in the same process.

uvicorn case_api_fastapi:api
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

from case_service import TABLES, app, open_case
from fastapi import Depends, FastAPI
from pydantic import BaseModel

api = FastAPI(lifespan=app.lifespan)  # connected, with relay, consumers and sweeper at work


class NewCase(BaseModel):
    title: str


def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect("cases.db", check_same_thread=False)) as db:
        db.executescript(TABLES)
        yield db


Database = Annotated[sqlite3.Connection, Depends(database)]


@api.post("/cases", status_code=201)
def create_case(case: NewCase, db: Database) -> dict[str, str]:
    case_id = open_case(db, case.title)  # case and event, committed together
    app.nudge()  # after the commit: the relay looks at once
    return {"id": case_id}


@api.get("/cases/{case_id}/tasks")
def tasks(case_id: str, db: Database) -> list[str]:
    return [what for (what,) in db.execute("SELECT what FROM tasks WHERE case_id = ?", (case_id,))]
