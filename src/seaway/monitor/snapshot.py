"""One look at everything: server, streams, consumers, outbox, dead letters, as plain data.

Owns: what is looked at (``Watch``), how it is asked in bounds (``Station``), and the shape of what
is seen (``Snapshot``). Must not know: thresholds, or how it is shown. Guarantees: figures of
consumers come from CONSUMER.INFO, since followers answer lists with stale ones; whatever is away or
hangs is written down in time, not raised; one question at a time hangs, however many are asked
after it; ephemeral consumers are left out, since their names never end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from seaway import naming
from seaway.config import Settings
from seaway.contracts import (
    Backlog,
    Broker,
    BrokerAdmin,
    ConsumerInfo,
    Notice,
    ServerInfo,
    Store,
    StreamInfo,
    Unseen,
)
from seaway.errors import (
    ConfigError,
    NotPermitted,
    SchemaMismatch,
    SeawayError,
    TransientError,
)

P = TypeVar("P")
T = TypeVar("T")

WITHIN = timedelta(seconds=5)
"""How long server and database may take to answer, each."""
_MOST_SUBJECTS = 1000
_GRACE_SECONDS = 0.25
"""For a question that can be taken back, such as a statement that waits for a lock."""
_ANEW_SECONDS = 30.0
"""A connection may be lost without a word: after that long another one is tried."""


@dataclass(slots=True)
class Database:
    """An open database whose tables may not be verified yet: that can hang where they are locked,
    and what its processes say need not wait for it."""

    store: Store
    _verified: bool = False

    async def verified(self) -> Store:
        """The store, verified once; ``SchemaMismatch`` names the mending."""
        if not self._verified:
            await self.store.schema.verify()
            self._verified = True
        return self.store


@dataclass(frozen=True, slots=True)
class Watch:
    """What must be there: stream names, and ``(stream, durable)`` pairs.

    Other durables of these streams are seen as well; nothing else of the server is.
    """

    streams: tuple[str, ...]
    consumers: tuple[tuple[str, str], ...] = ()
    way_without: Callable[[str, str], str] = Settings().way_without
    """What to do about a durable (its stream, its name) that nobody uses."""

    @classmethod
    def of(cls, settings: Settings) -> Watch:
        """The streams of the settings, those that they imply, and the settings' consumers."""
        names: list[str] = []
        for stream in settings.streams:
            names += [
                stream.name,
                naming.dlq_stream(stream.context),
                naming.redrive_stream(stream.context),
            ]
        if names:
            names.append(naming.ADVISORY_STREAM)
        consumers = tuple((c.stream, c.durable) for c in settings.consumers)
        return cls(tuple(names), consumers, settings.way_without)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen at ``taken_at``. ``server_error`` set: nothing below it could be asked."""

    taken_at: datetime
    server: ServerInfo | None = None
    server_error: str | None = None
    server_denied: bool = False
    """It is there, and does not let us look."""
    streams: tuple[StreamInfo, ...] = ()
    consumers: tuple[ConsumerInfo, ...] = ()
    missing_streams: tuple[str, ...] = ()
    missing_consumers: tuple[tuple[str, str], ...] = ()
    ways_without: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What to do about those ``consumers`` that nobody uses, by stream and durable."""
    outbox: Backlog | None = None
    outbox_error: str | None = None
    tables_unfit: bool = False
    """The database answers, and Seaway's tables are missing or old."""
    processes: tuple[Notice, ...] | None = None
    """What those at work on the database say of themselves; ``None``: that could not be asked."""
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """Letters by context."""
    unseen: tuple[Unseen, ...] = ()
    """What was done that nobody has said to know."""

    def stream(self, name: str) -> StreamInfo | None:
        """The stream of this name, if it was there."""
        return next((stream for stream in self.streams if stream.name == name), None)

    @property
    def outbox_age_seconds(self) -> float:
        """How long the oldest event that is not parked has waited; 0 where none waits."""
        return (age_seconds(self.outbox, self.taken_at) or 0.0) if self.outbox else 0.0


def age_seconds(backlog: Backlog, now: datetime) -> float | None:
    """How long the oldest event that is not parked has waited; ``None`` where none waits. Never
    negative: the database's clock may be ahead of ours."""
    if backlog.oldest_at is None:
        return None
    return max(0.0, (now - backlog.oldest_at).total_seconds())


async def take_snapshot(
    server: Station[Broker],
    watch: Watch,
    database: Station[Database] | None = None,
    *,
    within: timedelta = WITHIN,
) -> Snapshot:
    """Look once. Never raises for a server or database that is away, refuses or hangs: what did
    not answer ``within`` that time is written down as that."""
    seen: dict[str, Any] = {}
    outbox_error, (looked, error) = await asyncio.gather(
        _ask_database(database, seen, within),
        _attempt(server.ask(lambda broker: _look(broker.admin, watch), within=within)),
    )
    found, streams, consumers = looked or (None, (), ())
    there = {stream.name for stream in streams}
    known = {consumer.key for consumer in consumers}
    return Snapshot(
        taken_at=datetime.now(UTC),
        server=found,
        server_error=None if error is None else str(error),
        server_denied=isinstance(error, NotPermitted),
        streams=streams,
        consumers=consumers,
        missing_streams=tuple(name for name in watch.streams if looked and name not in there),
        missing_consumers=tuple(key for key in watch.consumers if looked and key not in known),
        ways_without={key: watch.way_without(*key) for key in known},
        outbox=seen.get("outbox"),
        outbox_error=outbox_error,
        tables_unfit="tables_unfit" in seen,
        processes=seen.get("processes"),
        unseen=seen.get("unseen", ()),
        dead_letters={
            naming.stream_context(stream.name): stream.messages
            for stream in streams
            if stream.name.endswith("_DLQ")
        },
    )


async def _attempt(work: Awaitable[T]) -> tuple[T | None, SeawayError | None]:
    try:
        return await work, None
    except SeawayError as error:
        return None, error


async def _ask_database(
    database: Station[Database] | None, seen: dict[str, Any], within: timedelta
) -> str | None:
    """Fill ``seen`` with what it holds of a ``Snapshot``; what stood in the way of the latter."""

    async def ask(opened: Database) -> None:
        # First, and kept whatever follows: it says why the outbox cannot be asked.
        with contextlib.suppress(ConfigError):  # It is not there, or we may not read it.
            seen["processes"] = tuple(await opened.store.notices())
        with contextlib.suppress(ConfigError):
            seen["unseen"] = tuple(await opened.store.unseen())
        seen["outbox"] = await (await opened.verified()).backlog()

    if database is None:
        return None
    try:
        await database.ask(ask, within=within)
    except SeawayError as error:
        if isinstance(error, SchemaMismatch):
            seen["tables_unfit"] = True
        return str(error)
    return None


async def _look(
    admin: BrokerAdmin, watch: Watch
) -> tuple[ServerInfo, tuple[StreamInfo, ...], tuple[ConsumerInfo, ...]]:
    server = await admin.server_info()
    found = await asyncio.gather(*(_stream(admin, name) for name in watch.streams))
    streams = tuple(one for one in found if one is not None)
    listed = await asyncio.gather(*(admin.consumers(s.name) for s in streams if s.consumer_count))
    wanted = sorted(one.key for some in listed for one in some if not one.ephemeral)
    details = await asyncio.gather(*(admin.consumer(*key) for key in wanted))
    # Some may have gone between the list and the question: they are missing, not an error.
    return server, streams, tuple(one for one in details if one is not None)


async def _stream(admin: BrokerAdmin, name: str) -> StreamInfo | None:
    """Its info, with what each subject holds where that matters and is few."""
    info = await admin.stream(name)
    if info is None or not info.refuses_per_subject or info.num_subjects > _MOST_SUBJECTS:
        return info
    return await admin.stream(name, subjects=">")


# ------------------------------------------------------------------------------- asking in bounds


class Station(Generic[P]):
    """Opened when it is first asked. ``what`` names it for people. ``close`` it."""

    def __init__(
        self,
        what: str,
        open: Callable[[], Awaitable[P]],
        close: Callable[[P], Awaitable[None]] | None = None,
    ) -> None:
        self.what = what
        self._open = open
        self._close = close
        self._opened: P | None = None
        self._hanging: asyncio.Task[object] | None = None
        self._hangs_since = 0.0
        self._timed_out = False
        self._left: set[asyncio.Task[object]] = set()

    @property
    def left_behind(self) -> bool:
        """Whether something gave no answer in time: a thread of a driver may hang in it, and no
        orderly end is to be had."""
        return self._timed_out or bool(self._left)

    async def ask(self, question: Callable[[P], Awaitable[T]], *, within: timedelta) -> T:
        """What ``question`` answers or raises; ``TransientError`` where it does not in time."""
        if self._hanging is not None and not self._hanging.done():
            hangs_for = time.monotonic() - self._hangs_since
            if hangs_for < _ANEW_SECONDS:
                raise TransientError(f"{self.what} has not answered for {hangs_for:.0f} s")
            self._give_up()
        asking = asyncio.create_task(self._ask(question))
        if not await self._ends(asking, within):
            if not asking.done():
                self._hanging, self._hangs_since = asking, time.monotonic() - _seconds(within)
            self._timed_out = True
            raise TransientError(f"{self.what} did not answer within {_seconds(within):.3g} s")
        return asking.result()

    async def close(self, *, within: timedelta = timedelta(seconds=1)) -> None:
        """Close it if that can be done in time, and not at all where it has hung. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is not None and self._close is not None and not self.left_behind:
            closing = asyncio.create_task(_awaited(self._close(opened)))
            await self._ends(closing, within)

    async def _ask(self, question: Callable[[P], Awaitable[T]]) -> T:
        opened = self._opened
        if opened is None:
            opened = self._opened = await self._open()
        return await question(opened)

    async def _ends(self, task: asyncio.Task[T], within: timedelta) -> bool:
        """Whether it ended by itself in time; else it is cancelled, and left behind if need be."""
        try:
            await asyncio.wait({task}, timeout=_seconds(within))
            if task.done():
                return True
        finally:
            if not task.done():
                task.cancel()
                self._left.add(task)
                task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=_GRACE_SECONDS)
        return False

    def _give_up(self) -> None:
        """What hangs is left to itself, and closed when it comes back."""
        opened, hanging, self._opened, self._hanging = self._opened, self._hanging, None, None
        if opened is None or self._close is None or hanging is None:
            return
        closing = asyncio.ensure_future(_after(hanging, self._close, opened))
        self._left.add(closing)
        closing.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # Nobody waits for it any more.


async def _after(
    hanging: asyncio.Task[object], close: Callable[[P], Awaitable[None]], opened: P
) -> None:
    await asyncio.wait({hanging})
    await close(opened)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _seconds(span: timedelta) -> float:
    return max(0.0, span.total_seconds())
