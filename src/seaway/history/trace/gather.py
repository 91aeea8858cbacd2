"""Asks databases and server what they know of a chain of events.

Owns: the order of the questions, and their bounds: ``MOST`` members, ``READ`` headers of each
stream, pages that are each asked in bounded time. Events of other services are found by their
correlation id in the headers of their streams, within ``window`` of what is known already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from seaway import headers as h
from seaway import naming
from seaway.config import Settings
from seaway.contracts import Broker, Kept, StoredMessage
from seaway.errors import SeawayError
from seaway.headers import SCHEDULE_TARGET
from seaway.history.trace.values import Member, Search, Trace, time_of
from seaway.history.trace.weave import Known, woven
from seaway.monitor import Database, Station

T = TypeVar("T")
R = TypeVar("R")

MOST = 100_000
"""Members of a trace."""
READ = 500_000
"""Headers of one stream."""
_PAGE, _BATCH, _SINGLE = 5000, 1000, 300
_BEFORE = timedelta(seconds=5)
_NO_TIME = "of when is not known: the id says no time, and nothing else knows it"


class Tracer:
    """``trace`` asks ``server`` and ``databases`` (each with its name), each question within
    ``within``. ``advance`` is told how many headers were read."""

    def __init__(
        self,
        settings: Settings,
        server: Station[Broker],
        databases: Sequence[tuple[str, Station[Database]]],
        *,
        within: timedelta,
        window: timedelta,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._settings = settings
        self._server, self._databases = server, databases
        self._within, self._window, self._advance = within, window, advance
        self._known = Known()

    async def trace(self, wanted: str) -> Trace:
        """What is known of ``wanted``. Never raises for what is away: ``Trace.away`` names it."""
        found = Trace(wanted)
        await self._place(found)
        wanted = found.wanted
        await self._rows(found, [wanted])
        if wanted not in found.members:
            await self._chain(found, wanted)
        for _ in range(2):  # An event that only a stream has says of which chain it is.
            one = found.members.get(wanted)
            chain = one.correlation_id if one else wanted
            if chain != found.correlation_id:
                found.correlation_id = chain
                await self._chain(found, chain)
                await self._streams(found)
        if found.members or self._known.letters:
            unknown = {m.causation_id for m in found.members.values() if m.causation_id}
            await self._rows(found, sorted(unknown - found.members.keys())[:_BATCH])
        await self._inboxes(found)
        await self._consumers(found)
        self._say_retention(found)
        woven(found, self._known)
        return found

    # ------------------------------------------------------------------- databases

    async def _place(self, found: Trace) -> None:
        """``SEA_EVENTS:17`` and ``SEA_DLQ:3`` are ids as well."""
        stream, _, number = found.wanted.rpartition(":")
        if not naming.kind_of(stream) or not number.isdecimal() or len(number) > 19:
            return

        async def get(broker: Broker) -> StoredMessage | None:
            return await broker.admin.get(stream, int(number))

        if (stored := await self._asked(found, self._server, get)) is not None:
            found.wanted = stored.event_id
            self._take(found, stored)
        elif self._server.what not in found.away:
            found.notes.append(f"{stream} holds nothing in its place {number}")

    async def _rows(self, found: Trace, event_ids: Sequence[str]) -> None:
        for name, station in self._databases:

            async def ask(database: Database) -> Sequence[Kept]:
                return await (await database.verified()).history(event_ids)

            if event_ids:
                for row in await self._asked(found, station, ask, name) or ():
                    self._keep(found, row)

    async def _chain(self, found: Trace, correlation_id: str) -> None:
        for name, station in self._databases:
            after = 0
            while True:

                async def ask(database: Database, after: int = after) -> Sequence[Kept]:
                    return await (await database.verified()).history_of(correlation_id, after=after)

                rows = await self._asked(found, station, ask, name)
                for row in rows or ():
                    self._keep(found, row)
                if not rows or len(found.members) >= MOST:
                    break
                after = rows[-1].position

    def _keep(self, found: Trace, row: Kept) -> None:
        member = self._member(
            found, row.event_id, Member.of(row.event_id, row.subject, row.headers)
        )
        if member is not None:
            self._known.kept[row.event_id] = row._replace(headers={})
            if row.stream and row.stream_seq > 0:
                member.places.setdefault(row.stream, row.stream_seq)

    async def _inboxes(self, found: Trace) -> None:
        ids = list(found.members) or [found.wanted]
        for name, station in self._databases:
            for some in (ids[n : n + _BATCH] for n in range(0, len(ids), _BATCH)):

                async def ask(database: Database, some: list[str] = some) -> None:
                    store = await database.verified()
                    for row in await store.rows_of(some):
                        self._known.row(row)
                    for one in await store.unhandled(some):
                        self._known.unhandled.setdefault(one.event_id, []).append(one)

                await self._asked(found, station, ask, name)
                if name in found.away:
                    break
        known = self._known.rows.keys() | self._known.decided.keys()
        if not found.members and found.wanted in known:
            found.members[found.wanted] = Member(found.wanted, correlation_id=found.wanted)

    # ------------------------------------------------------------------- the server

    async def _streams(self, found: Trace) -> None:
        found.unsearched.clear()
        for settings in self._settings.streams:
            context = settings.context
            queues = naming.dlq_stream(context), naming.redrive_stream(context)
            await self._events(found, settings.name)
            for queue in queues:
                await self._read(found, queue, None, None)
            for stream in (settings.name, *queues):
                if stream not in found.streams:
                    found.unsearched.setdefault(stream, f"{self._server.what} was not reached")

    async def _events(self, found: Trace, stream: str) -> None:
        """Around each known time, as far as that was not read yet; then the places that are known
        and lie elsewhere."""
        begun: datetime | None = None
        while True:
            times = sorted(_times(found, self._known))
            window = next((t for t in times if begun is None or t > begun), None)
            if window is None:
                if begun is None:
                    found.unsearched[stream] = _NO_TIME
                break
            begun = await self._read(found, stream, window - _BEFORE, window + self._window)
            if self._server.what in found.away or begun is None:
                break
        left = [
            (m.event_id, seq)
            for m in found.members.values()
            if (seq := m.places.get(stream)) and (stream, seq) not in self._known.stored
        ]
        for event_id, seq in left[:_SINGLE]:

            async def get(broker: Broker, seq: int = seq) -> StoredMessage | None:
                return await broker.admin.get(stream, seq)

            stored = await self._asked(found, self._server, get)
            if stored is not None and stored.event_id == event_id:
                self._take(found, stored)
            elif self._server.what not in found.away:
                self._known.gone.add((stream, seq))

    async def _read(
        self, found: Trace, stream: str, since: datetime | None, until: datetime | None
    ) -> datetime | None:
        """Take what of ``stream`` belongs to the trace; up to when that is done."""
        from_seq: int | None = None
        while True:

            async def page(broker: Broker, from_seq: int | None = from_seq) -> list[StoredMessage]:
                if await broker.admin.stream(stream) is None:
                    found.unsearched[stream] = "there is no such stream"
                    return []
                begin = since if from_seq is None else None
                got = []
                reading = broker.admin.read(
                    stream, headers_only=True, from_seq=from_seq, from_time=begin
                )
                async with aclosing(reading) as history:
                    async for one in history:
                        got.append(one)
                        if len(got) == _PAGE or (until and one.stored_at > until):
                            break
                return got

            got = await self._asked(found, self._server, page)
            for stored in got or ():
                if until is None or stored.stored_at <= until:
                    self._take(found, stored)
            if got is None or stream in found.unsearched:
                return None
            self._advance(len(got))
            search = found.streams.setdefault(stream, Search(since=since))
            search.headers, search.until = search.headers + len(got), until
            if not got or len(got) < _PAGE or (until and got[-1].stored_at > until):
                return until
            search.until = got[-1].stored_at
            if search.headers >= READ:
                last = h.format_time(search.until)
                found.notes.append(f"{stream} was read up to {last} and no further: {READ} headers")
                return None
            from_seq = got[-1].stream_seq + 1

    def _take(self, found: Trace, stored: StoredMessage) -> None:
        event_id = stored.event_id
        chains = (found.correlation_id, found.wanted)
        known = event_id == found.wanted or event_id in found.members
        if not known and stored.correlation_id not in chains:
            return
        made = Member.of(event_id, stored.event_subject, stored.message.headers)
        kind = naming.kind_of(stored.stream)
        if kind == "dlq":
            context = naming.stream_context(stored.stream)
            made.subject = stored.message.subject.removeprefix(f"{context}.dlq.")
        elif target := stored.message.headers.get(SCHEDULE_TARGET):
            made.subject = naming.original_subject(target)
        if (member := self._member(found, event_id, made)) is None:
            return
        if kind == "dlq":
            self._known.letters.setdefault(event_id, {})[stored.place] = stored
        elif kind == "redrive":
            self._known.redrives.setdefault(event_id, {})[stored.place] = stored
        else:
            member.places.setdefault(stored.stream, stored.stream_seq)
            self._known.stored[stored.place] = stored.stored_at, event_id
            was = stored.message.headers.get(h.HEALED, "")
            if was.isdecimal() and len(was) < 20:
                self._known.healed_from[stored.place] = int(was)
            self._known.copies.setdefault(event_id, set()).add(stored.place)

    def _member(self, found: Trace, event_id: str, made: Member) -> Member | None:
        if event_id not in found.members:
            if len(found.members) >= MOST:
                said = f"more than {MOST} events: the later ones are left out"
                if said not in found.notes:
                    found.notes.append(said)
                return None
            found.members[event_id] = made
        return found.members[event_id]

    async def _consumers(self, found: Trace) -> None:
        async def ask(broker: Broker) -> None:
            for stream in sorted({name for m in found.members.values() for name in m.places}):
                for one in await broker.admin.consumers(stream):
                    if not one.ephemeral and (info := await broker.admin.consumer(*one.key)):
                        self._known.consumers.append(info)

        if found.members:
            await self._asked(found, self._server, ask)

    # ------------------------------------------------------------------- asking

    async def _asked(
        self,
        found: Trace,
        station: Station[T],
        question: Callable[[T], Awaitable[R]],
        name: str = "",
    ) -> R | None:
        """What it answers; ``None`` where it is away, which is asked once only."""
        name = name or station.what
        if name in found.away:
            return None
        try:
            answer = await station.ask(question, within=self._within)
        except SeawayError as error:
            found.away[name] = str(error)
            return None
        if name not in found.searched:
            found.searched.append(name)
        return answer

    def _say_retention(self, found: Trace) -> None:
        made = time_of(found.wanted)
        if made is None or found.wanted in self._known.kept:
            return
        age, kept = datetime.now(UTC) - made, self._settings.outbox.retention
        if age > kept:
            found.notes.append(
                f"it is {age.days} days old: the database keeps what was sent for outbox.retention"
                f" ({kept.total_seconds() / 86400:g} days)"
            )


def _times(found: Trace, known: Known) -> Iterator[datetime]:
    if (made := time_of(found.wanted)) is not None:
        yield made
    for event_id in found.members:
        if (row := known.kept.get(event_id)) is not None:
            yield row.added_at
            if row.sent_at is not None:
                yield row.sent_at
        elif (made := time_of(event_id)) is not None:
            yield made
    for at, _ in known.stored.values():
        yield at
