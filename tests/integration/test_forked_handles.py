"""What a process opened is refused in its forks, in words; what those open themselves works.

A fork copies sockets and loops, but no threads: two processes would write to one socket, and a
question to a thread that is not there is never answered.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seaway.embedded.nats_server import NatsServer

SCRIPT = """
import asyncio, multiprocessing, os, signal
from datetime import timedelta
from seaway import RawEvent, Seaway, topology
from seaway.contracts import Message
from seaway.errors import ConfigError
from seaway.stores import open_configured

app = Seaway.from_config({
    "nats": {"url": os.environ["NATS_URL"]},
    "database": os.environ["DATABASE"],
    "streams": [{"name": "SEA_EVENTS", "replicas": 1}],
})

async def answer(what, doing):
    "One line: what came of it."
    try:
        async with asyncio.timeout(10):
            print(f"{what}:", "worked", await doing() or "")
    except ConfigError as error:
        print(f"{what}:", error)
    except BaseException as error:
        print(f"{what}: BROKEN", repr(error))

async def forked(work):
    "Run ``work`` in a fork, to its end."
    def target():
        signal.alarm(100)  # One that hangs must not stay.
        asyncio.run(work())
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    await asyncio.to_thread(process.join)

async def write():
    async with (await app.open_store()).transaction() as tx:
        await app.outbox.add(tx.handle, RawEvent("sea.event.a.v1", b"{}"))

async def main():
    async with await open_configured(app.settings) as made:
        await made.schema.upgrade()
    async with app:
        broker, store = app.broker, await app.open_store()
        plan = topology.plan(topology.desired(app.settings), await topology.actual(broker.admin))
        await topology.apply(plan, broker.admin)
        await write()

        async def transaction():
            async with store.transaction():
                pass
        async def lease():
            async with store.lease():
                pass
        async def publish():
            event = Message("sea.event.a.v1", b"{}", {})
            await broker.publish("SEA_EVENTS", [event], timeout=timedelta(seconds=2))
        async def subscribe():
            async with broker.subscribe("SEA_EVENTS", "a__b"):
                pass
        async def child():
            await answer("app.broker", lambda: asyncio.sleep(0, app.broker))
            await answer("app.open_store", app.open_store)
            await answer("backlog", store.backlog)
            await answer("transaction", transaction)
            await answer("lease", lease)
            await answer("schema", store.schema.verify)
            await answer("streams", broker.admin.streams)
            await answer("publish", publish)
            await answer("subscribe", subscribe)
            await answer("store.close", store.close)
            await answer("broker.close", broker.close)
            app.nudge()
        await forked(child)
        await answer("parent writes", write)
        await answer("parent asks", lambda: broker.admin.consumers("SEA_EVENTS"))

        async def anew():
            async with app:
                await write()
                return (await (await app.open_store()).backlog()).count
        await forked(lambda: answer("anew", anew))

        async def run():
            stop = asyncio.Event()
            running = asyncio.create_task(app.run(stop))
            while not running.done():
                await asyncio.sleep(0.05)
                try:
                    if (await (await app.open_store()).backlog()).count == 0:
                        stop.set()
                except ConfigError:
                    pass  # It is not connected yet.
            return await running
        await forked(lambda: answer("run", run))
        await answer("parent drains", (await app.relay()).drain)
        print("stream:", (await broker.admin.stream("SEA_EVENTS")).messages)

asyncio.run(main())
"""
REFUSED = (
    *("app.broker", "app.open_store", "backlog", "transaction", "lease", "schema"),
    *("streams", "publish", "subscribe"),
)


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_what_was_opened_before_a_fork(
    engine: str, tmp_path: Path, nats_server_own: NatsServer, request: pytest.FixtureRequest
) -> None:
    sqlite = engine == "sqlite"
    url = f"sqlite:///{tmp_path}/a.db" if sqlite else request.getfixturevalue("postgres_url")
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        env=os.environ | {"NATS_URL": nats_server_own.url, "DATABASE": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    shown = f"{done.stdout}\n{done.stderr}"
    for what in REFUSED:
        assert "before this process was forked" in said[what], shown
        assert "open it in each process" in said[what], shown
    for what in ("store.close", "broker.close", "parent writes", "parent asks", "run"):
        assert said[what].startswith("worked"), shown
    assert (said["anew"], said["parent drains"], said["stream"]) == ("worked 3", "worked ", "3"), (
        shown
    )
    assert done.stderr == "", shown
