"""``Audit``: outbox, streams, inbox and letters compared by event id.

    durables' floors ──> letters, redrives ──> the outbox's last place ──> the stream's end
        ──> the stream ──> outbox, inbox

Owns: what is compared with what, and in which order it is asked. Guarantees: nothing is changed;
what is on its way is no finding. Each station is read after all that must not be ahead of it: what
a stream holds was committed before, what a durable has settled has its row or its letter. So no
margin of time is needed, and no clock is trusted (ADR 0025). What looks wrong is asked for again
before it is told. Memory grows with minutes and event types, not with events.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar

from seaway import naming
from seaway.config import Settings
from seaway.contracts import Broker, Store, StreamInfo
from seaway.databases.tallies import MINUTE_MS, Tally, Window
from seaway.errors import ConfigError, SeawayError, TransientError
from seaway.history import comparing
from seaway.history.findings import ConsumerFigures, Report, StreamFigures, moment_of
from seaway.history.reading import StreamRead
from seaway.history.stations import CHUNK, Queues, Taker, place_at, queues, takers
from seaway.monitor import Database, Station
from seaway.naming import OPERATOR

P = TypeVar("P")
T = TypeVar("T")

Handles: TypeAlias = Mapping[str, Callable[[str], bool]]
"""By durable, whether it handles an event of a subject."""
Progress: TypeAlias = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]

SLACK = timedelta(minutes=10)
"""How much earlier than its id says a stream may have stored an event: clocks differ."""
_PRUNED = timedelta(hours=1)
"""What is that near to the end of its retention may be forgotten while it is compared."""
_TO_COME = timedelta(days=1)
"""An id of a later time than that is taken for none."""
_STEPS = (10_000, 200_000)
"""Rows that one question to the inbox is to bring: it asks of a longer or a shorter time."""


def silent(what: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """No progress is shown."""
    return nullcontext(lambda count: None)


@dataclass(slots=True)
class Seen:
    """A stream as it was read, for what is compared with it."""

    info: StreamInfo
    context: str
    figures: StreamFigures
    takers: list[Taker]
    queues: Queues
    read: StreamRead
    since_sent: int
    """Milliseconds since 1970: what was written before may be forgotten by the outbox."""
    since_done: int
    """The same of the inbox."""
    first_sent: int
    """The first place that is compared with the outbox."""
    first_done: int
    last: int
    """The end of the stream or, where that went back, the last place that it acknowledged."""
    here: dict[str, ConsumerFigures] = field(default_factory=dict)


class Audit:
    """Compares the ``contexts`` (none: those of the settings, or of the server's event streams).

    ``handles``: which event types each durable handles; of a durable that is not in it, types of
    which no event has an effect are taken as not handled. ``reader``: as who to read streams.
    """

    def __init__(
        self,
        server: Station[Broker],
        database: Station[Database],
        settings: Settings,
        *,
        contexts: Sequence[str] = (),
        handles: Handles | None = None,
        reader: str = OPERATOR,
        within: timedelta = timedelta(seconds=5),
    ) -> None:
        self.server = server
        self.database = database
        self.settings = settings
        self.reader = reader
        self.within = within
        self._contexts = [naming.check_part(one, "context") for one in contexts]
        self._handles = handles or {}

    async def look(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Compare the events whose ids are of ``since <= time < until``, in whole minutes; by
        default, all of which retention and streams can still prove anything.

        A station that is away is named in ``Report.away``, and nothing raised. ``ConfigError``
        for a window that holds nothing.
        """
        report = Report(datetime.now(UTC))
        if since is not None and since >= report.taken_at:
            raise ConfigError("the window lies in the future: nothing was written there yet")
        if since is not None and until is not None and since >= until:
            raise ConfigError("the window ends before it begins")
        looking = _Looking(self, report, since, until, progress or silent)
        await looking.go()
        report.prove()
        return report

    async def open_server(self, report: Report) -> Broker | None:
        """The broker; ``None``, and that is in the report, where it is away."""

        async def itself(broker: Broker) -> Broker:
            await broker.admin.server_info()
            return broker

        return await self._opened(report, self.server, itself)

    async def open_store(self, report: Report) -> Store | None:
        """The verified database, likewise."""

        async def verified(database: Database) -> Store:
            store = await database.verified()
            await store.backlog()
            return store

        return await self._opened(report, self.database, verified)

    async def _opened(
        self, report: Report, station: Station[P], ask: Callable[[P], Awaitable[T]]
    ) -> T | None:
        try:
            return await station.ask(ask, within=self.within)
        except TransientError as error:
            report.away.append(f"{station.what}: {error}")
            return None

    def names(self, known: Sequence[StreamInfo]) -> list[str]:
        """The event streams to compare."""
        if self._contexts:
            return [naming.events_stream(one) for one in self._contexts]
        if self.settings.streams:
            return [one.name for one in self.settings.streams]
        return sorted(one.name for one in known if naming.kind_of(one.name) == "events")

    def handled_by(self, durable: str) -> Callable[[str], bool] | None:
        """Whether it handles a subject; ``None`` where that is not known."""
        return self._handles.get(durable)


class _Looking:
    """One audit."""

    def __init__(
        self,
        audit: Audit,
        report: Report,
        since: datetime | None,
        until: datetime | None,
        progress: Progress,
    ) -> None:
        self._audit = audit
        self._report = report
        self._since, self._until = since, until
        self._progress = progress

    async def go(self) -> None:
        broker = await self._audit.open_server(self._report)
        store = await self._audit.open_store(self._report)
        seen: list[Seen] = []
        if broker is not None:
            streams = () if self._audit.settings.streams else await broker.admin.streams()
            for name in self._audit.names(streams):
                try:
                    if found := await self._read(broker, store, name):
                        seen.append(found)
                except SeawayError as error:
                    self._report.away.append(f"{name}: {error}")
        if store is None:
            return
        if broker is None:
            backlog = await store.backlog()
            self._report.notes.append(
                f"the outbox holds {backlog.count} events, {backlog.parked} of them parked; "
                "without the server nothing can be compared"
            )
            return
        try:
            for one in seen:
                await self._committed(broker, store, one)
            await self._handled(broker, store, seen)
            for one in seen:
                await comparing.letters(broker, store, one, self._report)
        except SeawayError as error:
            self._report.away.append(str(error))

    # ------------------------------------------------------------------- the stream

    async def _read(self, broker: Broker, store: Store | None, name: str) -> Seen | None:
        admin, reader = broker.admin, self._audit.reader
        info = await admin.stream(name)
        if info is None:
            self._report.away.append(f"{name}: there is no such stream")
            return None
        if info.retention != "limits":
            self._report.notes.append(
                f"{name} drops what was acknowledged ({info.retention}): nothing can be compared"
            )
            return None
        durables = await takers(admin, info, reader)
        context = naming.stream_context(name)
        waits = await queues(broker, context, [one.durable for one in durables], reader)
        # Asked before the stream's end: what lies beyond that, the stream has lost.
        acknowledged = 0 if store is None else await store.last_place(name)
        info = await admin.stream(name) or info
        now = self._report.taken_at
        settings = self._audit.settings
        since_sent = self._begin(settings.outbox.retention)
        since_done = self._begin(settings.inbox.retention)
        since = min(since_sent, since_done)
        until = self._until or now + _TO_COME
        window = Window(since, _ceiling(until), beyond=self._until is None)
        places = [
            await place_at(admin, info, moment_of(one) - SLACK, reader)
            for one in (since_sent, since_done)
        ]
        first = max(min(places), 1)
        parts = [*places, *(one.first for one in durables), *(one.floor + 1 for one in durables)]
        read = StreamRead(parts, window, {one.event_id for one in waits.letters})
        figures = StreamFigures(name, moment_of(since))
        self._report.streams.append(figures)
        with self._progress(f"reading {name}", max(0, info.last_seq - first + 1)) as advance:
            await read.read(admin, name, first, info.last_seq, reader=reader, advance=advance)
        figures.events, figures.copies = read.events, len(read.copies)
        return Seen(
            info=info,
            context=context,
            figures=figures,
            takers=durables,
            queues=waits,
            read=read,
            since_sent=since_sent,
            since_done=since_done,
            first_sent=places[0],
            first_done=places[1],
            last=max(info.last_seq, acknowledged),
        )

    def _begin(self, retention: timedelta | None) -> int:
        """From when on what is kept for so long is there for sure."""
        begins = self._since or datetime(1970, 1, 1, tzinfo=UTC)
        if retention:
            margin = min(_PRUNED, retention / 10)
            begins = max(begins, self._report.taken_at - retention + margin)
        return _floor(begins) if begins == self._since else _ceiling(begins)

    # ------------------------------------------------------------------- the outbox

    async def _committed(self, broker: Broker, store: Store, seen: Seen) -> None:
        name, figures = seen.info.name, seen.figures
        figures.written = await store.writes(name, seen.context)
        if not figures.written:
            self._report.notes.append(
                f"{name} is not written by this database: compared with its inbox alone"
            )
            return
        if not self._audit.settings.outbox.retention:
            self._report.notes.append(
                f"{name}: outbox.retention is 0, so what was published cannot be compared"
            )
            figures.written = False
            return
        backlog = await store.backlog()
        figures.waiting = backlog.count
        sent: dict[int, Tally] = {}
        total = max(0, seen.last - seen.first_sent + 1)
        with self._progress(f"counting the outbox of {name}", total) as advance:
            for first in range(seen.first_sent, seen.last + 1, CHUNK):
                last = min(first + CHUNK - 1, seen.last)
                _merge(sent, await store.tally_sent(name, first, last, seen.read.window))
                advance(last - first + 1)
        figures.committed = sum(one.events for one in sent.values())
        await comparing.copies(broker, store, seen, self._report)
        await comparing.outbox(
            broker, store, seen, sent, self._report, self._audit.reader, self._progress
        )
        moments = [self._report.taken_at, backlog.oldest_at or self._report.taken_at]
        figures.settled = min(moments)

    # ------------------------------------------------------------------- the inbox

    async def _handled(self, broker: Broker, store: Store, seen: Sequence[Seen]) -> None:
        if not any(one.takers for one in seen):
            return
        done = await self._processed(store, seen)
        parts = {one.part for one in await store.notices()}
        for one in seen:
            for taker in one.takers:
                name = taker.durable
                known = name in done or f"consumer {name}" in parts
                if not known and not await store.has_effects(name):
                    self._report.notes.append(
                        f"{name} of {one.info.name}: nothing of it is in this database, so its "
                        "inbox was not compared"
                    )
                    continue
                figures = ConsumerFigures(name)
                one.here[name] = figures
                one.figures.consumers.append(figures)
            await comparing.inbox(
                broker, store, one, done, self._audit, self._report, self._progress
            )
            for taker in one.takers:
                if taker.durable in one.here:
                    moments = [self._report.taken_at, one.read.behind(taker)]
                    one.here[taker.durable].settled = min(filter(None, moments))

    async def _processed(
        self, store: Store, seen: Sequence[Seen]
    ) -> Mapping[str, Mapping[int, Tally]]:
        since = min(one.since_done for one in seen)
        until = max(one.read.window.until for one in seen)
        buckets = [bucket for one in seen for bucket in one.read.sums(0, one.last) if bucket >= 0]
        if not buckets:
            return {}
        since, until = (
            max(since, min(buckets) * MINUTE_MS),
            min(until, (max(buckets) + 1) * MINUTE_MS),
        )
        found: dict[str, dict[int, Tally]] = {}
        step, at = MINUTE_MS, since
        with self._progress("counting the inbox", None) as advance:
            while at < until:
                some = await store.tally_processed(Window(at, min(until, at + step)))
                at += step
                for consumer, tallies in some.items():
                    _merge(found.setdefault(consumer, {}), tallies)
                rows = sum(one.events for each in some.values() for one in each.values())
                advance(rows)
                if rows < _STEPS[0]:
                    step = min(step * 4, 1440 * MINUTE_MS)
                elif rows > _STEPS[1]:
                    step = max(step * _STEPS[1] // (2 * rows), 100)
        return found


def _merge(into: dict[int, Tally], more: Mapping[int, Tally]) -> None:
    for bucket, tally in more.items():
        into[bucket] = into[bucket].plus(tally) if bucket in into else tally


def _floor(moment: datetime) -> int:
    return max(0, math.floor(moment.timestamp() / 60)) * MINUTE_MS


def _ceiling(moment: datetime) -> int:
    return max(0, math.ceil(moment.timestamp() / 60)) * MINUTE_MS
