"""``MemoryStore``: the store of a test, with the semantics of a real one and no file.

Owns: outbox, inbox and a table of effects in dictionaries. Guarantees: it passes the conformance
suite of ``contracts.Store``. Where it is less than a database, ``capabilities`` says so: it ends
with the process. ``Outbox.add`` takes its ``MemoryTransaction``; importing this module is enough.

    store = MemoryStore()
    async with store.transaction() as tx:
        await tx.claim("case_mgmt__from_sea", event_id)
        tx.handle.effects["case-7"] = "open"
        Outbox().add(tx.handle, CaseOpened(...))
    assert store.effects == {"case-7": "open"}
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from seaway import headers as h
from seaway.contracts import (
    GIVEN_UP,
    LAST_ID,
    LOST,
    Acknowledged,
    Backlog,
    Capabilities,
    Failed,
    Loss,
    Message,
    Notice,
    OutboxEntry,
    Phase,
    SchemaChange,
    Sent,
    SentPlace,
    Vitals,
)
from seaway.databases.tasks import Turns
from seaway.errors import ConfigError, OutsideTransaction
from seaway.outbox.encoding import OutboxRow, duplicate, ids_of
from seaway.outbox.writing import Destination, register
from seaway.testing.memory_history import MemoryHistory
from seaway.testing.memory_mending import MemoryMending, passed
from seaway.testing.memory_notes import MemoryNotes
from seaway.waiting_events import Standing, WaitingEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class _Tables:
    """Everything that a transaction may change. Values are immutable, so a copy is shallow."""

    outbox: dict[str, OutboxEntry] = field(default_factory=dict)
    inbox: dict[tuple[str, str], datetime] = field(default_factory=dict)
    tried: dict[tuple[str, str], tuple[int, datetime]] = field(default_factory=dict)
    parked: dict[tuple[str, str], WaitingEvent] = field(default_factory=dict)
    effects: dict[Any, Any] = field(default_factory=dict)

    def copy(self) -> _Tables:
        return _Tables(
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
        self, tables: _Tables, next_position: int, sent: Sequence[tuple[datetime, Sent]]
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

    def end(self) -> tuple[_Tables, int]:
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


class MemoryThreads:
    """``contracts.ThreadInbox`` on dictionaries."""

    def __init__(self, store: MemoryStore, turns: Turns) -> None:
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


class MemorySchema:
    """Nothing to migrate."""

    async def plan(self) -> Sequence[SchemaChange]:
        """Empty."""
        return []

    async def upgrade(self, phase: Phase | None = None) -> Sequence[SchemaChange]:
        """Empty."""
        return []

    async def verify(self) -> None:
        """Always as it should be."""


class MemoryStore(MemoryHistory, MemoryNotes, MemoryMending):
    """``contracts.Store`` for tests. One event loop, one process."""

    capabilities = Capabilities(durable=False, shared=False, concurrent_transactions=False)

    def __init__(self) -> None:
        self.schema = MemorySchema()
        self.version = 0
        self.seen: int | None = None
        self._tables: _Tables = _Tables()
        self.kept: list[tuple[datetime, Sent]] = []
        self._processes: dict[str, tuple[datetime, Sequence[Notice]]] = {}
        MemoryNotes.__init__(self)
        MemoryMending.__init__(self)
        self._next_position = 1
        self._turns = Turns()
        self._changed = asyncio.Event()
        self._leased = False

    @property
    def effects(self) -> Mapping[Any, Any]:
        """What committed transactions left in their ``effects``."""
        return self._tables.effects

    async def close(self) -> None:
        """Nothing to close."""

    # ------------------------------------------------------------------- the outbox

    @asynccontextmanager
    async def lease(self, *, hold: bool = True) -> AsyncIterator[MemoryLease | None]:
        """The right to publish, at once; ``None`` where somebody has it."""
        if self._leased:
            yield None
            return
        self._leased = True
        try:
            yield MemoryLease(self, hold=hold)
        finally:
            self._leased = False

    async def now(self) -> datetime:
        """The process' own clock dates the rows."""
        return datetime.now(UTC)

    async def before(self, retention: timedelta) -> datetime:
        """Before when a row is older than ``retention``."""
        return datetime.now(UTC) - retention

    async def reshard(self, shards: int) -> None:
        """There is one."""
        if shards != 1:
            raise ConfigError("the memory store has one shard")

    async def wait(self, timeout: timedelta) -> None:
        """Return when entries came since the last claim, at the latest after ``timeout``."""
        if self.version != self.seen:
            return
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._changed.wait()
        except TimeoutError:
            return

    async def settle(self, sent: Sequence[Sent], failed: Sequence[Failed]) -> None:
        """What ``MemoryLease.settle`` does."""
        now = datetime.now(UTC)
        async with self._turns.own():
            outbox = self._tables.outbox
            for done in sent:
                held = outbox.get(done.entry.event_id)
                if held is not None and held.position == done.entry.position:
                    del outbox[held.event_id]
                    self.kept.append((now, done._replace(entry=held)))
            for failure in failed:
                held = outbox.get(failure.entry.event_id)
                if held is not None and held.attempts == failure.entry.attempts:
                    outbox[held.event_id] = held._replace(
                        attempts=held.attempts + 1,
                        last_error=failure.error,
                        parked_at=now if failure.park else None,
                    )

    async def backlog(self) -> Backlog:
        """How much waits."""
        entries = self.in_order()
        waiting = [entry for entry in entries if entry.parked_at is None]
        keys = {entry.key: entry.position for entry in reversed(entries) if entry.parked_at}
        return Backlog(
            len(entries),
            len(entries) - len(waiting),
            waiting[0].added_at if waiting else None,
            oldest_held=bool(waiting)
            and keys.get(waiting[0].key, waiting[0].position) < waiting[0].position,
        )

    async def entries(
        self, *, parked: bool | None = None, event_id: str | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        """Unsettled entries in outbox order."""
        return [
            entry
            for entry in self.in_order()
            if (event_id is None or entry.event_id == event_id)
            and (parked is None or (entry.parked_at is not None) == parked)
        ][:limit]

    async def unpark(self, event_ids: Sequence[str] | None = None) -> int:
        """Let parked entries be tried again, with their attempts counted anew."""
        async with self._turns.own():
            parked = [
                entry
                for entry in self.in_order()
                if entry.parked_at is not None
                and (event_ids is None or entry.event_id in event_ids)
            ]
            for entry in parked:
                self._tables.outbox[entry.event_id] = entry._replace(parked_at=None, attempts=0)
        self.nudge()
        return len(parked)

    async def discard(self, event_ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give parked entries up for good."""
        async with self._turns.own():
            gone = [
                entry
                for entry in self.in_order()
                if entry.parked_at is not None and entry.event_id in event_ids
            ]
            for entry in gone:
                del self._tables.outbox[entry.event_id]
                why = f"{reason} (its error: {entry.last_error})" if entry.last_error else reason
                kept = entry._replace(last_error=None, parked_at=None)
                self.kept.append((datetime.now(UTC), Sent(kept, why, GIVEN_UP)))
        self.nudge()
        return [entry.event_id for entry in gone]

    async def discarded(self, *, limit: int = 100) -> Sequence[Sent]:
        """The entries that were given up, newest first."""
        return [done for _, done in reversed(self.kept) if done.given_up][:limit]

    async def sent(
        self, *, event_id: str | None = None, correlation_id: str | None = None, limit: int = 100
    ) -> Sequence[Sent]:
        """Settled entries, newest first."""
        return [
            done
            for _, done in reversed(self.kept)
            if (event_id is None or done.entry.event_id == event_id)
            and (
                correlation_id is None
                or done.entry.message.headers.get(h.CORRELATION_ID) == correlation_id
            )
        ][:limit]

    async def prune(self, before: datetime) -> None:
        """Forget what was settled before then."""
        self.kept = [(at, done) for at, done in self.kept if at >= before]

    # ------------------------------------------------------------------- the inbox

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

    async def overdue(self, sent: datetime, processed: datetime) -> Mapping[str, int]:
        """How many rows ``prune``, ``forget`` and ``forget_discarded`` would remove."""
        counts = {
            "seaway_discarded": sum(map(passed, self._discarded.values())),
            "seaway_sent": sum(at < sent for at, _ in self.kept),
            "seaway_inbox": sum(at < processed for at in self._tables.inbox.values()),
            "seaway_unhandled": sum(at < processed for _, at in self._tables.tried.values()),
        }
        return {table: count for table, count in counts.items() if count}

    async def vitals(self, streams: Mapping[str, datetime] | None = None) -> Vitals:
        """What is known of a process' own memory: where its events went."""
        last: dict[str, Acknowledged] = {}
        before: dict[str, Acknowledged] = {}
        lost: Counter[str] = Counter()
        for at, done in self.kept:
            if streams is None or done.stream not in streams:
                continue
            lost[done.stream] += done.stream_seq < GIVEN_UP
            if done.stream_seq < 1:
                continue
            place = Acknowledged(done.stream_seq, done.entry.event_id, at)
            last[done.stream] = max(last.get(done.stream, place), place)
            if at < streams[done.stream]:
                before.setdefault(done.stream, place)
        return Vitals(datetime.now(UTC), last_sent=last, sent_before=before, lost=+lost)

    # ------------------------------------------------------------------- the processes

    async def tell(self, process: str, notices: Sequence[Notice]) -> None:
        """Replace what ``process`` says of itself."""
        now = datetime.now(UTC)
        self._processes[process] = now, tuple(notices)
        self._processes = {
            one: (at, said)
            for one, (at, said) in self._processes.items()
            if said and now - at < timedelta(days=1)
        }

    async def notices(self) -> Sequence[Notice]:
        """What every process says of itself."""
        now = datetime.now(UTC)
        return [
            replace(
                one,
                process=process,
                lasts=max(timedelta(), one.lasts + (now - at)),
                silent=now - at,
            )
            for process, (at, said) in sorted(self._processes.items())
            for one in sorted(said, key=lambda one: (one.part, -one.lasts))
        ]

    def nudge(self) -> None:
        """End ``wait`` now."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()
