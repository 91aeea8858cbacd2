"""What a transaction of the store in memory sees and changes; ``Outbox.add`` writes in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from seaway.contracts import Message, OutboxEntry, Sent
from seaway.errors import OutsideTransaction
from seaway.outbox.encoding import OutboxRow, duplicate, ids_of
from seaway.outbox.writing import Destination, register
from seaway.waiting_events import Standing, WaitingEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Tables:
    """Everything that a transaction may change. Values are immutable, so a copy is shallow."""

    outbox: dict[str, OutboxEntry] = field(default_factory=dict)
    inbox: dict[tuple[str, str], datetime] = field(default_factory=dict)
    tried: dict[tuple[str, str], tuple[int, datetime]] = field(default_factory=dict)
    parked: dict[tuple[str, str], WaitingEvent] = field(default_factory=dict)
    effects: dict[Any, Any] = field(default_factory=dict)

    def copy(self) -> Tables:
        return Tables(
            *(dict(self.outbox), dict(self.inbox), dict(self.tried)),
            *(dict(self.parked), dict(self.effects)),
        )

    def parked_of(self, consumer: str) -> list[WaitingEvent]:
        """A consumer's, by key and place."""
        found = [
            replace(one, processed=place in self.inbox)
            for place, one in self.parked.items()
            if one.consumer == consumer
        ]
        return sorted(found, key=lambda one: (one.key, one.place, one.event_id))


class MemoryTransaction:
    """One open transaction; its own handle. ``effects`` stands for the service's tables."""

    def __init__(
        self, tables: Tables, next_position: int, sent: Sequence[tuple[datetime, Sent]]
    ) -> None:
        self._tables = tables
        self._sent = sent
        self._next_position = next_position
        self._open = True

    @property
    def handle(self) -> MemoryTransaction:
        """Itself: what a handler gets as ``delivery.tx``."""
        return self

    @property
    def effects(self) -> dict[Any, Any]:
        """The service's own data, as this transaction sees and changes it."""
        return self._tables.effects

    @property
    def in_transaction(self) -> bool:
        """False once it has ended."""
        return self._open

    async def claim(self, consumer: str, event_id: str) -> bool:
        """Write the inbox row. False: it was there, so the effects are too."""
        if (consumer, event_id) in self._tables.inbox:
            return False
        self._tables.inbox[consumer, event_id] = datetime.now(UTC)
        return True

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        """Write the inbox rows; those that were new."""
        return {event_id for event_id in event_ids if await self.claim(consumer, event_id)}

    async def trying(self, consumer: str, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Note that each of these is tried once more; how often by now."""
        tried, now = self._tables.tried, datetime.now(UTC)
        for one in {(consumer, event_id) for event_id in event_ids}:
            tried[one] = tried.get(one, (0, now))[0] + 1, now
        return {event_id: tried[consumer, event_id][0] for event_id in event_ids}

    async def parked_keys(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` of which anything is parked."""
        return {one.key for one in self._tables.parked_of(consumer) if one.key in keys}

    async def standing(self, consumer: str, event_id: str, key: str) -> Standing:
        """Where an event stands among the parked ones of its key."""
        found = self._tables.parked_of(consumer)
        own = next((one for one in found if one.event_id == event_id), None)
        first = next((one for one in found if one.key == key and not one.processed), None)
        if own is None and first is None:
            return Standing()
        return Standing((consumer, event_id) in self._tables.inbox, own, first)

    async def park(
        self, consumer: str, event_id: str, key: str, *, place: int, failed: bool
    ) -> None:
        """Write its row, or make it one without a letter again."""
        row = WaitingEvent(consumer, event_id, key, place, failed, None, datetime.now(UTC), False)
        known = self._tables.parked.get((consumer, event_id), row)
        self._tables.parked[consumer, event_id] = replace(known, failed=failed, letter=None)
        self._tables.tried.pop((consumer, event_id), None)

    async def set_letter(self, consumer: str, event_id: str, letter: int) -> None:
        """Its letter is stored."""
        known = self._tables.parked.get((consumer, event_id))
        if known is not None:
            self._tables.parked[consumer, event_id] = replace(known, letter=letter)

    async def release(self, consumer: str, event_ids: Sequence[str]) -> None:
        """Remove their rows. Idempotent."""
        for event_id in event_ids:
            self._tables.parked.pop((consumer, event_id), None)
            self._tables.tried.pop((consumer, event_id), None)

    async def unclaim(self, consumer: str, event_ids: Sequence[str]) -> int:
        """Remove their inbox rows; how many there were."""
        rows = {(consumer, event_id) for event_id in event_ids}
        return sum(self._tables.inbox.pop(row, None) is not None for row in rows)

    async def check(self) -> None:
        """Nothing is refused at a commit."""

    def insert(self, rows: Sequence[OutboxRow], *, own_ids: bool) -> None:
        """Write all rows to the outbox, or none."""
        known = set(self._tables.outbox)
        if own_ids:
            known |= {done.entry.event_id for _, done in self._sent}
        for row in rows:
            if row.event_id in known:
                raise duplicate(row.event_id)
        for row in rows:
            self._tables.outbox[row.event_id] = OutboxEntry(
                position=self._next_position,
                event_id=row.event_id,
                message=Message(row.subject, row.payload, json.loads(row.headers)),
                added_at=_EPOCH + timedelta(microseconds=row.added_at),
            )
            self._next_position += 1

    def interrupt(self) -> None:
        """Nothing here runs long."""

    def cut(self) -> None:
        """Take no more events of a thread that does not come back."""
        self._open = False

    def end(self) -> tuple[Tables, int]:
        """Take no more writes; what was written, and the next free position."""
        self._open = False
        return self._tables, self._next_position


class _MemoryAdapter:
    def require_transaction(self, handle: MemoryTransaction) -> None:
        if not handle.in_transaction:
            raise OutsideTransaction("the transaction has ended", hint="add the event inside it")

    def insert(
        self, handle: MemoryTransaction, rows: Sequence[OutboxRow], destination: Destination
    ) -> list[str]:
        handle.insert(rows, own_ids=destination.own_ids)
        return ids_of(rows)


register(MemoryTransaction, _MemoryAdapter())
