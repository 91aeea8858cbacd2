"""What is known to be over at the head of the outbox, so that no claim looks there again. Pure.

A settled row leaves a dead one behind until it is vacuumed, and a report that runs for an hour
keeps all of them. Looking past them at every claim would make the relay slower with every event
it has sent; remembering the last position would skip the transactions that were slower than
others and commit a lower position late. So a position counts as over only when nothing can appear
below it any more:

    mark k       reads the last position handed out, L
    settlement   begins after mark k, and is given its own transaction id, X
    mark m       sees no transaction below xmin any more running, and xmin >= X

A position is handed out to a transaction that has its id already (the column's default sees to
it), so whoever was given one up to L has an id below X, and has ended by mark m: its rows are there
for the claim that follows, or never will be.

Only an id that was given out says which ones had been before. A snapshot does not: its ``xmax`` is
one more than the newest that has ended, and any number beyond it may be at work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple


class _Waiting(NamedTuple):
    position: int
    ended_at: int
    """The transaction id below which all must have ended."""


@dataclass(slots=True)
class Horizon:
    """The position up to which nothing new can appear, whatever the shard."""

    closed: int = 0
    last: int = 0
    """The last position handed out, as of the latest mark."""
    _older: _Waiting | None = None
    _newer: _Waiting | None = None

    def mark(self, xmin: int, last: int) -> None:
        """Take in one mark, in the order in which they were read.

        A sequence that went back (a restored database, a truncated table) takes everything back.
        """
        if last < self.last:
            self.closed, self._older, self._newer = 0, None, None
        self.last = last
        while self._older is not None and xmin >= self._older.ended_at:
            self.closed = max(self.closed, self._older.position)
            self._older, self._newer = self._newer, None

    def passed(self, position: int, xid: int) -> None:
        """A transaction was given the id ``xid`` after ``position`` had been the ``last``."""
        if position > self.last:
            return  # The sequence went back meanwhile.
        if self._older is None:
            self._older = _Waiting(position, xid)
        else:
            self._newer = _Waiting(position, xid)


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
