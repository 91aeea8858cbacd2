"""SEAWAY_CONFIG=seaway.yaml python with_sqlalchemy.py"""

import asyncio

from events import CaseOpened, TaskOpened
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from seaway import Delivery, Seaway


class Base(DeclarativeBase):
    pass


class Case(Base):
    __tablename__ = "cases"
    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]


app = Seaway.from_config()
engine = create_async_engine(app.settings.database.replace("://", "+asyncpg://", 1))
Session = async_sessionmaker(engine)
cases = app.consumer("case_mgmt", from_context="sea", tx=Session)  # or tx=engine


@cases.handler(CaseOpened)
async def open_case(event: CaseOpened, delivery: Delivery) -> None:
    session: AsyncSession = delivery.tx
    session.add(Case(id=event.case_id, title=event.title))  # flushed with the commit at the latest
    await delivery.add(TaskOpened(event.case_id), key=event.case_id)


async def main() -> None:
    await app.run()
    await engine.dispose()


asyncio.run(main())
