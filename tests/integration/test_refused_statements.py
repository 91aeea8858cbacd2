"""What a database says of one statement is that delivery's failure; an outage is what a probe of
the consumer's own meets too. Every kind of handle, on real databases."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from consuming import SOON, Bench, consumer, message, until
from drivers.inboxes import KINDS, AlchemySessions, Kind, PsycopgPool
from seaway.consumer import Delivery
from seaway.contracts import InboxStore
from seaway.embedded.postgres import PostgresServer
from seaway.events import RawEvent
from seaway.inbox import inbox_for
from seaway.retry import Attempts, Backoff, RetryPolicy
from seaway.stores import open_store
from seaway.telemetry import ConsumerPaused, ConsumerResumed
from seaway.testing.databases import Databases

EVENTS, BAD, MAX_DELIVER = 12, "e5", 3
AT_ONCE = Backoff(SOON, SOON, SOON)
STORE = "store"


class Statements:
    """Statements of the application's own, through whichever handle."""

    def __init__(self, kind: Kind | None, url: str) -> None:
        self._kind = kind
        self.url = url

    async def run(self, handle: Any, *statements: str) -> None:
        for statement in statements:
            if self._kind is not None:
                await self._kind.run(handle, statement)
            else:
                await handle.execute(statement)


Provoke = Callable[[Statements, Any], Awaitable[None]]


def saying(*statements: str) -> Provoke:
    async def provoke(database: Statements, handle: Any) -> None:
        await database.run(handle, *statements)

    return provoke


def raising(code: str) -> Provoke:
    """As the server says it, for what cannot be had at will."""
    return saying(f"DO $$ BEGIN RAISE EXCEPTION 'provoked' USING ERRCODE = '{code}'; END $$")


async def idle_in_transaction(database: Statements, handle: Any) -> None:
    await database.run(handle, "SET LOCAL idle_in_transaction_session_timeout = '30ms'")
    await asyncio.sleep(0.3)  # A handler that has other things to do.
    await database.run(handle, "SELECT 1")


async def idle_to_the_end(database: Statements, handle: Any) -> None:
    """The transaction is found to be gone when it is committed."""
    await database.run(handle, "SET LOCAL idle_in_transaction_session_timeout = '30ms'")
    await asyncio.sleep(0.3)  # A handler that has other things to do.


ENDED = "SELECT pg_terminate_backend(pg_backend_pid())"


class Wrapped(Exception):
    """What a handler makes of its driver's errors."""


async def wrapped(database: Statements, handle: Any) -> None:
    try:
        await database.run(handle, "LOCK TABLE busy NOWAIT")
    except Exception as error:
        raise Wrapped("busy") from error


async def hidden(database: Statements, handle: Any) -> None:
    try:
        await database.run(handle, ENDED)
    except Exception:
        raise Wrapped("could not be saved") from None


async def grouped(database: Statements, handle: Any) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(database.run(handle, "LOCK TABLE busy NOWAIT"))


POSTGRES: dict[str, Provoke] = {
    "statement_timeout": saying("SET LOCAL statement_timeout = '30ms'", "SELECT pg_sleep(5)"),
    "nowait": saying("LOCK TABLE busy NOWAIT"),
    "lock_timeout": saying("SET LOCAL lock_timeout = '30ms'", "LOCK TABLE busy"),
    "temp_file_limit": saying(
        "SET LOCAL work_mem = '64kB'",
        "SET LOCAL temp_file_limit = '64kB'",
        "SELECT count(*) FROM (SELECT n FROM generate_series(1, 200000) n ORDER BY -n) q",
    ),
    "no more locks": saying(
        "SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 500000) n"
    ),
    "read only": saying("SET TRANSACTION READ ONLY", "CREATE TABLE one_more ()"),
    "transaction_timeout": saying("SET LOCAL transaction_timeout = '30ms'", "SELECT pg_sleep(5)"),
    "idle_in_transaction": idle_in_transaction,
    "idle to the end": idle_to_the_end,
    "terminated": saying(ENDED),
    "wrapped": wrapped,
    "hidden": hidden,
    "grouped": grouped,
    **{
        code: raising(code)
        for code in ("53100", "53200", "53300", "57P03", "57P01", "08006", "58030", "40001")
    },
}


async def locked_by_itself(database: Statements, handle: Any) -> None:
    path = database.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")


async def no_room(database: Statements, handle: Any) -> None:
    await database.run(handle, "PRAGMA max_page_count = 1")
    try:
        await database.run(handle, "INSERT INTO effects VALUES (zeroblob(1000000))")
    finally:
        await database.run(handle, "PRAGMA max_page_count = 1000000")


async def interrupted(database: Statements, handle: Any) -> None:
    with closing(sqlite3.connect(":memory:")) as other:
        other.set_progress_handler(lambda: 1, 1)
        other.execute("SELECT 1")


SQLITE: dict[str, Provoke] = {
    "locked by itself": locked_by_itself,
    "no room": no_room,
    "interrupted": interrupted,
    "too big": saying("SELECT zeroblob(2000000000)"),
}


@asynccontextmanager
async def inbox_over(
    kind: type[Kind] | None, url: str
) -> AsyncIterator[tuple[Kind | None, InboxStore]]:
    """Of ``kind``, or the application's own store."""
    if kind is None:
        store = await open_store(url)
        try:
            yield None, store
        finally:
            await store.close()
        return
    made = kind(url)
    async with made.given() as given:
        inbox = inbox_for(given)
        try:
            yield made, inbox
        finally:
            await inbox.close()


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("seaway.consumer.state.OUTAGE", Backoff(SOON, 20 * SOON, SOON))
    made = await Bench.open(max_deliver=MAX_DELIVER)
    yield made
    await made.close()


class Handler:
    """Writes a row for each event, and runs into something with those that are named after it."""

    def __init__(self, database: Statements, provoking: Mapping[str, Provoke]) -> None:
        self._database = database
        self._provoking = provoking
        self.tries: Counter[str] = Counter()

    async def handle(self, event: RawEvent, delivery: Delivery) -> None:
        self.tries[delivery.event_id] += 1
        if (provoke := self._provoking.get(delivery.event_id)) is not None:
            await provoke(self._database, delivery.tx)
        await self._database.run(delivery.tx, "INSERT INTO effects VALUES (1)")


async def the_bad_ones_are_letters(
    bench: Bench,
    kind: type[Kind] | None,
    url: str,
    provoking: Mapping[str, Provoke],
    **options: Any,
) -> None:
    """And nobody else is."""
    honest = [f"e{n}" for n in range(len(provoking) + 5)]
    ids = [one for pair in zip_longest(honest, provoking) for one in pair if one is not None]
    async with inbox_over(kind, url) as (made, inbox):
        handler = Handler(Statements(made, url), provoking)
        await bench.events.publish(*(message(one, f"key-{one}") for one in ids))
        policy = RetryPolicy(backoff=AT_ONCE)
        bench.start(consumer(handler.handle, retry=policy, **options), store=inbox)
        await until(lambda: len(bench.events.acked) == len(ids), within=60)
        await bench.finish()
    assert sorted(bench.letters.stored) == sorted((one, "exhausted") for one in provoking)
    for one in provoking:
        assert bench.outcomes(one) == [*["retried"] * (MAX_DELIVER - 1), "dead_lettered"]
    for one in honest:
        assert bench.outcomes(one) == ["handled"]
    assert not bench.telemetry.waits
    assert ConsumerPaused not in bench.states()


def only(engine: str) -> list[type[Kind] | None]:
    return [None, *(kind for kind in KINDS if kind.engine == engine)]


def named(kind: type[Kind] | None) -> str:
    return STORE if kind is None else kind.__name__


@pytest.fixture
async def locked(postgres_url: str, postgres_databases: Databases) -> AsyncIterator[str]:
    """A database with a table that another session has locked."""
    database = postgres_url.rpartition("/")[2]
    postgres_databases.run("CREATE TABLE effects (number int); CREATE TABLE busy ()", database)
    other = await asyncpg.connect(postgres_url)
    await other.execute("BEGIN; LOCK TABLE busy")
    yield postgres_url
    await other.close()


@pytest.mark.parametrize("kind", only("postgres"), ids=named)
async def test_what_postgresql_says_of_a_statement_is_its_deliverys_failure(
    bench: Bench, kind: type[Kind] | None, locked: str
) -> None:
    await the_bad_ones_are_letters(bench, kind, locked, POSTGRES)


@pytest.fixture
async def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/app.db"
    store = await open_store(url)
    await store.schema.upgrade()
    async with store.transaction() as tx:
        await tx.handle.execute("CREATE TABLE effects (number)")
    await store.close()
    return url


@pytest.mark.parametrize("kind", only("sqlite"), ids=named)
async def test_what_sqlite_says_of_a_statement_is_its_deliverys_failure(
    bench: Bench, kind: type[Kind] | None, sqlite_url: str
) -> None:
    await the_bad_ones_are_letters(bench, kind, sqlite_url, SQLITE)


@pytest.mark.parametrize(
    "options", [{"batch": 100}, {"workers": 4}, {"batch": 5, "workers": 2, "ordering": "none"}]
)
async def test_one_events_timeout_counts_for_no_other(
    bench: Bench, locked: str, options: dict[str, Any]
) -> None:
    provoking = {"timeout": POSTGRES["statement_timeout"], "terminated": POSTGRES["terminated"]}
    await the_bad_ones_are_letters(bench, None, locked, provoking, **options)


async def test_the_policy_is_asked_about_the_handlers_own_error(bench: Bench, locked: str) -> None:
    async with inbox_over(None, locked) as (made, inbox):
        handler = Handler(Statements(made, locked), {BAD: wrapped})
        policy = RetryPolicy({Wrapped: Attempts(1)})
        await bench.events.publish(message(BAD))
        bench.start(consumer(handler.handle, retry=policy), store=inbox)
        await until(lambda: bench.events.acked == [1])
        await bench.finish()
    assert bench.outcomes() == ["dead_lettered"]
    assert handler.tries[BAD] == 1


@pytest.mark.parametrize("kind", [None, PsycopgPool, AlchemySessions], ids=named)
@pytest.mark.parametrize("hides", [False, True])
async def test_an_outage_that_a_probe_meets_too_burns_no_deliveries(
    bench: Bench, kind: type[Kind] | None, hides: bool, postgres_server_own: PostgresServer
) -> None:
    """Also where the handler makes an error of its own of it."""
    server = postgres_server_own
    store = await open_store(server.url())
    await store.schema.upgrade()
    await store.close()
    deliveries: list[int] = []
    fell = False

    async with inbox_over(kind, server.url()) as (made, inbox):
        database = Statements(made, server.url())

        async def handle(event: RawEvent, delivery: Delivery) -> None:
            nonlocal fell
            deliveries.append(delivery.deliveries)
            if delivery.event_id == BAD and not fell:
                fell = True
                server.terminate()
                try:
                    await database.run(delivery.tx, "SELECT 1")
                except Exception:
                    if hides:
                        raise Wrapped("could not be saved") from None
                    raise

        await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(EVENTS)))
        bench.start(consumer(handle, retry=RetryPolicy({Exception: Attempts(1)})), store=inbox)
        await until(lambda: ConsumerPaused in bench.states(), within=30)
        assert [wait.about for wait in bench.telemetry.waits] == ["database"]
        server.launch()
        await until(lambda: len(bench.events.acked) == EVENTS, within=60)
        await bench.finish()
    assert set(deliveries) == {1}
    assert bench.outcomes() == ["handled"] * EVENTS
    assert bench.states() == [ConsumerPaused, ConsumerResumed]


@pytest.mark.parametrize("kind", only("postgres"), ids=named)
async def test_a_handler_past_its_deadline_is_called_once_a_delivery(
    bench: Bench, kind: type[Kind] | None, locked: str
) -> None:
    """Some drivers give up the session of a statement that is cancelled."""
    async with inbox_over(kind, locked) as (made, inbox):
        handler = Handler(Statements(made, locked), {BAD: saying("SELECT pg_sleep(20)")})
        await bench.events.publish(message(BAD), message("e1", "another"))
        policy = RetryPolicy(backoff=AT_ONCE)
        deadline = timedelta(milliseconds=100)
        bench.start(consumer(handler.handle, retry=policy, deadline=deadline), store=inbox)
        await until(lambda: len(bench.events.acked) == 2, within=30)
        await bench.finish()
    assert bench.letters.stored == [(BAD, "exhausted")]
    assert handler.tries[BAD] == MAX_DELIVER
    assert ConsumerPaused not in bench.states()


async def test_a_pool_that_the_handler_itself_empties_is_its_own_failure(
    bench: Bench, locked: str
) -> None:
    engine = create_async_engine(
        locked.replace("://", "+asyncpg://", 1), pool_size=1, max_overflow=0, pool_timeout=0.05
    )
    inbox = inbox_for(engine)

    async def another(database: Statements, handle: Any) -> None:
        async with engine.begin() as second:
            await second.execute(text("SELECT 1"))

    handler = Handler(Statements(AlchemySessions(locked), locked), {BAD: another})
    await bench.events.publish(message(BAD), message("e1", "another"))
    bench.start(consumer(handler.handle, retry=RetryPolicy(backoff=AT_ONCE)), store=inbox)
    await until(lambda: len(bench.events.acked) == 2, within=30)
    await bench.finish()
    await engine.dispose()
    assert bench.letters.stored == [(BAD, "exhausted")]
    assert ConsumerPaused not in bench.states()
