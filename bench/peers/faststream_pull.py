"""FastStream's pull subscriber, no logs, on the durable that everybody consumes here.

Twice: a handler called for each message, all of a fetch at once, and a handler called with a list
(``PullSub(batch=True)``). Both without the validation of arguments (``apply_types``), which only
costs time here.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from faststream.nats import JStream, NatsBroker, PullSub

from bench import stream, workload
from bench.job import Figures, Job, Prepared, Run
from bench.timing import Stopwatch, rate

DURABLE = "bench__from_sea"
NARROW, WIDE = 50, 2000
FETCH = {NARROW: 50, WIDE: 500}


@asynccontextmanager
async def _consume(job: Job, pending: int, *, lists: bool) -> Prepared:
    broker = NatsBroker(job.nats_url, logger=None, apply_types=False)
    seen, done = 0, asyncio.Event()

    def count(messages: int) -> None:
        nonlocal seen
        seen += messages
        if seen >= job.events:
            done.set()

    subscriber = broker.subscriber(
        "sea.event.>",
        durable=DURABLE,
        stream=JStream(workload.STREAM, declare=False),
        pull_sub=PullSub(batch_size=FETCH[pending], batch=lists),
    )

    async def handle(body: object) -> None:
        count(1)

    async def handle_list(bodies: list[object]) -> None:
        count(len(bodies))

    subscriber(handle_list if lists else handle)
    async with stream.client(job.nats_url) as connection:
        await stream.create(connection)
        await stream.fill(connection, job.events)
        await stream.create_durable(connection, DURABLE, pending)

        async def run() -> Figures:
            watch = Stopwatch()
            await broker.start()
            await done.wait()
            await stream.consumed(connection, DURABLE, job.events)
            return rate(job.events, watch.seconds())

        yield run
        await broker.stop()


def single_narrow(job: Job) -> AbstractAsyncContextManager[Run]:
    """Message by message, fetched by 50."""
    return _consume(job, NARROW, lists=False)


def single_wide(job: Job) -> AbstractAsyncContextManager[Run]:
    """Message by message, fetched by 500."""
    return _consume(job, WIDE, lists=False)


def lists_narrow(job: Job) -> AbstractAsyncContextManager[Run]:
    """Lists of 50."""
    return _consume(job, NARROW, lists=True)


def lists_wide(job: Job) -> AbstractAsyncContextManager[Run]:
    """Lists of 500."""
    return _consume(job, WIDE, lists=True)
