"""What is the same in every store on an SQL database, written once over the engine's statements.

    PostgresStore, SqliteStore ──> RelationalStore ──> stores/{engine}/statements.sql

Owns: outbox rows as values, the operator's side of the outbox, the inbox, what processes say of
themselves and what they note; what mending leaves has a module of its own. Must not know a driver:
an engine's own store runs the queries, and brings what engines differ in (leases, partitions, how
one hears of new events).
"""

from __future__ import annotations

import asyncio
import json
import re
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Generic, Self, TypeVar

from seaway.contracts import (
    LAST_ID,
    Acknowledged,
    Committed,
    InboxRow,
    Kept,
    KnownPlace,
    LogEntry,
    Message,
    Notice,
    OutboxEntry,
    Sent,
    SentPlace,
    Unhandled,
    Unseen,
    Vitals,
)
from seaway.contracts.audit import place_of
from seaway.databases import times
from seaway.databases.engines import Engine
from seaway.databases.queries import Row, Statements, Steps
from seaway.databases.tallies import Tally, Window, first_id, tallied
from seaway.drivers.protocols import Sessions, ThreadSessions
from seaway.headers import StoredHeaders
from seaway.inbox.transaction import Inbox, ThreadInbox, Transaction, parked
from seaway.stores.mending import RelationalMending
from seaway.waiting import set_within
from seaway.waiting_events import WaitingEvent

H = TypeVar("H")
"""The type of the handle that ``transaction`` gives."""
_PAGE = 20_000
"""Rows that are in memory at a time, where they are counted here."""


def entry_of_row(row: Row) -> OutboxEntry:
    """An outbox row in the order in which statements select it, its lane last where it has one."""
    position, event_id, subject, payload, headers, added_at, attempts, error, parked_at, *lane = row
    return OutboxEntry(
        position,
        event_id,
        Message(subject, payload, StoredHeaders(headers)),
        times.moment(added_at),
        attempts,
        error,
        None if parked_at is None else times.moment(parked_at),
        *lane,
    )


def sent(row: Row) -> Sent:
    """A row of ``seaway_sent``: an entry, its stream and sequence."""
    *columns, stream, stream_seq = row
    return Sent(entry_of_row(columns), stream, stream_seq)


def _kept(row: Row) -> Kept:
    found = Kept(*row)
    return found._replace(
        headers=StoredHeaders(row[4]),
        added_at=times.moment(found.added_at),
        parked_at=_moment(found.parked_at),
        sent_at=_moment(found.sent_at),
        healed_at=_moment(found.healed_at),
    )


def _moment(value: Any) -> datetime | None:
    return None if value is None else times.moment(value)


class RelationalStore(RelationalMending, Generic[H]):
    """The part of ``contracts.Store`` that is the same on every engine."""

    engine: ClassVar[Engine]
    shortest_poll: ClassVar[timedelta]
    """The first pause between two looks at an empty outbox."""
    nudge_is_news: ClassVar[bool]
    """Whether a nudge alone ends ``wait``; else it has the outbox looked at."""

    def __init__(self, sessions: Sessions, schema: str | None, *, poll: timedelta) -> None:
        self._sql = Statements(self.engine, schema)
        self._schema_name = schema
        self._transactions: Inbox[H] = Inbox(sessions, schema, self.nudge)
        self._longest_poll = poll
        self._nudge = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------- the engine's own

    @abstractmethod
    async def close(self) -> None:
        """Close every connection, after what is under way. Idempotent; in a fork, nothing."""

    @abstractmethod
    async def now(self) -> datetime:
        """What the time is by the clock that dates the rows."""

    @abstractmethod
    async def _news(self) -> bool:
        """Whether there may be entries that the last lease has not seen."""

    def _listening(self) -> bool:
        """Whether writers are heard of without looking."""
        return False

    def _known(self, event_ids: Sequence[str]) -> Sequence[Any]:
        """Those of ``event_ids`` that an outbox can have, as the engine takes them."""
        return list(event_ids)

    # ------------------------------------------------------------------- the outbox

    async def wait(self, timeout: timedelta) -> None:
        """Return when there are entries to claim, at the latest after ``timeout``.

        Transactions of this store wake it at once, and so does what ``_listening`` hears; those of
        other connections are seen within ``poll``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        pause = self.shortest_poll
        while True:
            nudge = self._nudge
            if await self._news():
                return
            left = deadline - loop.time()
            if left <= 0:
                return
            if await set_within(min(timedelta(seconds=left), pause), nudge):
                if self.nudge_is_news:
                    return
            else:
                pause = timeout if self._listening() else min(pause * 1.25, self._longest_poll)

    def nudge(self) -> None:
        """End ``wait`` now, or have it look."""
        self._nudge.set()
        self._nudge = asyncio.Event()

    async def entries(
        self, *, parked: bool | None = None, event_id: str | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        """Unsettled entries in outbox order."""
        wanted = None if event_id is None else self._known([event_id])
        return [
            entry_of_row(row)
            for row in await self._read("entries", event_ids=wanted, parked=parked, limit=limit)
        ]

    async def unpark(self, event_ids: Sequence[str] | None = None) -> int:
        """Let parked entries be tried again, with their attempts counted anew."""
        wanted = None if event_ids is None else self._known(event_ids)

        def work() -> Steps[int]:
            ((count,),) = yield self._sql.of("unpark", {"event_ids": wanted}, gives=False)
            if count:
                yield from self._unparked()
            return int(count)

        count = await self._write(work())
        self.nudge()
        return count

    async def discard(self, event_ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give parked entries up for good."""
        given = {"event_ids": self._known(event_ids), "reason": reason}

        def work() -> Steps[list[str]]:
            if "keep_given_up" in self._sql:  # Where one statement cannot move a row.
                yield self._sql.of("keep_given_up", given, gives=False)
            if "to_discard" in self._sql:  # Where a DELETE gives no rows.
                found = yield self._sql.of("to_discard", given)
                yield self._sql.of("discard", given, gives=False)
            else:
                found = yield self._sql.of("discard", given)
            if found:
                yield from self._unparked()
            return [event_id for (event_id,) in found]

        dropped = await self._write(work())
        self.nudge()
        return dropped

    def _unparked(self) -> Steps[None]:
        if "unparked" in self._sql:  # Where leases have to be told.
            yield self._sql.of("unparked", {}, gives=False)

    async def discarded(self, *, limit: int = 100) -> Sequence[Sent]:
        """The entries that were given up, newest first."""
        return [sent(row) for row in await self._read("discarded", limit=limit)]

    async def sent(
        self, *, event_id: str | None = None, correlation_id: str | None = None, limit: int = 100
    ) -> Sequence[Sent]:
        """Settled entries that retention still keeps, newest first."""
        name = "sent"
        if event_id is not None and "sent_of_event" in self._sql:
            name = "sent_of_event"
        elif correlation_id is not None and "sent_of_correlation" in self._sql:
            name = "sent_of_correlation"
        found = await self._read(
            name,
            event_id=event_id,
            event_ids=None if event_id is None else self._known([event_id]),
            correlation_id=correlation_id,
            # The event that started a chain has no correlation but itself.
            first=self._known([correlation_id] if correlation_id else []),
            limit=limit,
        )
        return [sent(row) for row in found]

    # ------------------------------------------------------------------- the inbox

    def transaction(self) -> Transaction[H]:
        """A transaction; whether another may be open at the same time, ``capabilities`` say."""
        return self._transactions.transaction()

    @abstractmethod
    def for_threads(self) -> ThreadInbox[Any]:
        """See ``contracts.Store``."""

    def _for_threads(self, sessions: ThreadSessions) -> ThreadInbox[Any]:
        loop = asyncio.get_running_loop()
        return ThreadInbox(
            sessions, self._schema_name, partial(loop.call_soon_threadsafe, self.nudge)
        )

    async def processed(self, event_id: str) -> Mapping[str, datetime]:
        """Which consumers have this event's effects, and since when."""
        found = await self._read("processed", event_id=event_id)
        return {consumer: times.moment(at) for consumer, at in found}

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """Those of them that have the consumer's inbox row."""
        found = await self._read("claimed", consumer=consumer, event_ids=list(event_ids))
        return {event_id for (event_id,) in found}

    async def inbox_rows(
        self, consumer: str, *, after: str = "", before: str = LAST_ID, limit: int = 1000
    ) -> Sequence[str]:
        """What the consumer's inbox rows are about, in order."""
        given = {"consumer": consumer, "after": after, "before": before, "limit": limit}
        return [event_id for (event_id,) in await self._read("inbox_rows", **given)]

    async def parked_heads(self, consumer: str) -> Sequence[WaitingEvent]:
        """The first parked event of each key, by key."""
        found = await self._read("parked_heads", consumer=consumer)
        return [WaitingEvent(consumer, *parked(row)) for row in found]

    async def drop_parked(self, event: WaitingEvent) -> bool:
        """Remove its row, unless it has another letter by now; whether that was done."""
        given = {"consumer": event.consumer, "event_id": event.event_id, "letter": event.letter}
        return bool(await self._touch("drop_parked", **given))

    # ------------------------------------------------------------------- what became of an event

    async def history(self, event_ids: Sequence[str]) -> Sequence[Kept]:
        """Those of them that the outbox has, or had within retention."""
        return [_kept(row) for row in await self._read("kept", event_ids=self._known(event_ids))]

    async def history_of(
        self, correlation_id: str, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[Kept]:
        """The events of one chain, by position."""
        given = {"correlation_id": correlation_id, "first": self._known([correlation_id])}
        found = await self._read("kept_of", **given, after=after, limit=limit)
        return [_kept(row) for row in found]

    async def rows_of(self, event_ids: Sequence[str]) -> Sequence[InboxRow]:
        """Every row of these events."""
        found = await self._read("rows_of", event_ids=list(event_ids))
        return [InboxRow(consumer, row, times.moment(at)) for consumer, row, at in found]

    async def unhandled(self, event_ids: Sequence[str]) -> Sequence[Unhandled]:
        """What is noted of these events besides the inbox."""
        return [
            Unhandled(consumer, event_id, bool(waiting), tries, letter, times.moment(at), behind)
            for consumer, event_id, waiting, tries, letter, at, behind in await self._read(
                "unhandled", event_ids=list(event_ids)
            )
        ]

    # ------------------------------------------------------------------- the processes

    async def tell(self, process: str, notices: Sequence[Notice]) -> None:
        """Replace what ``process`` says of itself."""
        columns = {
            "parts": [one.part for one in notices],
            "abouts": [one.about for one in notices],
            "reasons": [one.reason for one in notices],
            "lasts": [one.lasts.total_seconds() for one in notices],
        }

        def work() -> Steps[None]:
            yield self._sql.of("forget_process", {"process": process}, gives=False)
            if notices:
                yield self._sql.of("tell", {"process": process, **columns}, gives=False)

        await self._write(work())

    async def notices(self) -> Sequence[Notice]:
        """What every process says of itself."""
        return [
            Notice(part, about, reason, times.span(lasts), process, times.span(silent))
            for part, about, reason, lasts, process, silent in await self._read("notices")
        ]

    # ------------------------------------------------------------------- what is noted

    async def note(self, *entries: LogEntry, seen: bool = False) -> None:
        """Add entries to the log."""
        columns = {
            "seen": seen,
            "by": [one.by for one in entries],
            "actions": [one.action for one in entries],
            "abouts": [one.about for one in entries],
            "details": [_json(one.detail) for one in entries],
        }

        def work() -> Steps[None]:
            yield self._sql.of("forget_log", {}, gives=False)
            yield self._sql.of("note", columns, gives=False)

        if entries:
            await self._write(work())

    async def log(
        self,
        *,
        action: str | None = None,
        actions: Collection[str] | None = None,
        unseen: bool = False,
        entry: int | None = None,
        naming: str | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> Sequence[LogEntry]:
        """Entries of the log, the newest first."""
        if action is not None:
            actions = [action]
        given = {
            "actions": None if actions is None else list(actions),
            "unseen": unseen,
            "entry": entry,
            "naming": None if naming is None else json.dumps(naming),
            "after": after,
            "limit": limit,
        }
        return [
            LogEntry(
                *(what, about, json.loads(detail), by, number, times.moment(noted_at)),
                None if seen_at is None else times.moment(seen_at),
            )
            for what, about, detail, by, number, noted_at, seen_at in await self._read(
                "log", **given
            )
        ]

    async def unseen(self) -> Sequence[Unseen]:
        """What nobody has seen, by action and what it is about."""
        return [
            Unseen(action, about, entries, events, entry, _text(reason))
            for action, about, entries, events, entry, reason in await self._read("unseen")
        ]

    async def see(self, entries: Sequence[int] | None = None) -> int:
        """Note that they are known; how many were not yet."""
        return await self._touch("see", entries=None if entries is None else list(entries))

    async def places(self, part: str) -> Sequence[KnownPlace]:
        """What ``part`` knows, by stream."""
        return [
            KnownPlace(found, stream, stream_seq, event_id, times.moment(stored_at))
            for found, stream, stream_seq, event_id, stored_at in await self._read(
                "places", part=part
            )
        ]

    async def know(self, place: KnownPlace) -> None:
        """Replace what its part knew of its stream."""
        given = {
            "part": place.part,
            "stream": place.stream,
            "stream_seq": place.stream_seq,
            "event_id": place.event_id,
            "stored_at": place.stored_at,
        }
        await self._touch("know", **given)

    async def vitals(self, streams: Mapping[str, datetime] | None = None) -> Vitals:
        """Where events went; of itself, an engine's own store may say more."""
        last: dict[str, Acknowledged] = {}
        before: dict[str, Acknowledged] = {}
        lost: dict[str, int] = {}
        for stream, made in (streams or {}).items():
            given = {"stream": stream, "before": made}
            for name, found in (("newest_place", last), ("place_before", before)):
                for stream_seq, event_id, at in await self._read(name, **given):
                    found[stream] = Acknowledged(stream_seq, event_id, times.moment(at))
            ((waiting,),) = await self._read("waits_to_heal", stream=stream)
            if waiting:
                lost[stream] = waiting
        return Vitals(await self.now(), last_sent=last, sent_before=before, lost=lost)

    # ------------------------------------------------------------------- what is compared

    async def writes(self, stream: str, context: str) -> bool:
        """Whether any event here was sent to ``stream``, or waits for it."""
        ((found,),) = await self._read("writes", stream=stream, prefix=f"{context}.")
        return bool(found)

    async def last_place(self, stream: str) -> int:
        """The highest place that ``stream`` has acknowledged; 0: none is known."""
        ((found,),) = await self._read("last_place", stream=stream)
        return int(found)

    async def tally_sent(
        self, stream: str, first: int, last: int, window: Window
    ) -> Mapping[int, Tally]:
        """The sent events of these places, counted and added up."""
        if "tally_sent" not in self._sql:  # Where the database has no such hash.
            found = await self.sent_places(stream, first, last)
            return tallied(((one.event_id, place_of(one)) for one in found), window)
        rows = await self._read(
            "tally_sent",
            stream=stream,
            first=first,
            last=last,
            since=window.since,
            until=window.until,
            later=window.later,
        )
        return {minute: Tally(count, int(total), *places) for minute, count, total, *places in rows}

    async def sent_places(self, stream: str, first: int, last: int) -> Sequence[SentPlace]:
        """The sent events of these places."""
        found = await self._read("sent_places", stream=stream, first=first, last=last)
        return [SentPlace(*row) for row in found]

    async def committed(self, event_ids: Sequence[str]) -> Mapping[str, Committed]:
        """What the outbox knows of them."""
        found = await self._read("committed", event_ids=self._known(event_ids))
        return {event_id: Committed(stream, place) for event_id, stream, place in found}

    async def moved(self, event_id: str, stream: str, old: int, new: int) -> bool:
        """Note where a sent event lies now."""
        given = {"event_ids": self._known([event_id]), "stream": stream, "old": old, "new": new}
        return bool(await self._touch("moved", **given))

    async def has_effects(self, consumer: str) -> bool:
        """Whether there is any row of ``consumer``."""
        ((found,),) = await self._read("has_effects", consumer=consumer)
        return bool(found)

    async def tally_processed(self, window: Window) -> Mapping[str, Mapping[int, Tally]]:
        """The ids with effects, of each consumer, counted and added up."""
        first, last = first_id(window.since), first_id(window.until)
        found: dict[str, dict[int, Tally]] = {}
        if "tally_processed" in self._sql:
            rows = await self._read("tally_processed", first=first, last=last)
            for consumer, minute, count, total in rows:
                found.setdefault(consumer, {})[minute] = Tally(count, int(total))
            return found
        consumer = ""
        while True:
            page = await self._read(
                "processed_page", first=first, consumer=consumer, last=last, limit=_PAGE
            )
            ids: dict[str, list[tuple[str, int]]] = {}
            for first, consumer in page:
                if " " not in consumer:
                    ids.setdefault(consumer, []).append((first, 0))
            for name, some in ids.items():
                known = found.setdefault(name, {})
                for minute, tally in tallied(some, window).items():
                    if minute >= 0:
                        known[minute] = known.get(minute, Tally()).plus(tally)
            if len(page) < _PAGE:
                return {name: known for name, known in found.items() if known}


def _json(detail: Mapping[str, Any]) -> str:
    """``detail`` without NUL, of which PostgreSQL reads nothing."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\\u0000", r"\1\\ufffd", json.dumps(dict(detail)))


def _text(value: str | None) -> str:
    """A text of JSON; empty for what is none."""
    found = None if value is None else json.loads(value)
    return found if isinstance(found, str) else ""
