"""What a consumer says of events that nobody takes, and of handlers that fail."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from consuming import DURABLE, EVENTS, SOON, Bench, consumer, message, note, until
from seaway.consumer import Consumer, Delivery
from seaway.consumer.outcomes import _KINDS
from seaway.errors import AlreadyProcessed, ConfigError, Poison, Retry
from seaway.events import RawEvent, event
from seaway.inbox.letters import letter_row
from seaway.naming import Durable
from seaway.retry import Backoff

AT_ONCE = Backoff(SOON, SOON)
V1, V2 = "memo.event.order_placed.v1", "memo.event.order_placed.v2"


@event(context="memo", version=1)
@dataclass
class OrderPlaced:
    order: str = ""


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench.open()
    yield made
    await made.close()


@pytest.fixture
async def patient() -> AsyncIterator[Bench]:
    """A durable that gives a message out without end."""
    made = await Bench.open(max_deliver=-1)
    yield made
    await made.close()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    caplog.set_level(logging.DEBUG, logger="seaway")
    return lambda: [one for one in caplog.records if one.levelno >= logging.WARNING]


Said = Callable[[], list[logging.LogRecord]]


def typed(**options: Any) -> tuple[Consumer, list[str]]:
    made, handled = Consumer(Durable.parse(DURABLE), stream=EVENTS, **options), []

    @made.handler(OrderPlaced)
    async def place(event: OrderPlaced, delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    return made, handled


def order(event_id: str, subject: str = V1, key: str = "case-1") -> Any:
    made = message(event_id, key, subject=subject)
    return type(made)(made.subject, b"{}", made.headers)


# ------------------------------------------------------------------ what nobody takes


@pytest.mark.parametrize("version", ["v2", "v0", "v01", "latest"])
async def test_an_unknown_version_of_a_handled_event_is_a_dead_letter(
    bench: Bench, version: str
) -> None:
    made, handled = typed()
    bench.start(made)
    await bench.events.publish(order("e1", f"memo.event.order_placed.{version}"), order("e2"))
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert bench.letters.stored == [("e1", "undecodable")]
    assert handled == ["e2"]
    assert sorted(bench.outcomes()) == ["dead_lettered", "handled"]


async def test_the_error_says_which_version_came_and_which_are_known(bench: Bench) -> None:
    made, _ = typed()
    bench.start(made)
    await bench.events.publish(order("e1", V2))
    await until(lambda: bench.outcomes() == ["dead_lettered"])
    await bench.finish()
    errors = [getattr(one, "error", None) for one in bench.signals]
    assert any(
        error and error.endswith(f"{V2}: version 2 is unknown here, known: v1") for error in errors
    ), errors


@pytest.mark.parametrize("store", [True, False])
async def test_an_unknown_version_in_a_batch_spoils_nothing_else(bench: Bench, store: bool) -> None:
    made, handled = typed(batch=10, **({} if store else {"tx": None}))
    await bench.events.publish(order("e1"), order("e2", V2), order("e3"))
    bench.start(made, store=store)
    await until(lambda: sorted(bench.events.acked) == [1, 2, 3])
    await bench.finish()
    assert bench.letters.stored == [("e2", "undecodable")]
    assert set(handled) == {"e1", "e3"}


async def test_a_version_that_took_effect_in_another_process_is_skipped(bench: Bench) -> None:
    """One that knows it, during a deployment; only its acknowledgement was lost."""
    async with bench.store.transaction() as tx:
        await tx.claim(DURABLE, "e1")
    made, _ = typed()
    bench.start(made)
    await bench.events.publish(order("e1", V2))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == []
    assert bench.outcomes() == ["already_processed"]


async def test_a_raw_handler_takes_every_version(bench: Bench) -> None:
    made, handled = typed()
    made.handler(RawEvent)(note)
    bench.start(made)
    await bench.events.publish(order("e1", V2), order("e2"), order("e3", "memo.event.other.v1"))
    await until(lambda: sorted(bench.events.acked) == [1, 2, 3])
    await bench.finish()
    assert set(bench.store.effects) == {"e1", "e3"}
    assert handled == ["e2"]


async def test_an_event_without_a_handler_is_said_once_a_type(bench: Bench, said: Said) -> None:
    made, _ = typed()
    bench.start(made)
    other = "memo.event.other.v1"
    await bench.events.publish(order("e1", other), order("e2", other), order("e3", other))
    await until(lambda: bench.outcomes() == ["ignored"] * 3)
    await bench.finish()
    (record,) = said()
    assert (record.levelname, record.name) == ("WARNING", "seaway.consumer")
    assert f"{DURABLE}: no handler takes {other}:" in record.getMessage()


async def test_types_without_end_are_said_within_bounds(bench: Bench, said: Said) -> None:
    made, _ = typed()
    bench.start(made)
    many = _KINDS + 50
    await bench.events.publish(
        *(order(f"e{n}", f"memo.event.other{n}.v1", f"key {n}") for n in range(many))
    )
    await until(lambda: bench.outcomes() == ["ignored"] * many)
    await bench.finish()
    assert len(said()) == _KINDS + 1
    assert f"more than {_KINDS} types" in said()[-1].getMessage()


async def test_on_unknown_letter_keeps_every_event(bench: Bench, said: Said) -> None:
    made, _ = typed(on_unknown="letter")
    assert made.handles("memo.event.other.v1")
    bench.start(made)
    await bench.events.publish(order("e1", "memo.event.other.v1"), order("e2", "memo.odd"))
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert sorted(bench.letters.stored) == [("e1", "undecodable"), ("e2", "undecodable")]
    assert said() == []


def test_on_unknown_is_one_of_two() -> None:
    with pytest.raises(ConfigError, match="on_unknown is 'ignore' or 'letter', not 'dlq'"):
        typed(on_unknown="dlq")


def test_what_a_consumer_says_that_it_handles() -> None:
    """For those that look for lost deliveries: what is refused is not ignored."""
    made, _ = typed()
    assert made.handles(V1)
    assert made.handles(V2)
    assert not made.handles("memo.event.other.v1")
    assert not made.handles("memo.event.order_placed")
    assert not made.handles("memo.odd")


async def test_what_was_under_way_and_nobody_takes_is_said_and_counted(
    bench: Bench, said: Said
) -> None:
    made, handled = typed()
    await bench.events.publish(order("e1", "memo.event.other.v1"), order("e2", V2), order("e3"))
    await bench.events.deliver_to_another(3)
    bench.start(made)
    await until(lambda: 1 in bench.events.acked)
    await until(lambda: handled == ["e3"])
    assert bench.outcomes("e1") == ["ignored"]
    assert len(said()) >= 1
    await until(lambda: bench.letters.stored == [("e2", "undecodable")])
    await bench.finish()
    rows = [name for one in ("e1", "e2") for name in await bench.store.processed(one)]
    assert not any(name == DURABLE for name in rows)
    assert letter_row(DURABLE, (EVENTS, 1), "e1")[0] not in await bench.store.processed("e1")


# ------------------------------------------------------------------ handlers that fail


def missing_table(event_id: str) -> None:
    raise LookupError(f"no such table: taks ({event_id})")


async def test_the_first_failure_of_a_kind_is_said_with_the_users_frames(
    bench: Bench, said: Said
) -> None:
    async def add_task(event: RawEvent, delivery: Delivery) -> None:
        missing_table(delivery.event_id)

    bench.start(consumer(add_task, retry=AT_ONCE))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.letters.stored == [("e1", "exhausted")])
    await bench.finish()
    first, repeats = said()
    text = first.getMessage()
    assert first.levelname == repeats.levelname == "WARNING"
    assert text.startswith(f"{DURABLE}: ")
    assert "add_task failed: LookupError: no such table: taks (e1)" in text
    assert "delivery 1): it is tried again" in text
    trace = first.exc_text or ""
    assert 'test_consumer_heard.py", line' in trace
    assert "in missing_table" in trace
    assert "seaway/consumer" not in trace
    said_again = repeats.getMessage()
    assert "add_task failed 4 times more in the last " in said_again
    assert repeats.exc_info is None
    assert first.__dict__["event_id"] == first.__dict__["correlation_id"] == "e1"
    assert first.__dict__["consumer"] == DURABLE


async def test_each_kind_is_said_and_none_twice(patient: Bench, said: Said) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.deliveries > 60:
            raise Poison("enough")
        if delivery.event_id == "e1":
            raise ValueError("one line")
        if delivery.event_id == "e2":
            raise ValueError("another line")
        raise KeyError("another type")

    patient.start(consumer(handle, retry=AT_ONCE, workers=3))
    await patient.events.publish(*(message(f"e{n}", f"key {n}") for n in (1, 2, 3)))
    await until(lambda: len(patient.letters.stored) == 3)
    firsts = [one for one in said() if one.exc_info]
    assert len(said()) == len(firsts) == 3
    await patient.finish()
    repeats = said()[3:]
    assert ["59 times more" in one.getMessage() for one in repeats] == [True] * 3


async def test_what_a_handler_says_on_purpose_is_no_noise(bench: Bench, said: Said) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e1":
            raise AlreadyProcessed
        if delivery.event_id == "e2":
            raise Poison("never")
        if delivery.deliveries == 1:
            raise Retry("later", after=SOON)

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"), message("e2"), message("e3"))
    await until(lambda: sorted(bench.events.acked) == [1, 2, 3])
    await bench.finish()
    assert said() == []


async def test_repeats_are_said_at_intervals(
    patient: Bench, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.consumer.outcomes._FIRST_SECONDS", 0.1)
    monkeypatch.setattr("seaway.consumer.outcomes._LATER_SECONDS", 0.2)
    over = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if not over.is_set():
            raise ValueError("as ever")

    patient.start(consumer(handle, retry=AT_ONCE))
    await patient.events.publish(message("e1"))
    await until(lambda: len(said()) >= 4)
    over.set()
    await until(lambda: patient.events.acked == [1])
    await patient.finish()
    first, *later = said()
    assert first.exc_info
    assert all(re.search("times? more in the last", one.getMessage()) for one in later)


async def test_kinds_without_end_are_said_within_bounds(bench: Bench, said: Said) -> None:
    many = _KINDS + 50

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        raise type(f"Error{delivery.event_id}", (Exception,), {})("each of its own kind")

    bench.start(consumer(handle, retry=AT_ONCE))
    await bench.events.publish(*(message(f"e{n}", f"key {n}") for n in range(many)))
    await until(lambda: len(bench.letters.stored) == many, within=30)
    assert len([one for one in said() if one.exc_info]) == _KINDS + 1
    await bench.finish()
    assert len(said()) <= 2 * (_KINDS + 1)


async def _late(event: RawEvent, delivery: Delivery) -> None:
    await asyncio.sleep(60)


async def _in_a_thread(event: RawEvent, delivery: Delivery) -> None:
    await asyncio.to_thread(missing_table, delivery.event_id)


async def _in_a_group(event: RawEvent, delivery: Delivery) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_in_a_thread(event, delivery))


async def _hostile(event: RawEvent, delivery: Delivery) -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

        @property
        def __cause__(self) -> BaseException:  # type: ignore[override]
            raise ZeroDivisionError

    raise HostileError


async def _cancelled(event: RawEvent, delivery: Delivery) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("handle", [_late, _in_a_thread, _in_a_group, _hostile, _cancelled])
async def test_every_way_to_fail_is_said_with_the_users_line(
    bench: Bench, said: Said, handle: Callable[[RawEvent, Delivery], Awaitable[None]]
) -> None:
    # The others may take as long as they like: it is their own error that is looked for.
    made = consumer(handle, retry=AT_ONCE, deadline=10 * SOON if handle is _late else None)
    bench.start(made)
    await bench.events.publish(message("e1"))
    await until(lambda: bench.letters.stored == [("e1", "exhausted")])
    await bench.finish()
    first, repeats = said()
    assert f"{handle.__name__} failed" in first.getMessage()
    trace = first.exc_text or ""
    assert f"in {handle.__name__}" in trace or "its traceback cannot be had" in trace
    assert f"{__file__}:" in repeats.getMessage()


async def test_a_letter_has_the_users_frames(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[str] = []
    store = bench.letters.store

    async def keep(incoming: Any, *, reason: Any, error: BaseException | None) -> int:
        from seaway.dead_letters.writing import _stack

        stacks.append("" if error is None else _stack(error))
        return await store(incoming, reason=reason, error=error)

    monkeypatch.setattr(bench.letters, "store", keep)

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        raise Poison("never")

    bench.start(consumer(handle))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    (stack,) = stacks
    assert "test_consumer_heard.py" in stack
    assert "seaway/consumer" not in stack


async def test_a_foreign_cancellation_ends_no_worker_also_after_a_group_that_failed(
    bench: Bench,
) -> None:
    """Up to Python 3.12 the task of a group that failed counts a cancellation for ever."""
    handled: list[str] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e1":
            await _in_a_group(event, delivery)
        if delivery.event_id == "e2":
            await _cancelled(event, delivery)
        handled.append(delivery.event_id)

    bench.start(consumer(handle, retry=AT_ONCE))
    await bench.events.publish(*(message(f"e{n}", f"key {n}") for n in (1, 2, 3)))
    await until(lambda: len(bench.letters.stored) == 2 and handled == ["e3"])
    await bench.finish()
