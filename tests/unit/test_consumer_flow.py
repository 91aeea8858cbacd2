"""How much is in hand, who gets a turn, acks that wait for nobody, and subscriptions that heal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from consuming import (
    DURABLE,
    EVENTS,
    REDRIVES,
    SOON,
    Bench,
    WatchedDurable,
    consumer,
    message,
    note,
    until,
)
from seaway.consumer import Delivery
from seaway.consumer.state import HORIZON, Pace
from seaway.contracts import Incoming
from seaway.events import RawEvent
from seaway.telemetry import ConsumerPaused, ConsumerResumed, Delivered, Resubscribed

ACK_WAIT = timedelta(seconds=30)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench.open()
    yield made
    await made.close()


# ------------------------------------------------------------------ how much is in hand


def test_a_slower_delivery_counts_at_once_and_a_faster_one_slowly() -> None:
    pace = Pace()
    assert pace.startable(1, ack_wait=ACK_WAIT) == 0
    pace.note(0.01, 10)
    quick = pace.startable(1, ack_wait=ACK_WAIT)
    assert quick == int(HORIZON.total_seconds() / 0.001)
    pace.note(1, 1)
    assert pace.startable(1, ack_wait=ACK_WAIT) == 0
    assert pace.startable(16, ack_wait=ACK_WAIT) == 4
    pace.note(0.001, 1)
    assert pace.startable(1, ack_wait=ACK_WAIT) == 0
    for _ in range(200):
        pace.note(0.001, 1)
    assert pace.startable(1, ack_wait=ACK_WAIT) > quick * 0.9


def test_no_more_waits_than_can_be_started_within_half_of_ack_wait() -> None:
    pace = Pace()
    pace.note(0.01, 1)
    assert pace.startable(1, ack_wait=timedelta(milliseconds=100)) == 5


async def test_quick_handlers_have_as_much_in_hand_as_the_durable_allows(bench: Bench) -> None:
    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(400)))
    bench.start(consumer(note))
    await until(lambda: len(bench.events.acked) == 400)
    await bench.finish()
    assert 25 < max(bench.events.asked) <= 50


async def test_slow_handlers_have_no_more_in_hand_than_their_workers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.consumer.state.HORIZON", timedelta(microseconds=1))
    go_on = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if int(event.payload[1:]) >= 4:
            await go_on.wait()

    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(40)))
    bench.start(consumer(handle, tx=None, workers=2))
    await until(lambda: len(bench.events.acked) == 4)
    await until(lambda: len(bench.events.pending) == 2)
    go_on.set()
    await until(lambda: len(bench.events.acked) == 40)
    await bench.finish()


# ------------------------------------------------------------------ who gets a turn


async def test_a_slow_consumer_starves_no_other(bench: Bench) -> None:
    other = await Bench.open()
    started: list[str] = []

    async def stuck(event: RawEvent, delivery: Delivery) -> None:
        started.append(delivery.event_id)
        await asyncio.Event().wait()

    try:
        await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(40)))
        bench.start(consumer(stuck, workers=4, tx=None, grace=SOON))
        await until(lambda: len(started) == 4)
        await other.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(40)))
        other.start(consumer(note))
        await until(lambda: len(other.events.acked) == 40)
        await other.finish()
        assert len(started) == 4
        await bench.finish()
    finally:
        await other.close()


async def test_a_busy_consumer_starves_no_other(bench: Bench) -> None:
    """Its handlers never wait, so nothing but its own manners lets another have a turn."""
    other, most = await Bench.open(max_ack_pending=2000), 4000
    before: list[int] = []

    async def busy(event: RawEvent, delivery: Delivery) -> None:
        return

    async def has_a_turn(event: RawEvent, delivery: Delivery) -> None:
        before.append(len(other.events.acked))

    try:
        await other.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(most)))
        await bench.events.publish(message("e1"))
        other.start(consumer(busy, tx=None))
        await until(lambda: len(other.events.acked) > 0)
        bench.start(consumer(has_a_turn))
        await until(lambda: len(other.events.acked) == most)
        assert before
        assert before[0] < most
        await other.finish()
        await bench.finish()
    finally:
        await other.close()


# ------------------------------------------------------------------ acks in the background


class SlowAcks(WatchedDurable):
    """A server that confirms when it is let."""

    def __init__(self, watched: WatchedDurable) -> None:
        super().__init__(watched._broker, watched.stream)
        self.let = asyncio.Event()
        self.asked_for: list[int] = []

    async def before_ack(self, incoming: Sequence[Incoming]) -> None:
        self.asked_for += [one.stream_seq for one in incoming]
        await self.let.wait()


async def test_the_next_transaction_does_not_wait_for_a_confirmation(bench: Bench) -> None:
    slow = bench.broker.durables[EVENTS] = SlowAcks(bench.events)
    await slow.publish(*(message(f"e{n}") for n in range(1, 11)))
    bench.start(consumer(note))
    await until(lambda: len(bench.store.effects) == 10)
    assert slow.asked_for == [1]
    assert slow.acked == []
    bench.stop.set()
    # The end of the run waits for what is unconfirmed.
    done, _ = await asyncio.wait(bench.tasks, timeout=0.05)
    assert not done
    slow.let.set()
    await bench.ended()
    assert slow.acked == list(range(1, 11))
    assert slow.pending == []


async def test_unconfirmed_acks_are_bounded(bench: Bench) -> None:
    slow = bench.broker.durables[EVENTS] = SlowAcks(bench.events)
    await slow.configure(max_ack_pending=5)
    for stream in (EVENTS, REDRIVES):
        watched = bench.broker.durables[stream]
        await watched.configure(max_ack_pending=5)
    await slow.publish(*(message(f"e{n}") for n in range(1, 31)))
    bench.start(consumer(note))
    await until(lambda: len(bench.store.effects) == 5)
    slow.let.set()
    await until(lambda: len(slow.acked) == 30)
    await bench.finish()


async def test_acks_that_died_unconfirmed_meet_the_inbox(bench: Bench) -> None:
    slow = bench.broker.durables[EVENTS] = SlowAcks(bench.events)
    await slow.publish(message("e1"), message("e2"))
    bench.start(consumer(note))
    await until(lambda: len(bench.store.effects) == 2)
    bench.tasks.pop().cancel()
    slow.let.set()
    bench.start(consumer(note))
    for seq in (1, 2):
        slow.again(seq)
    await until(lambda: slow.acked == [1, 2])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 1}


# ------------------------------------------------------------------ subscriptions that heal


async def test_a_silent_subscription_is_made_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.consumer.pulling.POLL", timedelta(milliseconds=10))
    monkeypatch.setattr("seaway.consumer.pulling.STALL", timedelta(milliseconds=30))
    bench.events.silent = True
    bench.start(consumer(note))
    await until(lambda: bench.events.subscribed == 1)
    # Nothing to give: no reason to doubt it.
    await until(lambda: len(bench.events.asked) > 10)
    assert bench.events.subscribed == 1
    bench.events.silent = False
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.events.subscribed == 2
    assert [one for one in bench.signals if not isinstance(one, Delivered)] == [
        Resubscribed(EVENTS, DURABLE, "stalled")
    ]


async def test_what_came_before_a_stall_is_settled_where_it_came(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.consumer.pulling.POLL", timedelta(milliseconds=10))
    monkeypatch.setattr("seaway.consumer.pulling.STALL", timedelta(milliseconds=30))
    go_on = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e1":
            await go_on.wait()

    await bench.events.publish(message("e1"))
    bench.start(consumer(handle, workers=2))
    await until(lambda: bench.store.begun == 1)
    bench.events.fall_silent()
    asked = len(bench.events.asked)
    await until(lambda: len(bench.events.asked) > asked)
    await bench.events.publish(message("e2"))
    await until(lambda: bench.events.subscribed == 2)
    go_on.set()
    # The new one may read the first from the stream too, before the old one has settled it.
    await until(lambda: sorted(set(bench.events.acked)) == [1, 2])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 1}


async def test_a_durable_that_is_deleted_is_waited_for(bench: Bench) -> None:
    bench.start(consumer(note))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.broker.admin.delete_consumer(EVENTS, DURABLE)
    await until(lambda: ConsumerPaused in bench.states())
    await bench.events.publish(message("e2"))
    await bench.broker.create(EVENTS)
    # The new durable gives everything again.
    await until(lambda: bench.events.acked == [1, 1, 2])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 1}
    assert bench.states() == [ConsumerPaused, Resubscribed, ConsumerResumed]


async def test_a_durable_that_is_deleted_does_not_keep_its_consumer_from_stopping(
    bench: Bench,
) -> None:
    bench.start(consumer(note))
    await until(lambda: bench.events.subscribed == 1)
    await bench.broker.admin.delete_consumer(EVENTS, DURABLE)
    await until(lambda: ConsumerPaused in bench.states())
    await bench.finish()
    assert Resubscribed not in bench.states()


# ------------------------------------------------------------------ stopping


async def test_what_arrives_while_it_stops_goes_back_at_once(bench: Bench) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        running.set()
        await go_on.wait()

    await bench.events.publish(message("e1"))
    bench.start(consumer(handle))
    await running.wait()
    bench.stop.set()
    await bench.events.publish(message("e2"), message("e3"))
    await asyncio.sleep(0)
    async with bench.broker.subscribe(EVENTS, DURABLE) as other:
        assert len(await other.next(5, timeout=timedelta(seconds=1))) == 2
    go_on.set()
    await bench.ended()
    assert bench.events.acked == [1]
