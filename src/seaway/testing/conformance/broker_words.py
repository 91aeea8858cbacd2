"""The words in which the broker suite speaks: streams made, events published, received, read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from seaway import headers as h
from seaway import naming
from seaway.contracts import (
    JSON,
    Broker,
    ConsumerInfo,
    Incoming,
    Message,
    PublishOutcome,
    Refused,
    StoredMessage,
    StreamInfo,
    Subscription,
)
from seaway.errors import ApiError

TIMEOUT = timedelta(seconds=10)
AT_ONCE = timedelta(0)
SOON = timedelta(milliseconds=200)
DURABLE = "case_mgmt__from_tests"


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> Any:
    """Poll until ``condition`` gives something true, and return it."""
    async with asyncio.timeout(seconds):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(0.01)


def durable_config(**more: Any) -> JSON:
    """A durable with explicit acks that takes everything."""
    return {"name": DURABLE, "durable_name": DURABLE, "ack_policy": "explicit", **more}


async def make(
    broker: Broker, context: str, *, durable: JSON | None = None, **config: Any
) -> StreamInfo:
    """Create the context's event stream and, where ``durable`` is given, its durable."""
    name = naming.events_stream(context)
    subjects = [naming.events_filter(context)]
    info = await broker.admin.create_stream(
        {"name": name, "subjects": subjects, "storage": "memory", **config}
    )
    if durable is not None:
        await broker.admin.create_consumer(name, durable_config(**durable))
    return info


def events(context: str, count: int, *, key: str | None = None, ids: bool = False) -> list[Message]:
    """``count`` messages with their number as payload."""
    found = []
    for number in range(count):
        headers = {} if key is None else {h.ORDERING_KEY: key}
        if ids:
            headers[h.MSG_ID] = f"{context}-{number}"
        found.append(Message(f"{context}.event.case_created.v1", b"%d" % number, headers))
    return found


async def publish(
    broker: Broker, *messages: Message, stream: str | None = None
) -> list[PublishOutcome]:
    """Publish to the stream of the messages' context."""
    name = stream or naming.events_stream(naming.context_of(messages[0].subject.split(" ")[0]))
    return list(await broker.publish(name, messages, timeout=TIMEOUT))


async def receive(pull: Subscription, count: int) -> list[Incoming]:
    """Exactly ``count`` deliveries, however many calls they take."""
    found: list[Incoming] = []
    while len(found) < count:
        gaps = pull.gaps
        batch = await pull.next(count - len(found), timeout=TIMEOUT)
        assert batch or pull.gaps > gaps, f"only {len(found)} of {count} messages came"
        found += batch
    return found


async def everything(broker: Broker, context: str, **options: Any) -> list[StoredMessage]:
    """What the context's event stream holds."""
    name = naming.events_stream(context)
    return [stored async for stored in broker.admin.read(name, **options)]


async def consumer(broker: Broker, stream: str) -> ConsumerInfo:
    """The durable as the broker describes it."""
    info = await broker.admin.consumer(stream, DURABLE)
    assert info is not None
    return info


async def refusal(call: Awaitable[object]) -> int:
    """The err_code with which the call is refused."""
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value.err_code


def expect_refused(outcome: PublishOutcome) -> Refused:
    """The outcome, which must be a refusal."""
    assert isinstance(outcome, Refused)
    return outcome


def payloads(messages: Sequence[StoredMessage]) -> list[bytes]:
    """Their payloads, in order."""
    return [stored.message.payload for stored in messages]


def nanoseconds(period: timedelta) -> int:
    """A duration as JetStream writes it."""
    return round(period.total_seconds() * 1e9)
