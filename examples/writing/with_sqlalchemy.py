"""SEAWAY_CONFIG=../seaway.yaml python with_sqlalchemy.py postgresql+psycopg://user@host/database

Or sqlite:///cases.db.
"""

import sys

from events import CaseOpened, app
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Case(Base):
    __tablename__ = "cases"
    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]


def open_case(session: Session, case_id: str, title: str) -> None:
    with session.begin():
        session.add(Case(id=case_id, title=title))
        app.outbox.add(session, CaseOpened(case_id, title), key=case_id)


engine = create_engine(sys.argv[1])
Base.metadata.create_all(engine)
with Session(engine) as opened:
    open_case(opened, "case-1", "Broken window")
