"""Preforked writers whose clocks are set back, a relay beside them: each event is on the stream."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from seaway.brokers.jetstream import JetStreamBroker
from seaway.contracts import Store
from seaway.relay import Relay
from seaway.stores import open_store
from seaway.telemetry import Relayed, Telemetry

WRITERS = 8

WRITING = """
import contextlib, os, signal, sqlite3, sys, time
import psycopg
from seaway import Outbox, RawEvent
from seaway.events import new_event_id

database, subject, events, writers, notes = sys.argv[1:]
real = time.time_ns

def set_back(seconds):
    time.time_ns = lambda: real() - seconds * 1_000_000_000

def connect():
    if database.startswith("sqlite"):
        path = database.removeprefix("sqlite:///")
        return sqlite3.connect(path, timeout=30, isolation_level=None)
    return psycopg.connect(database, autocommit=True)

@contextlib.contextmanager
def transaction(db):
    db.execute("BEGIN IMMEDIATE" if isinstance(db, sqlite3.Connection) else "BEGIN")
    yield
    db.execute("COMMIT")

def write(writer):
    outbox, db, said = Outbox(), connect(), []
    for number in range(0, int(events), 25):
        if number >= int(events) // 2:
            set_back(10)
        key = f"{writer}-{number // 25 % 10}"
        with transaction(db):
            added = outbox.add(db, *[RawEvent(subject, b"{}")] * 25, key=key)
        said += [f"{key} {event_id}" for event_id in added]
    with open(f"{notes}/{writer}", "w") as file:
        file.write("\\n".join(said))

new_event_id()
set_back(5)
for writer in range(int(writers)):
    if os.fork() == 0:
        signal.alarm(100)  # One that hangs must not stay.
        write(writer)
        os._exit(0)
while True:
    try:
        _, code = os.wait()
    except ChildProcessError:
        break
    if code:
        sys.exit(f"a writer ended with {code}")
"""


@pytest.mark.parametrize(("engine", "events"), [("postgres", 40_000), ("sqlite", 4_000)])
async def test_what_preforked_writers_commit_is_on_the_stream(
    engine: str,
    events: int,
    broker: JetStreamBroker,
    context_name: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    sqlite = engine == "sqlite"
    url = f"sqlite:///{tmp_path}/a.db" if sqlite else request.getfixturevalue("postgres_url")
    stream = f"{context_name.upper()}_EVENTS"
    await broker.admin.create_stream(
        {"name": stream, "subjects": [f"{context_name}.event.>"], "allow_atomic": True}
    )
    store, telemetry = await open_store(url), Telemetry()
    relayed: list[Relayed] = []
    telemetry.subscribe(lambda one: relayed.append(one) if isinstance(one, Relayed) else None)
    try:
        await store.schema.upgrade()
        stop = asyncio.Event()
        relay = asyncio.create_task(Relay(store, broker, telemetry=telemetry).run(stop))
        notes = tmp_path / "notes"
        notes.mkdir()
        subject = f"{context_name}.event.moved.v1"
        written = await _written(url, subject, str(events // WRITERS), notes)
        await _drained(store)
        stop.set()
        await relay
    finally:
        await store.close()
    ids = [event_id for ids in written.values() for event_id in ids]
    assert len(set(ids)) == len(ids) == events
    on_stream = defaultdict(list)
    async for one in broker.admin.read(stream, headers_only=True):
        on_stream[one.message.key].append(one.event_id)
    assert on_stream == written
    assert sum(one.duplicates for one in relayed) == 0


async def _written(url: str, subject: str, events: str, notes: Path) -> dict[str, list[str]]:
    """The ids that were committed, by key, in their order."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITING, url, subject, events, str(WRITERS), str(notes)),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONWARNINGS": "ignore::DeprecationWarning"},
    )
    _, said = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, said.decode()
    assert said == b""
    written = defaultdict(list)
    for writer in notes.iterdir():
        for line in writer.read_text().splitlines():
            key, event_id = line.split()
            written[key].append(event_id)
    return written


async def _drained(store: Store) -> None:
    async with asyncio.timeout(60):
        while (await store.backlog()).count:
            await asyncio.sleep(0.05)
