"""A service on SQLAlchemy's synchronous sessions: models, events, and a plain function as handler.

Tables: python case_orm.py
Handle: seaway run case_orm:app

The web applications case_api_flask and case_api_fastapi write with it.
"""

import uuid
from dataclasses import dataclass
from typing import Annotated

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from seaway import Delivery, Depends, Poison, Seaway, event


class Base(DeclarativeBase):
    pass


class Case(Base):
    __tablename__ = "cases"
    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[str]
    what: Mapped[str]


@event(context="sea", version=1)  # travels as sea.event.case_opened.v1
@dataclass
class CaseOpened:
    case_id: str
    title: str


app = Seaway.from_config("seaway.yaml")  # connects to nothing yet, and neither does the engine
engine = create_engine(app.settings.database)
Sessions = sessionmaker(engine)


# --- the writing side: whoever calls it has a transaction, and commits it


def open_case(session: Session, title: str) -> str:
    case = Case(id=str(uuid.uuid4()), title=title)
    session.add(case)
    app.outbox.add(session, CaseOpened(case.id, title), key=case.id)
    return case.id


# --- the consuming side: a session for each delivery, whose transaction has the inbox row too

case_mgmt = app.consumer("case_mgmt", from_context="sea", tx=Sessions)


def session_of(delivery: Delivery) -> Session:
    return delivery.tx


@case_mgmt.handler(CaseOpened)
def add_task(event: CaseOpened, session: Annotated[Session, Depends(session_of)]) -> None:
    if not event.title:
        raise Poison("a case needs a title")
    session.add(Task(case_id=event.case_id, what=f"look into: {event.title}"))


if __name__ == "__main__":
    Base.metadata.create_all(engine)
