"""A relay that dies at the worst moment, and several that die at any: nothing lost, nothing twice.

The module is also the program that dies: ``python test_relay_crash.py NATS_URL DATABASE_URL``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from seaway import headers as h
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.contracts import Broker, Failed, Sent, Store
from seaway.embedded.nats_server import NatsServer
from seaway.events import RawEvent
from seaway.relay import Relay
from seaway.stores import open_store
from seaway.telemetry import Relayed, Telemetry
from seaway.testing.conformance.outbox import add
from seaway.testing.drills.relay import Plan, run

pytestmark = pytest.mark.server

STREAM, SUBJECT = "CRASH_EVENTS", "crash.event.moved.v1"
WINDOW = timedelta(seconds=2)
EVENTS, BATCH, KEYS = 350, 100, 7


async def relay_and_die(nats: str, database: str) -> None:
    """Publish, and be killed with the acknowledgement in hand, before anything is settled."""
    from seaway.stores.postgres.lease import PostgresLease
    from seaway.stores.sqlite.lease import SqliteLease

    async def die(lease: object, sent: Sequence[Sent], failed: Sequence[Failed] = ()) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    PostgresLease.settle = SqliteLease.settle = die  # type: ignore[method-assign, assignment]
    broker = await connect(NatsSettings(url=nats))
    store = await open_store(database)
    await Relay(store, broker, telemetry=Telemetry(), batch=BATCH).run(asyncio.Event())


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/app.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = await open_store(database)
    await store.schema.upgrade()
    yield store
    await store.close()


@pytest.fixture
async def broker(nats_server_own: NatsServer) -> AsyncIterator[Broker]:
    broker = await connect(NatsSettings(url=nats_server_own.url))
    window = WINDOW // timedelta(microseconds=1) * 1000
    await broker.admin.create_stream(
        {
            "name": STREAM,
            "subjects": ["crash.event.>"],
            "allow_atomic": True,
            "duplicate_window": window,
        }
    )
    yield broker
    await broker.close()


async def on_stream(broker: Broker) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    async for stored in broker.admin.read(STREAM):
        found[stored.message.key].append(stored.message.headers[h.MSG_ID])
    return found


async def newest(broker: Broker) -> datetime:
    info = await broker.admin.stream(STREAM)
    assert info is not None
    assert info.last_at is not None
    return info.last_at


async def test_killed_between_acknowledgement_and_settling_beyond_the_window(
    store: Store, broker: Broker, database: str, nats_server_own: NatsServer
) -> None:
    events = [RawEvent(SUBJECT, b"%d" % n, key=f"case-{n % KEYS}") for n in range(EVENTS)]
    added = await add(store, *events)
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, nats_server_own.url, database
    )
    assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL
    assert (await store.backlog()).count == EVENTS

    # The stream has to forget the ids: that is the case. What the server had not read when the
    # process died, is there by then.
    async with asyncio.timeout(30):
        while datetime.now(UTC) - await newest(broker) < 1.5 * WINDOW:
            await asyncio.sleep(0.1)
    sent = sum(map(len, (await on_stream(broker)).values()))
    assert sent >= BATCH
    late = await add(store, RawEvent(SUBJECT, b"late", key="case-0"))

    known, telemetry = 0, Telemetry()

    def count(signal: object) -> None:
        nonlocal known
        known += signal.duplicates if isinstance(signal, Relayed) else 0

    telemetry.subscribe(count)
    relay = Relay(store, broker, telemetry=telemetry, batch=BATCH)
    assert await asyncio.wait_for(relay.drain(), 30) == EVENTS + 1
    assert known == sent
    found = await on_stream(broker)
    assert sorted(event_id for ids in found.values() for event_id in ids) == sorted(added + late)
    for key in range(KEYS):
        expected = added[key::KEYS] + (late if key == 0 else [])
        assert found[f"case-{key}"] == expected
    assert len(await store.sent(limit=1000)) == EVENTS + 1


@pytest.mark.timeout(180)
async def test_relays_killed_stopped_and_cut_off_at_random_are_exact() -> None:
    plan = Plan(
        events=30_000, keys=100, relays=3, shards=3, kills=5, stops=5, server_restarts=1, seed=7
    )
    report = await run(plan, said=print)
    assert report.passed, report
    assert report.committed == report.on_stream == plan.events
    assert (report.kills, report.stops) == (5, 5)
    assert report.server_restarts == 1


if __name__ == "__main__":
    asyncio.run(relay_and_die(*sys.argv[1:]))
