"""The inbox: a consumer's transactions, and where it puts what it gives up on."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeAlias

from seaway.contracts.messages import Incoming
from seaway.databases.tasks import Turns
from seaway.waiting_events import Standing, WaitingEvent


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

    async def trying(self, consumer: str, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Note that each of these is tried once more; how often by now, this time included.

        To be committed before they are tried. That is no effect: a claim of them is new. An id may
        be given twice, and counts once. Counted for as long as inbox rows are kept.
        """
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
        """It waits, without a letter yet; tried again it is counted anew. One that waited keeps
        key and place."""
        ...

    async def set_letter(self, consumer: str, event_id: str, letter: int) -> None:
        """Its letter is stored; nothing where it does not wait any more."""
        ...

    async def release(self, consumer: str, event_ids: Sequence[str]) -> None:
        """They wait no more, and how often they were tried counts no more. Idempotent."""
        ...

    async def unclaim(self, consumer: str, event_ids: Sequence[str]) -> int:
        """Remove their inbox rows, so that they can be claimed anew; how many there were. Waits for
        another transaction that has one of them in hand. Idempotent."""
        ...

    async def check(self) -> None:
        """Raise what a commit would be refused for, as far as that can be told before: what a
        session has not written yet is written, and on PostgreSQL deferred constraints are looked
        at."""
        ...


class InboxStore(Protocol):
    """The consuming service's database."""

    def transaction(self) -> AbstractAsyncContextManager[InboxTransaction]:
        """Commit on leaving, roll back on an exception (also on cancellation).

        ``StoreUnavailable`` where the database is away or stays locked: nothing happened.
        ``TransactionConflict``, one of those, where the same transaction may succeed at once, and
        ``SessionLost`` where its session has ended. All of them also in place of the body's own
        exception, whatever the body has made of what the driver said: one statement's timeout looks
        the same as an outage here, and only another transaction can tell them apart.
        """
        ...

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """Those of them that have the consumer's inbox row, in one statement."""
        ...

    async def close(self) -> None: ...


class ThreadTransaction(InboxTransaction, Protocol):
    """One that is worked in by a thread, and may have to be ended from another."""

    def interrupt(self) -> None:
        """From another thread: have the statement that runs now fail, soon. It may block for
        seconds; where nothing runs, or it cannot be done, nothing happens."""
        ...

    def cut(self) -> None:
        """From another thread, as the last resort: the connection is of no more use, so the
        transaction cannot commit and holds no locks. What cannot be done is left undone."""
        ...


class ThreadInbox(Protocol):
    """The consuming service's database for plain handlers.

    Its coroutines never suspend: whoever calls them carries a whole transaction through in one
    thread, by one ``send``. Blocking is what that thread is for.
    """

    @property
    def turns(self) -> Turns | None:
        """Taken on the event loop before a thread begins, where one transaction writes at a
        time."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[ThreadTransaction]:
        """As ``InboxStore.transaction``, in the calling thread."""
        ...

    async def close(self) -> None:
        """In each thread that had a transaction, at its end: close what was opened for it there.
        Idempotent."""
        ...


LAST_ID = "\U0010ffff"
"""No event id comes after it."""


class InboxRows(Protocol):
    """An inbox that can be read through."""

    async def inbox_rows(
        self, consumer: str, *, after: str = "", before: str = LAST_ID, limit: int = 1000
    ) -> Sequence[str]:
        """Of the consumer's inbox rows between two event ids, both left out, the first ``limit``:
        their event ids, in order of their bytes. Between near ids it reads no others."""
        ...


class ParkingStore(InboxStore, Protocol):
    """An inbox that says which events its consumers have parked."""

    async def parked_heads(self, consumer: str) -> Sequence[WaitingEvent]:
        """The first parked event of each key, by key."""
        ...

    async def drop_parked(self, event: WaitingEvent) -> bool:
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

    async def put_off(
        self, incoming: Incoming, *, after: timedelta, error: BaseException | None
    ) -> str:
        """Have the server send ``incoming`` to its consumer again ``after`` that time, as a
        redrive; return once that is stored: the caller may settle the message then.

        Empty once it is; else why it cannot be, in a few words, and then the caller has the
        message come again as it always does. Idempotent: one at a time of an event and a
        consumer. Raises nothing for what happens to the message.
        """
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
