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
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from seaway import headers as h
from seaway.contracts import (
    GIVEN_UP,
    Acknowledged,
    Backlog,
    Capabilities,
    Failed,
    Notice,
    OutboxEntry,
    Phase,
    SchemaChange,
    Sent,
    Vitals,
)
from seaway.databases.tasks import Turns
from seaway.errors import ConfigError
from seaway.testing.memory_history import MemoryHistory
from seaway.testing.memory_inbox import MemoryInbox
from seaway.testing.memory_lease import MemoryLease
from seaway.testing.memory_mending import MemoryMending, passed
from seaway.testing.memory_notes import MemoryNotes
from seaway.testing.memory_transaction import Tables


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


class MemoryStore(MemoryInbox, MemoryHistory, MemoryNotes, MemoryMending):
    """``contracts.Store`` for tests. One event loop, one process."""

    capabilities = Capabilities(durable=False, shared=False, concurrent_transactions=False)

    def __init__(self) -> None:
        self.schema = MemorySchema()
        self.version = 0
        self.seen: int | None = None
        self._tables: Tables = Tables()
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

    # ------------------------------------------------------------------- what is old

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
