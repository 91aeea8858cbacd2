"""When a durable has tried often enough: one letter, however the last attempt ended.

The module is also the program that dies: ``python test_end_of_patience.py URL DATABASE``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import pytest

from seaway import topology
from seaway.app import Seaway
from seaway.consumer import Delivery
from seaway.contracts import Message, Stored
from seaway.dead_letters import Letter
from seaway.embedded.nats_server import NatsServer
from seaway.events import RawEvent
from seaway.retry import Backoff
from seaway.stores import open_store
from seaway.telemetry import DeadLettered, Delivered, Signal

OnFailure: TypeAlias = Literal["continue", "park"]

pytestmark = pytest.mark.server

DURABLE = "case_mgmt__from_sea"
BASE, CAP = timedelta(milliseconds=2), timedelta(milliseconds=16)


def settings(url: str, database: str, *, max_deliver: int, ack_wait: str) -> dict[str, Any]:
    consumer = {
        "stream": "SEA_EVENTS",
        "durable": DURABLE,
        "max_deliver": max_deliver,
        "ack_wait": ack_wait,
    }
    return {
        "nats": {"url": url},
        "database": database,
        "streams": [{"name": "SEA_EVENTS", "replicas": 1, "storage": "memory"}],
        "consumers": [consumer],
    }


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    store = await open_store(url)
    await store.schema.upgrade()
    await store.close()
    return url


@asynccontextmanager
async def opened(config: dict[str, Any], *ids: str) -> AsyncIterator[Seaway]:
    """An application whose streams are there, with an event for each id."""
    app = Seaway.from_config(config)
    async with app:
        admin, wanted = app.broker.admin, topology.desired(app.settings)
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)
        subject = "sea.event.moved.v1"
        messages = [
            Message(subject, b"{}", {"Nats-Msg-Id": one, "X-Ordering-Key": "case-1"}) for one in ids
        ]
        done = await app.broker.publish("SEA_EVENTS", messages, timeout=timedelta(seconds=5))
        assert all(isinstance(one, Stored) for one in done)
        yield app


async def letters(app: Seaway) -> list[Letter]:
    return list(await app.dead_letters.list())


@pytest.mark.parametrize("on_failure", ["continue", "park"])
async def test_a_handler_that_always_fails_has_its_attempts_and_one_letter(
    nats_server_own: NatsServer, database: str, on_failure: OnFailure
) -> None:
    config = settings(nats_server_own.url, database, max_deliver=20, ack_wait="30s")
    heard: list[Signal] = []
    attempts: list[tuple[int, float]] = []
    stop = asyncio.Event()
    async with opened(config, "bad") as app:
        consumer = app.consumer(
            "case_mgmt", from_context="sea", retry=Backoff(BASE, CAP, BASE), on_failure=on_failure
        )

        @consumer.handler(RawEvent)
        async def fail(event: RawEvent, delivery: Delivery) -> None:
            attempts.append((delivery.deliveries, asyncio.get_running_loop().time()))
            raise OSError("the post office is closed\nand so is the bank")

        def hear(signal: Signal) -> None:
            heard.append(signal)
            if isinstance(signal, DeadLettered):
                stop.set()

        app.telemetry.subscribe(hear)
        async with asyncio.timeout(60):
            await app.run(stop, relay=False)
        [letter] = await letters(app)
        info = await app.broker.admin.consumer("SEA_EVENTS", DURABLE)
    assert [number for number, _ in attempts] == list(range(1, 21))
    assert (letter.reason, letter.deliveries, letter.event_id) == ("exhausted", 20, "bad")
    assert letter.error_type == "OSError"
    outcomes = [one.outcome for one in heard if isinstance(one, Delivered)]
    assert outcomes == ["retried"] * 19 + ["dead_lettered"]
    [told] = [one for one in heard if isinstance(one, DeadLettered)]
    assert (told.reason, told.error_type, told.error) == (
        "exhausted",
        "OSError",
        "the post office is closed",
    )
    waits = [later - sooner for (_, sooner), (_, later) in itertools.pairwise(attempts)]
    assert min(waits) >= BASE.total_seconds() * 0.9, "none comes back at once"
    assert info is not None
    assert (info.num_ack_pending, info.ack_floor) == (0, 1)


async def die(url: str, database: str) -> None:
    """Be killed in the handler, each time."""
    app = Seaway.from_config(settings(url, database, max_deliver=3, ack_wait="500ms"))
    on_failure = cast(OnFailure, os.environ["ON_FAILURE"])
    consumer = app.consumer("case_mgmt", from_context="sea", on_failure=on_failure)

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        print(delivery.event_id, delivery.deliveries, flush=True)
        if delivery.event_id == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)

    await app.run(relay=False)


@pytest.mark.parametrize("on_failure", ["continue", "park"])
async def test_a_process_that_dies_on_every_attempt_leaves_one_letter(
    nats_server_own: NatsServer, database: str, on_failure: str
) -> None:
    config = settings(nats_server_own.url, database, max_deliver=3, ack_wait="500ms")
    calls: list[tuple[str, int]] = []
    async with opened(config, "deadly", "later") as app:

        async def all_is_over() -> None:
            while True:
                info = await app.broker.admin.consumer("SEA_EVENTS", DURABLE)
                assert info is not None
                pending = info.num_pending or info.num_ack_pending
                if not pending and await letters(app):
                    return
                await asyncio.sleep(0.05)

        waiting = asyncio.create_task(all_is_over())
        try:
            async with asyncio.timeout(90):
                while not waiting.done():
                    process = await asyncio.create_subprocess_exec(
                        sys.executable,
                        __file__,
                        nats_server_own.url,
                        database,
                        stdout=asyncio.subprocess.PIPE,
                        env={**os.environ, "ON_FAILURE": on_failure},
                    )
                    ended = asyncio.create_task(process.communicate())
                    try:
                        await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not ended.done():
                            process.kill()
                        out, _ = await ended
                    words = out.decode().split()
                    calls += zip(words[::2], map(int, words[1::2]), strict=True)
        finally:
            waiting.cancel()
        found = await letters(app)
    # The first is in no note, since nobody knew; then max_deliver of them.
    assert [number for event_id, number in calls if event_id == "deadly"] == [1, 2, 3, 4]
    told = {one.event_id: (one.reason, one.deliveries) for one in found}
    assert len(told) == len(found)
    assert told.pop("deadly") == ("exhausted", 4)
    # Whoever was in hand beside it each time has not died of it.
    handled = [event_id for event_id, _ in calls if event_id == "later"]
    if on_failure == "park":
        assert [reason for reason, _ in told.values()] + handled in (["parked"], ["later"])
    else:
        assert (told, handled) == ({}, ["later"])


if __name__ == "__main__":
    asyncio.run(die(*sys.argv[1:]))
