"""Seaway beside the raw client, in one run on one machine: ratios, not absolute times.

    make bench                    # 20,000 events, median of 3
    make bench ARGS="--events 5000 --rounds 1"

Everything stays on loopback, bounded by the number of events, on a server and a database that are
started for the run and removed after it. The table goes to stdout, the same as JSON to
``bench/results/``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from rich.console import Console
from rich.table import Table

from seaway import Delivery, Outbox, RawEvent
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.consumer import Consumer
from seaway.contracts import Message, Stored
from seaway.dead_letters import DeadLetters
from seaway.embedded.nats_server import NatsServer
from seaway.naming import Durable
from seaway.relay import Relay
from seaway.stores import open_store
from seaway.telemetry import Delivered, Signal, Telemetry

PAYLOAD = json.dumps({"case": "case-10011", "note": "x" * 160}).encode()
SUBJECT = "sea.event.case_moved.v1"
TIMEOUT = timedelta(seconds=10)
DURABLE = Durable.from_context("bench", "sea")


def headers(round_: str, number: int) -> dict[str, str]:
    """An id of its own, and one of a hundred ordering keys."""
    return {"Nats-Msg-Id": f"{round_}-{number}", "X-Ordering-Key": f"case-{number % 100}"}


async def raw_publish(server: NatsServer, count: int, round_: str) -> float:
    """nats-py: ``publish`` gathered by 500, which is how its users go fast in order."""
    client = await nats.connect(server.url)
    stream = client.jetstream()
    began = time.perf_counter()
    for first in range(0, count, 500):
        await asyncio.gather(
            *(
                stream.publish(SUBJECT, PAYLOAD, headers=headers(round_, number))
                for number in range(first, min(first + 500, count))
            )
        )
    took = time.perf_counter() - began
    await client.close()
    return count / took


async def batch_publish(broker: JetStreamBroker, count: int, round_: str) -> float:
    """Seaway's broker alone: atomic batches of 1,000."""
    began = time.perf_counter()
    for first in range(0, count, 1000):
        batch = [
            Message(SUBJECT, PAYLOAD, headers(round_, number))
            for number in range(first, min(first + 1000, count))
        ]
        outcomes = await broker.publish("SEA_EVENTS", batch, timeout=TIMEOUT)
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
    return count / (time.perf_counter() - began)


async def relay_sqlite(broker: JetStreamBroker, count: int, folder: Path) -> float:
    """The whole relay on SQLite: claim, publish, settle, and keep what was sent."""
    store = await open_store(f"sqlite:///{folder / 'relay.db'}")
    await store.schema.upgrade()
    outbox = Outbox()
    for first in range(0, count, 1000):
        async with store.transaction() as tx:
            for number in range(first, min(first + 1000, count)):
                await outbox.add(tx.handle, RawEvent(SUBJECT, PAYLOAD, key=f"case-{number % 100}"))
    relay = Relay(store, broker, telemetry=Telemetry())
    began = time.perf_counter()
    sent = await relay.drain()
    took = time.perf_counter() - began
    await store.close()
    assert sent == count
    return count / took


async def raw_consume(server: NatsServer, count: int) -> float:
    """nats-py: ``fetch(50)`` and ``ack``, unconfirmed."""
    client = await nats.connect(server.url)
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=50)
    subscription = await client.jetstream().pull_subscribe("sea.event.>", "raw", config=config)
    began, seen = time.perf_counter(), 0
    while seen < count:
        for message in await subscription.fetch(min(50, count - seen)):
            await message.ack()
            seen += 1
    took = time.perf_counter() - began
    await client.jetstream().delete_consumer("SEA_EVENTS", "raw")
    await client.close()
    return count / took


async def consume(broker: JetStreamBroker, count: int, folder: Path | None) -> float:
    """Seaway's consumer with confirmed acks; with a folder: inbox and one insert on SQLite."""
    for stream in ("SEA_EVENTS", "SEA_REDRIVE"):
        await broker.admin.delete_consumer(stream, str(DURABLE))
        await broker.admin.create_consumer(
            stream,
            {"durable_name": str(DURABLE), "ack_policy": "explicit", "max_ack_pending": 50},
        )
    store = None
    if folder is not None:
        store = await open_store(f"sqlite:///{folder / 'consume.db'}")
        await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE effects (event_id TEXT, subject TEXT)")
    consumer = Consumer(DURABLE, stream="SEA_EVENTS", batch=50, tx="store" if store else None)
    stop, seen, telemetry = asyncio.Event(), 0, Telemetry()

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if store is not None:
            await delivery.tx.execute(
                "INSERT INTO effects VALUES (?, ?)", (delivery.event_id, delivery.subject)
            )

    def listen(signal: Signal) -> None:
        nonlocal seen
        seen += isinstance(signal, Delivered)
        if seen == count:
            stop.set()

    telemetry.subscribe(listen)
    began = time.perf_counter()
    await consumer.run(
        broker,
        store=store,
        outbox=None,
        dead_letters=DeadLetters(broker),
        telemetry=telemetry,
        stop=stop,
    )
    took = time.perf_counter() - began
    if store is not None:
        await store.close()
    return count / took


async def median(rounds: int, measure: Callable[[str], Awaitable[float]]) -> float:
    """The median of ``rounds`` runs."""
    return statistics.median([await measure(f"{time.time_ns()}") for _ in range(rounds)])


async def fresh(broker: JetStreamBroker) -> None:
    """The same empty streams for every measurement."""
    for name, subjects in (("SEA_EVENTS", ["sea.event.>"]), ("SEA_REDRIVE", ["sea.redrive.>"])):
        await broker.admin.delete_stream(name)
        await broker.admin.create_stream(
            {"name": name, "subjects": subjects, "allow_atomic": True, "allow_direct": True}
        )


async def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    count, err = arguments.events, Console(stderr=True)
    figures: dict[str, float] = {}
    async with NatsServer() as server:
        broker = await connect(NatsSettings(url=server.url))

        async def run(name: str, measure: Callable[[str], Awaitable[float]]) -> None:
            err.print(f"{name} …")
            figures[name] = await median(arguments.rounds, measure)

        async def relay(round_: str) -> float:
            await fresh(broker)
            with tempfile.TemporaryDirectory() as folder:
                return await relay_sqlite(broker, count, Path(folder))

        async def consume_sqlite(round_: str) -> float:
            with tempfile.TemporaryDirectory() as folder:
                return await consume(broker, count, Path(folder))

        await fresh(broker)
        await run("publish: nats-py, gathered", lambda key: raw_publish(server, count, key))
        await run("publish: atomic batches", lambda key: batch_publish(broker, count, key))
        await run("publish: relay on SQLite", relay)
        await run("consume: nats-py fetch + ack", lambda key: raw_consume(server, count))
        await run("consume: seaway, no database", lambda key: consume(broker, count, None))
        await run("consume: seaway on SQLite", consume_sqlite)
        await broker.close()
    show(figures)
    write(figures, count, arguments.rounds)


def show(figures: dict[str, float]) -> None:
    """The table, each line as a multiple of the raw client's way."""
    table = Table(box=None, header_style="bold")
    for title in ("what", "events/s", "x raw client"):
        table.add_column(title, justify="left" if title == "what" else "right")
    for name, figure in figures.items():
        raw = next(
            value
            for other, value in figures.items()
            if other[:7] == name[:7] and "nats-py" in other
        )
        table.add_row(name, f"{figure:,.0f}", f"{figure / raw:.2f}")
    Console().print(table)


def write(figures: dict[str, float], count: int, rounds: int) -> None:
    """The same as JSON, with the machine in it."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    moment = datetime.now(UTC)
    file = folder / f"{moment:%Y%m%dT%H%M%SZ}.json"
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    content = {
        "at": moment.isoformat(),
        "events": count,
        "rounds": rounds,
        "machine": machine,
        "events_per_second": figures,
    }
    file.write_text(json.dumps(content, indent=2) + "\n")
    Console(stderr=True).print(f"written to {file}")


if __name__ == "__main__":
    asyncio.run(main())
