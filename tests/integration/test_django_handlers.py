"""Handlers that work through Django: their transaction, and what they do beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.db.transaction import atomic, on_commit

from drivers.framework import database
from seaway import Delivery, Seaway
from seaway.app import consuming
from seaway.contracts import Store
from seaway.django import Django, outbox
from seaway.errors import ConfigError
from seaway.events import Registry, event
from seaway.inbox.opening import thread_inbox_for
from seaway.inbox.threads import carried_through
from seaway.retry import Backoff
from seaway.stores import open_store
from seaway.testing.memory_broker import MemoryBroker
from seaway.testing.rehearsal import Rehearsal, rehearsal

ALIAS = "effects"
SOON = Backoff(timedelta(milliseconds=1), timedelta(milliseconds=5))
PATIENCE = timedelta(seconds=60)
registry = Registry()


@event(context="sea", registry=registry)
@dataclass
class CaseOpened:
    number: int


@event(context="sea", registry=registry)
@dataclass
class TaskAdded:
    number: int


@pytest.fixture(params=["postgres", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'app.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with await open_store(url) as store:  # type: ignore[attr-defined]
        if url.startswith("sqlite"):
            await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE effects (number INTEGER UNIQUE)")
        with database(url, ALIAS):
            yield store


@pytest.fixture
def app(url: str) -> Seaway:
    return Seaway.from_config(
        {
            "database": url,
            "streams": [{"name": "SEA_EVENTS", "replicas": 1}],
            "consumers": [
                {
                    "stream": "SEA_EVENTS",
                    "durable": "case_mgmt__from_sea",
                    "filter_subject": "sea.event.case_opened.v1",
                    "max_deliver": 2,
                }
            ],
        }
    )


def effect(number: int, alias: str = ALIAS) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("INSERT INTO effects VALUES (%s)", [number])


def effects(alias: str = ALIAS) -> list[int]:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT number FROM effects ORDER BY number")
        return [number for (number,) in cursor.fetchall()]


async def handled(
    app: Seaway, store: Store, handle: Callable[..., Any], *numbers: int, tx: object = None
) -> Rehearsal:
    """What became of an event for each of ``numbers``."""
    given = tx or Django(using=ALIAS)
    consumer = app.consumer("case_mgmt", from_context="sea", tx=given, retry=SOON, workers=1)
    consumer.handler(CaseOpened)(handle)
    async with rehearsal(app, store) as stage:
        await stage.publish(*[CaseOpened(number) for number in numbers])
        await stage.settled(within=PATIENCE)
        stage.letter_errors = [one.error for one in await stage.letters()]  # type: ignore[attr-defined]
    return stage


async def started(app: Seaway, store: Store, handle: Callable[..., Any], tx: object) -> None:
    """As far as it comes without any event."""
    consumer = app.consumer("case_mgmt", from_context="sea", tx=tx)
    consumer.handler(CaseOpened)(handle)
    try:
        await consuming(app, consumer, MemoryBroker(), store)(asyncio.Event())
    finally:
        del app.consumers[str(consumer.durable)]


def why(stage: Rehearsal) -> str:
    (found,) = stage.letter_errors  # type: ignore[attr-defined]
    return str(found)


async def test_effects_events_and_hooks_go_with_the_commit(
    app: Seaway, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []
    tries: list[int] = []

    def handle(event: CaseOpened, delivery: Delivery) -> None:
        assert delivery.tx is connections[ALIAS]
        tries.append(event.number)
        effect(event.number)
        assert delivery.add(TaskAdded(event.number))
        assert outbox.add(TaskAdded(event.number), using=ALIAS)
        on_commit(lambda: 1 / 0, using=ALIAS)
        on_commit(lambda: told.append((event.number, connections[ALIAS].in_atomic_block)), ALIAS)
        if event.number == 2 and tries.count(2) == 1:
            raise RuntimeError("once more")

    stage = await handled(app, store, handle, 1, 2)
    assert stage.outcomes == {"handled": 2, "retried": 1}
    assert (sorted(tries), sorted(told)) == ([1, 2, 2], [(1, False), (2, False)])  # type: ignore[type-var]
    assert effects() == [1, 2]
    assert "on_commit" in caplog.text
    events = await stage.broker.admin.stream("SEA_EVENTS")
    assert events is not None
    assert events.messages == 2 + 4


async def test_a_failure_that_was_passed_over_commits_nothing(app: Seaway, store: Store) -> None:
    def handle(event: CaseOpened, delivery: Delivery) -> None:
        effect(event.number)
        with suppress(ZeroDivisionError), atomic(using=ALIAS, savepoint=False):
            1 / 0  # noqa: B018

    stage = await handled(app, store, handle, 1)
    assert (stage.outcomes["dead_lettered"], effects()) == (1, [])
    assert "nothing was committed" in why(stage)
    assert "atomic()" in why(stage)


async def test_a_part_is_undone_by_an_inner_block(app: Seaway, store: Store) -> None:
    def handle(event: CaseOpened, delivery: Delivery) -> None:
        effect(event.number)
        with suppress(Exception), atomic(using=ALIAS):
            effect(event.number + 1)
            effect(event.number)

    stage = await handled(app, store, handle, 1)
    assert (stage.outcomes, effects()) == ({"handled": 1}, [1])


@pytest.mark.parametrize("end", ["close", "commit", "set_autocommit"])
async def test_what_django_refuses_in_a_block_fails_the_delivery(
    app: Seaway, store: Store, end: str
) -> None:
    def handle(event: CaseOpened, delivery: Delivery) -> None:
        effect(event.number)
        delivery.tx.set_autocommit(True) if end == "set_autocommit" else getattr(delivery.tx, end)()

    stage = await handled(app, store, handle, 1)
    assert (stage.outcomes["handled"], effects()) == (0, [])


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_an_end_behind_djangos_back_is_found_out(store: Store, end: str) -> None:
    inbox = thread_inbox_for(Django(using=ALIAS))

    async def body() -> None:
        async with inbox.transaction() as opened:
            await opened.claim("case_mgmt__from_sea", "e1")
            opened.handle.cursor().execute(end)

    def in_thread() -> None:
        try:
            with pytest.raises(ConfigError, match="committed it or rolled it back itself"):
                carried_through(body())
            assert not connections[ALIAS].in_atomic_block
        finally:
            carried_through(inbox.close())

    await asyncio.to_thread(in_thread)


async def test_an_async_handler_may_read_through_the_orm_and_not_write(
    app: Seaway, store: Store
) -> None:
    async def handle(event: CaseOpened, delivery: Delivery) -> None:
        await sync_to_async(effects)()
        await sync_to_async(effect)(event.number)

    try:
        stage = await handled(app, store, handle, 1, tx="store")
    finally:
        await sync_to_async(connections.close_all)()
    assert (stage.outcomes["handled"], effects()) == (0, [])
    assert "INSERT on Django's database effects is outside its delivery's transaction" in why(stage)


async def test_without_a_transaction_the_orm_is_free(app: Seaway, store: Store) -> None:
    consumer = app.consumer("case_mgmt", from_context="sea", tx=None)

    @consumer.handler(CaseOpened)
    def handle(event: CaseOpened, delivery: Delivery) -> None:
        effect(event.number)
        connections.close_all()

    async with rehearsal(app, store) as stage:
        await stage.publish(CaseOpened(1))
        await stage.settled(within=PATIENCE)
    assert (stage.outcomes, effects()) == ({"handled": 1}, [1])


async def test_another_database_is_refused_and_another_alias_is_the_handlers_own(
    app: Seaway, store: Store, tmp_path: Path
) -> None:
    def handle(event: CaseOpened, delivery: Delivery) -> None:
        effect(event.number, "other")

    other = f"sqlite:///{tmp_path / 'other.db'}"
    async with await open_store(other) as elsewhere:  # type: ignore[attr-defined]
        await elsewhere.schema.upgrade()
        async with elsewhere.transaction() as tx:
            await tx.handle.execute("CREATE TABLE effects (number INTEGER UNIQUE)")
    with database(other, "other"):
        with pytest.raises(ConfigError, match="works in another database than the application's"):
            await started(app, store, handle, Django(using="other"))
        stage = await handled(app, store, handle, 1)
        assert (stage.outcomes["handled"], effects(), effects("other")) == (1, [], [1])


async def test_what_cannot_be_tx_is_named(app: Seaway, store: Store) -> None:
    async def handle(event: CaseOpened, delivery: Delivery) -> None: ...

    def plain(event: CaseOpened, delivery: Delivery) -> None: ...

    with pytest.raises(ConfigError, match=r"async, and .*Django is for plain.*tx= takes \"store\""):
        await started(app, store, handle, Django(using=ALIAS))
    with pytest.raises(ConfigError, match="DATABASES has no 'reports'"):
        await started(app, store, plain, Django(using="reports"))


async def test_sessions_that_were_ended_are_made_anew(app: Seaway, store: Store, url: str) -> None:
    pids: list[int] = []

    def handle(event: CaseOpened, delivery: Delivery) -> None:
        effect(event.number)
        if not url.startswith("postgres"):
            return
        with delivery.tx.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])
        if len(pids) == 1:
            delivery.tx.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")

    stage = await handled(app, store, handle, 1, 2, 3)
    assert (stage.outcomes["handled"], effects()) == (3, [1, 2, 3])
    assert len(set(pids[:2])) == len(pids[:2])
