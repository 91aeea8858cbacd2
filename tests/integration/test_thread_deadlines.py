"""What a deadline does to a plain handler, on real databases and every kind of handle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from consuming import DURABLE, Bench, consumer, message, until
from drivers.inboxes import PLAIN, Kind, PlainKind, PlainSqliteFunction
from seaway.consumer import Delivery
from seaway.contracts import Store
from seaway.events import RawEvent
from seaway.inbox import threads_of
from seaway.stores import open_store
from seaway.telemetry import Signal, ThreadsLost

DONE = {"handled", "already_processed"}
DEADLINE = timedelta(milliseconds=500)
ENDLESS = {
    "postgres": "SELECT pg_sleep(600)",
    "sqlite": "WITH RECURSIVE n AS (SELECT 1 x UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n",
}


@pytest.fixture(params=PLAIN, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> PlainKind:
    found: type[PlainKind] = request.param
    if found.engine == "sqlite":
        return found(f"sqlite:///{tmp_path}/app.db")
    return found(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(kind: Kind) -> AsyncIterator[Store]:
    store = await open_store(kind.url)
    if kind.engine == "sqlite":
        await store.schema.upgrade()
    async with store.transaction() as tx:
        await tx.handle.execute("CREATE TABLE effects (event TEXT, attempt INTEGER)")
    yield store
    await store.close()


def effect(delivery: Delivery) -> str:
    return f"INSERT INTO effects VALUES ('{delivery.event_id}', {delivery.deliveries})"  # noqa: S608


async def effects(store: Store) -> list[tuple[str, int]]:
    async with store.transaction() as tx:
        fetch = getattr(tx.handle, "fetch", None) or tx.handle.execute_fetchall
        return [tuple(row) for row in await fetch("SELECT * FROM effects ORDER BY event, attempt")]


async def handled(
    kind: PlainKind,
    store: Store,
    handle: Callable[[RawEvent, Delivery], None],
    *events: str,
    on_lost: Callable[[], None] | None = None,
    comes_back: bool = False,
) -> Bench:
    """``handle`` until each of the ``events`` has taken effect; then all is ended."""
    bench, stop = await Bench.open(), asyncio.Event()
    await bench.events.publish(*(message(one, one) for one in events))

    def hear(signal: Signal) -> None:
        if isinstance(signal, ThreadsLost) and on_lost is not None:
            on_lost()

    bench.telemetry.subscribe(hear)
    async with kind.given() as given:
        work = threads_of(given, store, schema=None, consumer=DURABLE, stop=stop)
        async with work as threads:
            made = consumer(handle, deadline=DEADLINE, retry=None, tx=given)
            bench.start(made, store=store, threads=threads)
            await until(
                lambda: sum(map(DONE.__contains__, bench.outcomes())) == len(events), within=60
            )
            if comes_back:
                await until(lambda: threads.lost == [], within=60)
            bench.stop.set()
            await asyncio.gather(*bench.tasks)
    return bench


def lost(bench: Bench) -> list[int]:
    return [signal.lost for signal in bench.signals if isinstance(signal, ThreadsLost)]


async def test_its_statement_is_ended_and_nothing_of_it_commits(
    kind: PlainKind, store: Store
) -> None:
    """Whether the handler lets that through, or passes over it and goes on."""

    def handle(event: RawEvent, delivery: Delivery) -> None:
        write = effect(delivery)
        kind.execute(delivery.tx, write)
        delivery.add(RawEvent(delivery.subject, b"{}"))
        if delivery.deliveries > 1:
            return
        if delivery.event_id == "raises":
            kind.execute(delivery.tx, ENDLESS[kind.engine])
            return
        with suppress(Exception):
            kind.execute(delivery.tx, ENDLESS[kind.engine])
        with suppress(Exception):
            kind.execute(delivery.tx, write)

    bench = await handled(kind, store, handle, "raises", "silent", comes_back=True)
    (raised, first), (silent, second) = await effects(store)
    assert (raised, silent) == ("raises", "silent")
    assert first > 1
    assert second > 1
    assert len(await store.entries()) == 2
    for event_id in ("raises", "silent"):
        assert bench.outcomes(event_id)[0] == "retried"
        assert bench.outcomes(event_id)[-1] == "handled"


async def test_a_thread_that_outlives_its_deadline_and_then_commits(
    kind: PlainKind, store: Store
) -> None:
    """It finds its connection cut off. A connection that only its own thread may touch cannot be:
    what that commits itself is inbox row and effect together, so it is no second effect."""
    go, over = threading.Event(), threading.Event()

    def handle(event: RawEvent, delivery: Delivery) -> None:
        write = effect(delivery)
        kind.execute(delivery.tx, write)
        if delivery.deliveries > 1:
            return
        try:
            go.wait()
            for attempt in (lambda: kind.execute(delivery.tx, write), delivery.tx.commit):
                with suppress(Exception):
                    attempt()
        finally:
            over.set()

    kept = type(kind) is PlainSqliteFunction
    bench = await handled(kind, store, handle, "e1", on_lost=go.set if kept else None)
    go.set()
    await until(over.is_set)
    attempts = [attempt for _, attempt in await effects(store)]
    assert attempts == [1, 1] if kept else len(attempts) == 1 and attempts[0] > 1
    assert bench.outcomes()[0] == "retried"
    assert bench.outcomes()[-1] == ("already_processed" if kept else "handled")
    assert lost(bench)[0] == 1
