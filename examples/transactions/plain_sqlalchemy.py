"""SEAWAY_CONFIG=seaway.yaml python plain_sqlalchemy.py"""

import asyncio

from events import CaseOpened, TaskOpened
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from seaway import Delivery, Seaway


class Base(DeclarativeBase):
    pass


class Case(Base):
    __tablename__ = "cases"
    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]


app = Seaway.from_config()
engine = create_engine(app.settings.database.replace("://", "+psycopg://", 1))
cases = app.consumer("case_mgmt", from_context="sea", tx=sessionmaker(engine), workers=4)


@cases.handler(CaseOpened)
def open_case(event: CaseOpened, delivery: Delivery) -> None:
    session: Session = delivery.tx
    session.add(Case(id=event.case_id, title=event.title))  # flushed with the commit at the latest
    delivery.add(TaskOpened(event.case_id), key=event.case_id)


asyncio.run(app.run())
