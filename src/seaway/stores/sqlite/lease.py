"""The relay's exclusive right to an SQLite file's outbox.

    free --BEGIN EXCLUSIVE on {path}-relay--> held --leaving, or the process ends--> free

Owns: that lock, and which entries were claimed under it. The lock lives on a file of its own, so
writers of the application never wait for the network. The operating system drops it with the
process that holds it, kill -9 included: there is no clock to be wrong about.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from seaway.contracts import Failed, Loss, OutboxEntry, Sent, SentPlace
from seaway.databases import times
from seaway.databases.engines import SQLITE
from seaway.databases.queries import Query, Row, Statements
from seaway.databases.sqlite_codes import primary_code, translated, translating
from seaway.databases.tasks import to_its_end
from seaway.stores.relational import entry_of_row
from seaway.stores.relational import sent as sent_of_row
from seaway.stores.sqlite.connection import Connection, read

_SQL = Statements(SQLITE)
_LAST_PLACE = 2**63 - 1

Write = Callable[[Callable[[sqlite3.Connection], None]], Awaitable[None]]
Pulse = tuple[int, int]


class SqliteLease:
    """``contracts.Lease``: one scan from the head of the outbox to its end.

    A key is blocked for as long as the lease lives once a parked entry of it was passed or a
    failure recorded: unparked in between, an entry must not be overtaken by a later one.
    """

    shards: Collection[str] = ("0 of 1",)

    def __init__(
        self,
        reader: Connection,
        write: Write,
        path: str,
        *,
        hold: bool,
        keep_sent: bool,
        on_pulse: Callable[[Pulse], None],
    ) -> None:
        self._hold = hold
        self._reader = reader
        self._write = write
        self._path = path
        self._keep_sent = keep_sent
        self._on_pulse = on_pulse
        self._after = 0
        self._blocked: set[str] = set()

    async def claim(self, limit: int) -> Sequence[OutboxEntry]:
        """The oldest entries not yet claimed under this lease; one short read."""
        claimed: list[OutboxEntry] = []
        while len(claimed) < limit:
            wanted = limit - len(claimed)
            given = {"after": self._after, "blocked": sorted(self._blocked), "limit": wanted}
            query = _SQL.of("claim_entries", given)
            with translating(self._path):
                pulse, page = await self._reader.run(partial(_page, query))
            # Taken before the entries were read: what is added later changes it, and wakes us.
            self._on_pulse(pulse)
            for found, key in page:
                self._after = found.position
                if found.parked_at is not None:
                    if self._hold:
                        self._blocked.add(key)
                elif key not in self._blocked:
                    claimed.append(found)
            if len(page) < wanted:
                break
        return claimed

    async def settle(self, sent: Sequence[Sent], failed: Sequence[Failed] = ()) -> None:
        """One short write transaction, durable when it returns. Idempotent."""
        self._blocked.update(failure.entry.key for failure in failed)
        if sent or failed:
            await self._write(lambda db: _settle(db, sent, failed, keep_sent=self._keep_sent))

    async def find(self, event_ids: Sequence[str]) -> Sequence[OutboxEntry]:
        """Those of ``event_ids`` that are in the outbox; one short read."""
        query = _SQL.of("find", {"event_ids": list(event_ids)})
        with translating(self._path):
            return [entry_of_row(row) for row in await self._reader.run(partial(read, query=query))]

    async def confirm(self) -> None:
        """It cannot be lost: the operating system holds the lock for as long as we live."""

    async def last_sent(
        self, stream: str, *, upto: int | None = None, of_all: bool = False
    ) -> SentPlace | None:
        """The highest place of a sent event; one look into an index."""
        highest = _LAST_PLACE if upto is None else upto
        found = await self._read("last_sent", stream=stream, upto=highest)
        return SentPlace(*found[0]) if found else None

    async def first_sent(self, stream: str) -> int | None:
        """The lowest place that retention keeps."""
        [(place,)] = await self._read("first_sent", stream=stream)
        return None if place is None else int(place)

    async def sent_streams(self) -> Sequence[str]:
        """The streams that anything was sent to."""
        return [stream for (stream,) in await self._read("sent_streams")]

    async def lose(self, stream: str, *, above: int) -> Loss:
        """One write transaction."""
        given = {"stream": stream, "above": above}
        found: list[Row] = []

        def work(db: sqlite3.Connection) -> None:
            found[:] = read(db, _SQL.of("to_lose", given))
            db.execute(_SQL["lose"], given)

        await self._write(work)
        return Loss(*found[0])

    async def lost_since(self, stream: str) -> datetime | None:
        """When the first lost event was settled."""
        [(since,)] = await self._read("lost_since", stream=stream)
        return None if since is None else times.moment(since)

    async def lost(self, stream: str, *, limit: int) -> Sequence[Sent]:
        """The first of the lost events, in outbox order."""
        return [sent_of_row(row) for row in await self._read("lost", stream=stream, limit=limit)]

    async def find_lost(self, stream: str, event_ids: Sequence[str]) -> Sequence[Sent]:
        """Those of ``event_ids`` that are lost."""
        found = await self._read("find_lost", stream=stream, event_ids=list(event_ids))
        return [sent_of_row(row) for row in found]

    async def heal(self, sent: Sequence[Sent], *, again: bool = True) -> None:
        """One short write transaction, durable when it returns. Idempotent."""
        now = times.now()
        places = [
            {
                "event_id": each.entry.event_id,
                "stream": each.stream,
                "stream_seq": each.stream_seq,
                "again": again,
                "now": now,
            }
            for each in sent
        ]
        await self._write(lambda db: _many(db, _SQL["heal"], places))

    async def _read(self, name: str, **given: Any) -> Sequence[Row]:
        with translating(self._path):
            return await self._reader.run(partial(read, query=_SQL.of(name, given)))


def _many(db: sqlite3.Connection, statement: str, given: Sequence[Mapping[str, Any]]) -> None:
    db.executemany(statement, given)


Page = tuple[Pulse, list[tuple[OutboxEntry, str]]]
"""Entries, each with its key as its row has it: headers of another's making may not tell."""


def read_pulse(db: sqlite3.Connection) -> Pulse:
    """Two figures that change when an entry is added, parked or unparked."""
    sequence, parked = db.execute(_SQL["pulse"]).fetchone()
    return sequence, parked


def _page(query: Query, db: sqlite3.Connection) -> Page:
    pulse = read_pulse(db)
    return pulse, [(entry_of_row(row[:-1]), row[-1]) for row in read(db, query)]


def _settle(
    db: sqlite3.Connection, sent: Sequence[Sent], failed: Sequence[Failed], *, keep_sent: bool
) -> None:
    now = times.now()
    if sent:
        settled = {
            "sent": json.dumps([[s.entry.position, s.stream, s.stream_seq] for s in sent]),
            "now": now,
        }
        if keep_sent:
            db.execute(_SQL["keep"], settled)
        db.execute(_SQL["take_out"], settled)
    db.executemany(
        _SQL["fail"],
        [
            {
                "position": failure.entry.position,
                "attempts": failure.entry.attempts,
                "error": failure.error,
                "park": failure.park,
                "now": now,
            }
            for failure in failed
        ],
    )


@asynccontextmanager
async def relay_lock(reader: Connection, path: Path) -> AsyncIterator[bool]:
    """Hold the relay's lock of ``path``; False where another relay has it. Never waits."""
    side = f"{path}-relay"
    held: list[sqlite3.Connection] = []

    def take(_: sqlite3.Connection) -> bool:
        lock = sqlite3.connect(side, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except BaseException as error:
            lock.close()
            if isinstance(error, sqlite3.Error) and primary_code(error) == sqlite3.SQLITE_BUSY:
                return False
            if isinstance(error, sqlite3.Error):
                raise translated(error, side) from error
            raise
        held.append(lock)
        return True

    def release(_: sqlite3.Connection) -> None:
        for lock in held:
            lock.close()

    try:
        yield await reader.run(take)
    finally:
        # Also when cancelled while taking it: a lock left behind would stop every relay.
        await to_its_end(reader.run(release))
