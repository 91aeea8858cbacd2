"""Seaway's relay over a backlog: claim, publish, settle, and keep what was sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg

from bench import stream, workload
from bench.database import settle
from bench.job import Figures, Job, Prepared, Run
from bench.timing import Stopwatch, rate
from seaway import Outbox, RawEvent
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.contracts import Store
from seaway.relay import Relay
from seaway.stores import open_store
from seaway.telemetry import Telemetry

CHUNK = 1000
"""Events added in one transaction."""
REPEATS = 100
"""How often a small backlog is filled and relayed, so that stream and tables end up as large as
after one that is a hundred times as large, and nothing but the backlog differs."""


def sqlite_url(job: Job) -> str:
    """A database in the run's folder."""
    return f"sqlite:///{job.path('outbox.db')}"


async def fill(store: Store, numbers: range) -> None:
    """Add events by ``Outbox.add``, as a service would."""
    outbox = Outbox()
    for first in range(numbers.start, numbers.stop, CHUNK):
        async with store.transaction() as tx:
            events = (
                RawEvent(
                    workload.SUBJECT,
                    workload.payload(number),
                    key=workload.key(number),
                    event_id=workload.event_id(number),
                )
                for number in range(first, min(first + CHUNK, numbers.stop))
            )
            await outbox.add(tx.handle, *events)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """The store at ``url`` with its tables."""
    store = await open_store(url)
    try:
        await store.schema.upgrade()
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _relay(job: Job, url: str, repeats: int = 1) -> Prepared:
    async with opened(url) as store, stream.client(job.nats_url) as connection:
        await stream.create(connection)
        broker = await connect(NatsSettings(url=job.nats_url))
        relay = Relay(store, broker, telemetry=Telemetry())

        async def backlog(repeat: int) -> None:
            await fill(store, range(repeat * job.events, (repeat + 1) * job.events))
            if job.postgres_url:
                database = await asyncpg.connect(job.postgres_url)
                await settle(database)
                await database.close()

        async def run() -> Figures:
            seconds = 0.0
            for repeat in range(repeats):
                if repeat:
                    await backlog(repeat)
                watch = Stopwatch()
                sent = await relay.drain()
                seconds += watch.seconds()
                if sent != job.events:
                    raise stream.WrongResult(f"{sent} of {job.events} events were relayed")
            return rate(job.events * repeats, seconds)

        await backlog(0)
        yield run
        await broker.close()
        await stream.verify(connection, job.events * repeats)


def postgres(job: Job) -> AbstractAsyncContextManager[Run]:
    """One backlog on PostgreSQL."""
    return _relay(job, job.postgres_url)


def sqlite(job: Job) -> AbstractAsyncContextManager[Run]:
    """One backlog on SQLite."""
    return _relay(job, sqlite_url(job))


def postgres_repeated(job: Job) -> AbstractAsyncContextManager[Run]:
    """A backlog on PostgreSQL filled and relayed ``REPEATS`` times, the filling not timed."""
    return _relay(job, job.postgres_url, REPEATS)
