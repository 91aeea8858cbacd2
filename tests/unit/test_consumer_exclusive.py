"""Two processes of an exclusive durable in memory: one is given messages, the other stands by."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from consuming import DURABLE, EVENTS, SOON, Bench, consumer, message, note, until
from seaway.consumer import Consumer, Delivery
from seaway.events import RawEvent
from seaway.testing.memory_broker import MemoryBroker

EXCLUSIVE = {"priority_policy": "pinned_client", "priority_groups": ["seaway"]}


async def test_who_takes_over_an_exclusive_durable_begins_with_what_was_in_flight() -> None:
    """It stood by while the one before it was given that, and nobody told it."""
    bench = await Bench.open(**EXCLUSIVE)
    order: list[tuple[int, str]] = []
    hangs = asyncio.Event()

    def process(number: int) -> Consumer:
        async def handle(event: RawEvent, delivery: Delivery) -> None:
            order.append((number, delivery.event_id))
            if not hangs.is_set():
                hangs.set()
                await asyncio.Event().wait()

        return consumer(handle, workers=2)

    for number in range(2):
        bench.start(process(number))
        await until(lambda: len(bench.events.asked) > number)  # noqa: B023
    await bench.events.publish(message("e1"), message("e2"))
    await hangs.wait()
    await until(lambda: bench.events.pending == [1, 2])
    await bench.events.publish(message("e3"), message("e4"))
    [(victim, _)] = order
    killed = bench.tasks.pop(victim)
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    await until(lambda: set(bench.events.acked) == {1, 2, 3, 4})
    await bench.finish()
    assert order == [(victim, "e1")] + [(1 - victim, f"e{n}") for n in (1, 2, 3, 4)]
    assert bench.events.pending == []


async def test_standing_by_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seaway.consumer.pulling.POLL", timedelta(milliseconds=10))
    monkeypatch.setattr("seaway.consumer.pulling.STALL", timedelta(milliseconds=30))
    bench = await Bench.open(**EXCLUSIVE)
    await bench.events.publish(message("e1"), message("e2"))
    async with MemoryBroker.subscribe(bench.broker, EVENTS, DURABLE) as other:
        assert await other.next(1, timeout=SOON) == []  # Its turn begins.
        [first] = await other.next(1, timeout=SOON)
        assert await other.ack(first) == [True]
        bench.start(consumer(note))
        await until(lambda: len(bench.events.asked) > 15)
        assert bench.events.subscribed == 1
    # It may have been read from the stream before it was taken in.
    await until(lambda: set(bench.events.acked) == {2})
    await bench.finish()
    assert bench.store.effects == {"e2": 1}
    assert bench.states() == []
