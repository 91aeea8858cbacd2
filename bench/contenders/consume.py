"""Consuming a full stream without a database: Seaway, its broker side alone, and the raw client.

Every clock stops once the server says that nothing is unacknowledged any more. What Seaway
acknowledges is also confirmed to it, message by message; nobody confirms the raw client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial

from nats.aio.client import Client

from bench import stream, workload
from bench.job import Figures, Job, Prepared, Run
from bench.timing import Stopwatch, rate
from seaway import Delivery, RawEvent
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.consumer import Consumer
from seaway.contracts import Store
from seaway.dead_letters import DeadLetters
from seaway.inbox.threads import Threads
from seaway.naming import Durable
from seaway.telemetry import Delivered, Signal, Telemetry

NARROW, WIDE = 50, 2000
"""``max_ack_pending``: as the default topology has it, and where it is no limit."""
FETCH = {NARROW: 50, WIDE: 500}
"""What the raw client asks for at once; more brings it nothing."""
DURABLE = Durable.from_context("bench", "sea")
REDRIVE = {"name": "SEA_REDRIVE", "subjects": ["sea.redrive.>"]}
PATIENCE = timedelta(seconds=5)


@asynccontextmanager
async def filled(job: Job, pending: int) -> AsyncIterator[Client]:
    """The stream with its events and the durable on it."""
    async with stream.client(job.nats_url) as connection:
        await stream.create(connection)
        await stream.fill(connection, job.events)
        await stream.create_durable(connection, str(DURABLE), pending)
        yield connection


@asynccontextmanager
async def _raw(job: Job, pending: int) -> Prepared:
    """nats-py ``fetch`` and ``ack``, which nobody confirms."""
    async with filled(job, pending) as connection:
        context = connection.jetstream()
        subscription = await context.pull_subscribe_bind(str(DURABLE), workload.STREAM)

        async def run() -> Figures:
            watch, seen = Stopwatch(), 0
            while seen < job.events:
                for message in await subscription.fetch(min(FETCH[pending], job.events - seen)):
                    await message.ack()
                    seen += 1
            await stream.consumed(connection, str(DURABLE), job.events)
            return rate(job.events, watch.seconds())

        yield run


@asynccontextmanager
async def _pull(job: Job, pending: int) -> Prepared:
    """Seaway's subscription without a consumer around it: ``next``, and confirmed acks."""
    async with filled(job, pending) as connection:
        broker = await connect(NatsSettings(url=job.nats_url))

        async def run() -> Figures:
            watch, seen = Stopwatch(), 0
            async with broker.subscribe(workload.STREAM, str(DURABLE)) as source:
                while seen < job.events:
                    batch = await source.next(pending // 2, timeout=PATIENCE)
                    if not all(await source.ack(*batch)):
                        raise stream.WrongResult("an acknowledgement was not confirmed")
                    seen += len(batch)
            await stream.consumed(connection, str(DURABLE), job.events)
            return rate(job.events, watch.seconds())

        yield run
        await broker.close()


async def consume(
    consumer: Consumer,
    broker: JetStreamBroker,
    store: Store | None,
    events: int,
    threads: Threads | None = None,
) -> None:
    """Run ``consumer`` until it told of every event's outcome."""
    stop, seen, telemetry = asyncio.Event(), 0, Telemetry()

    def listen(signal: Signal) -> None:
        nonlocal seen
        if isinstance(signal, Delivered):
            seen += 1
            if seen == events:
                stop.set()

    telemetry.subscribe(listen)
    await consumer.run(
        broker,
        store=store,
        threads=threads,
        outbox=None,
        dead_letters=DeadLetters(broker),
        telemetry=telemetry,
        stop=stop,
    )
    if seen != events:
        raise stream.WrongResult(f"{seen} outcomes of {events} events")


@asynccontextmanager
async def prepared(
    job: Job,
    pending: int,
    consumer: Consumer,
    store: Store | None = None,
    threads: Threads | None = None,
) -> Prepared:
    """A run of ``consumer`` over the filled stream."""
    async with filled(job, pending) as connection:
        await stream.create(connection, REDRIVE)
        await stream.create_durable(connection, str(DURABLE), pending, on=str(REDRIVE["name"]))
        broker = await connect(NatsSettings(url=job.nats_url))

        async def run() -> Figures:
            watch = Stopwatch()
            await consume(consumer, broker, store, job.events, threads)
            await stream.consumed(connection, str(DURABLE), job.events)
            return rate(job.events, watch.seconds())

        yield run
        await broker.close()


def _without_database(job: Job, pending: int) -> AbstractAsyncContextManager[Run]:
    """Seaway with ``tx=None`` and a handler that does nothing."""
    consumer = Consumer(DURABLE, stream=workload.STREAM, batch=pending // 4, workers=2, tx=None)

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        pass

    return prepared(job, pending, consumer)


raw_narrow, raw_wide = partial(_raw, pending=NARROW), partial(_raw, pending=WIDE)
pull_narrow, pull_wide = partial(_pull, pending=NARROW), partial(_pull, pending=WIDE)
seaway_narrow = partial(_without_database, pending=NARROW)
seaway_wide = partial(_without_database, pending=WIDE)
