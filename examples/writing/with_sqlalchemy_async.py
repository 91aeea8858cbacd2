"""SEAWAY_CONFIG=../seaway.yaml python with_sqlalchemy_async.py postgresql+asyncpg://user@host/database"""

import asyncio
import sys

from events import TABLE, CaseOpened, app
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine


async def open_case(session: AsyncSession, case_id: str, title: str) -> None:
    async with session.begin():
        await session.execute(
            text("INSERT INTO cases VALUES (:id, :title)"), {"id": case_id, "title": title}
        )
        await app.outbox.add(session, CaseOpened(case_id, title), key=case_id)


async def main(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text(TABLE))
    async with AsyncSession(engine) as session:
        await open_case(session, "case-1", "Broken window")
    await engine.dispose()


asyncio.run(main(sys.argv[1]))
