"""The looking side of the store in memory: ``contracts.HistoryStore`` over its dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from seaway import headers as h
from seaway.contracts import InboxRow, Kept, OutboxEntry, Sent, Unhandled


class MemoryHistory:
    """What ``MemoryStore`` knows of single events."""

    _tables: Any
    kept: list[tuple[datetime, Sent]]

    def in_order(self) -> list[OutboxEntry]:
        """All unsettled entries, oldest first."""
        raise NotImplementedError

    def _history(self) -> list[Kept]:
        found: list[Kept] = []
        parked: dict[str, str] = {}
        for one in self.in_order():
            behind = None if one.parked_at else parked.get(one.key)
            if one.parked_at:
                parked.setdefault(one.key, one.event_id)
            found.append(_of(one, (behind, None, 0, None, None)))
        for at, done in self.kept:
            found.append(_of(done.entry, (None, done.stream, done.stream_seq, at, None)))
        return found

    async def history(self, event_ids: Sequence[str]) -> Sequence[Kept]:
        """Those of them that the outbox has or had."""
        return [one for one in self._history() if one.event_id in event_ids]

    async def history_of(
        self, correlation_id: str, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[Kept]:
        """The events of one chain, by position."""
        found = [
            one
            for one in self._history()
            if one.headers.get(h.CORRELATION_ID) == correlation_id and one.position > after
        ]
        return sorted(found, key=lambda one: one.position)[:limit]

    async def rows_of(self, event_ids: Sequence[str]) -> Sequence[InboxRow]:
        """Every row of these events."""
        return [
            InboxRow(consumer, row, at)
            for (consumer, row), at in self._tables.inbox.items()
            if any(row == one or row.startswith(f"{one}:") for one in event_ids)
        ]

    async def unhandled(self, event_ids: Sequence[str]) -> Sequence[Unhandled]:
        """What is noted of these events besides the inbox."""
        tables = self._tables
        found = [
            Unhandled(consumer, event_id, False, tries, None, at, None)
            for (consumer, event_id), (tries, at) in tables.tried.items()
            if event_id in event_ids
        ]
        for (consumer, event_id), one in tables.parked.items():
            if event_id in event_ids:
                first = next(x for x in tables.parked_of(consumer) if x.key == one.key)
                behind = None if first.event_id == event_id else first.event_id
                waits = (True, 0, one.letter, one.parked_at, behind)
                found.append(Unhandled(consumer, event_id, *waits))
        return found


def _of(entry: OutboxEntry, rest: tuple[Any, ...]) -> Kept:
    message = entry.message
    return Kept(
        *(entry.position, entry.event_id, message.subject, entry.key, message.headers),
        *(entry.added_at, entry.attempts, entry.last_error, entry.parked_at),
        *rest,
    )
