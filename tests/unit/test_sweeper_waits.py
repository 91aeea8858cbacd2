"""A sweeper without its stream of advisories says what it waits for, until it is there."""

from __future__ import annotations

import asyncio

from consuming import until
from seaway.dead_letters import Sweeper
from seaway.naming import ADVISORY_STREAM, SWEEPER_DURABLE
from seaway.telemetry import Telemetry
from seaway.testing.memory_broker import MemoryBroker


async def test_it_says_what_it_waits_for_until_that_is_there() -> None:
    broker, telemetry, stop = MemoryBroker(), Telemetry(), asyncio.Event()
    running = asyncio.create_task(Sweeper(broker, telemetry=telemetry).run(stop))
    try:
        await until(lambda: bool(telemetry.waits))
        [wait] = telemetry.waits
        assert (wait.part, wait.about) == ("sweeper", ADVISORY_STREAM)
        assert ADVISORY_STREAM in wait.reason
        await broker.admin.create_stream({"name": ADVISORY_STREAM, "subjects": ["advisory.>"]})
        await broker.admin.create_consumer(ADVISORY_STREAM, {"durable_name": SWEEPER_DURABLE})
        await until(lambda: not telemetry.waits, within=20)
    finally:
        stop.set()
        await running
