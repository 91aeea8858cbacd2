"""The consumer at work on a durable in memory, where every failure can be had at will."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consuming import (
    DURABLE,
    EVENTS,
    REDRIVES,
    SOON,
    SUBJECT,
    Bench,
    consumer,
    message,
    note,
    until,
)
from seaway.consumer import Consumer, Delivery
from seaway.contracts import InboxTransaction, Message
from seaway.errors import AlreadyProcessed, ConfigError, NotFound, Poison, Retry, StoreUnavailable
from seaway.events import RawEvent, current_chain, event
from seaway.inbox.letters import letter_row
from seaway.naming import Durable
from seaway.retry import Backoff, RetryPolicy
from seaway.telemetry import ConsumerPaused, ConsumerResumed, DeadLettered, Delivered
from seaway.testing.memory_broker import MemoryBroker


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench.open()
    yield made
    await made.close()


# ------------------------------------------------------------------ the outcome table


async def test_effects_and_inbox_row_commit_before_the_ack(bench: Bench) -> None:
    bench.start(consumer(note))
    await bench.events.publish(message("e1"), message("e2"))
    await until(lambda: bench.events.acked == [1, 2])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 1}
    assert set(await bench.store.processed("e1")) == {DURABLE}
    assert bench.outcomes() == ["handled", "handled"]


async def test_an_unconfirmed_ack_meets_the_inbox(bench: Bench) -> None:
    bench.events.confirms = False
    bench.start(consumer(note))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.outcomes() == ["handled"])
    bench.events.confirms = True
    bench.events.again(1)
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {"e1": 1}
    assert bench.outcomes() == ["handled", "already_processed"]


async def test_already_processed_commits(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        raise AlreadyProcessed

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {"e1": 1}
    assert await bench.store.processed("e1")


@pytest.mark.parametrize("batch", [1, 10])
async def test_poison_goes_to_the_letters_and_the_lane_goes_on(bench: Bench, batch: int) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e1":
            raise Poison("bad")

    await bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle, batch=batch))
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert bench.letters.stored == [("e1", "poison")]
    assert bench.store.effects == {"e2": 1}
    assert not await bench.store.processed("e1")


@pytest.mark.parametrize(
    "bad",
    [
        Message(SUBJECT, b"x", {"X-Event-Version": "two"}),
        Message(SUBJECT, b"x", {"X-Occurred-At": "yesterday"}),
    ],
)
async def test_headers_that_cannot_be_read_are_undecodable(bench: Bench, bad: Message) -> None:
    bench.start(consumer(note))
    await bench.events.publish(bad)
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == [(f"{EVENTS}:1", "undecodable")]


async def test_a_foreign_message_without_headers_is_handled_under_its_place(bench: Bench) -> None:
    bench.start(consumer(note))
    await bench.events.publish(Message("memo.odd", b""))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {f"{EVENTS}:1": 1}


async def test_an_event_without_handler_is_acknowledged_and_counted(bench: Bench) -> None:
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS)

    @event(context="memo", version=7)
    @dataclass
    class OnlyThis:
        text: str

    @made.handler(OnlyThis)
    async def handle(event: OnlyThis, delivery: Delivery) -> None: ...

    bench.start(made)
    await bench.events.publish(message("e1"))
    await bench.events.publish(message("e2", subject="memo.event.only_this.v7"))
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert sorted(bench.outcomes()) == ["dead_lettered", "ignored"]
    assert bench.letters.stored == [("e2", "undecodable")]
    assert not await bench.store.processed("e1")


async def test_retry_is_naked_with_its_delay_and_its_lane_waits(bench: Bench) -> None:
    handled: list[tuple[str, int]] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        handled.append((delivery.event_id, delivery.deliveries))
        if handled[-1] == ("e1", 1):
            raise Retry(after=SOON)

    await bench.events.publish(message("e1"), message("e2"), message("other", "case-2"))
    bench.start(consumer(handle))
    await until(lambda: len(bench.events.acked) == 3)
    await bench.finish()
    assert bench.events.naks == [(1, SOON)]
    in_lane = [one for one in handled if one[0] != "other"]
    assert in_lane == [("e1", 1), ("e1", 2), ("e2", 1)]


async def test_a_redelivery_that_overtakes_its_nak_is_not_lost(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.deliveries < 3:
            raise Retry(after=timedelta(0))

    await bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle))
    await until(lambda: sorted(set(bench.events.acked)) == [1, 2], within=5)
    await bench.finish()
    assert bench.outcomes("e1") == ["retried", "retried", "handled"]


async def test_the_last_delivery_ends_as_exhausted() -> None:
    bench = await Bench.open(max_deliver=3)

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        raise Retry(after=SOON)

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == [("e1", "exhausted")]
    assert bench.outcomes() == ["retried", "retried", "dead_lettered"]


async def test_a_letter_that_cannot_be_stored_keeps_its_message(bench: Bench) -> None:
    bench.letters.failures = 2

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        raise Poison("bad")

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == [("e1", "poison")]
    assert bench.events.naks == []
    assert bench.states() == [DeadLettered]


async def test_a_handler_over_its_deadline_is_cancelled_and_tried_again(bench: Bench) -> None:
    attempts: list[int] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        attempts.append(delivery.deliveries)
        if len(attempts) == 1:
            await asyncio.Event().wait()

    retry = consumer(handle, deadline=timedelta(milliseconds=20))
    bench.start(retry)
    await bench.events.publish(message("e1"))
    await until(lambda: [seq for seq, _ in bench.events.naks] == [1])
    bench.events.again(1)
    await until(lambda: 1 in bench.events.acked)
    await bench.finish()
    assert attempts[:2] == [1, 2]


async def test_a_handler_that_lets_a_cancellation_escape_has_failed(bench: Bench) -> None:
    """It must not end the worker without a word."""

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e1":
            inner = asyncio.create_task(asyncio.Event().wait())
            inner.cancel()
            await inner

    await bench.events.publish(message("e1", "a"), message("e2", "b"))
    minute = timedelta(minutes=1)
    bench.start(consumer(handle, retry=Backoff(minute, minute, floor=minute)))
    await until(lambda: bench.events.acked == [2])
    await bench.finish()
    assert [seq for seq, _ in bench.events.naks] == [1]
    assert bench.outcomes("e1") == ["retried"]


async def test_a_running_handler_and_what_waits_behind_it_are_kept_alive() -> None:
    bench = await Bench.open(ack_wait=60_000_000)
    go_on = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await go_on.wait()

    await bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle))
    await until(lambda: bench.events.in_progress_calls.count((1, 2)) >= 3)
    go_on.set()
    await until(lambda: bench.events.acked == [1, 2])
    await bench.finish()


# ------------------------------------------------------------------ batches


async def test_a_batch_shares_one_transaction_and_failures_leave_it_alone(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e2" and delivery.deliveries == 1:
            raise Retry(after=SOON)

    await bench.events.publish(*(message(f"e{n}", f"case-{n % 2}") for n in range(1, 5)))
    bench.start(consumer(handle, batch=10))
    await until(lambda: sorted(bench.events.acked) == [1, 2, 3, 4])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 2, "e3": 1, "e4": 1}
    # e4 waited behind e2, of its own key; e3 did not.
    assert bench.events.acked.index(4) > bench.events.acked.index(2)
    assert bench.outcomes("e4") == ["handled"]
    # All; e1 and e3 without e2; a note that e2 was tried; and e2 and e4 once e2 had come again.
    assert bench.store.begun == 4


async def test_a_refused_commit_is_retried_one_by_one_and_blames_the_guilty(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        delivery.tx.effects["unfit"] = delivery.event_id == "e2" or bool(
            delivery.tx.effects.get("unfit")
        )

    await bench.events.configure(max_deliver=1)
    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 4)))
    bench.start(consumer(handle, batch=10))
    await until(lambda: len(bench.events.acked) == 3)
    await bench.finish()
    assert bench.letters.stored == [("e2", "exhausted")]
    assert {name for name in bench.store.effects if name != "unfit"} == {"e1", "e3"}


# ------------------------------------------------------------------ outages


@pytest.mark.parametrize("batch", [1, 10])
async def test_without_its_database_it_pauses_and_nothing_is_lost_or_blamed(batch: int) -> None:
    bench = await Bench.open(max_deliver=1)
    bench.store.away = 2
    bench.start(consumer(note, batch=batch))
    await bench.events.publish(message("e1"))
    await until(lambda: any(isinstance(one, ConsumerPaused) for one in bench.signals))
    await bench.events.publish(message("e2"))
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 1}
    assert (bench.events.naks, bench.letters.stored) == ([], [])
    states = [type(one) for one in bench.signals if not isinstance(one, Delivered)]
    assert states == [ConsumerPaused, ConsumerResumed]


async def test_a_commit_that_fails_is_not_the_messages_fault() -> None:
    bench = await Bench.open(max_deliver=1)
    bench.store.commit_errors.append(StoreUnavailable("disk full"))
    bench.start(consumer(note))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {"e1": 1}
    assert (bench.letters.stored, bench.outcomes()) == ([], ["handled"])


async def test_a_closed_connection_is_opened_again(bench: Bench) -> None:
    bench.events.away = True
    bench.broker.watched_admin.failures = 2
    bench.start(consumer(note))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert [type(one) for one in bench.signals if not isinstance(one, Delivered)][:2] == [
        ConsumerPaused,
        ConsumerResumed,
    ]


async def test_a_missing_durable_names_the_way_out(bench: Bench) -> None:
    await bench.broker.admin.delete_consumer(REDRIVES, DURABLE)
    bench.start(consumer(note))
    with pytest.raises(NotFound, match=f"{DURABLE} on {REDRIVES}: run `seaway topology apply`"):
        await bench.ended()


async def test_a_handler_that_commits_ends_the_run_in_words(bench: Bench) -> None:
    bench.store.commit_errors.append(ConfigError("the body ended the transaction"))
    bench.start(consumer(note))
    await bench.events.publish(message("e1"))
    with pytest.raises(ConfigError, match="the body ended the transaction"):
        await bench.ended()
    assert bench.events.acked == []


async def test_no_handlers_is_a_mistake() -> None:
    bench = await Bench.open()
    bench.start(Consumer(Durable.parse(DURABLE), stream=EVENTS))
    with pytest.raises(ConfigError, match="has no handlers"):
        await bench.ended()


# ------------------------------------------------------------------ stopping


async def test_drain_lets_the_running_end_and_gives_back_the_rest(bench: Bench) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        running.set()
        await go_on.wait()

    await bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle, workers=2))
    await running.wait()
    await until(lambda: len(bench.events.pending) == 2)
    bench.stop.set()
    await until(lambda: bench.events.naks == [(2, timedelta(0))])
    asked = len(bench.events.asked)
    go_on.set()
    await bench.ended()
    assert bench.events.acked == [1]
    assert len(bench.events.asked) == asked


async def test_drain_works_off_what_would_start_soon(bench: Bench) -> None:
    """Given back, it would have lost a delivery with each stop."""
    started: list[str] = []
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        started.append(delivery.event_id)
        if delivery.event_id == "e4":
            running.set()
            await go_on.wait()

    events = [message(f"e{number}") for number in range(1, 31)]
    await bench.events.publish(*events[:3])
    bench.start(consumer(handle, tx=None))
    await until(lambda: bench.events.acked == [1, 2, 3])
    await bench.events.publish(*events[3:])
    await running.wait()
    await until(lambda: len(bench.events.pending) == 27)
    bench.stop.set()
    await bench.events.publish(message("e31"))
    go_on.set()
    await bench.ended()
    assert bench.events.acked == list(range(1, 31))
    assert bench.events.naks == []
    assert started == [f"e{number}" for number in range(1, 31)]


async def test_drain_gives_up_what_would_start_soon_where_something_is_away(bench: Bench) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e4":
            running.set()
            await go_on.wait()
            raise ConnectionError("the downstream is away")

    await bench.events.publish(*(message(f"e{number}") for number in range(1, 4)))
    policy = RetryPolicy(outages=(ConnectionError,))
    bench.start(consumer(handle, tx=None, retry=policy))
    await until(lambda: bench.events.acked == [1, 2, 3])
    await bench.events.publish(*(message(f"e{number}") for number in range(4, 9)))
    await running.wait()
    await until(lambda: len(bench.events.pending) == 5)
    bench.stop.set()
    go_on.set()
    await bench.ended()
    assert bench.events.acked == [1, 2, 3]
    assert sorted(seq for seq, _ in bench.events.naks) == [4, 5, 6, 7, 8]


async def test_grace_ends_and_the_transaction_is_rolled_back(bench: Bench) -> None:
    running = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        running.set()
        await asyncio.Event().wait()

    bench.start(consumer(handle, grace=timedelta(milliseconds=20)))
    await bench.events.publish(message("e1"))
    await running.wait()
    await bench.finish()
    assert bench.store.effects == {}
    assert bench.events.naks == [(1, timedelta(0))]


async def test_a_stop_ends_also_where_the_server_answers_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.events.publish(message("e1"))
    async with MemoryBroker.subscribe(bench.broker, EVENTS, DURABLE) as dead:
        await dead.next(1, timeout=SOON)
        asked = asyncio.Event()

        async def rewind(_: object) -> int | None:
            asked.set()
            await asyncio.Event().wait()
            return None

        monkeypatch.setattr("consuming._Watched.rewind", rewind)
        bench.start(consumer(note, grace=timedelta(milliseconds=20)))
        await asked.wait()
        async with asyncio.timeout(5):
            await bench.finish()


async def test_cancelling_rolls_back_and_does_not_wait(bench: Bench) -> None:
    running = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        running.set()
        await asyncio.Event().wait()

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await running.wait()
    bench.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.ended()
    assert bench.store.effects == {}
    assert bench.events.acked == []


async def test_prefetch_stays_within_what_can_be_started() -> None:
    bench = await Bench.open()
    blocked = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await blocked.wait()

    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 40)))
    bench.start(consumer(handle, batch=3))
    await until(lambda: len(bench.events.pending) == 3)
    await asyncio.sleep(0)
    assert len(bench.events.pending) == 3
    blocked.set()
    await until(lambda: len(bench.events.acked) == 39)
    await bench.finish()


# ------------------------------------------------------------------ what a handler is given


async def test_a_delivery_says_where_it_comes_from_and_continues_the_chain(bench: Bench) -> None:
    seen: list[tuple[RawEvent, Delivery, Any]] = []
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        seen.append((event, delivery, current_chain()))
        follow_up = RawEvent("memo.event.followed.v1", b"{}")
        assert len(await delivery.add(follow_up, key="case-1")) == 1

    headers = {
        "Nats-Msg-Id": "redrive:1",
        "X-Event-Id": "e1",
        "X-Correlation-Id": "request-7",
        "X-Causation-Id": "e0",
        "X-Ordering-Key": "case-1",
        "X-Occurred-At": "2026-11-24T08:00:00.000000Z",
        "traceparent": trace,
    }
    redrive = f"memo.redrive.{DURABLE}.{SUBJECT}"
    bench.start(consumer(handle))
    await bench.broker.durables[REDRIVES].publish(Message(redrive, b"{}", headers))
    await until(lambda: bench.broker.durables[REDRIVES].acked == [1])
    await bench.finish()

    [(raw, delivery, chain)] = seen
    assert (raw.subject, raw.event_id, raw.key) == (SUBJECT, "e1", "case-1")
    assert (delivery.subject, delivery.stream, delivery.stream_seq) == (SUBJECT, REDRIVES, 1)
    assert (delivery.event_id, delivery.consumer, delivery.deliveries) == ("e1", DURABLE, 1)
    assert (delivery.correlation_id, delivery.causation_id) == ("request-7", "e0")
    assert (delivery.key, delivery.redriven) == ("case-1", True)
    assert delivery.occurred_at == datetime(2026, 11, 24, 8, tzinfo=UTC)
    assert delivery.headers["traceparent"] == trace
    assert (chain.correlation_id, chain.causation_id, chain.traceparent) == (
        "request-7",
        "e1",
        trace,
    )
    [entry] = await bench.store.entries()
    assert entry.message.headers["X-Correlation-Id"] == "request-7"
    assert entry.message.headers["X-Causation-Id"] == "e1"


async def test_a_consumer_without_database_says_so(bench: Bench) -> None:
    errors: list[str] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        for use in (lambda: delivery.tx, lambda: delivery.add(event)):
            with collecting(errors):
                found = use()
                if isinstance(found, Awaitable):
                    await found

    bench.start(consumer(handle, tx=None))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert errors == [f"{DURABLE} has no database: its deliveries have no tx"] * 2


@contextmanager
def collecting(errors: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        errors.append(str(error))


def _row_of(stream_seq: int) -> tuple[str, list[str]]:
    consumer, row = letter_row(DURABLE, (EVENTS, stream_seq), f"e{stream_seq}")
    return consumer, [row]


async def test_a_letter_is_not_stored_before_the_inbox_knows_of_it(bench: Bench) -> None:
    """Somebody else who is given the message meanwhile would handle it."""

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        bench.store.away = 1_000_000
        raise Poison("bad")

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: [wait.about for wait in bench.telemetry.waits] == ["dead letters"])
    assert bench.letters.stored == []
    assert bench.events.acked == []
    bench.store.away = 0
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == [("e1", "poison")], "one letter, however long that took"
    assert await bench.store.claimed(*_row_of(1))


async def test_what_took_effect_elsewhere_meanwhile_becomes_no_letter(bench: Bench) -> None:
    """This process stood still after its handler had failed, and another one was given it."""
    other, decided = bench.store.transaction, asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        bench.store.transaction = meanwhile  # type: ignore[method-assign]
        raise Poison("bad")

    @asynccontextmanager
    async def meanwhile() -> AsyncIterator[InboxTransaction]:
        bench.store.transaction = other  # type: ignore[method-assign]
        async with other() as tx:
            await tx.claim(DURABLE, "e1")
        decided.set()
        async with other() as tx:
            yield tx

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert decided.is_set()
    assert bench.letters.stored == []
    assert bench.outcomes() == ["already_processed"]


async def test_what_others_decided_while_nothing_ran_here_has_no_effect(bench: Bench) -> None:
    """A first delivery that this process slept through: its letter may be there by now."""
    await bench.events.configure(ack_wait=50_000_000)

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        calls.append(delivery.event_id)
        stand_still()
        await note(event, delivery)

    def stand_still() -> None:
        time.sleep(0.2)

    calls: list[str] = []
    async with bench.store.transaction() as tx:
        await tx.claim(*letter_row(DURABLE, (EVENTS, 1), "e1"))
    await bench.events.publish(message("e1"))
    bench.start(consumer(handle))
    await until(lambda: bench.letters.stored == [("e1", "exhausted")])
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert calls[:1] == ["e1"]
    assert bench.store.effects == {}


async def test_a_letter_of_what_lay_there_before_stands_for_nothing(bench: Bench) -> None:
    """The stream was deleted and made anew: its sequences began at 1 again."""
    async with bench.store.transaction() as tx:
        await tx.claim(*letter_row(DURABLE, (EVENTS, 1), "another"))
    await bench.events.publish(message("e1"))
    await bench.events.deliver_to_another(1)
    bench.start(consumer(note))
    await until(lambda: "e1" in bench.store.effects)
    await bench.finish()


async def test_what_comes_again_after_its_letter_takes_no_effect(bench: Bench) -> None:
    """Only its acknowledgement was lost; this time the handler would succeed."""
    await bench.events.publish(message("e1"), message("e2", "case-2"))
    async with bench.store.transaction() as tx:
        await tx.claim(*letter_row(DURABLE, (EVENTS, 1), "e1"))
    await bench.events.deliver_to_another(1)
    bench.start(consumer(note, ordering="none"))
    bench.events.again(1)
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert set(bench.store.effects) == {"e2"}
    # Who decided that may have ended before it was stored: the queue takes it once.
    assert bench.letters.stored == [("e1", "exhausted")]
