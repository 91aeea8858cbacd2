"""The stream of a run, through nats-py alone: made, filled, watched and checked.

Owns: what counts as arrived. Guarantees: ``verify`` raises ``WrongResult`` where the stream does
not hold exactly the events of the run.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client

from bench import workload

BATCH = 1000
"""The most that the server takes in one atomic batch."""
LOOK_EVERY_SECONDS = 0.05
ACKED_EVERY_SECONDS = 0.005
SPOT_CHECKS = 25


class WrongResult(Exception):
    """A contender says that it is done, and the stream says otherwise."""


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    """A connection of its own."""
    connection = await nats.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def create(connection: Client, config: Mapping[str, object] = workload.STREAM_CONFIG) -> None:
    """The stream, as JSON: nats-py's own configuration has no ``allow_atomic``."""
    await _ask(connection, f"STREAM.CREATE.{config['name']}", config)


async def create_durable(
    connection: Client, durable: str, pending: int, *, on: str = workload.STREAM
) -> None:
    """A pull consumer of everything, with at most ``pending`` unacknowledged."""
    config = {"durable_name": durable, "ack_policy": "explicit", "max_ack_pending": pending}
    request = {"stream_name": on, "config": config, "action": "create"}
    await _ask(connection, f"CONSUMER.CREATE.{on}.{durable}", request)


async def count(connection: Client) -> int:
    """How many messages the stream holds."""
    info = await _ask(connection, f"STREAM.INFO.{workload.STREAM}", None)
    return int(info["state"]["messages"])


async def publish_batch(
    connection: Client, batch: str, messages: Sequence[tuple[bytes, dict[str, str]]]
) -> None:
    """One atomic batch of ``messages``, by nats-py's public API."""
    for place, (payload, headers) in enumerate(messages[:-1], start=1):
        sent = {**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(place)}
        await connection.publish(workload.SUBJECT, payload, headers=sent)
    payload, headers = messages[-1]
    last = {
        **headers,
        "Nats-Batch-Id": batch,
        "Nats-Batch-Sequence": str(len(messages)),
        "Nats-Batch-Commit": "1",
    }
    reply = await connection.request(workload.SUBJECT, payload, timeout=30, headers=last)
    answer = json.loads(reply.data)
    if answer.get("count") != len(messages):
        raise WrongResult(f"an atomic batch was answered with {answer}")


async def fill(connection: Client, events: int) -> None:
    """The events of a run, straight onto the stream."""
    for first in range(0, events, BATCH):
        numbers = range(first, min(first + BATCH, events))
        messages = [(workload.payload(number), workload.headers(number)) for number in numbers]
        await publish_batch(connection, f"fill-{first}", messages)


async def arrived(connection: Client, events: int) -> None:
    """Return when the stream holds ``events``, or more, which ``verify`` refuses."""
    while await count(connection) < events:
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def consumed(connection: Client, durable: str, events: int) -> None:
    """Return when the server has the acknowledgement of every event; raise where some came twice.

    Flushes ``connection``, for those that are acknowledged over it.
    """
    await connection.flush()
    while True:
        info = await _ask(connection, f"CONSUMER.INFO.{workload.STREAM}.{durable}", None)
        if info["ack_floor"]["stream_seq"] >= events:
            break
        await asyncio.sleep(ACKED_EVERY_SECONDS)
    if (delivered := info["delivered"]["consumer_seq"]) != events:
        raise WrongResult(f"{delivered} deliveries of {events} events")


async def verify(connection: Client, events: int) -> None:
    """As many messages as events, and a sample of them as they were written, ids all different."""
    if (held := await count(connection)) != events:
        raise WrongResult(f"the stream holds {held} messages for {events} events")
    ids: set[str] = set()
    numbers: set[int] = set()
    sample = random.sample(range(1, events + 1), min(SPOT_CHECKS, events))
    for sequence in sample:
        message = await connection.jetstream().get_msg(workload.STREAM, sequence, direct=True)
        said = json.loads(message.data or b"null")
        number, sent = said["number"], message.headers or {}
        if said != workload.body(number) or sent.get(workload.ORDERING_KEY) != workload.key(number):
            raise WrongResult(f"message {sequence} is not as it was written: {sent} {said}")
        ids.add(sent.get(workload.MESSAGE_ID, ""))
        numbers.add(number)
    if "" in ids or len(ids) != len(sample) or len(numbers) != len(sample):
        raise WrongResult("an event is missing its id, or is on the stream twice")


async def _ask(connection: Client, subject: str, request: object) -> dict[str, Any]:
    sent = b"" if request is None else json.dumps(request).encode()
    reply = await connection.request(f"$JS.API.{subject}", sent, timeout=10)
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        raise WrongResult(f"{subject}: {answer['error']}")
    return answer
