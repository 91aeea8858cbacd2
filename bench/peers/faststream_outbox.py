"""faststream-outbox: a subscriber of its table stacked under FastStream's NATS publisher, no logs.

Twice, since its workers overtake one another: one worker keeps the order of events, sixteen do not
and are faster. Of 1 to 32 workers, fetches of 10 to 1,000 and flushes of 1 to 500, sixteen with 500
and 100 came out best; one worker gains nothing from more. The stream is not declared through
FastStream, which would reset ``allow_atomic`` and ``allow_direct``.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
from faststream.nats import JStream, NatsBroker
from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from bench import stream, workload
from bench.database import settle, until_empty
from bench.job import Figures, Job, Prepared, Run
from bench.timing import Stopwatch, rate

QUEUE = "relay"
FETCH = 500
FLUSH = 100


async def _fill(database: asyncpg.Connection, events: int) -> None:
    records = (
        (
            QUEUE,
            workload.payload(number),
            json.dumps(
                {
                    **workload.headers(number),
                    "content-type": "application/json",
                    "correlation_id": workload.event_id(number),
                }
            ),
        )
        for number in range(events)
    )
    columns = ("queue", "payload", "headers")
    await database.copy_records_to_table("outbox", records=records, columns=columns)
    await settle(database)


@asynccontextmanager
async def _relay(job: Job, workers: int) -> Prepared:
    engine = create_async_engine(
        job.postgres_url.replace("postgresql://", "postgresql+asyncpg://"),
        pool_size=workers + 1,
    )
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="outbox")
    outbox = OutboxBroker(engine, outbox_table=table, logger=None)
    broker = NatsBroker(job.nats_url, logger=None)

    @broker.publisher(workload.SUBJECT, stream=JStream(workload.STREAM, declare=False), timeout=30)
    @outbox.subscriber(
        QUEUE,
        max_workers=workers,
        fetch_batch_size=FETCH,
        terminal_flush_batch_size=FLUSH,
        propagate_inbound_headers=True,
    )
    async def forward(body: dict[str, object]) -> dict[str, object]:
        return body

    database = await asyncpg.connect(job.postgres_url)
    async with stream.client(job.nats_url) as watcher:
        await stream.create(watcher)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await _fill(database, job.events)
        await broker.start()

        async def run() -> Figures:
            watch = Stopwatch()
            await outbox.start()
            await stream.arrived(watcher, job.events)
            await until_empty(database, "SELECT FROM outbox LIMIT 1")
            return rate(job.events, watch.seconds())

        yield run
        await outbox.stop()
        await broker.stop()
        await stream.verify(watcher, job.events)
    await database.close()
    await engine.dispose()


def in_order(job: Job) -> AbstractAsyncContextManager[Run]:
    """A backlog of ``job.events``, relayed by one worker until the table is empty."""
    return _relay(job, 1)


def unordered(job: Job) -> AbstractAsyncContextManager[Run]:
    """The same by sixteen workers."""
    return _relay(job, 16)
