"""What an SQLSTATE means is the same through every kind of handle: what the server itself says to a
writer and to an inbox, as ``seaway.databases.sqlstates`` has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest

from consuming import SOON, Bench, consumer, message, until
from drivers import DRIVERS, Driver
from drivers.inboxes import KINDS, Kind
from drivers.plain import Asyncpg, AsyncPsycopg
from drivers.toolkit import AlchemyAsyncSession
from seaway.consumer import Delivery
from seaway.contracts import InboxStore
from seaway.errors import (
    ConfigError,
    SchemaMismatch,
    SeawayError,
    StoreRefused,
    StoreUnavailable,
    TransactionConflict,
)
from seaway.events import RawEvent, new_event_id
from seaway.inbox import inbox_for
from seaway.outbox import Outbox
from seaway.retry import Backoff, RetryPolicy
from seaway.stores import open_store
from seaway.stores.postgres.retention import first_id
from seaway.telemetry import ConsumerPaused
from seaway.testing.databases import Databases

CONSUMER = "case_mgmt__from_sea"
EVENT = RawEvent("sea.event.case_created.v1", b"{}")

MEANINGS: Mapping[str, type[SeawayError]] = {
    **dict.fromkeys(["40001", "40P01"], TransactionConflict),
    **dict.fromkeys(["40000", "53100", "53300", "57014", "58030"], StoreUnavailable),
    **dict.fromkeys(["55P03", "25006", "25P03", "25P04"], StoreUnavailable),
    **dict.fromkeys(
        ["42P01", "42703", "42883", "42704", "3F000", "42P10", "23502"], SchemaMismatch
    ),
    **dict.fromkeys(["42P07", "42P06", "42710", "28000", "3D000", "42501"], ConfigError),
    **dict.fromkeys(["22001", "23514", "55000", "P0001", "XX000"], StoreRefused),
}

# Says what it is told to, where the transaction has a row of ours.
SAYING = """
    CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE code text := current_setting('test.code', true);
    BEGIN
        IF code <> '' THEN RAISE EXCEPTION 'provoked' USING ERRCODE = code; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER say BEFORE INSERT ON seaway_outbox FOR EACH ROW EXECUTE FUNCTION say();
    CREATE TRIGGER say BEFORE INSERT ON seaway_inbox FOR EACH ROW EXECUTE FUNCTION say();
"""


class Undo(Exception):
    """Leaves a transaction so that it is rolled back."""


@pytest.fixture(scope="module")
def url(postgres_databases: Databases) -> Iterator[str]:
    """One database for all: nothing is committed in it."""
    name = postgres_databases.create()
    postgres_databases.run(SAYING, name)
    yield postgres_databases.url(name)
    postgres_databases.leave(name)


def say(code: str) -> str:
    return f"SET LOCAL test.code = '{code}'"


async def add(handle: Any, *events: object) -> list[str]:
    added: Any = Outbox().add(handle, *events)
    found: list[str] = added if isinstance(added, list) else await added
    return found


@pytest.mark.parametrize(
    "kind", [kind for kind in DRIVERS if kind.engine == "postgres"], ids=lambda kind: kind.__name__
)
async def test_a_writer_is_told_what_the_table_says(kind: type[Driver], url: str) -> None:
    driver = kind(url)
    for code, meant in MEANINGS.items():
        # What is the row's own fault is the call's to a writer.
        expected = ConfigError if meant is StoreRefused else meant
        with suppress(Undo):
            async with driver.transaction() as tx:
                await driver.execute(tx, say(code))
                with pytest.raises(SeawayError) as raised:
                    await add(tx, EVENT)
                assert type(raised.value) is expected, (code, raised.value)
                assert "provoked" in str(raised.value)
                raise Undo


@pytest.mark.parametrize(
    "kind", [kind for kind in DRIVERS if kind.engine == "postgres"], ids=lambda kind: kind.__name__
)
async def test_a_writer_in_a_transaction_that_only_reads_is_told_to_try_elsewhere(
    kind: type[Driver], url: str
) -> None:
    driver = kind(url)
    with suppress(Undo):
        async with driver.transaction() as tx:
            await driver.execute(tx, "SET TRANSACTION READ ONLY")
            with pytest.raises(StoreUnavailable, match=r"name the primary.*READ ONLY.*25006"):
                await add(tx, EVENT)
            raise Undo


@pytest.mark.parametrize(
    "kind", [Asyncpg, AsyncPsycopg, AlchemyAsyncSession], ids=lambda kind: kind.__name__
)
async def test_writers_that_wait_for_each_other_are_a_conflict(
    kind: type[Driver], url: str
) -> None:
    """A deadlock of their own: each adds an event whose id the other one has in hand."""
    driver, ids = kind(url), [new_event_id(), new_event_id()]
    both = asyncio.Barrier(2)

    async def write(first: str, second: str) -> str:
        said = ""
        with suppress(Undo):
            async with driver.transaction() as tx:
                await add(tx, RawEvent(EVENT.subject, b"{}", event_id=first))
                async with asyncio.timeout(30):
                    await both.wait()
                try:
                    await add(tx, RawEvent(EVENT.subject, b"{}", event_id=second))
                except TransactionConflict as error:
                    said = str(error)
                raise Undo
        return said

    told = sorted(await asyncio.gather(write(*ids), write(*reversed(ids))))
    assert told[0] == ""
    assert "deadlock" in told[1]


@asynccontextmanager
async def inbox_over(kind: type[Kind] | None, url: str) -> AsyncIterator[InboxStore]:
    """Of ``kind``, or the application's own store."""
    if kind is None:
        store = await open_store(url)
        yield store
        await store.close()
        return
    async with kind(url).given() as given:
        inbox = inbox_for(given)
        yield inbox
        await inbox.close()


async def run(kind: type[Kind] | None, handle: Any, url: str, sql: str) -> None:
    """A statement of the application's own."""
    await (handle.execute(sql) if kind is None else kind(url).run(handle, sql))


INBOXES = [None, *(kind for kind in KINDS if kind.engine == "postgres")]
each_inbox = pytest.mark.parametrize(
    "kind", INBOXES, ids=lambda kind: "store" if kind is None else kind.__name__
)


@each_inbox
async def test_an_inbox_is_told_what_the_table_says(kind: type[Kind] | None, url: str) -> None:
    async with inbox_over(kind, url) as inbox:

        async def claim(code: str) -> None:
            async with inbox.transaction() as tx:
                await run(kind, tx.handle, url, say(code))
                await tx.claim(CONSUMER, new_event_id())

        for code, meant in MEANINGS.items():
            with pytest.raises(SeawayError) as raised:
                await claim(code)
            assert type(raised.value) is meant, (code, raised.value)
            assert "provoked" in str(raised.value)


@each_inbox
async def test_a_row_whose_day_was_made_while_it_waited_is_a_conflict(
    kind: type[Kind] | None, postgres_url: str
) -> None:
    """Housekeeping of another process makes a day's table while rows of that day are written."""
    day = date(2099, 12, 31)
    event_id = f"{first_id(day)}-7000-8000-000000000000"
    async with (
        inbox_over(kind, postgres_url) as inbox,
        await psycopg.AsyncConnection.connect(postgres_url) as housekeeping,
        await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as watching,
    ):

        async def claim() -> bool:
            async with inbox.transaction() as tx:
                return await tx.claim(CONSUMER, event_id)

        async def waits() -> bool:
            query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            return await (await watching.execute(query)).fetchone() != (0,)

        await housekeeping.execute("CREATE TABLE seaway_inbox_of_then (LIKE seaway_inbox)")
        await housekeeping.execute(
            "ALTER TABLE seaway_inbox ATTACH PARTITION seaway_inbox_of_then "
            f"FOR VALUES FROM ('{first_id(day)}') TO ('{first_id(day + timedelta(days=1))}')"
        )
        claiming = asyncio.ensure_future(claim())
        async with asyncio.timeout(30):
            while not await waits():
                assert not claiming.done()
        await housekeeping.commit()
        with pytest.raises(TransactionConflict, match="partition"):
            await claiming
        assert await claim()


@each_inbox
@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_conflict_that_delivery_add_meets_is_run_again_and_counts_for_nothing(
    kind: type[Kind] | None, code: str, postgres_url: str, postgres_databases: Databases
) -> None:
    postgres_databases.run(SAYING, postgres_url.rpartition("/")[2])
    bench = await Bench.open(max_deliver=3)
    deliveries: list[int] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        deliveries.append(delivery.deliveries)
        if len(deliveries) < 3:
            await run(kind, delivery.tx, postgres_url, say(code))
        await delivery.add(EVENT)

    try:
        async with inbox_over(kind, postgres_url) as inbox:
            await bench.events.publish(message("e1"))
            policy = RetryPolicy(backoff=Backoff(SOON, SOON, SOON))
            bench.start(consumer(handle, retry=policy), store=inbox)
            await until(lambda: bench.events.acked == [1])
            await bench.finish()
    finally:
        await bench.close()
    assert deliveries == [1, 1, 1]
    assert bench.outcomes() == ["handled"]
    assert ConsumerPaused not in bench.states()
    with psycopg.connect(postgres_url) as db:
        assert db.execute("SELECT count(*) FROM seaway_outbox").fetchone() == (1,)
