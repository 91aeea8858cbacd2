"""What a real server says of durables that stand still and of subjects that are full."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import AlertSettings
from seaway.contracts import Message
from seaway.monitor import Sampler, Snapshot, State, Station, Watch, evaluate

pytestmark = pytest.mark.server

WAIT = timedelta(seconds=5)
NOTHING = timedelta(0)


class Bench:
    """One stream and one durable."""

    def __init__(self, broker: JetStreamBroker, context: str) -> None:
        self.broker, self.context = broker, context
        self.stream, self.durable = f"{context.upper()}_EVENTS", "svc__default"
        watch = Watch((self.stream,), ((self.stream, self.durable),))
        self.sampler = Sampler(Station("nats", self._connected), watch, every=NOTHING)

    async def _connected(self) -> JetStreamBroker:
        return self.broker

    async def make(self, **stream: Any) -> None:
        config = {"name": self.stream, "subjects": [f"{self.context}.event.>"]}
        await self.broker.admin.create_stream({**config, "storage": "memory", **stream})

    async def make_consumer(self, **more: Any) -> None:
        config = {"durable_name": self.durable, "ack_policy": "explicit", **more}
        await self.broker.admin.create_consumer(self.stream, config)

    async def publish(self, count: int, name: str = "case_moved") -> None:
        subject = f"{self.context}.event.{name}.v1"
        messages = [Message(subject, b"{}") for _ in range(count)]
        await self.broker.publish(self.stream, messages, timeout=WAIT)

    async def take(self, count: int) -> None:
        async with self.broker.subscribe(self.stream, self.durable) as source:
            await source.ack(*await source.next(count, timeout=WAIT))

    async def seen(self, *, later: float = 0) -> Snapshot:
        """A look, with the server's clock so many seconds later."""
        snapshot = (await self.sampler.sample()).snapshot
        [view] = snapshot.consumers
        assert view.asked_at is not None
        moved = replace(view, asked_at=view.asked_at + timedelta(seconds=later))
        return replace(snapshot, consumers=(moved,))


@pytest.fixture
def bench(broker: JetStreamBroker, context_name: str) -> Bench:
    return Bench(broker, context_name)


def standstills(snapshot: Snapshot) -> list[tuple[State, str]]:
    report = evaluate(snapshot, AlertSettings())
    return [(f.state, f.message) for f in report.findings if f.check == "consumer_standstill"]


async def test_a_durable_that_was_left_stands_still(bench: Bench) -> None:
    await bench.make()
    await bench.make_consumer()
    await bench.publish(9)
    await bench.take(2)
    where = f"{bench.stream}/{bench.durable}"
    told = f"nobody takes from {where}, 7 messages pending"
    assert standstills(await bench.seen()) == [(State.OK, told)]
    assert standstills(await bench.seen(later=62)) == [(State.WARNING, told)]
    await bench.take(7)
    assert standstills(await bench.seen(later=62)) == []


async def test_what_nobody_ever_took_from_is_told(bench: Bench) -> None:
    await bench.make()
    await bench.make_consumer()
    await bench.publish(3)
    seen = await bench.seen(later=5000)
    [(state, message)] = standstills(seen)
    [told] = [one for one in evaluate(seen, AlertSettings()).told if message == one.message]
    assert told.next_move.endswith(f"nats consumer rm {bench.stream} {bench.durable}")
    assert (state, message.partition(" from ")[0]) == (State.OK, "nobody has ever taken")


async def test_a_pause_is_told_as_that(bench: Bench) -> None:
    await bench.make()
    ends = datetime.now(UTC) + timedelta(hours=1)
    await bench.make_consumer(pause_until=ends.isoformat())
    await bench.publish(3)
    [(state, message)] = standstills(await bench.seen(later=1000))
    assert state is State.OK
    assert f" is paused until {ends:%Y-%m-%dT%H:%M:%S}" in message


async def test_a_watcher_sees_that_nothing_moves(bench: Bench) -> None:
    await bench.make()
    await bench.make_consumer()
    await bench.publish(3)
    await bench.take(1)
    key = (bench.stream, bench.durable)
    first = await bench.sampler.sample()
    second = await bench.sampler.sample()
    assert first.unmoved[key] == 0
    assert second.unmoved[key] > 0
    await bench.take(1)
    assert (await bench.sampler.sample()).unmoved[key] == 0


async def test_subjects_that_take_no_more_are_known(bench: Bench) -> None:
    await bench.make(discard="new", discard_new_per_subject=True, max_msgs_per_subject=2)
    await bench.make_consumer()
    await bench.publish(2, "full")
    await bench.publish(1, "free")
    [stream] = (await bench.seen()).streams
    assert stream.full_subjects == (f"{bench.context}.event.full.v1",)
