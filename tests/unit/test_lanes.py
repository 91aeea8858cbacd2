"""Lanes: order by key, nothing lost, nothing stuck, whatever happens in between."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from seaway.consumer.lanes import Lanes, Work
from seaway.contracts import Incoming, Message, Subscription

SOURCE = cast(Subscription, object())
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def work(seq: int, key: str, *, source: Subscription | None = SOURCE, tries: int = 1) -> Work:
    incoming = Incoming(
        message=Message("sea.event.x.v1", b"", {"X-Ordering-Key": key}),
        stream="SEA_EVENTS",
        stream_seq=seq,
        stored_at=NOW,
        consumer="a__b",
        consumer_seq=seq,
        deliveries=tries,
        pending=0,
        reply=f"{seq}.{tries}",
    )
    return Work(incoming, source, key)


def seqs(works: list[Work]) -> list[int]:
    return [one.incoming.stream_seq for one in works]


def test_a_lane_is_closed_until_its_run_is_done() -> None:
    lanes = Lanes()
    for seq in (1, 2, 3):
        lanes.push(work(seq, "k"))
    first = lanes.take(2)
    assert seqs(first) == [1, 2]
    assert lanes.take(2) == []
    lanes.done(first[0])
    assert lanes.take(2) == []
    lanes.done(first[1])
    assert seqs(lanes.take(2)) == [3]


def test_a_held_lane_waits_for_the_delivery_to_come_again() -> None:
    lanes = Lanes()
    lanes.push(work(1, "k"))
    lanes.push(work(2, "k"))
    [first] = lanes.take(1)
    lanes.hold(first, until=10.0)
    assert lanes.take(5) == []
    assert lanes.overdue(9.0) == []
    assert [held.place for held in lanes.overdue(10.0)] == [("SEA_EVENTS", 1)]
    lanes.push(work(1, "k", tries=2))
    assert seqs(lanes.take(5)) == [1, 2]


def test_a_released_lane_goes_on_without_it() -> None:
    lanes = Lanes()
    lanes.push(work(1, "k"))
    lanes.push(work(2, "k"))
    [first] = lanes.take(1)
    lanes.hold(first, until=0.0)
    lanes.release(first.place)
    assert seqs(lanes.take(5)) == [2]


def test_the_newest_copy_counts_since_only_that_can_be_acknowledged() -> None:
    lanes = Lanes()
    lanes.push(work(1, "k"))
    lanes.push(work(1, "k", tries=2))
    [only] = lanes.take(5)
    assert only.incoming.reply == "1.2"
    assert len(lanes) == 1


def test_a_copy_read_from_the_stream_never_replaces_one_that_can_be_acknowledged() -> None:
    lanes = Lanes()
    lanes.push(work(1, "k"))
    lanes.push(work(1, "k", source=None))
    [only] = lanes.take(5)
    assert only.source is SOURCE


def test_put_back_keeps_the_order() -> None:
    lanes = Lanes()
    for seq in (1, 2, 3):
        lanes.push(work(seq, "k"))
    taken = lanes.take(2)
    lanes.put_back(taken)
    assert seqs(lanes.take(3)) == [1, 2, 3]


def test_without_order_nothing_waits_for_anything() -> None:
    lanes = Lanes(ordered=False)
    for seq in (1, 2):
        lanes.push(work(seq, "k"))
    [first] = lanes.take(1)
    assert seqs(lanes.take(1)) == [2]
    lanes.hold(first, until=10.0)
    assert lanes.held == 0


@given(
    keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
    steps=st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["done", "hold", "back"]))),
)
def test_each_key_keeps_its_order_and_everything_is_done_once(
    keys: list[str], steps: list[tuple[int, str]]
) -> None:
    lanes = Lanes()
    for seq, key in enumerate(keys, start=1):
        lanes.push(work(seq, key))
    handled: dict[str, list[int]] = defaultdict(list)

    def finish(one: Work) -> None:
        handled[one.key].append(one.incoming.stream_seq)
        lanes.done(one)

    for count, what in steps:
        taken = lanes.take(count)
        if what == "back" and taken:
            lanes.put_back(taken)
        elif what == "hold" and taken:
            failed, rest = taken[0], taken[1:]
            lanes.put_back([one for one in rest if one.key == failed.key])
            for one in rest:
                if one.key != failed.key:
                    finish(one)
            lanes.hold(failed, until=0.0)
            lanes.push(work(failed.incoming.stream_seq, failed.key, tries=2))
        else:
            for one in taken:
                finish(one)
    while taken := lanes.take(3):
        for one in taken:
            finish(one)
    assert len(lanes) == 0
    for key, seen in handled.items():
        assert seen == [seq for seq, other in enumerate(keys, start=1) if other == key]
    assert sum(map(len, handled.values())) == len(keys)
