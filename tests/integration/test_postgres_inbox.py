"""The inbox by day: what is dropped, what outlives its day, and claims that go on meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta

import pytest

from seaway.errors import ConfigError
from seaway.events import new_event_id
from seaway.inbox.letters import letter_row
from seaway.stores.postgres import PostgresStore
from seaway.stores.postgres.retention import first_id
from seaway.testing.databases import Database, Databases
from shell import busy

CONSUMER = "case_mgmt__from_sea"
DAY = timedelta(days=1)
KEEP = 14 * DAY
PARTITIONS = """
SELECT inhrelid::regclass::text FROM pg_inherits
WHERE inhparent = 'seaway_inbox'::regclass ORDER BY 1
"""
FILL = """
INSERT INTO seaway_inbox
SELECT 'c__d', 'START' || n, now() - interval 'DAYS days' FROM generate_series(1, COUNT) n
"""
LEFTOVERS = ["seaway_inbox_default", "seaway_inbox_other"]


@pytest.fixture
def database(postgres_url: str, postgres_databases: Databases) -> Database:
    return Database(postgres_url, postgres_databases)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(database.url) as store:
        yield store


def today() -> date:
    return datetime.now(UTC).date()


def named(day: date) -> str:
    return f"seaway_inbox_{day:%Y%m%d}"


def partitions(database: Database) -> list[str]:
    return database.run(PARTITIONS).splitlines()


def make(database: Database, day: date) -> str:
    """The partition of a day that is past, as it was made when it was not."""
    bounds = f"FROM ('{first_id(day)}') TO ('{first_id(day + DAY)}')"
    database.run(f"CREATE TABLE {named(day)} PARTITION OF seaway_inbox FOR VALUES {bounds}")
    return named(day)


def event_of(day: date, number: int = 0) -> str:
    """The id of an event of noon."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    digits = f"{int(noon.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-{number:012x}"


async def claim(store: PostgresStore, *event_ids: str) -> list[bool]:
    async with store.transaction() as tx:
        return [await tx.claim(CONSUMER, event_id) for event_id in event_ids]


def age(database: Database, event_id: str, days: int) -> None:
    """As if it had been handled that long ago."""
    aged = (
        "UPDATE seaway_inbox SET processed_at = now() - interval 'DAYS days' WHERE event_id = 'ID'"
    )
    database.run(aged.replace("DAYS", str(days)).replace("ID", event_id))


def where(database: Database, event_id: str) -> str:
    found = "SELECT tableoid::regclass FROM seaway_inbox WHERE event_id = 'ID'"
    return database.run(found.replace("ID", event_id))


async def forget(store: PostgresStore) -> None:
    await store.forget(datetime.now(UTC) - KEEP)


def test_a_days_ids_are_between_its_bounds() -> None:
    now = datetime.now(UTC)
    event_id = new_event_id()
    assert first_id(now.date()) < event_id < first_id(now.date() + DAY)
    last = datetime(2026, 3, 28, 23, 59, 59, 999000, tzinfo=UTC)
    digits = f"{int(last.timestamp() * 1000):012x}"
    assert f"{digits[:8]}-{digits[8:]}-7fff-bfff" < first_id(date(2026, 3, 29))
    assert first_id(date(2109, 5, 14)) < "04"


async def test_days_are_made_ahead_and_take_their_events(
    store: PostgresStore, database: Database
) -> None:
    assert partitions(database) == LEFTOVERS
    await forget(store)
    ahead = [named(today() + number * DAY) for number in range(3)]
    assert partitions(database) == [*ahead, *LEFTOVERS]
    of_today, foreign, random = new_event_id(), "SEA_EVENTS:1", f"9{str(uuid.uuid4())[1:]}"
    old = event_of(today() - 30 * DAY)
    assert await claim(store, of_today, foreign, random, old) == [True] * 4
    assert where(database, of_today) == ahead[0]
    _, letter = letter_row("c__d", ("SEA_EVENTS", 1), of_today)
    assert await claim(store, letter) == [True]
    assert where(database, letter) == ahead[0], "what is said of its letter goes with the event"
    assert where(database, foreign) == where(database, random) == "seaway_inbox_other"
    assert where(database, old) == "seaway_inbox_default"
    await forget(store)
    assert await claim(store, of_today, foreign, random, old) == [False] * 4
    await store.schema.verify()


async def test_a_day_is_dropped_whole_when_all_of_it_is_old(
    store: PostgresStore, database: Database
) -> None:
    day = today() - 15 * DAY
    name = make(database, day)
    events = [event_of(day, number) for number in range(3)]
    await claim(store, *events)
    assert where(database, events[0]) == name
    for event_id in events[:2]:
        age(database, event_id, 15)
    # One of them was handled late: it is not forgotten before its own time, nor is its day.
    await forget(store)
    assert name in partitions(database)
    assert await claim(store, events[2]) == [False]
    age(database, events[2], 13)
    await forget(store)
    assert await claim(store, events[2]) == [False]
    age(database, events[2], 15)
    assert await store.overdue(datetime.now(UTC), datetime.now(UTC) - KEEP) == {name: 3}
    await forget(store)
    assert name not in partitions(database)
    assert await store.processed(events[2]) == {}


async def test_a_day_that_has_not_ended_long_enough_ago_stays(
    store: PostgresStore, database: Database
) -> None:
    name = make(database, today() - 14 * DAY)
    await forget(store)
    assert name in partitions(database)


async def test_an_event_of_a_day_that_is_gone_is_remembered_from_its_handling(
    store: PostgresStore, database: Database
) -> None:
    day = today() - 15 * DAY
    make(database, day)
    await forget(store)
    late = event_of(day)
    assert await claim(store, late) == [True]
    for days in (0, 13):
        age(database, late, days)
        await forget(store)
        assert await claim(store, late) == [False]
    assert where(database, late) == "seaway_inbox_default"
    age(database, late, 15)
    await forget(store)
    assert await store.processed(late) == {}


async def test_what_came_before_its_day_was_made_is_found_all_the_same(
    store: PostgresStore, database: Database
) -> None:
    early = new_event_id()
    await claim(store, early)
    await forget(store)
    assert named(today()) not in partitions(database)
    assert named(today() + DAY) in partitions(database)
    assert await claim(store, early) == [False]


async def test_more_than_one_transaction_is_not_deleted_in_one(
    store: PostgresStore, database: Database
) -> None:
    for start, age_of_it in (("A", 15), ("B", 1), ("00", 15)):
        rows = FILL.replace("START", start).replace("COUNT", "12000")
        database.run(rows.replace("DAYS", str(age_of_it)))
    await forget(store)
    assert database.run("SELECT left(event_id, 1), count(*) FROM seaway_inbox GROUP BY 1") == (
        "B|12000"
    )


# ------------------------------------------------------------------ while others are at it


async def test_claims_go_on_while_days_are_dropped(
    store: PostgresStore, database: Database
) -> None:
    """Twenty workers claim late events from the youngest day on, each event twice, while old days
    are dropped from the oldest on; somewhere they meet."""
    days = [today() - number * DAY for number in range(20, 60)]
    handled = [event_of(day, 999_999) for day in days]
    for day in days:
        make(database, day)
    await claim(store, *handled)
    for event_id in handled:
        age(database, event_id, 60)
    taken: Counter[str] = Counter()
    waits: list[float] = []
    turns = [0] * 20
    done = asyncio.Event()

    async def worker(number: int) -> None:
        while not (done.is_set() and turns[number] > len(days)):
            turn, pair = turns[number], number // 2
            for event_id in (
                new_event_id(),
                f"SEA_EVENTS:{pair}-{turn}",
                event_of(days[turn % len(days)], pair * 10_000 + turn),
            ):
                began = time.monotonic()
                (new,) = await claim(store, event_id)
                waits.append(time.monotonic() - began)
                taken[event_id] += new
            turns[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(worker(number))
        async with await PostgresStore.open(database.url, connections=3) as other:
            for _ in range(3):
                await forget(other)
        done.set()
    assert set(taken.values()) == {1}
    young = "SELECT count(*) FROM seaway_inbox WHERE processed_at > now() - interval '1 day'"
    assert int(database.run(young)) == len(taken)
    left = [name for name in map(named, days) if name in partitions(database)]
    assert len(left) < len(days)
    assert max(waits) < 3 * busy()


async def test_a_handler_that_takes_minutes_keeps_no_day_from_being_emptied(
    store: PostgresStore, database: Database
) -> None:
    day = today() - 15 * DAY
    await forget(store)
    database.run(f"DROP TABLE {named(today() + DAY)}")
    name, event_id = make(database, day), event_of(day)
    await claim(store, event_id)
    age(database, event_id, 15)
    async with await PostgresStore.open(database.url) as other, other.transaction() as tx:
        assert await tx.claim(CONSUMER, new_event_id())
        began = time.monotonic()
        dropping = asyncio.create_task(forget(store))
        while not dropping.done():
            assert await claim(store, new_event_id()) == [True]
        await dropping
        assert time.monotonic() - began < 10 * busy()
        assert name in partitions(database)
        assert await store.processed(event_id) == {}
        assert named(today() + DAY) in partitions(database)
    await forget(store)
    assert name not in partitions(database)


async def test_a_late_event_in_hand_keeps_its_day(store: PostgresStore, database: Database) -> None:
    day = today() - 15 * DAY
    name, late = make(database, day), event_of(day)
    async with await PostgresStore.open(database.url) as other:
        async with other.transaction() as tx:
            assert await tx.claim(CONSUMER, late)
            await forget(store)
        await forget(store)
    assert name in partitions(database)
    assert await claim(store, late) == [False]


async def test_many_may_forget_at_once(database: Database) -> None:
    make(database, today() - 15 * DAY)
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(await PostgresStore.open(database.url))
            for _ in range(6)
        ]
        kept = [*(named(today() + n * DAY) for n in range(3)), *LEFTOVERS]
        async with asyncio.timeout(30):
            # A table that something else has locked is left for the next time.
            while partitions(database) != kept:
                await asyncio.gather(*(forget(one) for one in stores))
        await asyncio.gather(*(forget(one) for one in stores))
    assert partitions(database) == kept


# ------------------------------------------------------------------ with fewer rights


@pytest.fixture
def user(database: Database) -> Iterator[str]:
    """A user who may use the schema and nothing in it yet."""
    name = f"seaway_test_{uuid.uuid4().hex[:8]}"
    database.run(f"CREATE ROLE {name} LOGIN")
    yield name
    database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_without_the_right_to_make_tables_rows_are_deleted_singly_and_that_is_said_once(
    store: PostgresStore, database: Database, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = make(database, today() - 15 * DAY)
    tables = ", ".join(["seaway_inbox", "seaway_unhandled", *LEFTOVERS])
    database.run(f"GRANT SELECT, INSERT, DELETE ON {tables} TO {user}")
    old = [event_of(today() - 15 * DAY), "SEA_EVENTS:1", event_of(today() - 40 * DAY)]
    young = new_event_id()
    async with await PostgresStore.open(database.url_of(user)) as poor:
        await claim(poor, *old, young)
        for event_id in old:
            age(database, event_id, 15)
        with caplog.at_level(logging.WARNING, "seaway.inbox"):
            for _ in range(2):
                await forget(poor)
        assert [await poor.processed(event_id) for event_id in old] == [{}, {}, {}]
        assert await claim(poor, young) == [False]
    assert name in partitions(database)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_without_the_right_to_delete_nothing_is_forgotten(
    store: PostgresStore, database: Database, user: str
) -> None:
    database.run(f"GRANT SELECT, INSERT ON seaway_inbox TO {user}")
    async with await PostgresStore.open(database.url_of(user)) as poor:
        await claim(poor, "SEA_EVENTS:1")
        with pytest.raises(ConfigError, match="grant the right"):
            await poor.forget(datetime.now(UTC))
        assert await claim(poor, "SEA_EVENTS:1") == [False]


async def test_days_of_a_schema_of_its_own(database: Database) -> None:
    async with await PostgresStore.open(database.url, schema="events") as store:
        await store.schema.upgrade()
        await forget(store)
        event_id = new_event_id()
        await claim(store, event_id)
        assert where(database, event_id) == ""
        found = database.run("SELECT DISTINCT tableoid::regclass FROM events.seaway_inbox")
        assert found == f"events.{named(today())}"
        await store.schema.verify()
        after = datetime.now(UTC) + 2 * DAY
        assert await store.overdue(after, after) == {named(today()): 1}
        await store.forget(after)
        assert await store.processed(event_id) == {}
    assert partitions(database) == LEFTOVERS


async def test_the_backlog_estimates_rows_and_dead_rows(
    store: PostgresStore, database: Database
) -> None:
    await forget(store)
    # It may come at any moment, and would leave no dead rows to be seen.
    for leftover in LEFTOVERS:
        database.run(f"ALTER TABLE {leftover} SET (autovacuum_enabled = off)")
    database.run(FILL.replace("START", "A").replace("COUNT", "1000").replace("DAYS", "15"))
    await forget(store)
    await claim(store, *(new_event_id() for _ in range(5)))
    async with asyncio.timeout(60):
        while True:
            backlog = await store.backlog()
            if (backlog.inbox_rows, backlog.inbox_dead_rows) == (5, 1000):
                break
            await asyncio.sleep(0.1)
    assert backlog.sent_dead_rows == 0
