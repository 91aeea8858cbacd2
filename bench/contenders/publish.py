"""The raw client alone, its messages ready in memory: what a relay could reach at best."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from bench import stream, workload
from bench.job import Figures, Job, Prepared
from bench.timing import Stopwatch, rate

WINDOW = 4000
"""Unacknowledged messages at most; nats-py's own default."""


def _messages(events: int) -> list[tuple[bytes, dict[str, str]]]:
    return [(workload.payload(number), workload.headers(number)) for number in range(events)]


@asynccontextmanager
async def windowed(job: Job) -> Prepared:
    """nats-py ``publish_async``, every acknowledgement looked at."""
    async with stream.client(job.nats_url) as connection:
        await stream.create(connection)
        context = connection.jetstream(publish_async_max_pending=WINDOW)
        messages = _messages(job.events)

        async def run() -> Figures:
            watch = Stopwatch()
            acks = [
                await context.publish_async(workload.SUBJECT, payload, headers=headers)
                for payload, headers in messages
            ]
            await asyncio.gather(*acks)
            return rate(job.events, watch.seconds())

        yield run
        await stream.verify(connection, job.events)


@asynccontextmanager
async def batches(job: Job) -> Prepared:
    """nats-py with atomic batches of 1,000, one after the other."""
    async with stream.client(job.nats_url) as connection:
        await stream.create(connection)
        messages = _messages(job.events)

        async def run() -> Figures:
            watch = Stopwatch()
            for first in range(0, job.events, stream.BATCH):
                part = messages[first : first + stream.BATCH]
                await stream.publish_batch(connection, f"batch-{first}", part)
            return rate(job.events, watch.seconds())

        yield run
        await stream.verify(connection, job.events)
