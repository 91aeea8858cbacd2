"""The inbox of the store in memory, and its transactions, awaited or in a thread."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from seaway.contracts import LAST_ID, Sent
from seaway.databases.tasks import Turns
from seaway.testing.memory_transaction import MemoryTransaction, Tables
from seaway.waiting_events import WaitingEvent


class MemoryThreads:
    """``contracts.ThreadInbox`` on dictionaries."""

    def __init__(self, store: MemoryInbox, turns: Turns) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self.turns = turns

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        """Commit on leaving, roll back on an exception; in a thread, while the turn is taken."""
        opened = self._store.opened()
        try:
            yield opened
        except BaseException:
            opened.end()
            raise
        self._store.taken(opened)
        self._loop.call_soon_threadsafe(self._store.nudge)

    async def close(self) -> None:
        """Nothing to close."""


class MemoryInbox(ABC):
    """Transactions and inbox rows of ``MemoryStore``."""

    _tables: Tables
    _turns: Turns
    _next_position: int
    kept: list[tuple[datetime, Sent]]

    @abstractmethod
    def nudge(self) -> None:
        """A transaction has committed."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        """Commit on leaving, roll back on an exception."""
        async with self._turns.own():
            begun = self.opened()
            try:
                yield begun
            except BaseException:
                begun.end()
                raise
            self.taken(begun)
        self.nudge()

    def for_threads(self) -> MemoryThreads:
        """Its transactions for plain handlers."""
        return MemoryThreads(self, self._turns)

    def opened(self) -> MemoryTransaction:
        """A transaction, for whoever has the turn; ``taken`` over, it is committed."""
        return MemoryTransaction(self._tables.copy(), self._next_position, self.kept)

    def taken(self, ended: MemoryTransaction) -> None:
        """Commit."""
        self._tables, self._next_position = ended.end()

    async def processed(self, event_id: str) -> Mapping[str, datetime]:
        """Which consumers have this event's effects, and since when."""
        return {
            consumer: at
            for (consumer, known), at in self._tables.inbox.items()
            if known == event_id
        }

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """Those of them that have the consumer's inbox row."""
        return {one for one in event_ids if (consumer, one) in self._tables.inbox}

    async def inbox_rows(
        self, consumer: str, *, after: str = "", before: str = LAST_ID, limit: int = 1000
    ) -> Sequence[str]:
        """What the consumer's inbox rows are about, in order."""
        rows = (one for name, one in self._tables.inbox if name == consumer)
        return sorted(one for one in rows if after < one < before)[:limit]

    async def forget(self, before: datetime) -> None:
        """Drop inbox rows written before then."""
        async with self._turns.own():
            for row in [row for row, at in self._tables.inbox.items() if at < before]:
                del self._tables.inbox[row]
            for row in [row for row, (_, at) in self._tables.tried.items() if at < before]:
                del self._tables.tried[row]

    async def parked_heads(self, consumer: str) -> Sequence[WaitingEvent]:
        """The first parked event of each key, by key."""
        first: dict[str, WaitingEvent] = {}
        for one in self._tables.parked_of(consumer):
            first.setdefault(one.key, one)
        return list(first.values())

    async def drop_parked(self, event: WaitingEvent) -> bool:
        """Remove its row, unless it has another letter by now; whether that was done."""
        async with self._turns.own():
            place = event.consumer, event.event_id
            known = self._tables.parked.get(place)
            if known is None or known.letter != event.letter:
                return False
            del self._tables.parked[place]
        return True
