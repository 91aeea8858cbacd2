"""One look at everything: server, streams, consumers, outbox, dead letters, as plain data.

Owns: what is looked at (``Watch``) and the shape of what is seen (``Snapshot``). Must not know:
thresholds, or how it is shown. Guarantees: figures of consumers come from CONSUMER.INFO, since
followers answer lists with stale ones; whatever is away is written down, not raised; ephemeral
consumers are left out, since their names never end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias, TypeVar

from seaway import naming
from seaway.config import Settings
from seaway.contracts import JSON, Backlog, BrokerAdmin, OutboxStore, ServerInfo
from seaway.errors import SeawayError

T = TypeVar("T")
OpenStore: TypeAlias = Callable[[], Awaitable[OutboxStore]]
"""Gives the outbox's store, opening it where need be; ``SeawayError`` where it is away."""


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

    @property
    def fill(self) -> float | None:
        """0 to 1 of the limit that is nearest; ``None`` without limits."""
        ratios = [
            used / limit
            for used, limit in ((self.bytes, self.max_bytes), (self.messages, self.max_messages))
            if limit
        ]
        return max(ratios, default=None)

    @classmethod
    def read(cls, info: JSON) -> StreamView:
        """From the server's STREAM.INFO."""
        config, state = info["config"], info["state"]
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
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """Letters by context."""

    def stream(self, name: str) -> StreamView | None:
        """The stream of this name, if it was there."""
        return next((stream for stream in self.streams if stream.name == name), None)

    @property
    def outbox_age_seconds(self) -> float:
        """How long the oldest event that is not parked has waited; 0 where none waits."""
        if self.outbox is None or self.outbox.oldest_at is None:
            return 0.0
        return max(0.0, (self.taken_at - self.outbox.oldest_at).total_seconds())


async def take_snapshot(
    admin: BrokerAdmin, watch: Watch, open_store: OpenStore | None = None
) -> Snapshot:
    """Look once. Never raises for a server or database that is away or refuses."""
    (outbox, outbox_error), (seen, server_error) = await asyncio.gather(
        _backlog(open_store), _attempt(_look(admin, watch))
    )
    server, streams, consumers = seen or (None, (), ())
    there = {stream.name for stream in streams}
    known = {consumer.key for consumer in consumers}
    return Snapshot(
        taken_at=datetime.now(UTC),
        server=server,
        server_error=server_error,
        streams=streams,
        consumers=consumers,
        missing_streams=tuple(name for name in watch.streams if seen and name not in there),
        missing_consumers=tuple(key for key in watch.consumers if seen and key not in known),
        outbox=outbox,
        outbox_error=outbox_error,
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


async def _backlog(open_store: OpenStore | None) -> tuple[Backlog | None, str | None]:
    async def ask(opener: OpenStore) -> Backlog:
        return await (await opener()).backlog()

    return (None, None) if open_store is None else await _attempt(ask(open_store))


async def _look(
    admin: BrokerAdmin, watch: Watch
) -> tuple[ServerInfo, tuple[StreamView, ...], tuple[ConsumerView, ...]]:
    server = await admin.server_info()
    infos = await asyncio.gather(*(admin.stream(name) for name in watch.streams))
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


def _limit(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None
