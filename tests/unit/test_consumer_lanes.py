"""Lanes: per key in stream order, nothing lost, nothing stuck, whatever happens in between."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from seaway.consumer.lanes import InHand, Lanes
from seaway.contracts import Incoming, Message, Subscription
from seaway.headers import ORDERING_KEY

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE: Subscription = object()  # type: ignore[assignment]
LATER = 60.0
REDRIVES = "SEA_REDRIVE"


def work(seq: int, key: str, *, stream: str = "SEA_EVENTS", suspect: bool = False) -> InHand:
    message = Message("sea.event.a.v1", b"", {ORDERING_KEY: key})
    incoming = Incoming(message, stream, seq, EPOCH, "c__p", seq, 1, 0)
    return InHand(incoming, SOURCE, suspect=suspect)


def lanes_of(*works: InHand, ordered: bool = True) -> Lanes:
    lanes = Lanes(ordered=ordered)
    for one in works:
        lanes.push(one)
    return lanes


def places(works: list[InHand]) -> list[int]:
    return [one.incoming.stream_seq for one in works]


def test_a_lane_is_closed_while_one_of_its_deliveries_runs() -> None:
    lanes = lanes_of(work(1, "a"), work(2, "a"), work(3, "b"))
    first = lanes.take(1)
    assert places(first) == [1]
    assert places(lanes.take(5)) == [3]
    assert lanes.take(5) == []
    lanes.done(first[0])
    assert places(lanes.take(5)) == [2]


def test_what_is_blocked_waits_behind_what_was_given_back() -> None:
    lanes = lanes_of(*(work(n, key) for n, key in enumerate("abacaab", 1)))
    assert lanes.blocked() == []
    held = lanes.take(1)
    lanes.await_return(held[0], LATER)
    assert places(lanes.blocked()) == [3, 5, 6]
    assert places(lanes.unstarted()) == [2, 7, 4, 3, 5, 6]
    lanes.await_return(lanes.take(1)[0], LATER)
    assert sorted(places(lanes.blocked())) == [3, 5, 6, 7]


def test_what_is_behind_a_stuck_delivery_waits_and_moves_nothing() -> None:
    lanes = lanes_of(*(work(n, key) for n, key in enumerate("aabac", 1)))
    assert lanes.moving(SOURCE) == 5
    [stuck] = lanes.take(1)
    lanes.stick(stuck)
    assert places(lanes.blocked()) == [2, 4]
    assert (lanes.moving(SOURCE), lanes.open, len(lanes)) == (2, 2, 5)
    assert places(lanes.take(9)) == [3, 5]
    lanes.done(stuck)
    assert (places(lanes.take(9)), lanes.moving(SOURCE)) == ([2, 4], 4)


def test_deliveries_of_one_lane_may_share_a_batch_in_order() -> None:
    assert places(lanes_of(*(work(n, "a") for n in (1, 2, 3))).take(2)) == [1, 2]


def test_what_may_have_ended_a_process_is_started_by_itself() -> None:
    lanes = lanes_of(
        *(work(n, key, suspect=True) for n, key in enumerate("aab", 1)),
        *(work(n, key) for n, key in enumerate("abc", 4)),
    )
    taken = [lanes.take(9) for _ in range(3)]
    assert list(map(places, taken)) == [[1], [3], [6]]
    for [one] in taken:
        lanes.done(one)
    taken = [lanes.take(9), lanes.take(9)]
    assert sorted(map(places, taken)) == [[2], [5]]
    for [one] in taken:
        lanes.done(one)
    assert places(lanes.take(9)) == [4]


def test_what_is_isolated_waits_for_the_others_and_they_for_it() -> None:
    lanes = lanes_of(work(1, "a"), work(2, "b", suspect=True), work(3, "c"), work(4, "b"))
    [other] = lanes.take(1)
    [alone] = lanes.take(1)
    lanes.isolate(alone)
    assert lanes.take(9) == []
    lanes.done(other)
    assert lanes.take(9) == [alone]
    assert lanes.take(9) == []
    lanes.put_back([alone])
    assert lanes.take(9) == [alone]
    lanes.done(alone)
    assert places(lanes.take(9)) == [3, 4]


def test_what_is_isolated_holds_up_nobody_while_it_cannot_be_started() -> None:
    lanes = lanes_of(work(1, "a", suspect=True), work(2, "b"), work(3, "c"))
    [alone] = lanes.take(1)
    lanes.isolate(alone)
    assert lanes.take(1) == [alone]
    lanes.stick(alone)
    assert places(lanes.take(1)) == [2]
    lanes.await_return(alone, LATER)
    assert places(lanes.take(9)) == [3]


def test_a_key_that_never_runs_dry_does_not_starve_the_others() -> None:
    lanes = lanes_of(*(work(n, "busy") for n in range(1, 4)), work(4, "rare"))
    taken: list[int] = []
    for more in range(5, 8):
        [one] = lanes.take(1)
        taken.append(one.incoming.stream_seq)
        lanes.push(work(more, "busy"))
        lanes.done(one)
    assert 4 in taken


def test_unordered_deliveries_are_each_their_own_lane() -> None:
    lanes = lanes_of(work(1, "a"), work(2, "a"), ordered=False)
    assert places(lanes.take(1)) == [1]
    assert places(lanes.take(1)) == [2]


def test_unordered_deliveries_do_not_wait_for_one_that_comes_back() -> None:
    lanes = lanes_of(work(1, "a"), work(2, "a"), ordered=False)
    [first] = lanes.take(1)
    lanes.await_return(first, LATER)
    assert not lanes.awaits
    assert places(lanes.take(1)) == [2]


def test_a_held_lane_waits_and_goes_on_with_what_comes_back() -> None:
    lanes = lanes_of(work(1, "a"), work(2, "a"), work(3, "b"))
    [first] = lanes.take(1)
    lanes.await_return(first, LATER)
    assert places(lanes.take(5)) == [3]
    lanes.push(work(1, "a"))
    assert places(lanes.take(5)) == [1, 2]


def test_a_held_lane_can_be_released_when_nothing_comes_back() -> None:
    lanes = lanes_of(work(1, "a"), work(2, "a"))
    [first] = lanes.take(1)
    lanes.await_return(first, LATER)
    assert lanes.overdue(LATER - 1) == []
    [overdue] = lanes.overdue(LATER)
    assert lanes.take(5) == []
    for _ in range(2):
        lanes.release(overdue.incoming.place)
    assert places(lanes.take(5)) == [2]


def test_several_of_a_lane_may_be_held_and_each_keeps_what_is_behind_it_waiting() -> None:
    lanes = lanes_of(work(3, "a"), work(5, "a"), work(6, "a"))
    third, fifth, sixth = lanes.take(3)
    lanes.put_back([sixth])
    lanes.await_return(third, LATER)
    lanes.await_return(fifth, LATER)
    lanes.push(work(5, "a"))
    assert lanes.take(5) == []
    lanes.push(work(4, "a"))
    lanes.release(third.place)
    assert places(lanes.take(5)) == [4, 5, 6]
    assert not lanes.awaits


def test_two_processes_that_were_given_what_the_other_holds_do_not_wait_for_each_other() -> None:
    one, other = lanes_of(work(1, "a")), lanes_of(work(2, "a"))
    for lanes in (one, other):
        [taken] = lanes.take(1)
        lanes.await_return(taken, LATER)
    one.push(work(2, "a"))
    other.push(work(1, "a"))
    other.push(work(3, "a"))
    assert one.take(5) == []
    assert [len(other), len(other.blocked()), other.moving(SOURCE)] == [2, 1, 1]
    [first] = other.take(5)
    other.done(first)
    one.release(first.place)
    assert places(one.take(5)) == [2]


def test_nor_do_they_over_two_streams() -> None:
    one, other = lanes_of(work(7, "a")), lanes_of(work(1, "a", stream=REDRIVES))
    for lanes in (one, other):
        [taken] = lanes.take(1)
        lanes.await_return(taken, LATER)
    one.push(work(9, "a"))
    one.push(work(1, "a", stream=REDRIVES))
    other.push(work(7, "a"))
    assert places(one.take(5)) == [1]
    assert other.take(5) == []


def test_what_is_put_back_does_not_go_before_what_has_come_meanwhile_and_is_older() -> None:
    lanes = lanes_of(work(5, "a"), work(6, "a"))
    taken = lanes.take(2)
    lanes.push(work(4, "a"))
    lanes.put_back(taken)
    assert places(lanes.take(5)) == [4, 5, 6]


def test_what_waits_behind_a_held_one_takes_no_room() -> None:
    lanes = lanes_of(work(1, "a"), work(2, "a"), work(3, "b"))
    assert lanes.moving(SOURCE) == 3
    [first] = lanes.take(1)
    lanes.await_return(first, LATER)
    assert (lanes.moving(SOURCE), len(lanes)) == (1, 2)


def test_a_second_copy_replaces_the_first_since_only_it_can_be_acknowledged() -> None:
    lanes = lanes_of(work(1, "a"))
    [taken] = lanes.take(1)
    taken.tries = 3
    again, other = work(1, "a"), object()
    again.source = other  # type: ignore[assignment]
    lanes.push(again)
    assert (taken.incoming, taken.source, taken.deliveries) == (again.incoming, other, 4)
    assert (len(lanes), lanes.count(SOURCE), lanes.count(again.source)) == (1, 0, 1)


def test_an_older_event_goes_before_newer_ones_of_its_stream_whatever_lies_between() -> None:
    lanes = lanes_of(work(5, "a"), work(1, "a", stream=REDRIVES), work(6, "a"), work(4, "a"))
    order = [(one.incoming.stream, one.incoming.stream_seq) for one in lanes.take(9)]
    events = [seq for stream, seq in order if stream == "SEA_EVENTS"]
    assert events == [4, 5, 6]


def test_what_is_given_back_is_out_of_hand() -> None:
    lanes = lanes_of(work(1, "a"), work(2, "a"))
    for one in lanes.unstarted():
        lanes.drop(one)
    assert (len(lanes), lanes.take(5)) == (0, [])


class Server(RuleBasedStateMachine):
    """A durable that delivers in stream order, redelivers what was nak'ed, and repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes()
        self.keys: dict[int, str] = {}
        self.sent = 0
        self.nakked: set[int] = set()
        self.settled: set[int] = set()
        self.effects: defaultdict[str, list[int]] = defaultdict(list)
        self.running: list[list[InHand]] = []
        self.stuck: list[InHand] = []

    @rule(keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
    def publish(self, keys: list[str]) -> None:
        for key in keys:
            self.keys[len(self.keys) + 1] = key

    @precondition(lambda self: self.sent < len(self.keys))
    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.keys) - self.sent)):
            self.sent += 1
            self.lanes.push(work(self.sent, self.keys[self.sent]))

    @precondition(lambda self: self.nakked)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.nakked)))
        self.nakked.remove(seq)
        self.lanes.push(work(seq, self.keys[seq]))

    @precondition(lambda self: len(self.lanes) > 0)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from([one.incoming.stream_seq for one in self.lanes]))
        self.lanes.push(work(seq, self.keys[seq]))

    @rule(limit=st.integers(1, 5), alone=st.booleans())
    def start(self, limit: int, alone: bool) -> None:
        taken = self.lanes.take(limit)
        if alone and taken and taken[0].suspect:
            [one] = taken
            self.lanes.isolate(one)
            taken = self.lanes.take(limit)
            assert not taken if self.running else taken == [one]
        assert len(taken) <= limit
        busy = {one.key for batch in (*self.running, self.stuck) for one in batch}
        assert not busy & {one.key for one in taken}
        if taken:
            self.running.append(taken)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        failing = data.draw(st.sets(st.sampled_from([one.key for one in batch])))
        self.end(batch, failing, sticks=data.draw(st.booleans()))

    @precondition(lambda self: self.stuck)
    @rule(data=st.data(), settles=st.booleans())
    def come_unstuck(self, data: st.DataObject, settles: bool) -> None:
        one = self.stuck.pop(data.draw(st.integers(0, len(self.stuck) - 1)))
        if settles:
            self.end([one], set())
        else:
            self.lanes.put_back([one])

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose_the_database(self, data: st.DataObject) -> None:
        self.lanes.put_back(self.running.pop(data.draw(st.integers(0, len(self.running) - 1))))

    @rule()
    def crash(self) -> None:
        """The server gives out again, in order, what was on its way."""
        self.lanes, self.running, self.stuck = Lanes(), [], []
        self.rewind()

    @rule()
    def rewind(self) -> None:
        """It does, and some of that is in hand."""
        for seq in range(1, self.sent + 1):
            if seq not in self.settled:
                self.nakked.discard(seq)
                self.lanes.push(work(seq, self.keys[seq], suspect=True))

    def end(self, batch: list[InHand], failing: set[str], *, sticks: bool = False) -> None:
        """As the runtime does: the first of a failing key is nak'ed, or stuck, the rest of it put
        back."""
        failed: dict[str, InHand] = {}
        skipped: list[InHand] = []
        for one in batch:
            if one.key in failed:
                skipped.append(one)
            elif one.key in failing:
                failed[one.key] = one
            else:
                self.effects[one.key].append(one.incoming.stream_seq)
                self.settled.add(one.incoming.stream_seq)
        self.lanes.put_back(skipped)
        for one in batch:
            if one.incoming.stream_seq in self.settled:
                self.lanes.done(one)
        for one in failed.values():
            if sticks:
                self.lanes.stick(one)
                self.stuck.append(one)
            else:
                self.lanes.await_return(one, LATER)
                self.nakked.add(one.incoming.stream_seq)

    @invariant()
    def effects_follow_the_stream(self) -> None:
        for key, seqs in self.effects.items():
            expected = [seq for seq, its in self.keys.items() if its == key]
            assert seqs == expected[: len(seqs)]

    @invariant()
    def everything_is_somewhere(self) -> None:
        in_hand = {one.incoming.stream_seq for one in self.lanes}
        assert in_hand | self.nakked | self.settled == set(range(1, self.sent + 1))
        assert not in_hand & self.nakked

    @invariant()
    def what_moves_can_be_started_or_runs(self) -> None:
        ready = self.lanes.moving(SOURCE)
        running = sum(map(len, self.running))
        behind = {one.key for batch in self.running for one in batch}
        waiting = [one for one in self.lanes.unstarted() if one.key not in behind]
        blocked = {one.key for one in self.stuck}
        assert ready <= len(self.lanes) - len(self.stuck)
        assert ready >= running
        if blocked and not self.lanes.awaits:
            assert ready == len(self.lanes) - len(self.stuck) - sum(
                one.key in blocked for one in waiting
            )

    def teardown(self) -> None:
        """From anywhere: once nothing fails any more, everything takes effect."""
        while self.running:
            self.end(self.running.pop(), set())
        self.end(self.stuck, set())
        for seq in range(self.sent + 1, len(self.keys) + 1):
            self.lanes.push(work(seq, self.keys[seq]))
        for seq in sorted(self.nakked):
            self.lanes.push(work(seq, self.keys[seq]))
        for _ in range(len(self.keys) + 1):
            self.end(self.lanes.take(3), set())
        assert sorted(seq for seqs in self.effects.values() for seq in seqs) == sorted(self.keys)
        for seqs in self.effects.values():
            assert seqs == sorted(seqs)
        assert len(self.lanes) == 0


TestLanesUnderAnyInterleaving = Server.TestCase
TestLanesUnderAnyInterleaving.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
