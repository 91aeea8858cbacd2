"""nats-outbox: its ``PollingRelay``, built as its command ``relay start`` builds it, without logs.

It awaits each acknowledgement before the next publish. Batches of 500 and of 1,000 (its limit) came
out alike and a little ahead of 100, its default.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
from nats_outbox.core.models import create_tables
from nats_outbox.publishers.nats_publisher import NatsPublisher
from nats_outbox.relay.polling import PollingRelay
from nats_outbox.settings import OutboxSettings
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from bench import stream, workload
from bench.database import settle, until_empty
from bench.job import Figures, Job, Prepared
from bench.timing import Stopwatch, rate

BATCH = 1000
_PENDING = "SELECT FROM outbox_events WHERE status = 'pending' LIMIT 1"
_COLUMNS = (
    "event_id",
    "subject",
    "headers",
    "payload",
    "status",
    "retry_count",
    "aggregate_id",
    "aggregate_type",
    "scheduled_at",
)


async def _fill(database: asyncpg.Connection, events: int) -> None:
    now = datetime.now(UTC)
    records = (
        (
            uuid.UUID(workload.event_id(number)),
            workload.SUBJECT,
            json.dumps(workload.headers(number)),
            json.dumps(workload.body(number)),
            "pending",
            0,
            workload.key(number),
            "Case",
            now,
        )
        for number in range(events)
    )
    await database.copy_records_to_table("outbox_events", records=records, columns=_COLUMNS)
    await settle(database)


@asynccontextmanager
async def relay(job: Job) -> Prepared:
    """A backlog of ``job.events``, relayed until none is pending."""
    url = job.postgres_url.replace("postgresql://", "postgresql+asyncpg://")
    settings = OutboxSettings(database_url=url, nats_url=job.nats_url, batch_size=BATCH)
    engine = create_async_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=10)
    database = await asyncpg.connect(job.postgres_url)
    async with stream.client(job.nats_url) as watcher, stream.client(job.nats_url) as connection:
        await stream.create(watcher)
        await create_tables(engine)
        await _fill(database, job.events)
        publisher = await NatsPublisher.from_nats_client(connection)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        worker = PollingRelay(sessions, publisher, settings)

        async def run() -> Figures:
            watch = Stopwatch()
            working = asyncio.create_task(worker.start())
            await stream.arrived(watcher, job.events)
            await until_empty(database, _PENDING)
            seconds = watch.seconds()
            working.cancel()
            await asyncio.wait([working])
            return rate(job.events, seconds)

        yield run
        await stream.verify(watcher, job.events)
    await database.close()
    await engine.dispose()
