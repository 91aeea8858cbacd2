"""The right to publish what is in the store in memory: ``contracts.Lease``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from seaway.contracts import LOST, Failed, Loss, OutboxEntry, Sent, SentPlace

if TYPE_CHECKING:
    from seaway.testing.memory_store import MemoryStore


class MemoryLease:
    """``contracts.Lease`` on dictionaries."""

    shards: Collection[str] = ("0 of 1",)

    def __init__(self, store: MemoryStore, *, hold: bool) -> None:
        self._store = store
        self._hold = hold
        self._after = 0
        self._blocked: set[str] = set()

    async def claim(self, limit: int) -> Sequence[OutboxEntry]:
        """The oldest entries not yet claimed under this lease, in outbox order."""
        claimed: list[OutboxEntry] = []
        self._store.seen = self._store.version
        for entry in self._store.in_order():
            if len(claimed) == limit:
                break
            if entry.position <= self._after:
                continue
            self._after = entry.position
            if entry.parked_at is not None:
                if self._hold:
                    self._blocked.add(entry.key)
            elif entry.key not in self._blocked:
                claimed.append(entry)
        return claimed

    async def settle(self, sent: Sequence[Sent], failed: Sequence[Failed] = ()) -> None:
        """Take sent entries out of the outbox, record failures. Idempotent."""
        self._blocked.update(failure.entry.key for failure in failed)
        await self._store.settle(sent, failed)

    async def find(self, event_ids: Sequence[str]) -> Sequence[OutboxEntry]:
        """Those of ``event_ids`` that are in the outbox."""
        wanted = set(event_ids)
        return [entry for entry in self._store.in_order() if entry.event_id in wanted]

    async def confirm(self) -> None:
        """It cannot be lost."""

    async def last_sent(
        self, stream: str, *, upto: int | None = None, of_all: bool = False
    ) -> SentPlace | None:
        """The highest place of a sent event."""
        places = [
            SentPlace(done.entry.event_id, done.stream_seq)
            for _, done in self._store.kept
            if done.stream == stream and 0 < done.stream_seq <= (upto or done.stream_seq)
        ]
        return max(places, key=lambda one: one.stream_seq, default=None)

    async def first_sent(self, stream: str) -> int | None:
        """The lowest place that retention keeps."""
        places = [done.stream_seq for _, done in self._store.kept if done.stream == stream]
        return min((place for place in places if place > 0), default=None)

    async def sent_streams(self) -> Sequence[str]:
        """The streams that anything was sent to."""
        return sorted({done.stream for _, done in self._store.kept if not done.given_up})

    async def lose(self, stream: str, *, above: int) -> Loss:
        """Note that they are lost."""
        places = []
        for index, (at, done) in enumerate(self._store.kept):
            if done.stream == stream and done.stream_seq > above:
                places.append(done.stream_seq)
                self._store.kept[index] = at, done._replace(stream_seq=LOST - done.stream_seq)
        return Loss(len(places), min(places, default=0), max(places, default=0))

    async def lost_since(self, stream: str) -> datetime | None:
        """When the first lost event was settled."""
        kept = self._store.kept
        return min((at for at, done in kept if done.stream == stream and done.lost), default=None)

    async def lost(self, stream: str, *, limit: int) -> Sequence[Sent]:
        """The first of the lost events, in outbox order."""
        lost = (done for _, done in self._store.kept if done.stream == stream and done.lost)
        return sorted(lost, key=lambda done: done.entry.position)[:limit]

    async def find_lost(self, stream: str, event_ids: Sequence[str]) -> Sequence[Sent]:
        """Those of ``event_ids`` that are lost."""
        wanted, lost = set(event_ids), await self.lost(stream, limit=len(self._store.kept))
        return [done for done in lost if done.entry.event_id in wanted]

    async def heal(self, sent: Sequence[Sent], *, again: bool = True) -> None:
        """Note where they lie now."""
        places = {one.entry.event_id: one for one in sent}
        for index, (at, done) in enumerate(self._store.kept):
            if done.lost and (healed := places.get(done.entry.event_id)):
                self._store.kept[index] = at, healed._replace(entry=done.entry)
