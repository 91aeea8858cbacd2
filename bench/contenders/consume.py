"""Consuming a full stream: the raw client, and Seaway's consumer, whose acks are confirmed."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from nats.js.api import AckPolicy, ConsumerConfig

from bench import stream, workload
from bench.contenders.relay import opened, sqlite_url
from bench.job import Figures, Job, Prepared, Run
from bench.timing import Stopwatch, rate
from seaway import Delivery, RawEvent
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.consumer import Consumer
from seaway.contracts import Store
from seaway.dead_letters import DeadLetters
from seaway.naming import Durable
from seaway.telemetry import Delivered, Signal, Telemetry

BATCH = 50
DURABLE = Durable.from_context("bench", "sea")
REDRIVE = {"name": "SEA_REDRIVE", "subjects": ["sea.redrive.>"]}


@asynccontextmanager
async def raw(job: Job) -> Prepared:
    """nats-py ``fetch`` and ``ack``, which nobody confirms."""
    async with stream.client(job.nats_url) as connection:
        await stream.create(connection)
        await stream.fill(connection, job.events)
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=BATCH)
        context = connection.jetstream()
        subscription = await context.pull_subscribe("sea.event.>", "raw", config=config)

        async def run() -> Figures:
            watch, seen = Stopwatch(), 0
            while seen < job.events:
                for message in await subscription.fetch(min(BATCH, job.events - seen)):
                    await message.ack()
                    seen += 1
            return rate(job.events, watch.seconds())

        yield run


async def _consume(job: Job, store: Store | None) -> Figures:
    """Until every event is handled; with a store: inbox and one insert for each."""
    broker = await connect(NatsSettings(url=job.nats_url))
    config = {"durable_name": str(DURABLE), "ack_policy": "explicit", "max_ack_pending": BATCH}
    await broker.admin.create_stream(REDRIVE)
    for name in (workload.STREAM, "SEA_REDRIVE"):
        await broker.admin.create_consumer(name, config)
    consumer = Consumer(DURABLE, stream=workload.STREAM, batch=BATCH, tx="store" if store else None)
    stop, seen, telemetry = asyncio.Event(), 0, Telemetry()

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if store is not None:
            await delivery.tx.execute(
                "INSERT INTO effects VALUES (?, ?)", (delivery.event_id, delivery.subject)
            )

    def listen(signal: Signal) -> None:
        nonlocal seen
        seen += isinstance(signal, Delivered)
        if seen == job.events:
            stop.set()

    telemetry.subscribe(listen)
    watch = Stopwatch()
    await consumer.run(
        broker,
        store=store,
        outbox=None,
        dead_letters=DeadLetters(broker),
        telemetry=telemetry,
        stop=stop,
    )
    seconds = watch.seconds()
    await broker.close()
    return rate(job.events, seconds)


@asynccontextmanager
async def _filled(job: Job) -> Prepared:
    async with stream.client(job.nats_url) as connection:
        await stream.create(connection)
        await stream.fill(connection, job.events)
    yield lambda: _consume(job, None)


def without_database(job: Job) -> AbstractAsyncContextManager[Run]:
    """Seaway with no inbox."""
    return _filled(job)


@asynccontextmanager
async def sqlite(job: Job) -> Prepared:
    """Seaway with the inbox and one insert on SQLite."""
    async with _filled(job), opened(sqlite_url(job)) as store:
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE effects (event_id TEXT, subject TEXT)")
        yield lambda: _consume(job, store)
