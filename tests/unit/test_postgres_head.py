"""The floor under claims: never above a position that may still appear."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from seaway.stores.postgres.head import Floors, Horizon, floor_after


@dataclass
class Writers:
    """Transactions as PostgreSQL runs them: an id first, positions after it, an end some time."""

    next_id: int = 100
    last: int = 0
    running: dict[int, list[int]] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)

    def begin(self) -> None:
        self.running[self.next_id] = []
        self.next_id += 1

    def insert(self, nth: int) -> None:
        if self.running:
            self.last += 1
            list(self.running.values())[nth % len(self.running)].append(self.last)

    def end(self, nth: int, *, commit: bool) -> None:
        if self.running:
            positions = self.running.pop(list(self.running)[nth % len(self.running)])
            self.committed.update(positions if commit else ())

    def mark(self) -> tuple[int, int, int]:
        return min(self.running, default=self.next_id), self.next_id, self.last


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "insert", "commit", "rollback", "mark"]), st.integers(0, 9)
    ),
    max_size=200,
)


@given(steps)
@settings(max_examples=400, deadline=None)
def test_nothing_appears_below_a_closed_position(happening: list[tuple[str, int]]) -> None:
    writers, horizon = Writers(), Horizon()
    for what, nth in happening:
        match what:
            case "begin":
                writers.begin()
            case "insert":
                writers.insert(nth)
            case "mark":
                horizon.mark(*writers.mark())
            case _:
                writers.end(nth, commit=what == "commit")
        open_positions = [place for places in writers.running.values() for place in places]
        assert horizon.closed < min(open_positions, default=writers.last + 1)


def test_it_closes_what_has_ended() -> None:
    writers, horizon = Writers(), Horizon()
    for _ in range(5):
        writers.begin()
        writers.insert(0)
        writers.end(0, commit=True)
        horizon.mark(*writers.mark())
    assert horizon.closed == 4


def test_a_transaction_that_still_runs_keeps_it_open() -> None:
    writers, horizon = Writers(), Horizon()
    writers.begin()
    writers.insert(0)
    for _ in range(4):
        writers.begin()
        writers.insert(1)
        writers.end(1, commit=True)
        horizon.mark(*writers.mark())
    assert horizon.closed == 0
    writers.end(0, commit=True)
    for _ in range(3):
        horizon.mark(*writers.mark())
    assert horizon.closed == writers.last


def test_a_sequence_that_went_back_opens_everything_again() -> None:
    horizon = Horizon()
    for _ in range(3):
        horizon.mark(500, 500, 1000)
    assert horizon.closed == 1000
    horizon.mark(500, 500, 3)
    assert horizon.closed == 0


def test_the_floor_stays_below_what_is_unsettled() -> None:
    assert floor_after(10, 50, {31, 40}) == 30
    assert floor_after(10, 20, {31, 40}) == 20
    assert floor_after(10, 50, ()) == 50
    assert floor_after(10, 5, ()) == 10


def test_floors_are_kept_by_shard_until_something_is_released() -> None:
    floors = Floors()
    assert floors.of([0, 1], shards=2, releases=0) == 0
    floors.raise_to(70, [0], shards=2, releases=0)
    floors.raise_to(50, [1], shards=2, releases=0)
    assert floors.of([0], shards=2, releases=0) == 70
    assert floors.of([0, 1], shards=2, releases=0) == 50
    floors.raise_to(60, [0], shards=2, releases=0)
    assert floors.of([0], shards=2, releases=0) == 70
    assert floors.of([0], shards=2, releases=1) == 0
    floors.raise_to(90, [0], shards=2, releases=0)
    assert floors.of([0], shards=2, releases=1) == 0
    assert floors.of([0], shards=4, releases=1) == 0
