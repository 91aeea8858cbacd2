"""When a retry is put off, when it waits as before; what names a time, and what does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consuming import EVENTS, REDRIVES, Bench, consumer, message, until
from seaway import headers as h
from seaway.cli.dlq.later import _read, check
from seaway.consumer import Delivery
from seaway.contracts import Message, StoredMessage
from seaway.dead_letters.later import read
from seaway.errors import ConfigError, Retry
from seaway.events import RawEvent
from seaway.naming import is_durable, later_filter, later_subject, original_subject, redrive_filter
from seaway.retry import LATER
from seaway.waiting_events import WaitingKeys

HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 29, 10, 30, tzinfo=UTC)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench.open(max_ack_pending=1)
    yield made
    await made.close()


def asks_for(delay: timedelta) -> Any:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e1":
            raise Retry("not ripe", after=delay)

    return handle


@pytest.mark.parametrize("store", [True, False])
async def test_put_off_it_is_acknowledged_and_the_next_one_comes(bench: Bench, store: bool) -> None:
    bench.letters.sends_later = True
    bench.start(consumer(asks_for(HOUR), ordering="none"), store=store)
    await bench.events.publish(message("e1"), message("e2"))
    await until(lambda: bench.outcomes("e2") == ["handled"])
    assert bench.outcomes("e1") == ["retried"]
    [(put_off, delay)] = bench.letters.later
    assert (put_off.event_id, put_off.deliveries, delay) == ("e1", 1, HOUR)
    await bench.finish()
    assert (bench.events.acked, bench.events.naks) == ([1, 2], [])


@pytest.mark.parametrize(
    ("delay", "sends_later", "options"),
    [
        (LATER - timedelta(seconds=1), True, {"ordering": "none"}),
        (LATER, False, {"ordering": "none"}),
        # Nobody looks after what would wait behind it.
        (LATER, True, {}),
    ],
)
async def test_otherwise_it_keeps_its_place(
    bench: Bench, delay: timedelta, sends_later: bool, options: dict[str, Any]
) -> None:
    bench.letters.sends_later = sends_later
    bench.start(consumer(asks_for(delay), **options))
    await bench.events.publish(message("e1"), message("e2", key="other"))
    await until(lambda: bench.events.naks == [(1, delay)])
    await bench.finish()
    assert bench.letters.later == []
    assert bench.events.acked == []


async def test_what_was_put_off_is_not_handled_again_where_its_ack_was_lost(bench: Bench) -> None:
    bench.letters.sends_later, bench.events.confirms = True, False
    bench.start(consumer(asks_for(HOUR), ordering="none"))
    await bench.events.publish(message("e1"))
    await until(lambda: bench.outcomes("e1") == ["retried"])
    bench.events.confirms = True
    bench.events.again(1)
    await until(lambda: bench.outcomes("e1") == ["retried", "already_processed"])
    await bench.finish()
    assert len(bench.letters.later) == 1
    assert bench.events.acked == [1]


async def test_attempts_are_believed_of_a_redrive_alone(bench: Bench) -> None:
    counted: list[int] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        counted.append(delivery.deliveries)

    bench.start(consumer(handle))
    for number, claim in enumerate(("4", "x", "-1", "9" * 30)):
        stranger = message(f"e{number}")
        headers = {**stranger.headers, h.ATTEMPTS: claim}
        await bench.events.publish(Message(stranger.subject, b"", headers))
        await until(lambda: len(counted) == number + 1)  # noqa: B023 - awaited within the turn
    subject = f"memo.redrive.case_mgmt__from_memo.{stranger.subject}"
    await bench.broker.durables[REDRIVES].publish(Message(subject, b"", {h.ATTEMPTS: "4"}))
    await until(lambda: len(counted) == 5)
    await bench.finish()
    assert counted == [1, 1, 1, 1, 5]
    assert bench.events.stream == EVENTS


@pytest.mark.parametrize("after", [float("nan"), 5, "6h"])
def test_a_delay_is_a_timedelta(after: Any) -> None:
    with pytest.raises(TypeError, match="like timedelta"):
        Retry(after=after)


def test_a_delay_has_an_end() -> None:
    assert Retry(after=timedelta(days=366)).after == timedelta(days=366)
    assert Retry(after=-HOUR).after == -HOUR  # At once: a time that has just passed, say.
    with pytest.raises(ValueError, match="366 days at the most, not 367"):
        Retry(after=timedelta(days=367))


def test_keys_are_looked_at_until_a_look_finds_nothing() -> None:
    keys = WaitingKeys()
    keys.doubt()
    seen = [keys.may_wait]  # Nobody looks.
    keys.keep()
    look = keys.look()
    keys.doubt()
    keys.found(False, look)
    seen.append(keys.may_wait)  # That look had begun before.
    keys.found(False, keys.look())
    seen.append(keys.may_wait)
    keys.found(True, keys.look())
    seen.append(keys.may_wait)
    assert seen == [False, True, False, True]
    always = WaitingKeys(always=True)
    always.found(False, always.look())
    assert always.may_wait


def local(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute).astimezone(UTC)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-11-30T06:00:00Z", datetime(2026, 11, 30, 6, tzinfo=UTC)),
        ("2026-11-30T06:00:00+02:00", datetime(2026, 11, 30, 4, tzinfo=UTC)),
        ("2026-11-30 06:00", local(30, 6)),
        ("2026-11-30", local(30, 0)),
        ("6h", NOW + timedelta(hours=6)),
        ("in 1h30m", NOW + timedelta(minutes=90)),
        ("+90s", NOW + timedelta(seconds=90)),
    ],
)
def test_a_time_is_read(text: str, wanted: datetime) -> None:
    assert _read(text, NOW) == wanted


def test_a_clock_is_the_next_one() -> None:
    noon = local(29, 12)
    assert _read("12:01", noon) == local(29, 12, 1)
    assert _read("12:00", noon) == local(30, 12)
    assert _read("6:30", noon) == local(30, 6, 30)
    assert _read("Tomorrow 06:00", noon) == local(30, 6)
    assert _read("tomorrow", noon) == local(30, 0)
    assert _read("today 06:00", noon) == local(29, 6), "which is past, and refused as that"


@pytest.mark.parametrize(
    "text", ["", "soon", "25:00", "2026-13-01 06:00", "6", "nan", "-6h", "tomorrow morning", "@at"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time") as caught:
        check(text)
    assert "tomorrow 06:00" in str(caught.value)


def test_what_waits_lies_where_no_durable_reads() -> None:
    name = "case_mgmt__from_sea"
    mine, others = (later_subject("sea", name, one) for one in ("e1", "a b.*\n"))
    assert mine != others
    assert len({one.rpartition(".")[0] for one in (mine, others)}) == 1
    assert mine.startswith(later_filter("sea", name).removesuffix(">"))
    assert not is_durable("later")
    assert not mine.startswith(redrive_filter("sea", name).removesuffix(">"))
    assert original_subject(mine) == mine


def test_what_a_stranger_has_put_there_can_be_shown() -> None:
    subject = later_subject("sea", "case_mgmt__from_sea", "e1")
    for headers in (
        {},
        {h.SCHEDULE: "@every 5m", h.SCHEDULE_TARGET: "sea.redrive.x.y"},
        {h.SCHEDULE: "@at never", h.SCHEDULE_TARGET: "", h.DLQ_REASON: "poison"},
    ):
        found = read(StoredMessage(Message(subject, b"", headers), "SEA_REDRIVE", 4, NOW))
        assert (found.id, found.at) == ("SEA_REDRIVE:4", None)
        assert found.letter.problem
