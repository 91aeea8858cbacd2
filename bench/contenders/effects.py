"""Consuming with effects: the inbox row and one insert for each event, and the same two statements
in a bare loop.

A round counts only if there are then as many effects, and as many inbox rows, as there were events,
each of another event.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import psycopg
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from bench import stream, workload
from bench.contenders.consume import DURABLE, WIDE, prepared
from bench.contenders.relay import opened, sqlite_url
from bench.database import settle
from bench.job import Figures, Job, Prepared
from bench.timing import Stopwatch, rate
from seaway import Delivery, RawEvent
from seaway.consumer import Consumer
from seaway.contracts import Store
from seaway.databases.engines import POSTGRES
from seaway.databases.queries import Statements, by_name, named
from seaway.inbox import inbox_for
from seaway.inbox.opening import thread_inbox_for
from seaway.inbox.threads import Threads

WORKERS = 16
BATCH, BATCH_WORKERS = 100, 8
TABLE = "CREATE TABLE effects (event_id text NOT NULL, subject text NOT NULL)"
ON_POSTGRES = "INSERT INTO effects (event_id, subject) VALUES ($1, $2)"
BY_PSYCOPG = "INSERT INTO effects (event_id, subject) VALUES (%s, %s)"
ON_SQLITE = "INSERT INTO effects (event_id, subject) VALUES (?, ?)"
COUNTS = (
    "SELECT count(*) FROM effects",
    "SELECT count(DISTINCT event_id) FROM effects",
    "SELECT count(*) FROM seaway_inbox",
)
CLAIM = Statements(POSTGRES)["claim"]


def _consumer(insert: str, *, one_tuple: bool, batch: int, workers: int) -> Consumer:
    consumer = Consumer(DURABLE, stream=workload.STREAM, batch=batch, workers=workers)

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        values = (delivery.event_id, delivery.subject)
        await delivery.tx.execute(insert, *([values] if one_tuple else values))

    return consumer


def _check(events: int, counts: Sequence[int]) -> None:
    if set(counts) != {events}:
        effects, distinct, inbox = counts
        raise stream.WrongResult(
            f"{effects} effects of {distinct} events and {inbox} inbox rows for {events} events"
        )


@asynccontextmanager
async def _database(job: Job) -> AsyncIterator[tuple[Store, asyncpg.Connection]]:
    async with opened(job.postgres_url) as store:
        database = await asyncpg.connect(job.postgres_url)
        await database.execute(TABLE)
        await settle(database)
        yield store, database
        _check(job.events, [await database.fetchval(query) for query in COUNTS])
        await database.close()


@asynccontextmanager
async def _postgres(job: Job, batch: int, workers: int) -> Prepared:
    consumer = _consumer(ON_POSTGRES, one_tuple=False, batch=batch, workers=workers)
    async with _database(job) as (store, _), prepared(job, WIDE, consumer, store) as run:
        yield run


@asynccontextmanager
async def _sqlite(job: Job, batch: int) -> Prepared:
    consumer = _consumer(ON_SQLITE, one_tuple=True, batch=batch, workers=1)
    async with opened(sqlite_url(job)) as store:
        async with store.transaction() as tx:
            await tx.handle.execute(TABLE)
        async with prepared(job, WIDE, consumer, store) as run:
            yield run
        async with store.transaction() as tx:
            counts = []
            for query in COUNTS:
                cursor = await tx.handle.execute(query)
                counts.append((await cursor.fetchone())[0])
        _check(job.events, counts)


@asynccontextmanager
async def bare(job: Job) -> Prepared:
    """No broker: the two statements, a transaction each, on as many connections as Seaway has."""
    async with _database(job):
        pool = await asyncpg.create_pool(job.postgres_url, min_size=WORKERS, max_size=WORKERS)
        numbers = iter(range(job.events))

        async def work() -> None:
            async with pool.acquire() as connection:
                for number in numbers:
                    event = workload.event_id(number)
                    async with connection.transaction():
                        await connection.execute(CLAIM, str(DURABLE), event)
                        await connection.execute(ON_POSTGRES, event, workload.SUBJECT)

        async def run() -> Figures:
            watch = Stopwatch()
            await asyncio.gather(*(work() for _ in range(WORKERS)))
            return rate(job.events, watch.seconds())

        yield run
        await pool.close()


# ------------------------------------------------------------------- plain handlers


def _plain_consumer(execute: Callable[[Any, tuple[str, str]], object], batch: int) -> Consumer:
    workers = WORKERS if batch == 1 else BATCH_WORKERS
    consumer = Consumer(DURABLE, stream=workload.STREAM, batch=batch, workers=workers)

    @consumer.handler(RawEvent)
    def handle(event: RawEvent, delivery: Delivery) -> None:
        execute(delivery.tx, (delivery.event_id, delivery.subject))

    return consumer


@asynccontextmanager
async def _plain(job: Job, batch: int) -> Prepared:
    """With the store's own transactions: psycopg."""
    consumer = _plain_consumer(lambda tx, row: tx.execute(BY_PSYCOPG, row), batch)
    async with _database(job) as (store, _), prepared(job, WIDE, consumer, store) as run:
        yield run


@asynccontextmanager
async def alchemy(job: Job) -> Prepared:
    """With SQLAlchemy's sessions over psycopg."""
    insert = text("INSERT INTO effects (event_id, subject) VALUES (:event_id, :subject)")

    def execute(session: Session, row: tuple[str, str]) -> None:
        session.execute(insert, {"event_id": row[0], "subject": row[1]})

    url = job.postgres_url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, pool_size=WORKERS)
    async with Threads(str(DURABLE), thread_inbox_for(sessionmaker(engine))) as threads:
        consumer = _plain_consumer(execute, 1)
        async with (
            _database(job) as (store, _),
            prepared(job, WIDE, consumer, store, threads) as run,
        ):
            yield run
    engine.dispose()


@asynccontextmanager
async def async_psycopg(job: Job) -> Prepared:
    """Async handlers over the same driver, its asynchronous half."""
    consumer = Consumer(DURABLE, stream=workload.STREAM, workers=WORKERS)

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await delivery.tx.execute(BY_PSYCOPG, (delivery.event_id, delivery.subject))

    pool = AsyncConnectionPool(job.postgres_url, min_size=WORKERS, max_size=WORKERS, open=False)
    await pool.open(wait=True)
    async with _database(job), prepared(job, WIDE, consumer, inbox_for(pool)) as run:
        yield run
    await pool.close()


@asynccontextmanager
async def bare_threads(job: Job) -> Prepared:
    """No broker: the two statements, a transaction each, in as many threads as Seaway has."""
    async with _database(job):
        numbers, lock = iter(range(job.events)), threading.Lock()
        ready = threading.Barrier(WORKERS + 1)
        claim = named(CLAIM, "%({})s").encode()

        def work() -> None:
            with psycopg.connect(job.postgres_url, autocommit=True) as connection:
                ready.wait()
                while True:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    event = workload.event_id(number)
                    with connection.transaction():
                        connection.execute(claim, by_name(str(DURABLE), event))
                        connection.execute(BY_PSYCOPG, (event, workload.SUBJECT))

        threads = [threading.Thread(target=work) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(ready.wait)

        async def run() -> Figures:
            watch = Stopwatch()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            return rate(job.events, watch.seconds())

        yield run


plain_single, plain_batched = partial(_plain, batch=1), partial(_plain, batch=BATCH)
postgres_single = partial(_postgres, batch=1, workers=WORKERS)
postgres_batched = partial(_postgres, batch=BATCH, workers=BATCH_WORKERS)
sqlite_single, sqlite_batched = partial(_sqlite, batch=1), partial(_sqlite, batch=BATCH)
