"""What is away burns no deliveries: the breaker by itself, and a consumer that has one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from consuming import SOON, Bench, consumer, message, note, until
from seaway.consumer import Delivery
from seaway.consumer.state import OUTAGE, Breaker
from seaway.errors import Poison, Retry, StoreUnavailable, TransactionConflict, Unavailable
from seaway.events import RawEvent
from seaway.retry import Attempts, Backoff, RetryPolicy
from seaway.telemetry import ConsumerPaused, ConsumerResumed, DeadLettered, Signal, Telemetry
from seaway.testing.memory_store import MemoryStore


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench.open(max_deliver=3)
    yield made
    await made.close()


# ------------------------------------------------------------------ the breaker


def watched() -> tuple[Breaker, list[type[Signal]]]:
    said: list[type[Signal]] = []
    telemetry = Telemetry()
    telemetry.subscribe(lambda signal: said.append(type(signal)))
    return Breaker("c", telemetry), said


def test_an_outage_is_told_once_and_probed_one_at_a_time() -> None:
    breaker, said = watched()
    assert breaker.allowance(10, now=0) == 10
    assert not breaker.begin()
    for _ in range(3):
        breaker.trip("downstream", "away", now=0)
    later = OUTAGE.cap.total_seconds()
    assert breaker.allowance(10, now=0) == 0
    assert breaker.allowance(10, now=later) == 1
    assert breaker.begin()
    assert breaker.allowance(10, now=later) == 0
    breaker.trip("downstream", "still away", now=later)
    breaker.probed()
    assert breaker.allowance(10, now=later) == 0
    breaker.resume("downstream")
    assert breaker.allowance(10, now=later) == 10
    assert said == [ConsumerPaused, ConsumerResumed]


def test_it_probes_when_the_downstream_asked_it_to() -> None:
    breaker, _ = watched()
    breaker.trip("downstream", "busy", now=100, after=timedelta(seconds=60))
    assert breaker.allowance(1, now=159.9) == 0
    assert breaker.allowance(1, now=160) == 1


def test_the_workers_that_meet_one_outage_lengthen_its_pause_once() -> None:
    breaker, _ = watched()
    for _ in range(50):
        breaker.trip("database", "away", now=0)
    assert breaker.allowance(1, now=OUTAGE.base.total_seconds()) == 1


def test_it_closes_when_nothing_is_away_any_more() -> None:
    breaker, said = watched()
    breaker.trip("database", "away", now=0)
    breaker.trip("downstream", "away", now=0)
    breaker.resume("database")
    assert breaker.allowance(1, now=0) == 0
    breaker.resume("downstream")
    breaker.resume("downstream")
    assert breaker.allowance(1, now=0) == 1
    assert said == [ConsumerPaused, ConsumerResumed]


# ------------------------------------------------------------------ a consumer


class Register:
    """Something that the handlers need, away for so many calls."""

    def __init__(self, away: int, error: Exception) -> None:
        self.away = away
        self.error = error
        self.calls: list[tuple[str, int]] = []

    async def ask(self, event: RawEvent, delivery: Delivery) -> None:
        self.calls.append((delivery.event_id, delivery.deliveries))
        if self.away:
            self.away -= 1
            raise self.error

    async def ask_and_note(self, event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        await self.ask(event, delivery)


@pytest.mark.parametrize("options", [{}, {"batch": 10}, {"workers": 4}, {"tx": None}])
@pytest.mark.parametrize("error", [Unavailable("away", after=SOON), ConnectionResetError("away")])
async def test_an_outage_burns_no_deliveries(
    bench: Bench, options: dict[str, object], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.consumer.state.OUTAGE", Backoff(SOON, 5 * SOON, SOON))
    register = Register(12, error)
    handle = register.ask if "tx" in options else register.ask_and_note
    policy = RetryPolicy(outages=(ConnectionError,))
    bench.start(consumer(handle, retry=policy, **options))
    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 9)))
    await until(lambda: len(bench.events.acked) == 8)
    await bench.finish()
    assert bench.outcomes() == ["handled"] * 8
    assert {deliveries for _, deliveries in register.calls} == {1}
    assert (bench.events.naks, bench.letters.stored) == ([], [])
    assert bench.states() == [ConsumerPaused, ConsumerResumed]


async def test_during_an_outage_one_delivery_probes_and_nothing_is_pulled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.consumer.state.OUTAGE", Backoff(SOON, SOON, SOON))
    at_work, most = 0, 0
    is_back = asyncio.Event()
    attempts = 0

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        nonlocal at_work, most, attempts
        if is_back.is_set():
            return
        attempts += 1
        at_work += 1
        if any(isinstance(one, ConsumerPaused) for one in bench.signals):
            most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1
        raise Unavailable

    bench.start(consumer(handle, tx=None, workers=3, ordering="none"))
    await bench.events.publish(*(message(f"e{n}") for n in range(1, 40)))
    await until(lambda: attempts > 20)
    held = bench.events.pending
    await until(lambda: attempts > 40)
    assert bench.events.pending == held
    assert len(held) < 39
    assert most == 1
    is_back.set()
    await until(lambda: len(bench.events.acked) == 39)
    await bench.finish()
    assert set(bench.outcomes()) == {"handled"}


async def test_what_came_before_the_outage_in_its_batch_takes_effect(bench: Bench) -> None:
    is_back = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e3" and not is_back.is_set():
            raise Unavailable

    await bench.events.publish(*(message(f"e{n}") for n in range(1, 6)))
    bench.start(consumer(handle, batch=10))
    await until(lambda: bench.events.acked == [1, 2])
    assert bench.store.effects == {"e1": 1, "e2": 1}
    is_back.set()
    await until(lambda: bench.events.acked == [1, 2, 3, 4, 5])
    await bench.finish()


async def test_an_ordinary_failure_does_not_end_an_outage(bench: Bench) -> None:
    """A probe that fails for its own reasons says nothing of the downstream."""
    failures: list[Exception] = [
        Unavailable(after=SOON),
        Retry(after=SOON),
        Unavailable(after=SOON),
    ]

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if failures:
            raise failures.pop(0)

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.states() == [ConsumerPaused, ConsumerResumed]
    assert bench.outcomes() == ["retried", "handled"]


async def test_a_conflict_is_run_again_at_once(bench: Bench) -> None:
    bench.store.commit_errors.extend(TransactionConflict("deadlock") for _ in range(4))
    bench.start(consumer(note))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {"e1": 1}
    assert bench.states() == []


async def test_a_conflict_without_end_is_its_deliverys_failure(bench: Bench) -> None:
    conflicts = 5

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        nonlocal conflicts
        if conflicts:
            conflicts -= 1
            raise TransactionConflict("deadlock")

    bench.start(consumer(handle, retry=Backoff(SOON, SOON, SOON)))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.states() == []
    assert bench.outcomes() == ["retried", "handled"]


@pytest.mark.parametrize("options", [{}, {"batch": 10}, {"workers": 3}])
async def test_what_takes_the_database_down_with_it_is_counted_in_the_end(
    bench: Bench, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.consumer.state.OUTAGE", Backoff(SOON, SOON, SOON))

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e3":
            bench.store.away = 3
            raise StoreUnavailable("the server has crashed")

    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 9)))
    bench.start(consumer(handle, retry=Backoff(SOON, SOON, SOON), **options))
    await until(lambda: len(bench.events.acked) == 8)
    await bench.finish()
    assert bench.letters.stored == [("e3", "exhausted")]
    assert bench.outcomes().count("handled") == 7
    assert bench.states()[:2] == [ConsumerPaused, ConsumerResumed]


async def test_a_database_that_is_back_is_found_so_without_a_delivery(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk lets a transaction begin, and its handler run: without end, none is counted."""
    monkeypatch.setattr("seaway.consumer.state.OUTAGE", Backoff(SOON, SOON, SOON))
    calls = 0

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        nonlocal calls
        calls += 1
        await note(event, delivery)

    bench.store.commit_errors.extend(StoreUnavailable("the disk is full") for _ in range(40))
    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.outcomes() == ["handled"]
    assert calls == 2
    assert bench.states() == [ConsumerPaused, ConsumerResumed]


async def test_a_verdict_counts_whatever_became_of_the_transaction(bench: Bench) -> None:
    """Raised while a conflict was handled, say: the store tells of the conflict."""

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        raise Poison("cannot be")

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        try:
            async with MemoryStore.transaction(bench.store) as tx:
                yield tx
        except Poison as error:
            raise TransactionConflict("deadlock") from error

    bench.store.transaction = transaction  # type: ignore[method-assign]
    bench.start(consumer(handle, batch=2))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.letters.stored == [("e1", "poison")])


async def test_without_a_database_nothing_of_it_is_away(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e1":
            raise StoreUnavailable("somebody else's")

    bench.start(consumer(handle, tx=None, retry=Backoff(SOON, SOON, SOON)))
    await bench.events.publish(message("e1", "a"), message("e2", "b"))
    await until(lambda: len(bench.events.acked) == 2)
    await bench.finish()
    assert bench.letters.stored == [("e1", "exhausted")]
    assert bench.states() == [DeadLettered]


async def test_a_database_that_fails_within_a_batch_undoes_no_part_of_it_twice(
    bench: Bench,
) -> None:
    failures: list[Exception] = [StoreUnavailable("gone")]

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e3" and failures:
            raise failures.pop()

    await bench.events.publish(*(message(f"e{n}") for n in range(1, 6)))
    bench.start(consumer(handle, batch=10))
    await until(lambda: len(bench.events.acked) == 5)
    await bench.finish()
    assert bench.store.effects == {f"e{n}": 1 for n in range(1, 6)}
    assert bench.outcomes() == ["handled"] * 5


# ------------------------------------------------------------------ attempts by type


async def test_attempts_by_type_end_in_a_letter_before_max_deliver(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        raise KeyError("twice") if delivery.event_id == "e1" else ValueError("once")

    policy = RetryPolicy(
        {LookupError: Attempts(2), ValueError: Attempts(1)}, backoff=Backoff(SOON, SOON, SOON)
    )
    bench.start(consumer(handle, retry=policy))
    await bench.events.publish(message("e1", "a"), message("e2", "b"))
    await until(lambda: len(bench.events.acked) == 2)
    await bench.finish()
    assert sorted(bench.letters.stored) == [("e1", "exhausted"), ("e2", "exhausted")]
    assert bench.outcomes("e1") == ["retried", "dead_lettered"]
    assert bench.outcomes("e2") == ["dead_lettered"]
