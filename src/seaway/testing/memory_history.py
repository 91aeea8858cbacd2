"""The looking side of the store in memory: what became of single events, and what is compared.

``contracts.HistoryStore`` and ``contracts.AuditStore`` over its dictionaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from seaway import headers as h
from seaway.contracts import Committed, InboxRow, Kept, OutboxEntry, Sent, SentPlace, Unhandled
from seaway.contracts.audit import place_of
from seaway.databases.tallies import Tally, Window, tallied


class MemoryHistory:
    """What ``MemoryStore`` knows of its events."""

    _tables: Any
    kept: list[tuple[datetime, Sent]]

    def in_order(self) -> list[OutboxEntry]:
        """All unsettled entries, oldest first."""
        return sorted(self._tables.outbox.values(), key=lambda entry: entry.position)

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

    # ------------------------------------------------------------------- what is compared

    async def writes(self, stream: str, context: str) -> bool:
        """Whether any event here was sent to ``stream``, or waits for it."""
        waiting = any(
            one.message.subject.startswith(f"{context}.") for one in self._tables.outbox.values()
        )
        return waiting or any(done.stream == stream for _, done in self.kept)

    async def last_place(self, stream: str) -> int:
        """The highest place that ``stream`` has acknowledged; 0: none is known."""
        found = await self.sent_places(stream, 1, 1 << 62)
        return place_of(found[-1]) if found else 0

    async def tally_sent(
        self, stream: str, first: int, last: int, window: Window
    ) -> Mapping[int, Tally]:
        """The sent events of these places, counted and added up."""
        found = await self.sent_places(stream, first, last)
        return tallied(((one.event_id, place_of(one)) for one in found), window)

    async def sent_places(self, stream: str, first: int, last: int) -> Sequence[SentPlace]:
        """The sent events of these places."""
        found = [
            SentPlace(done.entry.event_id, done.stream_seq)
            for _, done in self.kept
            if done.stream == stream and not done.given_up
        ]
        within = (one for one in found if first <= place_of(one) <= last)
        return sorted(within, key=place_of)

    async def committed(self, event_ids: Sequence[str]) -> Mapping[str, Committed]:
        """What the outbox knows of them."""
        found = {one: Committed("", 0) for one in self._tables.outbox}
        found |= {
            done.entry.event_id: Committed(done.stream, done.stream_seq) for _, done in self.kept
        }
        return {one: found[one] for one in event_ids if one in found}

    async def moved(self, event_id: str, stream: str, old: int, new: int) -> bool:
        """Note where a sent event lies now."""
        for index, (at, done) in enumerate(self.kept):
            if (done.entry.event_id, done.stream, done.stream_seq) == (event_id, stream, old):
                self.kept[index] = at, done._replace(stream_seq=new)
                return True
        return False

    async def has_effects(self, consumer: str) -> bool:
        """Whether there is any row of ``consumer``."""
        return any(name == consumer for name, _ in self._tables.inbox)

    async def tally_processed(self, window: Window) -> Mapping[str, Mapping[int, Tally]]:
        """The ids with effects, of each consumer, counted and added up."""
        ids: dict[str, list[tuple[str, int]]] = {}
        for consumer, event_id in self._tables.inbox:
            if " " not in consumer:
                ids.setdefault(consumer, []).append((event_id, 0))
        found = {}
        for consumer, some in ids.items():
            minutes = {m: one for m, one in tallied(some, window).items() if m >= 0}
            if minutes:
                found[consumer] = minutes
        return found


def _of(entry: OutboxEntry, rest: tuple[Any, ...]) -> Kept:
    message = entry.message
    return Kept(
        *(entry.position, entry.event_id, message.subject, entry.key, message.headers),
        *(entry.added_at, entry.attempts, entry.last_error, entry.parked_at),
        *rest,
    )
