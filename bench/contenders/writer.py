"""What an event costs its writer: one connection, two kinds of transaction in turn.

Both insert a business row; one adds an event, the other a second plain row of about the event's
size. Timed from BEGIN to the end of COMMIT.
"""

from __future__ import annotations

import json
import random
import uuid
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg

from bench import workload
from bench.contenders.relay import opened
from bench.job import Figures, Job, Prepared, Run
from bench.timing import Stopwatch, percentiles
from seaway import Outbox, RawEvent

WARM_UP = 50
_TABLES = """
CREATE TABLE cases (id bigserial PRIMARY KEY, state text);
CREATE TABLE notes (id uuid PRIMARY KEY, at timestamptz DEFAULT now(), head text, body bytea);
"""
_NOTE = "INSERT INTO notes (id, head, body) VALUES ($1, $2, $3)"


@asynccontextmanager
async def _writer(job: Job, notify: bool) -> Prepared:
    outbox = Outbox(notify=notify)
    async with opened(job.postgres_url):
        database = await asyncpg.connect(job.postgres_url)
        await database.execute(_TABLES)

        async def with_event(number: int) -> float:
            payload, key = workload.payload(number), workload.key(number)
            watch = Stopwatch()
            async with database.transaction():
                await database.execute("INSERT INTO cases (state) VALUES ($1)", "moved")
                await outbox.add(database, RawEvent(workload.SUBJECT, payload, key=key))
            return watch.seconds()

        async def with_note(number: int) -> float:
            payload, head = workload.payload(number), json.dumps(workload.headers(number))
            watch = Stopwatch()
            async with database.transaction():
                await database.execute("INSERT INTO cases (state) VALUES ($1)", "moved")
                await database.execute(_NOTE, uuid.uuid4(), head, payload)
            return watch.seconds()

        async def run() -> Figures:
            events: list[float] = []
            notes: list[float] = []
            kinds = [(with_event, events), (with_note, notes)]
            for number in range(job.events):
                random.shuffle(kinds)
                for write, seconds in kinds:
                    seconds.append(await write(number))
            figures = percentiles("event", events) | percentiles("insert", notes)
            return figures | {"ratio_p50": figures["event_p50_ms"] / figures["insert_p50_ms"]}

        for number in range(WARM_UP):
            await with_event(number)
            await with_note(number)
        yield run
        await database.close()


def silent(job: Job) -> AbstractAsyncContextManager[Run]:
    """The relay finds the event by polling."""
    return _writer(job, notify=False)


def notifying(job: Job) -> AbstractAsyncContextManager[Run]:
    """The transaction also wakes the relay."""
    return _writer(job, notify=True)
