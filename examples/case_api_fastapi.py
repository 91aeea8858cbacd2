"""FastAPI with synchronous sessions: requests write cases, and the events are relayed and handled
in the same process.

python case_orm.py
uvicorn case_api_fastapi:api
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from case_orm import Sessions, Task, app, engine, open_case
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[dict[str, Any]]:
    try:
        async with app.lifespan(api) as state:  # connected; relay, consumers, sweeper at work
            yield state
    finally:
        engine.dispose()  # last: handlers may have needed it until now


api = FastAPI(lifespan=lifespan)


class NewCase(BaseModel):
    title: str


def session() -> Iterator[Session]:
    with Sessions() as session:
        yield session


Database = Annotated[Session, Depends(session)]


@api.post("/cases", status_code=201)
def create_case(case: NewCase, db: Database) -> dict[str, str]:
    with db.begin():  # commits the case and its event, or neither, before the answer
        case_id = open_case(db, case.title)
    app.nudge()  # after the commit: the relay looks at once
    return {"id": case_id}


@api.get("/cases/{case_id}/tasks")
def tasks(case_id: str, db: Database) -> list[str]:
    return list(db.scalars(select(Task.what).where(Task.case_id == case_id)))
