"""The redelivery count from outside, against known numbers of redeliveries on a real server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from seaway.brokers.jetstream import JetStreamBroker
from seaway.contracts import Broker, Message, Stored
from seaway.monitor import Sampler, Station, Watch
from seaway.monitor.sampler import count_between
from seaway.testing.conformance.broker_words import receive

WAIT = timedelta(seconds=5)
NOW = timedelta(0)


class Bench:
    """One stream, one durable, and a sampler that looks at every call."""

    def __init__(self, broker: JetStreamBroker, context: str, durable: str) -> None:
        self.broker, self.context, self.durable = broker, context, durable
        self.stream = f"{context.upper()}_EVENTS"
        watch = Watch((self.stream,), ((self.stream, durable),))
        self.sampler = Sampler(Station("nats", self._connected), watch, every=NOW)

    async def _connected(self) -> Broker:
        return self.broker

    async def publish(self, name: str, count: int) -> None:
        subject = f"{self.context}.event.{name}.v1"
        done = await self.broker.publish(
            self.stream, [Message(subject, b"{}") for _ in range(count)], timeout=WAIT
        )
        assert all(isinstance(outcome, Stored) for outcome in done)

    async def deliver(self, *, naks: int, messages: int) -> None:
        """Take ``messages``, sending back the first ``naks`` deliveries; each comes once more."""
        taken = refused = 0
        async with self.broker.subscribe(self.stream, self.durable) as subscription:
            while taken < messages:
                for incoming in await subscription.next(1, timeout=WAIT):
                    if refused < naks:
                        await subscription.nak(incoming, delay=NOW)
                        refused += 1
                    else:
                        assert all(await subscription.ack(incoming))
                        taken += 1

    async def counted(self) -> int:
        return (await self.sampler.sample()).redeliveries[self.stream, self.durable]


MakeBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
def make_bench(broker: JetStreamBroker, context_name: str) -> MakeBench:
    async def make(filter_subject: str | None = None, **stream: Any) -> Bench:
        bench = Bench(broker, context_name, "svc__default")
        config = {"name": bench.stream, "subjects": [f"{context_name}.event.>"]} | stream
        await broker.admin.create_stream(config)
        await create_durable(bench, filter_subject)
        return bench

    return make


async def create_durable(bench: Bench, filter_subject: str | None = None) -> None:
    config = {
        "durable_name": bench.durable,
        "ack_policy": "explicit",
        "ack_wait": 60_000_000_000,
        "max_deliver": 50,
    }
    if filter_subject:
        config["filter_subject"] = f"{bench.context}.{filter_subject}"
    await bench.broker.admin.create_consumer(bench.stream, config)


async def test_a_consumer_of_the_whole_stream(make_bench: MakeBench) -> None:
    bench = await make_bench()
    await bench.publish("opened", 10)
    assert await bench.counted() == 0
    await bench.deliver(naks=7, messages=10)
    assert await bench.counted() == 7
    assert await bench.counted() == 7
    await bench.publish("opened", 5)
    await bench.deliver(naks=0, messages=5)
    assert await bench.counted() == 7


@pytest.mark.parametrize("filter_subject", ["event.opened.v1", "event.opened.*"])
async def test_a_filter_narrower_than_the_stream(
    make_bench: MakeBench, filter_subject: str
) -> None:
    bench = await make_bench(filter_subject)
    await bench.counted()
    for _ in range(4):
        await bench.publish("opened", 3)
        await bench.publish("closed", 9)
    await bench.deliver(naks=5, messages=12)
    assert await bench.counted() == 5
    # What is pending behind the place reached does not count as delivered.
    await bench.publish("closed", 4)
    await bench.publish("opened", 6)
    await bench.deliver(naks=2, messages=3)
    assert await bench.counted() == 7


async def test_holes_in_the_stream_are_not_deliveries(make_bench: MakeBench) -> None:
    bench = await make_bench()
    await bench.counted()
    await bench.publish("opened", 12)
    for sequence in (1, 4, 5, 9):
        assert await bench.broker.admin.delete_message(bench.stream, sequence)
    await bench.deliver(naks=3, messages=8)
    assert await bench.counted() == 3


async def test_a_work_queue_whose_messages_vanish_when_settled(make_bench: MakeBench) -> None:
    bench = await make_bench("event.>", retention="workqueue")
    await bench.counted()
    await bench.publish("opened", 8)
    await bench.deliver(naks=4, messages=8)
    assert await bench.counted() == 4


async def test_a_recreated_consumer_never_counts_backwards(make_bench: MakeBench) -> None:
    bench = await make_bench()
    await bench.publish("opened", 5)
    await bench.counted()
    await bench.deliver(naks=6, messages=5)
    assert await bench.counted() == 6
    await bench.broker.admin.delete_consumer(bench.stream, bench.durable)
    await create_durable(bench)
    assert await bench.counted() == 6
    await bench.deliver(naks=2, messages=5)
    assert await bench.counted() == 8


async def test_what_is_given_out_again_is_counted(make_bench: MakeBench) -> None:
    bench = await make_bench()
    await bench.publish("opened", 6)
    await bench.counted()
    async with bench.broker.subscribe(bench.stream, bench.durable) as former:
        await receive(former, 6)
        assert await bench.counted() == 0
    async with bench.broker.subscribe(bench.stream, bench.durable) as again:
        assert await again.rewind() == 6
        await again.ack(*await receive(again, 2))
        assert await bench.counted() == 2
        await again.ack(*await receive(again, 4))
        await bench.publish("opened", 1)
        await again.ack(*await receive(again, 1))
        assert await bench.counted() == 6


async def test_counting_leaves_no_consumer_behind_and_ends_at_its_bound(
    make_bench: MakeBench,
) -> None:
    bench = await make_bench()
    for _ in range(5):
        await bench.publish("opened", 1)
        await bench.publish("closed", 1)
    admin = bench.broker.admin
    opened = (f"{bench.context}.event.opened.v1",)
    assert await count_between(admin, bench.stream, opened, after=2, upto=7) == 3
    assert await count_between(admin, bench.stream, (), after=2, upto=7) == 5
    assert await count_between(admin, bench.stream, opened, after=10, upto=10) == 0
    names = [info.durable for info in await admin.consumers(bench.stream)]
    assert names == [bench.durable]
