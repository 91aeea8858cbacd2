"""What was on its way when a process ended, or its connection: it comes again, before the newer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from consuming import DURABLE, EVENTS, SOON, Bench, consumer, message, note, until
from seaway.consumer import Delivery
from seaway.errors import BrokerUnavailable, CannotRewind, Retry
from seaway.events import RawEvent
from seaway.inbox.letters import letter_row
from seaway.telemetry import ConsumerPaused
from seaway.testing.memory_broker import MemoryBroker


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench.open()
    yield made
    await made.close()


async def tried(bench: Bench, times: int, *event_ids: str) -> None:
    """So often it was noted by processes that are no more."""
    for _ in range(times):
        async with bench.store.transaction() as tx:
            await tx.trying(DURABLE, event_ids)


async def counted(bench: Bench, event_id: str) -> int:
    """How often it was tried, as a next process would find it."""
    async with bench.store.transaction() as tx:
        tries = await tx.trying(DURABLE, [event_id])
    return int(tries[event_id]) - 1


async def test_what_a_dead_process_had_in_hand_comes_before_newer_events(bench: Bench) -> None:
    order: list[tuple[str, int]] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        order.append((delivery.event_id, delivery.deliveries))

    await bench.events.publish(message("e1"), message("e2"), message("e3"))
    await bench.events.deliver_to_another(2)
    bench.start(consumer(handle))
    await until(lambda: bench.events.acked == [1, 2, 3])
    await bench.finish()
    assert order == [("e1", 2), ("e2", 2), ("e3", 1)]
    assert bench.events.pending == []


async def test_what_a_dead_process_had_settled_is_acknowledged_at_once(bench: Bench) -> None:
    """Or it would fill what may be out, and nothing would come until ``ack_wait``."""
    await bench.events.configure(max_ack_pending=2)
    await bench.events.publish(message("e1"), message("e2"), message("e3"))
    await bench.events.deliver_to_another(2)
    for name in ("e1", "e2"):
        async with bench.store.transaction() as tx:
            await tx.claim(DURABLE, name)
    bench.start(consumer(note))
    await until(lambda: bench.events.acked == [1, 2, 3])
    await bench.finish()
    assert bench.store.effects == {"e3": 1}
    assert await counted(bench, "e1") == 0


@pytest.mark.parametrize("looked_up", [True, False])
async def test_what_a_letter_stands_for_takes_no_effect(bench: Bench, looked_up: bool) -> None:
    await bench.events.publish(message("e1"), message("e2"), message("e3"))
    await bench.events.deliver_to_another(3)
    if not looked_up:
        bench.store.knows_nothing = True
    async with bench.store.transaction() as tx:
        await tx.claim(*letter_row(DURABLE, (EVENTS, 2), "e2"))
    bench.start(consumer(note))
    await until(lambda: bench.events.acked == [1, 2, 3])
    await bench.finish()
    assert list(bench.store.effects) == ["e1", "e3"]


async def test_what_another_process_had_rewound_may_be_a_letter(bench: Bench) -> None:
    """It comes as if for the first time; only the numbers of deliveries say that it does not."""
    calls: list[str] = []
    go_on = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        calls.append(delivery.event_id)
        await go_on.wait()
        await note(event, delivery)

    async with bench.store.transaction() as tx:
        await tx.claim(*letter_row(DURABLE, (EVENTS, 2), "e2"))
    bench.start(consumer(handle))
    await bench.events.publish(message("e1"), message("e2"))
    await until(lambda: calls == ["e1"])
    await bench.events.deliver_to_another(1)
    bench.events.rewound_elsewhere()
    go_on.set()
    await until(lambda: 2 in bench.events.acked)
    await bench.finish()
    assert set(bench.store.effects) == {"e1"}
    assert bench.letters.stored == [("e2", "exhausted")]


async def test_what_was_rewound_before_this_process_began_may_be_a_letter(bench: Bench) -> None:
    await bench.events.publish(*(message(f"e{number}") for number in range(1, 5)))
    async with MemoryBroker.subscribe(bench.broker, EVENTS, DURABLE) as other:
        given = await other.next(4, timeout=SOON)
        await other.ack(given[0])
    async with bench.store.transaction() as tx:
        await tx.claim(DURABLE, "e1")
        await tx.claim(*letter_row(DURABLE, (EVENTS, 3), "e3"))
    bench.events.rewound_elsewhere()
    bench.start(consumer(note))
    await until(lambda: bench.events.acked == [2, 3, 4])
    await bench.finish()
    assert set(bench.store.effects) == {"e2", "e4"}
    assert bench.letters.stored == [("e3", "exhausted")]


async def test_after_a_gap_what_was_lost_on_the_way_comes_first(bench: Bench) -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        order.append(delivery.event_id)
        await go_on.wait()

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: order == ["e1"])
    await bench.events.publish(*(message(f"e{number}") for number in range(2, 5)))
    await bench.events.lose(2)
    go_on.set()
    await until(lambda: sorted(set(bench.events.acked)) == [1, 2, 3, 4])
    await bench.finish()
    assert order == ["e1", "e2", "e3", "e4"]


async def test_where_others_pull_theirs_is_left_to_them(bench: Bench) -> None:
    await bench.events.publish(message("e1"))
    async with MemoryBroker.subscribe(bench.broker, EVENTS, DURABLE) as other:
        [first] = await other.next(1, timeout=SOON)
        waiting = asyncio.create_task(other.next(1, timeout=timedelta(seconds=30)))
        await until(lambda: bench.events.waiting == 1)
        bench.start(consumer(note))
        await until(lambda: bench.events.waiting == 2)
        await bench.events.publish(message("e2", "case-2"), message("e3", "case-3"))
        [second] = await waiting
        await until(lambda: bench.events.acked == [5 - second.stream_seq])
        assert bench.events.pending == [1, second.stream_seq]
        assert await other.ack(first, second) == [True, True]
    await bench.finish()
    assert len(bench.store.effects) == 1


async def test_a_consumer_without_an_inbox_rewinds_nothing(bench: Bench) -> None:
    await bench.events.publish(message("e1"), message("e2"))
    await bench.events.deliver_to_another(1)

    async def handle(event: RawEvent, delivery: Delivery) -> None: ...

    bench.start(consumer(handle, tx=None))
    await until(lambda: bench.events.acked == [2])
    await bench.finish()
    assert (bench.events.rewound, bench.events.pending) == (0, [1])


async def test_where_it_is_refused_it_says_so_and_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.events.publish(message("e1"), message("e2"))
    await bench.events.deliver_to_another(1)
    bench.events.rewinding.extend([CannotRewind("upgrade to 2.14 or newer")] * 3)
    bench.start(consumer(note))
    await until(lambda: bench.events.acked == [2])
    await bench.events.lose(0)
    await until(lambda: len(bench.events.rewinding) == 1)
    bench.events.again(1)
    await until(lambda: bench.events.acked == [2, 1])
    await bench.finish()
    assert bench.store.effects == {"e2": 1, "e1": 2}
    assert caplog.text.count("upgrade to 2.14 or newer") == 1
    assert f"{DURABLE}: what was on its way" in caplog.text


async def test_where_nobody_answers_it_is_asked_again_and_nothing_overtakes(bench: Bench) -> None:
    await bench.events.publish(message("e1"), message("e2"))
    await bench.events.deliver_to_another(1)
    bench.events.rewinding.extend([BrokerUnavailable("JetStream has no leader")] * 2)
    bench.start(consumer(note))
    await until(lambda: bench.events.acked == [1, 2])
    await bench.finish()
    assert list(bench.store.effects) == ["e1", "e2"]
    assert ConsumerPaused in bench.states()


# ------------------------------------------------------------------ what does not come again


@pytest.fixture
async def held(bench: Bench) -> Bench:
    """e1 was given back, and the server does not give it out again."""

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e1":
            raise Retry(after=SOON)
        await note(event, delivery)

    await bench.events.configure(ack_wait=200_000_000)
    bench.events.loses_naks = True
    bench.start(consumer(handle))
    await bench.events.publish(message("e1"), message("e2"), message("other", "case-2"))
    await until(lambda: bench.events.acked == [3])
    bench.events.forget(1)
    return bench


async def test_a_key_waits_for_what_others_have_until_that_is_settled(held: Bench) -> None:
    async with held.store.transaction() as tx:
        await tx.claim(DURABLE, "e1")
    await until(lambda: held.events.acked == [3, 2])
    await held.finish()


async def test_a_key_does_not_wait_for_ever_for_what_does_not_come(
    held: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await until(lambda: held.events.acked == [3, 2])
    await held.finish()
    assert f"{EVENTS}:1 was given back and has not come again" in caplog.text


async def test_what_others_settle_is_seen_soon_and_asked_for_together(bench: Bench) -> None:
    """Long before ``ack_wait``, which is 30 s here."""
    given_back = {f"e{number}" for number in range(20)}

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id in given_back:
            raise Retry(after=SOON)
        await note(event, delivery)

    def looks() -> list[set[str]]:
        return [asked for asked in bench.store.asked if asked & given_back]

    began = time.monotonic()
    bench.events.loses_naks = True
    bench.start(consumer(handle))
    await bench.events.publish(*(message(one, one) for one in given_back))
    await until(lambda: len(bench.events.naks) == 20)
    await bench.events.publish(*(message(f"{one} next", one) for one in given_back))
    await until(lambda: set().union(*looks()) == given_back)
    assert not bench.events.acked
    async with bench.store.transaction() as tx:
        await tx.claim_many(DURABLE, sorted(given_back))
    await until(lambda: len(bench.events.acked) == 20)
    assert len(looks()) <= (time.monotonic() - began) / 0.25
    await bench.finish()


# ------------------------------------------------------------------ what ends its process


async def test_a_try_is_noted_before_it_is_made(bench: Bench) -> None:
    found: list[int] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        found.append(bench.store.tries(DURABLE, delivery.event_id))

    await bench.events.publish(message("e1"), message("e2"))
    await bench.events.deliver_to_another(1)
    await tried(bench, 1, "e1")
    bench.start(consumer(handle))
    await until(lambda: bench.events.acked == [1, 2])
    await bench.finish()
    assert found == [2, 0], "a new event pays nothing"


async def test_the_count_goes_on_over_the_end_of_a_process(bench: Bench) -> None:
    counts: list[int] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        counts.append(delivery.deliveries)
        if len(counts) < 3:
            raise Retry(after=SOON)
        if len(counts) == 3:
            await asyncio.Event().wait()

    await bench.events.publish(message("e1"))
    bench.start(consumer(handle))
    await until(lambda: len(counts) == 3)
    await bench.close()
    bench.tasks.clear()
    bench.start(consumer(handle))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert counts == [1, 2, 3, 4]


async def test_what_ends_its_process_each_time_is_given_up(bench: Bench) -> None:
    """And what is behind it goes on."""
    await bench.events.publish(message("deadly"), message("e2"))
    await bench.events.deliver_to_another(1)
    await tried(bench, 5, "deadly")
    bench.start(consumer(note))
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert bench.letters.stored == [("deadly", "exhausted")]
    assert set(bench.store.effects) == {"e2"}


async def test_what_is_in_hand_beside_it_is_not_counted_with_it(bench: Bench) -> None:
    """Each is noted, and may be alone at once; the others are noted when their turn comes."""
    names = ["e1", "e2", "e3", "e4"]
    await bench.events.publish(*(message(name, name) for name in names))
    await bench.events.deliver_to_another(4)
    await tried(bench, 2, *names)
    left, found = set(names), []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        left.discard(delivery.event_id)
        others = {bench.store.tries(DURABLE, name) for name in left}
        found.append((bench.store.tries(DURABLE, delivery.event_id), others))
        await asyncio.sleep(0.005)

    bench.start(consumer(handle, workers=4))
    await until(lambda: len(bench.events.acked) == 4)
    await bench.finish()
    assert found == [(3, {2}), (3, {2}), (3, {2}), (3, set())]


async def test_what_was_tried_once_is_not_given_up() -> None:
    """With ``max_deliver`` 1 a process may end with much in hand that was never begun."""
    bench = await Bench.open(max_deliver=1)
    await bench.events.publish(message("e1"))
    await bench.events.deliver_to_another(1)
    bench.start(consumer(note))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {"e1": 2}
