"""One look at everything: server, streams, consumers, outbox, dead letters, as plain data.

Owns: what is looked at (``Watch``) and the shape of what is seen (``Snapshot``). Must not know:
thresholds, or how it is shown. Guarantees: figures of consumers come from CONSUMER.INFO, since
followers answer lists with stale ones; whatever is away is written down, not raised; ephemeral
consumers are left out, since their names never end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from seaway import naming
from seaway.config import Settings
from seaway.contracts import JSON, Backlog, Broker, BrokerAdmin, Notice, ServerInfo, Store
from seaway.errors import ConfigError, SeawayError
from seaway.headers import parse_time
from seaway.monitor.station import Station

T = TypeVar("T")

WITHIN = timedelta(seconds=5)
"""How long server and database may take to answer, each."""
_MOST_SUBJECTS = 1000
_SIDES = ("delivered", "ack_floor")


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
        return cls(tuple(names), tuple((c.stream, c.durable) for c in settings.consumers))


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream's state. Limits of ``None`` are unlimited; ``num_deleted`` counts inner holes."""

    name: str
    subjects: tuple[str, ...]
    retention: str
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    num_deleted: int
    consumer_count: int
    max_bytes: int | None = None
    max_messages: int | None = None
    refuses_when_full: bool = False
    replicas: int = 1
    leader: str | None = None
    last_at: datetime | None = None
    """When its last message was stored."""
    full_subjects: tuple[str, ...] = ()
    """Subjects that take no more (``discard_new_per_subject``), where there are few enough to ask.
    """

    @property
    def fill(self) -> float | None:
        """0 to 1 of the limit that is nearest; ``None`` without limits."""
        return max((ratio for ratio, _ in self._ratios()), default=None)

    @property
    def nearest_limit(self) -> str:
        """The name of that limit; empty without limits."""
        return max(self._ratios(), default=(0.0, ""))[1]

    def _ratios(self) -> list[tuple[float, str]]:
        return [
            (used / limit, name)
            for used, limit, name in (
                (self.bytes, self.max_bytes, "max_bytes"),
                (self.messages, self.max_messages, "max_msgs"),
            )
            if limit
        ]

    @classmethod
    def read(cls, info: JSON) -> StreamView:
        """From the server's STREAM.INFO."""
        config, state = info["config"], info["state"]
        per_subject = _limit(config.get("max_msgs_per_subject")) if _by_subject(config) else None
        subjects = (state.get("subjects") or {}) if per_subject else {}
        return cls(
            name=config["name"],
            subjects=tuple(config.get("subjects") or ()),
            retention=config.get("retention", "limits"),
            messages=state["messages"],
            bytes=state["bytes"],
            first_seq=state["first_seq"],
            last_seq=state["last_seq"],
            num_deleted=state.get("num_deleted", 0),
            consumer_count=state.get("consumer_count", 0),
            max_bytes=_limit(config.get("max_bytes")),
            max_messages=_limit(config.get("max_msgs")),
            refuses_when_full=config.get("discard") == "new",
            replicas=config.get("num_replicas", 1),
            leader=(info.get("cluster") or {}).get("leader"),
            last_at=_time(state.get("last_ts")) if state["messages"] else None,
            full_subjects=tuple(
                sorted(name for name, held in subjects.items() if held >= (per_subject or 0))
            ),
        )


@dataclass(frozen=True, slots=True)
class ConsumerView:
    """A durable's state. ``created`` is the server's text: another one means another consumer."""

    stream: str
    durable: str
    created: str
    num_pending: int
    num_ack_pending: int
    num_redelivered: int
    num_waiting: int
    consumer_seq: int
    """Deliveries ever made, redeliveries included."""
    stream_seq: int
    """The highest stream sequence delivered so far."""
    ack_floor: int
    """Every message up to this stream sequence is settled."""
    max_ack_pending: int | None = None
    filters: tuple[str, ...] = ()
    pulled: bool = True
    """Whether clients take from it; the server pushes otherwise."""
    ack_wait: timedelta = timedelta(seconds=30)
    paused_until: str | None = None
    asked_at: datetime | None = None
    """By the server's clock; ``None``: it does not say."""
    last_active_at: datetime | None = None
    """The last delivery or acknowledgement; a server that was restarted has forgotten it."""

    @property
    def never_pulled(self) -> bool:
        """Nobody has ever taken from it, nor does now."""
        return self.pulled and self.consumer_seq == 0 and self.num_waiting == 0

    @property
    def idle_seconds(self) -> float | None:
        """For how long nothing has been delivered or acknowledged; ``None``: not known."""
        return _between(self.last_active_at, self.asked_at)

    def idle_seconds_at_least(self, stream: StreamView | None) -> float:
        """For how long it has surely had something to do and not done it: nothing came since."""
        came_at = stream.last_at if stream else None
        idle, quiet = self.idle_seconds, _between(came_at, self.asked_at)
        return 0.0 if quiet is None else quiet if idle is None else min(idle, quiet)

    @property
    def key(self) -> tuple[str, str]:
        """``(stream, durable)``."""
        return self.stream, self.durable

    @classmethod
    def read(cls, info: JSON) -> ConsumerView:
        """From the server's CONSUMER.INFO."""
        config = info["config"]
        return cls(
            stream=info["stream_name"],
            durable=info["name"],
            created=info["created"],
            num_pending=info["num_pending"],
            num_ack_pending=info["num_ack_pending"],
            num_redelivered=info["num_redelivered"],
            num_waiting=info["num_waiting"],
            consumer_seq=info["delivered"]["consumer_seq"],
            stream_seq=info["delivered"]["stream_seq"],
            ack_floor=info["ack_floor"]["stream_seq"],
            max_ack_pending=_limit(config.get("max_ack_pending")),
            filters=tuple(naming.filter_subjects(config)),
            pulled=not config.get("deliver_subject"),
            ack_wait=timedelta(microseconds=(config.get("ack_wait") or 0) // 1000),
            paused_until=config.get("pause_until") if info.get("paused") else None,
            asked_at=_time(info.get("ts")),
            last_active_at=max(
                filter(None, (_time(info[side].get("last_active")) for side in _SIDES)),
                default=None,
            ),
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen at ``taken_at``. ``server_error`` set: nothing below it could be asked."""

    taken_at: datetime
    server: ServerInfo | None = None
    server_error: str | None = None
    streams: tuple[StreamView, ...] = ()
    consumers: tuple[ConsumerView, ...] = ()
    missing_streams: tuple[str, ...] = ()
    missing_consumers: tuple[tuple[str, str], ...] = ()
    outbox: Backlog | None = None
    outbox_error: str | None = None
    processes: tuple[Notice, ...] | None = None
    """What those at work on the database say of themselves; ``None``: that could not be asked."""
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """Letters by context."""

    def stream(self, name: str) -> StreamView | None:
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
    outbox_error, (looked, server_error) = await asyncio.gather(
        _ask_database(database, seen, within),
        _attempt(server.ask(lambda broker: _look(broker.admin, watch), within=within)),
    )
    found, streams, consumers = looked or (None, (), ())
    there = {stream.name for stream in streams}
    known = {consumer.key for consumer in consumers}
    return Snapshot(
        taken_at=datetime.now(UTC),
        server=found,
        server_error=server_error,
        streams=streams,
        consumers=consumers,
        missing_streams=tuple(name for name in watch.streams if looked and name not in there),
        missing_consumers=tuple(key for key in watch.consumers if looked and key not in known),
        outbox=seen.get("outbox"),
        outbox_error=outbox_error,
        processes=seen.get("processes"),
        dead_letters={
            naming.stream_context(stream.name): stream.messages
            for stream in streams
            if stream.name.endswith("_DLQ")
        },
    )


async def _attempt(work: Awaitable[T]) -> tuple[T | None, str | None]:
    try:
        return await work, None
    except SeawayError as error:
        return None, str(error)


async def _ask_database(
    database: Station[Database] | None, seen: dict[str, Any], within: timedelta
) -> str | None:
    """Fill ``seen`` with ``processes`` and ``outbox``; what stood in the way of the latter."""

    async def ask(opened: Database) -> None:
        # First, and kept whatever follows: it says why the outbox cannot be asked.
        with contextlib.suppress(ConfigError):  # It is not there, or we may not read it.
            seen["processes"] = tuple(await opened.store.notices())
        seen["outbox"] = await (await opened.verified()).backlog()

    if database is None:
        return None
    _, error = await _attempt(database.ask(ask, within=within))
    return error


async def _look(
    admin: BrokerAdmin, watch: Watch
) -> tuple[ServerInfo, tuple[StreamView, ...], tuple[ConsumerView, ...]]:
    server = await admin.server_info()
    infos = await asyncio.gather(*(_stream(admin, name) for name in watch.streams))
    streams = tuple(StreamView.read(info) for info in infos if info is not None)
    listed = await asyncio.gather(*(admin.consumers(s.name) for s in streams if s.consumer_count))
    wanted = sorted(
        (info["stream_name"], info["name"])
        for infos_of_stream in listed
        for info in infos_of_stream
        if info["config"].get("durable_name")
    )
    details = await asyncio.gather(*(admin.consumer(*key) for key in wanted))
    # Some may have gone between the list and the question: they are missing, not an error.
    return server, streams, tuple(ConsumerView.read(info) for info in details if info is not None)


async def _stream(admin: BrokerAdmin, name: str) -> JSON | None:
    """Its info, with what each subject holds where that matters and is few."""
    info = await admin.stream(name)
    if info is None or not _by_subject(info["config"]):
        return info
    if info["state"].get("num_subjects", 0) > _MOST_SUBJECTS:
        return info
    return await admin.stream(name, subjects=">")


def _by_subject(config: JSON) -> bool:
    """Whether it refuses what is too much on one subject."""
    return bool(config.get("discard") == "new" and config.get("discard_new_per_subject"))


def _time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)


def _between(earlier: datetime | None, later: datetime | None) -> float | None:
    if earlier is None or later is None:
        return None
    return max(0.0, (later - earlier).total_seconds())


def _limit(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None
