"""From commit to stored, one event at a time, each written when the relay has come to rest.

The relay has a process of its own (``relaying``). The clock starts when the writer sends its
COMMIT and stops when an ephemeral push consumer hands the message back, which the server does only
for what the stream holds; so both the commit itself and that last delivery are within the figure.
Between two events a bare transaction, one insert and no event, is committed and timed too.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bench import stream, workload
from bench.contenders.relay import opened
from bench.job import Figures, Job, Prepared, Run
from bench.timing import Stopwatch, percentiles
from seaway import Outbox, RawEvent

NOTIFIED_REST = (0.1, 0.3)
POLLED_REST = (0.5, 0.7)
"""Seconds between two events: longer than polling takes to reach its longest pause, and drawn at
random, so that no poll is met in step."""
ARRIVAL_SECONDS = 30.0


def _relay_log(job: Job) -> Path:
    return job.path("relay.log")


@asynccontextmanager
async def _relay_process(job: Job, notify: bool) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "bench.contenders.relaying"]
    command += [job.postgres_url, job.nats_url, "notify" if notify else "poll"]
    with _relay_log(job).open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


class _Writer:
    """One connection that commits business rows, with an event or without."""

    def __init__(self, database: asyncpg.Connection, notify: bool) -> None:
        self._database = database
        self._outbox = Outbox(notify=notify)

    async def commit(self, event: RawEvent | None) -> Stopwatch:
        """A watch that runs since its COMMIT was sent."""
        transaction = self._database.transaction()
        await transaction.start()
        await self._database.execute("INSERT INTO cases (state) VALUES ($1)", "moved")
        if event is not None:
            await self._outbox.add(self._database, event)
        watch = Stopwatch()
        await transaction.commit()
        return watch


@asynccontextmanager
async def _latency(job: Job, rest: tuple[float, float], *, notify: bool) -> Prepared:
    arrivals: asyncio.Queue[None] = asyncio.Queue()

    async def arrive(message: Msg) -> None:
        arrivals.put_nowait(None)

    async with opened(job.postgres_url), stream.client(job.nats_url) as connection:
        await stream.create(connection)
        await connection.jetstream().subscribe(
            workload.SUBJECT,
            stream=workload.STREAM,
            config=ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.NEW),
            cb=arrive,
            manual_ack=True,
        )
        database = await asyncpg.connect(job.postgres_url)
        await database.execute("CREATE TABLE cases (id bigserial PRIMARY KEY, state text)")
        writer = _Writer(database, notify)

        async def store(number: int) -> float:
            event = RawEvent(
                workload.SUBJECT,
                workload.payload(number),
                key=workload.key(number),
                event_id=workload.event_id(number),
            )
            watch = await writer.commit(event)
            try:
                await asyncio.wait_for(arrivals.get(), ARRIVAL_SECONDS)
            except TimeoutError:
                said = _relay_log(job).read_text().splitlines()[-1:]
                raise stream.WrongResult(f"event {number} never came; the relay: {said}") from None
            return watch.seconds()

        async def run() -> Figures:
            bare: list[float] = []
            stored: list[float] = []
            for number in range(1, job.events):
                await asyncio.sleep(random.uniform(*rest))
                bare.append((await writer.commit(None)).seconds())
                stored.append(await store(number))
            figures = percentiles("commit", bare) | percentiles("stored", stored)
            return figures | {"ratio_p50": figures["stored_p50_ms"] / figures["commit_p50_ms"]}

        async with _relay_process(job, notify):
            await store(0)  # The relay is up when its first event is.
            yield run
        await stream.verify(connection, job.events)
        await database.close()


def notified(job: Job) -> AbstractAsyncContextManager[Run]:
    """The relay is woken by NOTIFY."""
    return _latency(job, NOTIFIED_REST, notify=True)


def polled(job: Job) -> AbstractAsyncContextManager[Run]:
    """The relay looks by itself."""
    return _latency(job, POLLED_REST, notify=False)
