"""The broker's port, which is JetStream's: publishing and its outcomes, pulls, streams, durables.

``brokers.jetstream`` implements it, and ``testing.MemoryBroker`` for tests without a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol, TypeAlias

from seaway.contracts.messages import Incoming, Message, StoredMessage
from seaway.contracts.streams import JSON, ConsumerInfo, StreamInfo
from seaway.naming import OPERATOR


class Stored(NamedTuple):
    """The stream acknowledged it. ``duplicate``: something had been there already under this id.

    Whether that is this message is the caller's to see: the stream looks at the id alone.
    """

    stream_seq: int
    duplicate: bool = False


WhyRefused: TypeAlias = Literal[
    "full", "no_stream", "unheard", "denied", "too_large", "unfit", "other"
]
"""``unheard``: nobody took it, so that there is no such stream, it has no leader now, or it does
not take the subject. ``denied``: this user may not publish to the subject; a grant heals it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The stream refused it; nothing was stored.

    ``heals``: the refusal is about the stream's present state (full, no leader, no such stream
    yet), not about the message; sending it again later can succeed. The codes are for people.
    """

    description: str
    code: int
    err_code: int
    heals: bool
    why: WhyRefused = "other"

    @property
    def full(self) -> bool:
        """There is no room for this message at the moment; for one of another subject, or a smaller
        one, there may be some."""
        return self.why == "full"

    @property
    def hopeless(self) -> bool:
        """No stream will ever take it as it is."""
        return self.why in ("too_large", "unfit")


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """No answer: it may be stored or not. Send it again under the same id."""

    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """Not sent, because an earlier message of its ordering key was not stored, or was there."""


REWINDS_SINCE = (2, 14)
"""The release of nats-server that can give out again what is on its way."""
PAUSES_SINCE = (2, 11)
"""The release of nats-server that can pause a durable."""

PublishOutcome: TypeAlias = Stored | Refused | Unconfirmed | Held


class Subscription(Protocol):
    """An open pull on one durable. Settling is only possible while it is open.

    Of an exclusive durable one subscription at a time is given messages, until it is left (then
    the next one at once) or says nothing any more. Another one's are not redelivered for that.
    """

    @property
    def gaps(self) -> int:
        """How often by now the durable may have given messages out that did not come here: after a
        reconnect, and since others of an exclusive durable had their turn. ``next`` returns empty
        at each, and only when called again gives what came after."""
        ...

    @property
    def standby(self) -> bool:
        """Whether it has no turn: the durable is exclusive, and none of its messages came here
        yet, or another subscription is given them now."""
        ...

    async def next(self, limit: int, *, timeout: timedelta) -> Sequence[Incoming]:
        """Up to ``limit`` (>= 1) messages, in delivery order, as soon as one is there.

        Empty when ``timeout`` passed without any. Never asks the server for more than ``limit``
        messages beyond those it has handed out, so nothing waits here while its ack timer runs.
        Heals by itself over reconnects, restarts and lost leaders. Raises ``NotFound`` when the
        durable or stream is gone, ``BrokerUnavailable`` when the connection is closed for good.
        """
        ...

    async def rewind(self, to: int | None = None) -> int | None:
        """Have the server give out again, in stream order and before anything newer, all that the
        durable has sent and nobody has acknowledged. For the beginning, and after a gap.

        ``to``: everything from this sequence on, whatever was acknowledged or lies beyond the
        stream's end, and whoever else is given the durable's messages.

        The last sequence that may have been handed out before, 0 where nothing was on its way.
        ``None``, and nothing is done, where others are given the durable's messages: theirs would
        come twice. Numbers of deliveries begin at 1 again. It may bring what was acknowledged,
        behind what was not; what was handed out before can still be settled.

        ``CannotRewind`` where it never works: no right, a server before 2.14, and ``to`` where the
        durable does not begin with the stream's first message.
        ``BrokerUnavailable`` where it may the next time. Idempotent.
        """
        ...

    async def drain(self) -> None:
        """Receive no more. ``next`` goes on to hand out what had arrived, and after that gives
        nothing, and at once; what nobody took is nak'ed on leaving. Settling goes on. Idempotent.
        """
        ...

    async def ack(self, *incoming: Incoming) -> Sequence[bool]:
        """Double ack: for each, whether the server confirmed. False: it may come again."""
        ...

    async def nak(self, incoming: Incoming, *, delay: timedelta) -> None:
        """Ask for redelivery after ``delay`` (0: at once). Best effort."""
        ...

    async def in_progress(self, *incoming: Incoming) -> None:
        """Restart the ack timer of each. Best effort."""
        ...


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server says of itself. ``version`` as text (``2.15.1``). ``elsewhere``: the streams
    are those of another domain, and may lie on servers that are not like this one."""

    version: str
    jetstream: bool
    max_payload_bytes: int
    server_name: str = ""
    cluster: str | None = None
    url: str = ""
    elsewhere: bool = False

    @property
    def release(self) -> tuple[int, ...]:
        """``(2, 15)`` of ``2.15.1``; ``()`` where the version is not one."""
        parts = self.version.split("-")[0].split(".")[:2]
        return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


@dataclass(frozen=True, slots=True)
class Granted:
    """What the user of a connection may publish and subscribe to, as its server says. Filters;
    ``None``: everything that is not in ``deny_*``."""

    publish: tuple[str, ...] | None = None
    subscribe: tuple[str, ...] | None = None
    deny_publish: tuple[str, ...] = ()
    deny_subscribe: tuple[str, ...] = ()


class BrokerAdmin(Protocol):
    """Streams, consumers and stored messages. What is made or changed is given as JetStream's own
    configuration: whatever the server knows can be in it.

    Unknown streams and consumers give ``None`` or ``False``; every other refusal raises
    ``ApiError``; no answer, and one that cannot be read, raises ``BrokerUnavailable``.
    """

    async def server_info(self) -> ServerInfo: ...
    async def granted(self) -> Granted:
        """What this connection's user may do. ``NotPermitted`` where he may not ask that,
        ``BrokerUnavailable`` where the server does not say it."""
        ...

    async def streams(self) -> Sequence[StreamInfo]: ...
    async def stream(self, name: str, *, subjects: str | None = None) -> StreamInfo | None:
        """``subjects``: with the count of messages of each that it matches; for streams of not too
        many."""
        ...

    async def create_stream(self, config: JSON) -> StreamInfo: ...
    async def update_stream(self, config: JSON) -> StreamInfo: ...
    async def delete_stream(self, name: str) -> bool: ...
    async def consumers(self, stream: str) -> Sequence[ConsumerInfo]: ...
    async def consumer(self, stream: str, durable: str) -> ConsumerInfo | None: ...
    async def create_consumer(self, stream: str, config: JSON) -> ConsumerInfo:
        """Create; ``ApiError`` where a consumer of this name differs."""
        ...

    async def update_consumer(self, stream: str, config: JSON) -> ConsumerInfo: ...
    async def delete_consumer(self, stream: str, durable: str) -> bool: ...
    async def reset_consumer(self, stream: str, durable: str, to: int | None = None) -> bool:
        """Have a durable give out again, whoever pulls it: all from the sequence ``to`` on, or what
        was given out and not acknowledged; deliveries are counted from 1 again. False: there is no
        such durable. ``CannotRewind`` from a server before 2.14, and for a ``to`` before the
        message that the durable began with."""
        ...

    async def pause_consumer(self, stream: str, durable: str, until: datetime | None) -> bool:
        """Have a durable give nothing out until then; ``None``, or a time that has passed: have it
        go on now. What was given out can be settled. False: there is no such durable. For a
        server of ``PAUSES_SINCE``; an older one does not answer."""
        ...

    async def get(self, stream: str, stream_seq: int) -> StoredMessage | None: ...
    async def delete_message(self, stream: str, stream_seq: int) -> bool: ...

    def read(
        self,
        stream: str,
        *,
        filter_subjects: Sequence[str] = (),
        from_seq: int | None = None,
        from_time: datetime | None = None,
        headers_only: bool = False,
        reader: str = OPERATOR,
    ) -> AsyncGenerator[StoredMessage, None]:
        """What the stream holds at the time of the call, in order, then ends.

        Touches no durable. ``headers_only`` gives empty payloads. ``reader``: who reads (``relay``,
        a durable, ``sweeper``, ``operator``, ``watcher``), which is what the right to do so is
        granted to; any number may read under one name, and take turns. Nothing is held at the
        server between two messages. Raises ``NotFound`` for an unknown stream, and
        ``BrokerUnavailable`` where it goes on no more: read again from behind the last message.
        """
        ...

    async def count(
        self,
        stream: str,
        *,
        filter_subjects: Sequence[str] = (),
        from_seq: int = 1,
        reader: str = OPERATOR,
    ) -> int:
        """How many messages of ``filter_subjects`` (none: of all) the stream holds from
        ``from_seq`` on. Constant cost, whatever it holds. ``NotFound`` for an unknown stream."""
        ...


class Broker(Protocol):
    """A connection to JetStream."""

    @property
    def admin(self) -> BrokerAdmin: ...

    @property
    def epoch(self) -> int:
        """How often the connection was lost by now: what the server said in one epoch may not be so
        in the next, where it can be another one, or have gone back to an earlier state of itself.
        """
        ...

    async def publish(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        timeout: timedelta,
        after: asyncio.Future[bool] | None = None,
        epoch: int | None = None,
    ) -> Sequence[PublishOutcome]:
        """One outcome a message, in the order given. All messages belong to ``stream``.

        Messages of one ordering key are stored in the order given: once one of a key is not newly
        ``Stored`` (it is a duplicate, or was not stored), the later ones of that key are not stored
        either (``Held``, or refused with it). What has no room holds up nothing that has some. Uses
        an atomic batch where stream and server (>= 2.12) allow. ``timeout``: how long the server
        may say nothing; a process that was itself stopped for longer sends nothing more. ``after``:
        nothing is stored until this future is done, and nothing at all if it gives false (all are
        ``Held``); messages may be made ready meanwhile. It must be a future, since it is awaited
        more than once. ``epoch``: nothing is sent in another one. Never raises for what happens to
        a message.
        """
        ...

    async def schedule(
        self, stream: str, message: Message, *, at: datetime, subject: str, timeout: timedelta
    ) -> PublishOutcome:
        """Store ``message`` under ``subject`` now; at ``at``, by its own clock, the server sends it
        to the message's own subject, which must be one of ``stream``, too, and takes it away from
        ``subject``. At once where that is past.

        Its id (``Nats-Msg-Id``) stays behind; the other headers go along. What lies under
        ``subject`` already is replaced; what is deleted there is not sent. Only where the stream
        ``schedules`` (``StreamInfo``): an older server would store it, and send nothing. Never
        raises for what happens to the message.
        """
        ...

    def subscribe(self, stream: str, durable: str) -> AbstractAsyncContextManager[Subscription]:
        """Pull from an existing durable. ``NotFound`` where stream or durable does not exist."""
        ...

    async def close(self) -> None:
        """Flush and close. Idempotent."""
        ...
