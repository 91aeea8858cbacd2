"""The ports: what Seaway needs from a database and from a broker, and the values they exchange.

Owns: the Protocols that every engine implements and the data that crosses them. Must not know any
engine. Guarantees: an implementation passes the one conformance suite of its port
(``seaway.testing.conformance``), so callers never ask which engine they have; where engines differ,
``Capabilities`` says so.

All methods are safe to cancel: a cancelled call has either happened or not, never half.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from seaway import headers as h
from seaway.naming import original_subject
from seaway.parked import ParkedEvent, Standing

JSON: TypeAlias = dict[str, Any]
"""A JSON object as the server sends it. Never narrowed: unknown fields must survive."""


class Clock(Protocol):
    """Where time comes from; tests bring their own."""

    def now(self) -> datetime:
        """The current time, aware, UTC."""
        ...

    async def sleep(self, delay: timedelta) -> None:
        """Wait ``delay``; negative waits nothing."""
        ...


# ----------------------------------------------------------------------------- messages


@dataclass(frozen=True, slots=True)
class Message:
    """What is published, or was stored: a subject, bytes, and headers (names as written)."""

    subject: str
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The ordering key: ``X-Ordering-Key``, else the subject."""
        return h.ordering_key(self.subject, self.headers)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it lies in a stream."""

    message: Message
    stream: str
    stream_seq: int
    stored_at: datetime

    @property
    def place(self) -> tuple[str, int]:
        """Which message it is: stream and sequence."""
        return self.stream, self.stream_seq

    @property
    def event_subject(self) -> str:
        """The subject that its event was published to, also where it is redriven or a letter."""
        return original_subject(self.message.subject)

    @property
    def redriven(self) -> bool:
        """Whether it is not the event itself, but sent again to one consumer."""
        return self.event_subject != self.message.subject

    @property
    def key(self) -> str:
        """The event's ordering key."""
        return h.ordering_key(self.event_subject, self.message.headers)

    @property
    def event_id(self) -> str:
        """The event's identity, ``{stream}:{stream_seq}`` for a foreign message without one."""
        return h.identity(self.message.headers, fallback_id=f"{self.stream}:{self.stream_seq}")


@dataclass(frozen=True, slots=True)
class Incoming(StoredMessage):
    """A stored message handed to a durable, to be settled through its ``Subscription``."""

    consumer: str
    consumer_seq: int
    deliveries: int
    """How often the server has delivered it by now, this time included: 1 at first."""
    pending: int
    """How many more messages the durable had waiting when this one was sent."""
    reply: str = ""
    """Opaque to everybody but the subscription that delivered it; empty where none has."""

    @classmethod
    def read(cls, found: StoredMessage, consumer: str, *, deliveries: int) -> Incoming:
        """What was read from its stream, as a delivery of which only the place is known."""
        return cls(
            message=found.message,
            stream=found.stream,
            stream_seq=found.stream_seq,
            stored_at=found.stored_at,
            consumer=consumer,
            consumer_seq=0,
            deliveries=deliveries,
            pending=0,
        )


# ----------------------------------------------------------------------------- publishing


class Stored(NamedTuple):
    """The stream acknowledged it. ``duplicate``: it had been there already under this id."""

    stream_seq: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The stream refused it; nothing was stored.

    ``heals``: the refusal is about the stream's present state (full, no leader, no such stream
    yet), not about the message; sending it again later can succeed.
    """

    description: str
    code: int
    err_code: int
    heals: bool


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """No answer: it may be stored or not. Send it again under the same id."""

    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """Not sent, because an earlier message of its ordering key was not stored."""


PublishOutcome: TypeAlias = Stored | Refused | Unconfirmed | Held


# ----------------------------------------------------------------------------- the broker


class Subscription(Protocol):
    """An open pull on one durable. Settling is only possible while it is open.

    Of an exclusive durable one subscription at a time is given messages, until it is left (then
    the next one at once) or says nothing any more. Another one's are not redelivered for that.
    """

    @property
    def gaps(self) -> int:
        """How often by now the durable may have given messages out that did not come here: after a
        reconnect, and since others of an exclusive durable had their turn. Counted before ``next``
        gives what came after."""
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

    async def drain(self) -> None:
        """Receive no more. ``next`` goes on to hand out what had arrived, and after that gives
        nothing, and at once; what nobody took is nak'ed on leaving. Settling goes on. Idempotent.
        """
        ...

    async def ack(self, *incoming: Incoming) -> Sequence[bool]:
        """Double ack: for each, whether the server confirmed. False: it may come again.

        Also for what the durable was given elsewhere and was read from its stream: a ``reply`` is
        not needed, the place is enough.
        """
        ...

    async def nak(self, incoming: Incoming, *, delay: timedelta) -> None:
        """Ask for redelivery after ``delay`` (0: at once). Best effort."""
        ...

    async def in_progress(self, *incoming: Incoming) -> None:
        """Restart the ack timer of each. Best effort."""
        ...

    async def term(self, incoming: Incoming, *, reason: str) -> None:
        """Stop deliveries for good. Only for messages that are safe elsewhere. Best effort."""
        ...


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server says of itself. ``version`` as text (``2.15.1``)."""

    version: str
    jetstream: bool
    max_payload_bytes: int
    server_name: str = ""
    cluster: str | None = None
    url: str = ""


class BrokerAdmin(Protocol):
    """Streams and consumers as the server's own JSON (shape of ``$JS.API`` responses).

    Unknown streams and consumers give ``None`` or ``False``; every other refusal raises
    ``ApiError`` with the server's code and err_code; no answer raises ``BrokerUnavailable``.
    """

    async def server_info(self) -> ServerInfo: ...
    async def streams(self) -> Sequence[JSON]: ...
    async def stream(self, name: str) -> JSON | None: ...
    async def create_stream(self, config: JSON) -> JSON: ...
    async def update_stream(self, config: JSON) -> JSON: ...
    async def delete_stream(self, name: str) -> bool: ...
    async def consumers(self, stream: str) -> Sequence[JSON]: ...
    async def consumer(self, stream: str, durable: str) -> JSON | None: ...
    async def create_consumer(self, stream: str, config: JSON) -> JSON:
        """Create; ``ApiError`` where a consumer of this name differs (err_code 10148)."""
        ...

    async def update_consumer(self, stream: str, config: JSON) -> JSON: ...
    async def delete_consumer(self, stream: str, durable: str) -> bool: ...

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
    ) -> AsyncGenerator[StoredMessage, None]:
        """What the stream holds at the time of the call, in order, then ends.

        Close it (``aclosing``) where it may be left early: the server keeps its reader until then.

        Touches no durable. ``headers_only`` gives empty payloads. Raises ``NotFound`` for an
        unknown stream.
        """
        ...


class Broker(Protocol):
    """A connection to the streams."""

    @property
    def admin(self) -> BrokerAdmin: ...

    async def publish(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        timeout: timedelta,
        after: asyncio.Future[bool] | None = None,
    ) -> Sequence[PublishOutcome]:
        """One outcome a message, in the order given. All messages belong to ``stream``.

        Messages of one ordering key are stored in the order given: once one of a key is not
        ``Stored``, the later ones of that key are not stored either (``Held``, or refused with
        it). Uses an atomic batch where stream and server (>= 2.12) allow. ``timeout``: how long the
        server may say nothing; a process that was itself stopped for longer sends nothing more.
        ``after``: nothing is stored before it is there, and nothing at all where it is false (all
        are ``Held``); what can be made ready until then, is. Awaited more than once: a future.
        Never raises for what happens to a message.
        """
        ...

    def subscribe(self, stream: str, durable: str) -> AbstractAsyncContextManager[Subscription]:
        """Pull from an existing durable. ``NotFound`` where stream or durable does not exist."""
        ...

    async def close(self) -> None:
        """Flush and close. Idempotent."""
        ...


# ----------------------------------------------------------------------------- the outbox


class OutboxEntry(NamedTuple):
    """A committed, not yet settled event. ``position`` is its place in outbox order."""

    position: int
    event_id: str
    message: Message
    added_at: datetime
    attempts: int = 0
    last_error: str | None = None
    parked_at: datetime | None = None
    lane: int = 0
    """Entries of two lanes need not keep an order between them: they have no key in common."""

    @property
    def key(self) -> str:
        """The ordering key."""
        return self.message.key


class Sent(NamedTuple):
    """Settlement of an entry that the stream acknowledged."""

    entry: OutboxEntry
    stream: str
    stream_seq: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Settlement of an entry that was refused: one more attempt, and ``park`` it or try again."""

    entry: OutboxEntry
    error: str
    park: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits: ``count`` includes the parked, ``oldest_at`` looks at the others.

    ``shards``: into how many the ordering keys are divided. The others are what the database
    estimates, ``None`` where it does not: ``dead_rows`` of the outbox, which were settled and are
    not vacuumed yet, those of the sent events and of the inbox, and the rows of the inbox.
    """

    count: int
    parked: int
    oldest_at: datetime | None
    dead_rows: int | None = None
    shards: int = 1
    sent_dead_rows: int | None = None
    inbox_rows: int | None = None
    inbox_dead_rows: int | None = None


class Lease(Protocol):
    """The exclusive right to publish some shards' entries, ended by leaving its context.

    A crash of its holder ends it; no clock and no name is involved (ADR 0006).
    """

    @property
    def shards(self) -> Collection[str]:
        """What it holds, each by a name that changes when the shards are divided anew."""
        ...

    async def claim(self, limit: int) -> Sequence[OutboxEntry]:
        """The oldest entries not yet claimed under this lease, in outbox order; empty: none left.

        Leaves out parked entries and those whose ordering key has a parked (unless the lease was
        taken with ``hold=False``) or failed entry before them. ``StoreUnavailable`` once the lease
        is lost.
        """
        ...

    async def find(self, event_ids: Sequence[str]) -> Sequence[OutboxEntry]:
        """Those of ``event_ids`` that are in the outbox, parked or not, of whichever shard."""
        ...

    async def confirm(self) -> None:
        """Return while the lease is still held, ``StoreUnavailable`` once it is lost."""
        ...

    async def settle(self, sent: Sequence[Sent], failed: Sequence[Failed] = ()) -> None:
        """Take sent entries out of the outbox, record failures. Durable when the call returns
        or, at the latest, when the lease is left without an error. Idempotent."""
        ...


class OutboxStore(Protocol):
    """The relay's and operator's side of the outbox table. Writers go through ``Outbox.add``."""

    def lease(self, *, hold: bool = True) -> AbstractAsyncContextManager[Lease | None]:
        """Take this process' share of the free shards, at once; ``None`` where none is free.

        ``hold``: events wait behind a parked one of their key. To stay inside with ``None`` is to
        ask for a share: the others leave one.
        """
        ...

    async def reshard(self, shards: int) -> None:
        """Divide the ordering keys into ``shards`` (1: total order) from now on; safe at any time.

        Waits for the leases that are held; ``StoreUnavailable`` where they do not end. Idempotent.
        ``ConfigError`` for more than one where ``capabilities.shards`` is false.
        """
        ...

    async def wait(self, timeout: timedelta) -> None:
        """Return when there may be new entries, at the latest after ``timeout``."""
        ...

    def nudge(self) -> None:
        """End ``wait`` now: the caller knows of a commit. Call it in the store's event loop."""
        ...

    async def backlog(self) -> Backlog: ...

    async def entries(
        self, *, parked: bool | None = None, event_id: str | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        """Unsettled entries in outbox order; ``parked`` True: only those, False: only others."""
        ...

    async def unpark(self, event_ids: Sequence[str] | None = None) -> int:
        """Let parked entries (all: ``None``) be tried again; how many there were."""
        ...

    async def sent(
        self, *, event_id: str | None = None, correlation_id: str | None = None, limit: int = 100
    ) -> Sequence[Sent]:
        """Settled entries that retention still keeps, newest first."""
        ...

    async def prune(self, before: datetime) -> None:
        """Forget what was settled before then, at the latest ``capabilities.pruned_by`` later.

        Holds up no writer for more than two seconds at a time. Does less where another process is
        doing so, or has the table in hand: to be called again.
        """
        ...

    async def close(self) -> None: ...


# ----------------------------------------------------------------------------- the inbox


class InboxTransaction(Protocol):
    """One open transaction of the consuming service."""

    @property
    def handle(self) -> Any:
        """The driver's own connection: ``delivery.tx``. ``Outbox.add`` takes it."""
        ...

    async def claim(self, consumer: str, event_id: str) -> bool:
        """Write the inbox row. False: it was there, so the effects are too."""
        ...

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        """Write the inbox rows, in one statement where the database can; those that were new.

        An id may be given twice. ``TransactionConflict`` where another transaction was in the way.
        """
        ...

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Part of the transaction that an exception undoes alone."""
        ...

    async def parked_keys(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` of which anything is parked."""
        ...

    async def standing(self, consumer: str, event_id: str, key: str) -> Standing:
        """As this transaction sees it; what commits later is not seen."""
        ...

    async def park(
        self, consumer: str, event_id: str, key: str, *, place: int, failed: bool
    ) -> None:
        """Write its row, without a letter yet. One that was there keeps key and place."""
        ...

    async def set_letter(self, consumer: str, event_id: str, letter: int) -> None:
        """Its letter is stored; nothing where it is not parked any more."""
        ...

    async def release(self, consumer: str, event_id: str) -> None:
        """Remove its row. Idempotent."""
        ...


class InboxStore(Protocol):
    """The consuming service's database."""

    def transaction(self) -> AbstractAsyncContextManager[InboxTransaction]:
        """Commit on leaving, roll back on an exception (also on cancellation).

        ``StoreUnavailable`` where the database is away or stays locked: nothing happened.
        ``TransactionConflict``, one of those, where the same transaction may succeed at once; also
        in place of the body's own exception, where that was the driver's for such a conflict.
        """
        ...

    async def processed(self, event_id: str) -> Mapping[str, datetime]:
        """Which consumers have this event's effects, and since when."""
        ...

    async def close(self) -> None: ...


class ParkingStore(InboxStore, Protocol):
    """An inbox that says which events its consumers have parked."""

    async def parked_heads(self, consumer: str) -> Sequence[ParkedEvent]:
        """The first parked event of each key, by key."""
        ...

    async def drop_parked(self, event: ParkedEvent) -> bool:
        """Remove its row, unless it has another letter by now; whether that was done."""
        ...


DeadLetterReason: TypeAlias = Literal["poison", "undecodable", "exhausted", "terminated", "parked"]


class DeadLetterSink(Protocol):
    """Where a consumer puts what it gives up on."""

    async def store(
        self, incoming: Incoming, *, reason: DeadLetterReason, error: BaseException | None
    ) -> int:
        """Return only when the DLQ stream has acknowledged the letter: its sequence there.
        Idempotent (the letter's id is made of durable, stream, sequence and event id).
        ``TransientError`` otherwise: the caller must not settle the message."""
        ...


class OutboxWriter(Protocol):
    """What a delivery needs to write events in its handler's transaction (``Outbox``)."""

    def add(
        self,
        tx: Any,
        *events: object,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str] | Awaitable[list[str]]: ...


Phase: TypeAlias = Literal["pre", "post"]
"""Of a rolling upgrade: before the first new process, or after the last old one."""


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A numbered migration: ``version``, ``name``, whether this database has it, its phase."""

    version: int
    name: str
    applied: bool
    phase: Phase = "pre"


class SchemaAdmin(Protocol):
    """The library's own tables in one database."""

    async def plan(self) -> Sequence[SchemaChange]: ...
    async def upgrade(self, phase: Phase | None = None) -> Sequence[SchemaChange]:
        """Apply what is missing, one transaction each; what was applied. Idempotent.

        ``phase``: only that phase of a rolling upgrade; ``ConfigError`` where one of the other
        must come first.
        """
        ...

    async def verify(self) -> None:
        """Raise ``SchemaMismatch`` unless the tables are as this version needs them.

        What is left for the second phase of a rolling upgrade is no mismatch, nor is what a newer
        Seaway's first phase has added.
        """
        ...

    def sql(self) -> str:
        """All migrations as one script."""
        ...


class Store(OutboxStore, ParkingStore, Protocol):
    """One database that has both sides and its schema."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def schema(self) -> SchemaAdmin: ...

    async def forget(self, before: datetime) -> None:
        """Drop inbox rows written before then, as ``prune`` does, and none that is younger.

        Where they go in bulk, a row stays until all others of events of the same day are that old,
        and ``capabilities.pruned_by`` longer.
        """
        ...

    async def overdue(self, sent: datetime, processed: datetime) -> Mapping[str, int]:
        """How many rows ``prune(sent)`` and ``forget(processed)`` would remove now, by table or
        partition; empty: none."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Where stores honestly differ. The conformance suite reads it, and so may callers."""

    durable: bool
    """Survives the process."""
    shared: bool
    """Several processes may use it at once."""
    concurrent_transactions: bool
    """Two transactions may be open for writing at the same time."""
    shards: bool = False
    """Several leases may be held at once, each for its share of the ordering keys."""
    pruned_by: timedelta = timedelta()
    """How much longer than asked for settled events and inbox rows may be kept, since they go in
    bulk."""
