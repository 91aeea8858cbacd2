"""What is known to be over at the head of the outbox, so that no claim looks there again. Pure.

A settled row leaves a dead one behind until it is vacuumed, and a report that runs for an hour
keeps all of them. Looking past them at every claim would make the relay slower with every event
it has sent; remembering the last position would skip the transactions that were slower than
others and commit a lower position late. So a position counts as over only when nothing can appear
below it any more:

    mark k       reads the last position handed out, L
    mark k + 1   sees every transaction id given by then as lower than its xmax, X
    mark m       sees no transaction below xmin any more running, and xmin >= X

A position is handed out to a transaction that has its id already (the column's default sees to
it), so whoever was given one up to L had an id below X, and has ended by mark m: its rows are there
for the claim that follows, or never will be.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Waiting:
    position: int
    ended_at: int | None = None
    """The transaction id below which all must have ended; known from the mark after."""


@dataclass(slots=True)
class Horizon:
    """The position up to which nothing new can appear, whatever the shard."""

    closed: int = 0
    _older: _Waiting | None = None
    _newer: _Waiting | None = None

    def mark(self, xmin: int, xmax: int, last: int) -> None:
        """Take in one mark, in the order in which they were read.

        A sequence that went back (a restored database, a truncated table) takes everything back.
        """
        if last < self.closed:
            self.closed, self._older, self._newer = 0, None, None
        for waiting in (self._older, self._newer):
            if waiting is not None and waiting.ended_at is None:
                waiting.ended_at = xmax
        while self._older and self._older.ended_at is not None and xmin >= self._older.ended_at:
            self.closed = max(self.closed, self._older.position)
            self._older, self._newer = self._newer, None
        if self._older is None:
            self._older = _Waiting(last)
        elif self._newer is None:
            self._newer = _Waiting(last)


@dataclass(slots=True)
class Floors:
    """For each shard, the position up to which all of its entries are settled, parked or behind a
    parked one. Ends with a new division of the shards and with every release of parked entries."""

    shards: int = 1
    releases: int = -1
    _of: dict[int, int] = field(default_factory=dict)

    def of(self, held: Collection[int], *, shards: int, releases: int) -> int:
        """From where a lease on ``held`` has to look."""
        if (shards, releases) != (self.shards, self.releases):
            self.shards, self.releases, self._of = shards, releases, {}
        return min((self._of.get(shard, 0) for shard in held), default=0)

    def raise_to(self, floor: int, held: Collection[int], *, shards: int, releases: int) -> None:
        """Keep what a lease on ``held`` has found, unless things have changed since it began."""
        if (shards, releases) == (self.shards, self.releases):
            for shard in held:
                self._of[shard] = max(floor, self._of.get(shard, 0))

    def forget(self) -> None:
        """Look at everything again."""
        self._of = {}


def floor_after(floor: int, closed: int, unsettled: Collection[int]) -> int:
    """The floor after a claim that looked above ``floor`` and returned the lowest there is.

    ``unsettled``: what was claimed, in that claim or before, and is not settled.
    """
    return max(floor, min(closed, min(unsettled, default=closed + 1) - 1))
