"""An event that cannot be buried holds up its key alone, is neither lost nor acknowledged, and is
told of."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from consuming import EVENTS, SOON, Bench, consumer, message, until
from seaway.consumer import Delivery
from seaway.errors import ConfigError, Poison
from seaway.events import RawEvent
from seaway.retry import Backoff
from seaway.telemetry import ConsumerPaused

MOST = 12


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("seaway.consumer.settling.OUTAGE", Backoff(SOON, 5 * SOON, SOON))
    made = await Bench.open(max_deliver=3, max_ack_pending=MOST)
    yield made
    await made.close()


class Cases:
    """Handles all events but the bad ones, in the order that it notes."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.handled: dict[str, list[str]] = defaultdict(list)

    async def handle(self, event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id in self.bad:
            raise Poison("bad")
        self.handled[event.key or ""].append(delivery.event_id)

    @property
    def count(self) -> int:
        return sum(map(len, self.handled.values()))

    def has(self, count: int) -> bool:
        return self.count >= count


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tx": None},
        {"batch": 100},
        {"workers": 3},
        {"on_failure": "park"},
        {"batch": 5, "workers": 2, "ordering": "none"},
    ],
)
async def test_it_holds_up_its_key_alone(bench: Bench, options: dict[str, Any]) -> None:
    bench.letters.refused = {"a1"}
    cases = Cases("a1")
    bench.start(consumer(cases.handle, **options))
    await bench.events.publish(message("a1", "a"), message("a2", "a"))
    await until(lambda: bool(bench.telemetry.waits))
    for n in range(1, 31):
        await bench.events.publish(message(f"b{n}", f"key-{n % 3}"))
        await until(partial(cases.has, n))
    ordered = options.get("ordering") != "none"
    assert cases.handled["a"] == ([] if ordered else ["a2"])
    assert 1 in bench.events.pending
    assert bench.events.naks == []
    [wait] = bench.telemetry.waits
    assert wait.part == "consumer case_mgmt__from_memo"
    assert wait.about == "dead letters"
    assert f"{EVENTS}:1" in wait.reason
    assert "MEMO_DLQ did not take it" in wait.reason
    bench.letters.refused = set()
    await until(lambda: len(bench.events.acked) == 32)
    await bench.finish()
    if options.get("on_failure") == "park":
        assert bench.letters.stored == [("a1", "poison"), ("a2", "parked")]
    else:
        assert bench.letters.stored == [("a1", "poison")]
        assert cases.handled["a"] == ["a2"]
    for key, handled in cases.handled.items():
        if ordered and key != "a":
            assert handled == sorted(handled, key=lambda one: int(one[1:]))
    assert not bench.telemetry.waits
    assert ConsumerPaused not in bench.states()


async def test_it_is_kept_alive_and_burns_no_delivery(bench: Bench) -> None:
    await bench.events.configure(ack_wait=10**8)
    bench.letters.refused = {"a1"}
    bench.start(consumer(Cases("a1").handle))
    await bench.events.publish(message("a1", "a"))
    await until(lambda: bool(bench.telemetry.waits))
    bench.events.in_progress_calls.clear()
    await until(lambda: bench.events.in_progress_calls.count((1,)) > 5)
    bench.letters.refused = set()
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.outcomes() == ["dead_lettered"]


async def test_a_queue_that_takes_nothing_holds_up_what_fails_and_nothing_else(
    bench: Bench,
) -> None:
    bad = [f"x{n}" for n in range(MOST - 1)]
    bench.letters.takes_nothing = True
    cases = Cases(*bad)
    bench.start(consumer(cases.handle, workers=2))
    for one in bad:
        await bench.events.publish(message(one, one), message(f"good {one}", f"good {one}"))
    await until(lambda: cases.count == len(bad))
    await until(lambda: len(bench.events.pending) == len(bad))
    [wait] = bench.telemetry.waits
    assert f"and {len(bad) - 1} more" in wait.reason
    bench.letters.takes_nothing = False
    await until(lambda: len(bench.events.acked) == 2 * len(bad))
    await bench.finish()
    assert sorted(bench.letters.stored) == sorted((one, "poison") for one in bad)


async def test_what_it_holds_up_is_bounded_and_that_is_told(bench: Bench) -> None:
    """A busy key fills ``max_ack_pending``: there is no other way to keep its order."""
    bench.letters.refused = {"a0"}
    cases = Cases("a0")
    bench.start(consumer(cases.handle))
    await bench.events.publish(*(message(f"a{n}", "a") for n in range(2 * MOST)))
    await until(lambda: any("max_ack_pending" in wait.reason for wait in bench.telemetry.waits))
    assert len(bench.events.pending) == MOST
    bench.letters.refused = set()
    await until(lambda: len(bench.events.acked) == 2 * MOST)
    await bench.finish()
    assert cases.handled["a"] == [f"a{n}" for n in range(1, 2 * MOST)]


async def test_a_stop_gives_it_back_and_what_is_behind_it(bench: Bench) -> None:
    bench.letters.refused = {"a1"}
    bench.start(consumer(Cases("a1").handle))
    await bench.events.publish(message("a1", "a"), message("a2", "a"), message("b1", "b"))
    await until(lambda: bench.events.acked == [3])
    await bench.finish()
    assert sorted(bench.events.naks) == [(1, timedelta(0)), (2, timedelta(0))]
    assert bench.letters.stored == []
    assert not bench.telemetry.waits


async def test_on_its_last_delivery_a_stop_leaves_it_to_the_sweeper(bench: Bench) -> None:
    await bench.events.configure(max_deliver=1)
    bench.letters.refused = {"a1"}
    bench.start(consumer(Cases("a1").handle))
    await bench.events.publish(message("a1", "a"))
    await until(lambda: bool(bench.telemetry.waits))
    await bench.finish()
    assert (bench.events.naks, bench.events.pending) == ([], [1])


async def test_an_attempt_under_way_ends_before_the_stop_does(bench: Bench) -> None:
    under_way, may_go_on = asyncio.Event(), asyncio.Event()
    store, attempts = bench.letters.store, 0

    async def slow(*given: Any, **more: Any) -> int:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            under_way.set()
            await may_go_on.wait()
            bench.letters.refused = set()
        return await store(*given, **more)

    bench.letters.store = slow  # type: ignore[method-assign]
    bench.letters.refused = {"a1"}
    bench.start(consumer(Cases("a1").handle))
    await bench.events.publish(message("a1", "a"))
    await under_way.wait()
    bench.stop.set()
    may_go_on.set()
    await bench.ended()
    assert (bench.events.acked, bench.events.naks) == ([1], [])


async def test_an_attempt_that_hangs_does_not_outlast_the_grace(bench: Bench) -> None:
    under_way, attempts = asyncio.Event(), 0

    async def hanging(*given: Any, **more: Any) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OSError("no")
        under_way.set()
        await asyncio.Event().wait()
        raise AssertionError

    bench.letters.store = hanging  # type: ignore[method-assign]
    bench.start(consumer(Cases("a1").handle, grace=timedelta(milliseconds=50)))
    await bench.events.publish(message("a1", "a"))
    await under_way.wait()
    await bench.finish()
    assert bench.events.naks == [(1, timedelta(0))]


@pytest.mark.parametrize("error", [ConfigError("a name"), ValueError("a header"), TypeError()])
async def test_whatever_is_wrong_with_one_letter_ends_no_consumer(
    bench: Bench, error: Exception
) -> None:
    store = bench.letters.store

    async def picky(incoming: Any, **more: Any) -> int:
        if incoming.event_id == "a1":
            raise error
        return await store(incoming, **more)

    bench.letters.store = picky  # type: ignore[method-assign]
    bench.start(consumer(Cases("a1", "b1").handle))
    await bench.events.publish(message("a1", "a"), message("b1", "b"), message("c1", "c"))
    await until(lambda: bench.events.acked == [3, 2] or bench.events.acked == [2, 3])
    assert bench.letters.stored == [("b1", "poison")]
    await bench.finish()


async def test_redelivered_meanwhile_it_is_acknowledged_as_what_came_last(bench: Bench) -> None:
    bench.letters.refused = {"a1"}
    bench.start(consumer(Cases("a1").handle))
    await bench.events.publish(message("a1", "a"), message("a2", "a"))
    await until(lambda: bool(bench.telemetry.waits))
    bench.events.again(1)
    bench.letters.refused = set()
    await until(lambda: bench.events.acked == [1, 2])
    await bench.finish()
    assert bench.letters.stored == [("a1", "poison")]
