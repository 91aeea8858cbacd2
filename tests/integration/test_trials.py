"""What only a commit would refuse is found out before a trial is rolled back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from seaway import Delivery, RawEvent, Seaway
from seaway.app import trying
from seaway.consumer.trials import Tried
from seaway.contracts import Incoming, Message, Store, StoredMessage
from seaway.events import new_event_id
from seaway.stores import open_store
from seaway.testing.memory_broker import MemoryBroker

SUBJECT = "memo.event.case_opened.v1"


class Base(DeclarativeBase):
    pass


class Late(Base):
    __tablename__ = "late"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    made = await open_store(postgres_url)
    async with made.transaction() as tx:
        await tx.handle.execute(
            "CREATE TABLE late (id INT PRIMARY KEY, number INT UNIQUE DEFERRABLE INITIALLY "
            "DEFERRED CHECK (number < 10))"
        )
    yield made
    await made.close()


async def came_of(handle: Any, store: Store, **options: Any) -> Tried:
    app = Seaway()
    app.consumer("case_mgmt", from_context="memo", **options).handler(RawEvent)(handle)
    message = Message(SUBJECT, b"{}", {"Nats-Msg-Id": new_event_id()})
    found = StoredMessage(message, "MEMO_EVENTS", 1, datetime.now(UTC))
    consumer = app.consumers["case_mgmt__from_memo"]
    async with trying(app, consumer, MemoryBroker(), store) as tried:
        outcome = await tried(Incoming.read(found, str(consumer.durable), deliveries=1))
    async with store.transaction() as tx:
        assert await tx.handle.fetchval("SELECT count(*) FROM late") == 0
    return outcome


async def test_deferred_constraints_are_looked_at(store: Store) -> None:
    async def twice(given: RawEvent, delivery: Delivery) -> None:
        await delivery.tx.execute("INSERT INTO late VALUES (1, 7), (2, 7)")

    def twice_plain(given: RawEvent, delivery: Delivery) -> None:
        delivery.tx.execute("INSERT INTO late VALUES (1, 7), (2, 7)")

    def once(given: RawEvent, delivery: Delivery) -> None:
        delivery.tx.execute("INSERT INTO late VALUES (1, 7), (2, 8)")

    for handle in (twice, twice_plain):
        found = await came_of(handle, store)
        assert (found.verdict, "late_number_key" in found.said) == ("failed", True)
    assert (await came_of(once, store)).verdict == "effect"


async def test_what_a_session_has_not_written_yet_is_written(
    store: Store, postgres_url: str
) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))
    sessions = async_sessionmaker(engine)

    async def unfit(given: RawEvent, delivery: Delivery) -> None:
        delivery.tx.add(Late(id=1, number=77))

    async def fits(given: RawEvent, delivery: Delivery) -> None:
        delivery.tx.add(Late(id=1, number=7))

    try:
        found = await came_of(unfit, store, tx=sessions)
        assert (found.verdict, "late_number_check" in found.said) == ("failed", True)
        assert (await came_of(fits, store, tx=sessions)).verdict == "effect"
    finally:
        await engine.dispose()
