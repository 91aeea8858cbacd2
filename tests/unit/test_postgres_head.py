"""The floor under claims: never above a position that may still appear."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from seaway.stores.postgres.lease import Floors, Horizon, floor_after


@dataclass
class Server:
    """Transactions as PostgreSQL runs them: an id first, positions after it, an end some time. A
    snapshot knows the ids up to the newest that has ended, and of the others nothing."""

    next_id: int = 100
    ended: int = 99
    last: int = 0
    running: dict[int, list[int]] = field(default_factory=dict)
    settling: dict[int, int] = field(default_factory=dict)
    """The position that was the last one before each settlement was given its id."""

    def begin(self) -> int:
        self.running[self.next_id] = []
        self.next_id += 1
        return self.next_id - 1

    def insert(self, nth: int) -> None:
        if self.running:
            self.last += 1
            list(self.running.values())[nth % len(self.running)].append(self.last)

    def end(self, nth: int) -> int | None:
        if not self.running:
            return None
        xid = list(self.running)[nth % len(self.running)]
        del self.running[xid]
        self.ended = max(self.ended, xid)
        return xid

    def mark(self) -> tuple[int, int]:
        seen = [xid for xid in self.running if xid <= self.ended]
        return min(seen, default=self.ended + 1), self.last

    def settle(self, horizon: Horizon) -> None:
        """One that begins and ends at once."""
        last, xid = horizon.last, self.begin()
        self.end(list(self.running).index(xid))
        horizon.passed(last, xid)


steps = st.lists(
    st.tuples(st.sampled_from(["begin", "insert", "end", "mark", "settle"]), st.integers(0, 9)),
    max_size=200,
)


@given(steps)
@settings(max_examples=1000, deadline=None)
def test_nothing_appears_below_a_closed_position(happening: list[tuple[str, int]]) -> None:
    server, horizon = Server(), Horizon()
    for what, nth in happening:
        match what:
            case "begin":
                server.begin()
            case "insert":
                server.insert(nth)
            case "mark":
                horizon.mark(*server.mark())
            case "settle":
                last = horizon.last
                server.settling[server.begin()] = last
            case _:
                xid = server.end(nth)
                if xid in server.settling:
                    horizon.passed(server.settling[xid], xid)
        open_positions = [place for places in server.running.values() for place in places]
        assert horizon.closed < min(open_positions, default=server.last + 1)


def test_the_newest_transaction_is_not_taken_for_ended() -> None:
    """Whoever has the next id after the newest that has ended is in no snapshot."""
    server, horizon = Server(), Horizon()
    server.begin()
    server.begin()
    server.insert(1)
    server.end(0)
    for _ in range(3):
        horizon.mark(*server.mark())
    assert horizon.closed == 0
    for _ in range(3):
        server.settle(horizon)
        horizon.mark(*server.mark())
    assert horizon.closed == 0
    server.end(0)
    horizon.mark(*server.mark())
    assert horizon.closed == 1


def test_it_closes_what_has_ended() -> None:
    server, horizon = Server(), Horizon()
    for _ in range(5):
        server.begin()
        server.insert(0)
        server.end(0)
        horizon.mark(*server.mark())
        server.settle(horizon)
    assert horizon.closed == 4


def test_a_transaction_that_still_runs_keeps_it_open() -> None:
    server, horizon = Server(), Horizon()
    server.begin()
    server.insert(0)
    for _ in range(4):
        server.begin()
        server.insert(1)
        server.end(1)
        horizon.mark(*server.mark())
        server.settle(horizon)
    assert horizon.closed == 0
    server.end(0)
    for _ in range(2):
        horizon.mark(*server.mark())
        server.settle(horizon)
    horizon.mark(*server.mark())
    assert horizon.closed == server.last


def test_a_sequence_that_went_back_opens_everything_again() -> None:
    horizon = Horizon()
    for _ in range(2):
        horizon.mark(500, 1000)
        horizon.passed(1000, 500)
    horizon.mark(501, 1000)
    assert horizon.closed == 1000
    before = horizon.last
    horizon.mark(501, 3)
    assert horizon.closed == 0
    horizon.passed(before, 502)
    horizon.mark(600, 4)
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
