"""The outbox: what is written, claimed and settled there, and by whom."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from seaway.contracts.messages import Message


class OutboxEntry(NamedTuple):
    """A committed, not yet settled event. ``position`` is its place in outbox order."""

    position: int
    event_id: str
    message: Message
    added_at: datetime
    attempts: int = 0
    last_error: str | None = None
    parked_at: datetime | None = None
    lane: int = 0
    """Entries of two lanes need not keep an order between them: they have no key in common."""

    @property
    def key(self) -> str:
        """The ordering key."""
        return self.message.key


GIVEN_UP = -1
LOST = -2
"""``LOST - place`` stands for a place that its stream has lost."""


class Sent(NamedTuple):
    """Settlement of an entry that the stream acknowledged. One that an operator gave up is on no
    stream: ``stream_seq`` is ``GIVEN_UP``, and ``stream`` says who did so, and why."""

    entry: OutboxEntry
    stream: str
    stream_seq: int

    @property
    def given_up(self) -> bool:
        """Whether it was discarded, and never published."""
        return self.stream_seq == GIVEN_UP

    @property
    def lost(self) -> int | None:
        """The place where its stream acknowledged it and has it no more, until it is published
        again; ``None``: it is not lost."""
        return LOST - self.stream_seq if self.stream_seq <= LOST else None


class SentPlace(NamedTuple):
    """Where on its stream a sent event lies, as far as the stream said."""

    event_id: str
    stream_seq: int


class Loss(NamedTuple):
    """How many sent events a stream has lost, and between which of its places (inclusive)."""

    events: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Settlement of an entry that was refused: one more attempt, and ``park`` it or try again."""

    entry: OutboxEntry
    error: str
    park: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits: ``count`` includes the parked, ``oldest_at`` looks at the others.

    ``oldest_at`` is by this process' clock: as long ago as the database says, and never to come.

    ``shards``: into how many the ordering keys are divided. The others are what the database
    estimates, ``None`` where it does not: ``dead_rows`` of the outbox, which were settled and are
    not vacuumed yet, those of the sent events and of the inbox, and the rows of the inbox.
    """

    count: int
    parked: int
    oldest_at: datetime | None
    dead_rows: int | None = None
    shards: int = 1
    sent_dead_rows: int | None = None
    inbox_rows: int | None = None
    inbox_dead_rows: int | None = None
    oldest_held: bool = False
    """The oldest that is not parked waits behind a parked one of its key."""


class Lease(Protocol):
    """The exclusive right to publish some shards' entries, ended by leaving its context.

    A crash of its holder ends it; no clock and no name is involved (ADR 0006).
    """

    @property
    def shards(self) -> Collection[str]:
        """What it holds, each by a name that changes when the shards are divided anew."""
        ...

    async def claim(self, limit: int) -> Sequence[OutboxEntry]:
        """The oldest entries not yet claimed under this lease, in outbox order; empty: none left.

        Leaves out parked entries and those whose ordering key has a parked (unless the lease was
        taken with ``hold=False``) or failed entry before them. ``StoreUnavailable`` once the lease
        is lost.
        """
        ...

    async def find(self, event_ids: Sequence[str]) -> Sequence[OutboxEntry]:
        """Those of ``event_ids`` that are in the outbox, parked or not, of whichever shard."""
        ...

    async def confirm(self) -> None:
        """Return while the lease is still held, ``StoreUnavailable`` once it is lost."""
        ...

    async def settle(self, sent: Sequence[Sent], failed: Sequence[Failed] = ()) -> None:
        """Take sent entries out of the outbox, record failures. Durable when the call returns
        or, at the latest, when the lease is left without an error. Idempotent."""
        ...

    async def last_sent(
        self, stream: str, *, upto: int | None = None, of_all: bool = False
    ) -> SentPlace | None:
        """Of what retention keeps of its shards (``of_all``: of all), that with the highest place
        on ``stream``; none above ``upto``. Given up and lost ones have no place."""
        ...

    async def first_sent(self, stream: str) -> int | None:
        """The lowest place on ``stream`` that retention keeps, of whichever shard."""
        ...

    async def sent_streams(self) -> Sequence[str]:
        """The streams that anything of what retention keeps was sent to, or is lost by."""
        ...

    async def lose(self, stream: str, *, above: int) -> Loss:
        """Note that all sent events above this place are lost, whichever their shards, at once and
        for good: until they are healed, whoever has their shards finds them so. Idempotent."""
        ...

    async def lost_since(self, stream: str) -> datetime | None:
        """When the first of its shards' lost events was settled, by the clock that dates the
        outbox; ``None``: none is lost."""
        ...

    async def lost(self, stream: str, *, limit: int) -> Sequence[Sent]:
        """The first of its shards' lost events, in outbox order."""
        ...

    async def find_lost(self, stream: str, event_ids: Sequence[str]) -> Sequence[Sent]:
        """Those of ``event_ids`` that are lost, of its shards."""
        ...

    async def heal(self, sent: Sequence[Sent], *, again: bool = True) -> None:
        """Note that lost events lie in these places now, or are given up; ``again`` false: that
        they are not lost after all. Durable when it returns. Idempotent."""
        ...


class OutboxStore(Protocol):
    """The relay's and operator's side of the outbox table. Writers go through ``Outbox.add``."""

    async def now(self) -> datetime:
        """What the time is by the clock that dates the rows, whatever this process' own says."""
        ...

    async def before(self, retention: timedelta) -> datetime:
        """The time before which rows are older than ``retention``, for ``prune`` and ``forget``.

        By the clock that dates the rows, and by what is there: a process whose clock is weeks ahead
        must not take the rows of today for old ones.
        """
        ...

    def lease(self, *, hold: bool = True) -> AbstractAsyncContextManager[Lease | None]:
        """Take this process' share of the free shards, at once; ``None`` where none is free.

        ``hold``: events wait behind a parked one of their key. To stay inside with ``None`` is to
        ask for a share: the others leave one.
        """
        ...

    async def reshard(self, shards: int) -> None:
        """Divide the ordering keys into ``shards`` (1: total order) from now on; safe at any time.

        Waits for the leases that are held; ``StoreUnavailable`` where they do not end. Idempotent.
        ``ConfigError`` for more than one where ``capabilities.shards`` is false.
        """
        ...

    async def wait(self, timeout: timedelta) -> None:
        """Return when there may be new entries, at the latest after ``timeout``."""
        ...

    def nudge(self) -> None:
        """End ``wait`` now: the caller knows of a commit. Call it in the store's event loop."""
        ...

    async def backlog(self) -> Backlog: ...

    async def entries(
        self, *, parked: bool | None = None, event_id: str | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        """Unsettled entries in outbox order; ``parked`` True: only those, False: only others."""
        ...

    async def unpark(self, event_ids: Sequence[str] | None = None) -> int:
        """Let parked entries (all: ``None``) be tried again; how many there were."""
        ...

    async def discard(self, event_ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give parked entries up for good; the ids of those that were parked, in no order.

        They are kept as sent ones are, also where those are not, with ``reason`` and their last
        error in the place of the stream. What waits behind them of their keys goes on. Idempotent.
        """
        ...

    async def discarded(self, *, limit: int = 100) -> Sequence[Sent]:
        """The entries that were given up and retention still keeps, newest first."""
        ...

    async def sent(
        self, *, event_id: str | None = None, correlation_id: str | None = None, limit: int = 100
    ) -> Sequence[Sent]:
        """Settled entries that retention still keeps, newest first; among them those given up."""
        ...

    async def prune(self, before: datetime) -> None:
        """Forget what was settled before then, at the latest ``capabilities.pruned_by`` later.

        ``before``: see the method of that name.
        Holds up no writer for more than two seconds at a time. Does less where another process is
        doing so, or has the table in hand: to be called again.
        """
        ...

    async def close(self) -> None: ...
