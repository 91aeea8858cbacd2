"""The stack of a dead letter and of the log is the user's: with each kind of handle, whatever way a
handler fails, in both kinds of handler."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import seaway
from drivers.inboxes import KINDS, AsyncpgPool, Kind, SqlitePath
from seaway import Attempts, Delivery, RawEvent, RetryPolicy, Seaway, event
from seaway.events import Registry
from seaway.stores import open_store
from seaway.testing.rehearsal import rehearsal

OURS = str(Path(seaway.__file__).parent)
CONFIG = {
    "contexts": ["sea"],
    "consumers": [
        {
            "stream": "SEA_EVENTS",
            "durable": "case_mgmt__from_sea",
            "filter_subject": "sea.event.case_opened.v1",
        }
    ],
}


@event(context="sea", registry=Registry())
@dataclass
class CaseOpened:
    way: str


class PostgresStore(Kind):
    """``tx="store"``."""

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield "store"


class SqliteStore(SqlitePath):
    """The same."""

    @asynccontextmanager
    async def given(self) -> AsyncIterator[Any]:
        yield "store"


def own() -> None:
    raise ValueError("own")


async def in_its_own_code(kind: Kind, delivery: Delivery) -> None:
    own()


async def in_the_driver(kind: Kind, delivery: Delivery) -> None:
    await kind.run(delivery.tx, "SELECT * FROM nowhere")


async def in_a_call_of_ours(kind: Kind, delivery: Delivery) -> None:
    await delivery.add("no event")


async def with_a_cause(kind: Kind, delivery: Delivery) -> None:
    try:
        await in_the_driver(kind, delivery)
    except Exception as error:
        raise RuntimeError("chained") from error


async def while_handling(kind: Kind, delivery: Delivery) -> None:
    try:
        await in_a_call_of_ours(kind, delivery)
    except Exception:
        own()


async def in_a_group(kind: Kind, delivery: Delivery) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(in_its_own_code(kind, delivery))
        tasks.create_task(in_a_call_of_ours(kind, delivery))


async def too_late(kind: Kind, delivery: Delivery) -> None:
    await asyncio.Event().wait()


async def cancelled(kind: Kind, delivery: Delivery) -> None:
    raise asyncio.CancelledError


Way: TypeAlias = Callable[[Kind, Delivery], Awaitable[None]]
WAYS: dict[str, Way] = {
    way.__name__: way
    for way in (
        in_its_own_code,
        in_the_driver,
        in_a_call_of_ours,
        with_a_cause,
        while_handling,
        in_a_group,
        too_late,
        cancelled,
    )
}


@pytest.fixture(params=(*KINDS, PostgresStore, SqliteStore), ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    found: type[Kind] = request.param
    if found.engine == "sqlite":
        return found(f"sqlite:///{tmp_path}/app.db")
    return found(request.getfixturevalue("postgres_url"))


@pytest.mark.parametrize("lists", [False, True], ids=["handler", "batch_handler"])
async def test_a_letter_and_the_log_have_the_users_frames(
    kind: Kind, lists: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="seaway")
    app = Seaway.from_config(CONFIG)
    async with AsyncExitStack() as stack:
        store = await open_store(kind.url)
        stack.push_async_callback(store.close)
        given = await stack.enter_async_context(kind.given())
        if kind.engine == "sqlite":
            await store.schema.upgrade()
        consumer = app.consumer(
            "case_mgmt",
            from_context="sea",
            tx=given,
            deadline=timedelta(milliseconds=200),
            ordering="none",
            batch=10,
            retry=RetryPolicy({Exception: Attempts(1)}),
        )
        if lists:

            @consumer.batch_handler(CaseOpened)
            async def many(events: list[CaseOpened], deliveries: list[Delivery]) -> None:
                await WAYS[events[0].way](kind, deliveries[0])
                own()  # Not by itself: the list is parted until it is.

        else:

            @consumer.handler(CaseOpened)
            async def one(event: CaseOpened, delivery: Delivery) -> None:
                await WAYS[event.way](kind, delivery)

        async with rehearsal(app, store) as stage:
            ids = {way: (await stage.publish(CaseOpened(way), key=way))[0] for way in WAYS}
            (bad,) = await stage.publish(RawEvent("sea.event.case_opened.v1", b'{"way":7}'))
            await stage.settled(within=timedelta(seconds=30))
            stacks = {letter.event_id: letter.stack for letter in await stage.letters()}
    assert set(stacks) == {*ids.values(), bad}
    logged = [record.exc_text for record in caplog.records if record.exc_text]
    assert len(logged) == len(WAYS) - 1, "two of them fail in one line"
    for text in (*stacks.values(), *logged):
        assert f'File "{OURS}' not in text
    for way, event_id in ids.items():
        found = re.search(rf'File "{__file__}", line \d+, in {way}\b', stacks[event_id])
        assert found, stacks[event_id]
    assert "DecodeError" in stacks[bad]


async def test_bad_statements_on_two_lines_are_two_kinds_of_failure(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncpg is compiled, and its frames name files that are not here."""
    caplog.set_level(logging.WARNING, logger="seaway")
    app = Seaway.from_config(CONFIG)
    async with AsyncExitStack() as stack:
        store = await open_store(postgres_url)
        stack.push_async_callback(store.close)
        pool = await stack.enter_async_context(AsyncpgPool(postgres_url).given())
        retry = RetryPolicy({Exception: Attempts(1)})
        consumer = app.consumer("case_mgmt", from_context="sea", tx=pool, retry=retry)

        @consumer.handler(CaseOpened)
        async def one(event: CaseOpened, delivery: Delivery) -> None:
            if event.way == "first":
                await delivery.tx.execute("INSERT INTO nowhere VALUES ($1)", 1)
            await delivery.tx.execute("INSERT INTO nowhere VALUES ($1)", 2)

        async with rehearsal(app, store) as stage:
            for key, way in enumerate(("first", "second", "first")):
                await stage.publish(CaseOpened(way), key=str(key))
            await stage.settled(within=timedelta(seconds=30))
            assert len(await stage.letters()) == 3
    assert len([record for record in caplog.records if record.exc_text]) == 2
    (summary,) = [text for text in caplog.messages if "1 time more" in text]
    assert f"({__file__}:" in summary
