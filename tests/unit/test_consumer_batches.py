"""Handlers that take lists, and how calls are grouped and parted."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consuming import DURABLE, EVENTS, SOON, Bench, consumer, message, note, until
from seaway.consumer import Consumer, Delivery
from seaway.consumer.calling import Failure, around, halves, items_of, plan
from seaway.consumer.handlers import HandlerTable
from seaway.consumer.lanes import InHand
from seaway.contracts import Incoming, Message
from seaway.errors import AlreadyProcessed, ConfigError, Poison, Retry, Unavailable
from seaway.events import RawEvent, Registry, event
from seaway.naming import Durable

REGISTRY = Registry()


@event(context="memo", registry=REGISTRY)
@dataclass
class Listed:
    text: str


@event(context="memo", registry=REGISTRY)
@dataclass
class Single:
    text: str


LISTED, SINGLE = "memo.event.listed.v1", "memo.event.single.v1"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench.open()
    yield made
    await made.close()


class Lists:
    """A batch handler that remembers what it was called with, and fails on what it is told to."""

    def __init__(self, **fails: Exception) -> None:
        self.fails = fails
        self.calls: list[list[str]] = []

    def consumer(self, **options: object) -> Consumer:
        made = Consumer(Durable.parse(DURABLE), stream=EVENTS, **{"batch": 10, **options})  # type: ignore[arg-type]
        made.batch_handler(RawEvent)(self.handle)
        return made

    async def handle(self, events: list[RawEvent], deliveries: list[Delivery]) -> None:
        assert [one.event_id for one in events] == [one.event_id for one in deliveries]
        self.calls.append([one.event_id for one in deliveries])
        for raw, delivery in zip(events, deliveries, strict=True):
            await note(raw, delivery)
            if delivery.event_id in self.fails and delivery.deliveries == 1:
                raise self.fails[delivery.event_id]


async def test_a_list_is_one_transaction(bench: Bench) -> None:
    lists = Lists()
    await bench.events.publish(*(message(f"e{n}", f"case-{n % 3}") for n in range(1, 7)))
    bench.start(lists.consumer())
    await until(lambda: len(bench.events.acked) == 6)
    await bench.finish()
    assert [sorted(call) for call in lists.calls] == [[f"e{n}" for n in range(1, 7)]]
    assert bench.store.begun == 1
    assert len(bench.store.effects) == 6
    assert bench.outcomes() == ["handled"] * 6


@pytest.mark.parametrize("error", [Poison("bad"), ValueError("bad")])
async def test_one_that_cannot_be_handled_takes_no_other_with_it(
    bench: Bench, error: Exception
) -> None:
    await bench.events.configure(max_deliver=1)
    lists = Lists(e4=error)
    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 9)))
    bench.start(lists.consumer())
    await until(lambda: len(bench.events.acked) == 8)
    await bench.finish()
    assert [event_id for event_id, _ in bench.letters.stored] == ["e4"]
    assert set(bench.store.effects) == {f"e{n}" for n in (1, 2, 3, 5, 6, 7, 8)}
    assert ["e4"] in lists.calls
    # Nobody else was ever a list of one for nothing: halves, not eight single transactions, and
    # three more for the letter.
    assert bench.store.begun - 3 < 8


async def test_order_by_key_holds_where_lists_are_parted(bench: Bench) -> None:
    lists = Lists(e2=Retry(after=SOON))
    await bench.events.publish(*(message(f"e{n}", f"case-{n % 2}") for n in range(1, 7)))
    bench.start(lists.consumer())
    await until(lambda: len(bench.events.acked) == 6)
    await bench.finish()
    even = [number for number in bench.events.acked if number % 2 == 0]
    assert even == [2, 4, 6]
    assert bench.store.effects["e2"] == 2


async def test_a_list_says_that_it_was_processed(bench: Bench) -> None:
    lists = Lists(e1=AlreadyProcessed())
    await bench.events.publish(message("e1"), message("e2"))
    bench.start(lists.consumer())
    await until(lambda: len(bench.events.acked) == 2)
    await bench.finish()
    assert bench.outcomes() == ["already_processed"] * 2


async def test_an_outage_keeps_the_whole_list(bench: Bench) -> None:
    lists = Lists(e2=Unavailable(after=SOON))
    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 4)))
    made = lists.consumer()
    bench.start(made)
    await until(lambda: bool(lists.calls))
    lists.fails.clear()
    await until(lambda: len(bench.events.acked) == 3)
    await bench.finish()
    assert bench.events.naks == []
    assert bench.outcomes() == ["handled"] * 3


async def test_without_a_database_a_list_is_parted_all_the_same(bench: Bench) -> None:
    calls: list[list[str]] = []
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS, batch=10, tx=None)

    @made.batch_handler(RawEvent)
    async def handle(events: list[RawEvent], deliveries: list[Delivery]) -> None:
        calls.append([one.event_id for one in deliveries])
        if "e2" in calls[-1]:
            raise Poison("bad")

    await bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 5)))
    bench.start(made)
    await until(lambda: len(bench.events.acked) == 4)
    await bench.finish()
    assert [event_id for event_id, _ in bench.letters.stored] == ["e2"]
    assert calls == [["e1", "e2", "e3", "e4"], ["e1", "e2"], ["e1"], ["e2"], ["e3", "e4"]]


async def test_what_cannot_be_read_leaves_its_list_alone(bench: Bench) -> None:
    seen: list[list[str]] = []
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS, batch=10)

    @made.batch_handler(Listed)
    async def handle(events: list[Listed], deliveries: list[Delivery]) -> None:
        seen.append([one.text for one in events])

    def listed(number: int, payload: bytes, **headers: str) -> Message:
        named = {"Nats-Msg-Id": f"e{number}", "X-Ordering-Key": f"k{number}", **headers}
        return Message(LISTED, payload, named)

    await bench.events.publish(
        listed(1, b'{"text":"a"}'),
        listed(2, b"nonsense"),
        listed(3, b'{"text":"c"}'),
        Message(LISTED, b'{"text":"d"}', {"X-Event-Version": "x", "X-Ordering-Key": "k4"}),
        listed(5, b'{"text":"e"}'),
    )
    bench.start(made)
    await until(lambda: len(bench.events.acked) == 5)
    await bench.finish()
    assert sorted(bench.letters.stored) == [(f"{EVENTS}:4", "undecodable"), ("e2", "undecodable")]
    assert [one for call in seen for one in call] == ["a", "c", "e"]


async def test_events_written_from_a_list_follow_their_own(bench: Bench) -> None:
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS, batch=10)

    @made.batch_handler(RawEvent)
    async def handle(events: list[RawEvent], deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            await delivery.add(RawEvent("memo.event.followed.v1", b"{}"), key=delivery.key)

    await bench.events.publish(message("e1"), message("e2", "case-2"))
    bench.start(made)
    await until(lambda: len(bench.events.acked) == 2)
    await bench.finish()
    entries = await bench.store.entries()
    assert {(one.key, one.message.headers["X-Causation-Id"]) for one in entries} == {
        ("case-1", "e1"),
        ("case-2", "e2"),
    }


async def test_a_batch_handler_may_be_called_with_one(bench: Bench) -> None:
    lists = Lists()
    await bench.events.publish(message("e1"), message("e2"))
    bench.start(lists.consumer(batch=1))
    await until(lambda: len(bench.events.acked) == 2)
    await bench.finish()
    assert lists.calls == [["e1"], ["e2"]]


async def test_two_deliveries_of_one_event_in_one_batch_take_effect_once(bench: Bench) -> None:
    handled: list[str] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    headers = {"Nats-Msg-Id": "other", "X-Event-Id": "e1", "X-Ordering-Key": "case-1"}
    await bench.events.publish(message("e1"), Message("memo.event.case_opened.v1", b"", headers))
    bench.start(consumer(handle, batch=10))
    await until(lambda: len(bench.events.acked) == 2)
    await bench.finish()
    assert handled == ["e1"]
    assert sorted(bench.outcomes()) == ["already_processed", "handled"]


# ------------------------------------------------------------------ grouping and parting


def table() -> HandlerTable:
    made = HandlerTable(DURABLE)

    async def lists(events: list[Listed], deliveries: list[Delivery]) -> None: ...

    async def single(event: Single, delivery: Delivery) -> None: ...

    made.register(Listed, lists, takes_lists=True)
    made.register(Single, single)
    return made


def works(subjects_and_keys: Sequence[tuple[str, str]]) -> list[InHand]:
    now = datetime.now(UTC)
    return [
        InHand(
            Incoming(
                Message(subject, b"{}", {"X-Ordering-Key": key}),
                EVENTS,
                seq,
                now,
                DURABLE,
                seq,
                1,
                0,
            ),
            object(),  # type: ignore[arg-type]
        )
        for seq, (subject, key) in enumerate(subjects_and_keys, start=1)
    ]


def grouped(*subjects_and_keys: tuple[str, str], ordered: bool = True) -> list[list[int]]:
    [part], _ = plan(works(subjects_and_keys), table(), ordered=ordered)
    assert not isinstance(part, Failure)
    return [[work.incoming.stream_seq for work in call.items] for call in part]


def test_a_list_takes_what_no_other_event_of_the_key_parts() -> None:
    assert grouped((LISTED, "a"), (SINGLE, "b"), (LISTED, "c")) == [[1, 3], [2]]
    assert grouped((LISTED, "a"), (SINGLE, "a"), (LISTED, "a")) == [[1], [2], [3]]
    assert grouped((LISTED, "a"), (SINGLE, "a"), (LISTED, "a"), ordered=False) == [[1, 3], [2]]
    assert grouped((LISTED, "a"), (SINGLE, "b"), (LISTED, "b"), (LISTED, "a")) == [
        [1],
        [2],
        [3, 4],
    ]


def test_what_nobody_takes_is_not_called() -> None:
    steps, ignored = plan(works([("memo.event.unknown.v1", "a")]), table(), ordered=True)
    assert steps == []
    assert len(ignored) == 1


EVENTS_AND_KEYS = st.lists(
    st.tuples(st.sampled_from([LISTED, SINGLE]), st.sampled_from("abc")), min_size=1, max_size=12
)


@given(EVENTS_AND_KEYS, st.data())
def test_no_parting_loses_doubles_or_turns_round(
    subjects_and_keys: list[tuple[str, str]], data: st.DataObject
) -> None:
    all_works = works(subjects_and_keys)
    [part], _ = plan(all_works, table(), ordered=True)
    assert not isinstance(part, Failure)
    order = [one.incoming.stream_seq for one in items_of(part)]
    at = data.draw(st.integers(0, len(part) - 1))
    item = data.draw(st.sampled_from([None, *part[at].items]))
    # A failure is of one item; a call of several is parted at an item, or tried by itself.
    failed = item is not None and data.draw(st.booleans())
    failure = Failure(item, ValueError()) if failed and item is not None else None
    partings = [around(part, at, item, failure)]
    if len(order) > 1:
        partings.append(halves(part))
    for steps in partings:
        found = [
            one.incoming.stream_seq
            for step in steps
            for one in ([step.item] if isinstance(step, Failure) else items_of(step))
        ]
        assert Counter(found) == Counter(order)
        by_key = {
            key: [seq for seq in found if subjects_and_keys[seq - 1][1] == key] for key in "abc"
        }
        assert all(numbers == sorted(numbers) for numbers in by_key.values())


# ------------------------------------------------------------------ mistakes at import


def test_a_batch_handlers_mistakes_are_told_at_once() -> None:
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS)

    async def not_lists(events: Listed, deliveries: Delivery) -> None: ...

    async def other(events: list[Single], deliveries: list[Delivery]) -> None: ...

    async def too_few() -> None: ...

    for wrong, words in (
        (not_lists, r"events is annotated Listed, but is given list\[Listed\]"),
        (other, r"events is annotated .*Single.*, but is given list\[Listed\]"),
        (too_few, r"a batch handler takes \(events: list\[Listed\], deliveries: list\[Deliv"),
    ):
        with pytest.raises(ConfigError, match=words):
            made.batch_handler(Listed)(wrong)  # type: ignore[arg-type]

    @made.batch_handler(Listed)
    async def sequences(events: Sequence[Listed], deliveries: Sequence[Delivery]) -> None: ...

    with pytest.raises(ConfigError, match="has two handlers for memo"):

        @made.handler(Listed)
        async def again(event: Listed, delivery: Delivery) -> None: ...
