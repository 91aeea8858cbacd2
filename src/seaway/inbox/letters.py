"""How a message ends as a dead letter: first that is decided in the inbox, then it is done.

    to_letter ──row──> the queue has it ──> note_stored ──row──> ack

Owns: the rows that say so of one message (not of its event: a redrive is another message, and
so is what lies in the same place of a stream that was made anew; the same event may be redriven
into the same place again, so that a redrive's row names the moment, too). Guarantees: of a decision
and an effect only one commits, however long a process stands still between any two of its steps.
Whoever comes to such a message later stores the letter, if that was not done, and acknowledges.

What a handler is given again writes the decision's row in the transaction of its effects, so a
decision waits for it, or it for a decision. What it is given for the first time writes its event's
row only: so a decision asks for that row too, and waits for whoever has it in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Protocol, get_args

from seaway import logs
from seaway.contracts import (
    DeadLetterReason,
    DiscardStore,
    InboxRows,
    InboxStore,
    Incoming,
    StoredMessage,
)
from seaway.errors import StoreRefused, StoreUnavailable, TransactionConflict
from seaway.waiting_events import PUT_OFF, Place

logger = logs.logger("seaway.consumer")

_AT_ONCE = 500
_WAIT_SECONDS = 2.0
"""For a handler that has the message in hand: its process may not move."""

_REASONS: tuple[DeadLetterReason, ...] = get_args(DeadLetterReason)


class Placed(Protocol):
    """A message of a stream."""

    @property
    def place(self) -> Place: ...
    @property
    def event_id(self) -> str: ...


def letter_row(consumer: str, place: Place, event_id: str) -> tuple[str, str]:
    """``claim``'s arguments for an event that becomes a letter in its place: no effect of it may be
    committed any more. The event id comes first: by that rows are kept in days (ADR 0011)."""
    stream, stream_seq = place
    return f"{consumer} letters", f"{event_id}:{stream}:{stream_seq}"


def _row_of(message: StoredMessage, consumer: str) -> tuple[str, str]:
    """The same for any message."""
    return f"{consumer} letters", f"{message.event_id}:{message.identity}"


def letter_rows(consumer: str, messages: Iterable[StoredMessage]) -> tuple[str, dict[str, Place]]:
    """For several: the one consumer, and of each row which message it is about."""
    name, _ = letter_row(consumer, ("", 0), "")
    return name, {_row_of(one, consumer)[1]: one.place for one in messages}


async def letters_of(
    notes: InboxRows, consumer: str, event_ids: Collection[str]
) -> dict[str, list[str]]:
    """Those of the events that were decided to become letters, wherever they lay: the rows that say
    so."""
    found: dict[str, list[str]] = {}
    name, _ = letter_row(consumer, ("", 0), "")
    after, before = f"{min(event_ids)}:", f"{max(event_ids)};"
    while rows := await notes.inbox_rows(name, after=after, before=before):
        for row in rows:
            event_id, _ = read_row(row)
            if event_id in event_ids:
                found.setdefault(event_id, []).append(row)
        after = rows[-1]
    return found


async def stored_of(store: InboxStore, consumer: str, rows: Collection[str]) -> set[str]:
    """Of these rows, those whose letter the queue has had."""
    return await store.claimed(_noted(consumer, "stored"), rows) if rows else set()


async def stored(store: InboxStore, consumer: str, messages: Iterable[StoredMessage]) -> set[Place]:
    """Those of the messages whose letter the queue has had."""
    _, rows = letter_rows(consumer, messages)
    return {rows[row] for row in await claimed(store, _noted(consumer, "stored"), rows)}


async def claimed(store: InboxStore, consumer: str, event_ids: Collection[str]) -> set[str]:
    """``store.claimed`` of any number of them."""
    found, ids = set[str](), iter(event_ids)
    while some := list(islice(ids, _AT_ONCE)):
        found |= await store.claimed(consumer, some)
    return found


def read_row(row: str) -> tuple[str, Place]:
    """The event and the message that a letter's row is about."""
    event_id, stream, stream_seq = row.rsplit(":", 2)
    return event_id, (stream.partition("@")[0], int(stream_seq))


def _noted(consumer: str, what: str) -> str:
    """Under what the same row says more: why, and that the queue had the letter, which may have
    been redriven or discarded since."""
    return f"{consumer} letters {what}"


class _Undone(Exception):
    """Ends a transaction that was to change nothing."""


async def to_letter(
    store: InboxStore, incoming: Incoming, reason: DeadLetterReason, *, parks: bool
) -> DeadLetterReason | None:
    """Decide that ``incoming`` becomes a letter, unless it has taken effect. Idempotent.

    Gives the reason under which the letter is to be stored, that of whoever decided first; ``None``
    where none is: it was stored, or has taken effect.

    ``parks``: later events of its key wait behind it from now on, by a row that is written before
    the letter: nobody can redrive or discard what has no row yet. What is ``parked`` has one.
    ``StoreUnavailable`` also where a handler that has it in hand does not end.
    """
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            while True:
                with contextlib.suppress(TransactionConflict):
                    return await _decided(store, incoming, reason, parks=parks)
    except TimeoutError as error:
        raise StoreUnavailable(f"{incoming.consumer} is at work on {incoming.place}") from error
    except StoreRefused as refusal:
        # No effect with such an id or key can be committed either: its letter is all there can be.
        _say(incoming, refusal)
    return reason


async def _decided(
    store: InboxStore, incoming: Incoming, reason: DeadLetterReason, *, parks: bool
) -> DeadLetterReason | None:
    consumer, event_id = incoming.consumer, incoming.event_id
    name, row = _row_of(incoming, consumer)
    async with store.transaction() as tx:
        if new := await tx.claim(name, row):
            await tx.claim(_noted(consumer, reason), row)
        if not parks:
            await tx.release(consumer, [event_id])  # Redriven it is tried anew.
    if await _has_effect(store, consumer, event_id):
        return None
    if not new:
        if await store.claimed(_noted(consumer, "stored"), [row]):
            return None
        reason = await _first_reason(store, consumer, row) or reason
    if parks and reason != "parked":
        place = 0 if incoming.redriven else incoming.stream_seq
        async with store.transaction() as tx:
            await tx.park(consumer, event_id, incoming.key, place=place, failed=True)
    return reason


async def _first_reason(store: InboxStore, consumer: str, row: str) -> DeadLetterReason | None:
    for reason in _REASONS:
        if await store.claimed(_noted(consumer, reason), [row]):
            return reason
    return None


async def _has_effect(store: InboxStore, consumer: str, event_id: str) -> bool:
    """Once nobody has its row in hand: a claim waits for that, and a question does not."""
    new = False
    try:
        async with store.transaction() as tx:
            if new := await tx.claim(consumer, event_id):
                raise _Undone
    except _Undone:
        pass
    return not new


async def reasons_of(
    store: InboxStore, consumer: str, rows: Collection[str]
) -> dict[str, DeadLetterReason]:
    """Of these rows, those that are about a message that was decided to become a letter, and why;
    one row of an older Seaway says no reason, and counts as ``exhausted``."""
    name, _ = letter_row(consumer, ("", 0), "")
    left = await store.claimed(name, rows) if rows else set()
    found: dict[str, DeadLetterReason] = {}
    for reason in _REASONS:
        if left:
            some = await store.claimed(_noted(consumer, reason), left)
            found |= dict.fromkeys(some, reason)
            left -= some
    return found | dict.fromkeys(left, "exhausted")


async def note_stored(store: InboxStore, incoming: Incoming, letter: int, *, parks: bool) -> None:
    """The letter is stored, as number ``letter`` of its queue. Not before this may the message be
    acknowledged. Idempotent."""
    consumer, event_id = incoming.consumer, incoming.event_id
    _, row = _row_of(incoming, consumer)
    try:
        async with store.transaction() as tx:
            await tx.claim(_noted(consumer, "stored"), row)
            if parks:
                await tx.set_letter(consumer, event_id, letter)
    except StoreRefused as refusal:
        _say(incoming, refusal)


async def note_put_off(store: InboxStore, incoming: Incoming, *, waits: bool) -> None:
    """It is stored where the server sends it again later: this message has ended, as one does whose
    letter is stored. Not before this may it be acknowledged. Idempotent.

    ``waits``: later events of its key wait behind it from now on. ``StoreUnavailable`` also where a
    handler that has it in hand does not end; ``StoreRefused`` where no row can hold it.
    """
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            while True:
                with contextlib.suppress(TransactionConflict):
                    return await _put_off(store, incoming, waits=waits)
    except TimeoutError as error:
        raise StoreUnavailable(f"{incoming.consumer} is at work on {incoming.place}") from error


async def _put_off(store: InboxStore, incoming: Incoming, *, waits: bool) -> None:
    consumer, event_id = incoming.consumer, incoming.event_id
    name, row = _row_of(incoming, consumer)
    place = 0 if incoming.redriven else incoming.stream_seq
    async with store.transaction() as tx:
        for noted in (name, _noted(consumer, "stored")):
            await tx.claim(noted, row)
        if waits:
            await tx.park(consumer, event_id, incoming.key, place=place, failed=True)
            await tx.set_letter(consumer, event_id, PUT_OFF)


async def note_moved(store: InboxStore, incoming: Incoming) -> None:
    """The event, whose letter the queue has had, lies in another place now. Idempotent."""
    name, row = _row_of(incoming, incoming.consumer)
    async with store.transaction() as tx:
        for noted in (name, _noted(incoming.consumer, "stored")):
            await tx.claim(noted, row)


async def note_again(
    store: InboxStore, incoming: Incoming, letter: int, reason: DeadLetterReason, *, parks: bool
) -> None:
    """The letter that the queue had lost is there again, as number ``letter``. ``incoming`` may lie
    in another place than when it was decided."""
    consumer, event_id = incoming.consumer, incoming.event_id
    name, row = _row_of(incoming, consumer)
    async with store.transaction() as tx:
        for noted in (name, _noted(consumer, reason), _noted(consumer, "stored")):
            await tx.claim(noted, row)
        if parks:
            await tx.set_letter(consumer, event_id, letter)


async def note_discarded(store: InboxStore, consumer: str, messages: Iterable[Placed]) -> None:
    """Somebody gave them up: they are not made again, should their queue lose them. Idempotent.
    ``messages``: what the letters are of."""
    rows = [letter_row(consumer, one.place, one.event_id)[1] for one in messages]
    try:
        await _claim_all(store, _noted(consumer, "discarded"), rows)
    except StoreRefused:  # One of them: no row of its letter can be there, either.
        for row in rows:
            with contextlib.suppress(StoreRefused):
                await _claim_all(store, _noted(consumer, "discarded"), [row])


async def _claim_all(store: InboxStore, consumer: str, rows: Sequence[str]) -> None:
    async with store.transaction() as tx:
        for row in rows:
            await tx.claim(consumer, row)


async def take_back_discarded(
    store: DiscardStore, consumer: str, messages: Iterable[Placed]
) -> None:
    """They are in their queue again. Idempotent."""
    rows = [letter_row(consumer, one.place, one.event_id)[1] for one in messages]
    await store.unclaim(_noted(consumer, "discarded"), rows)


async def lost_letters(
    store: InboxStore, notes: InboxRows, consumer: str, there: Collection[str]
) -> dict[str, list[str]]:
    """The events that had a letter and have neither effect nor are ``there``, nor were discarded:
    their rows."""
    lost: dict[str, list[str]] = {}
    after = ""
    while rows := await notes.inbox_rows(_noted(consumer, "stored"), after=after):
        after = rows[-1]
        by_event: dict[str, list[str]] = {}
        for row in rows:
            by_event.setdefault(read_row(row)[0], []).append(row)
        gone = [event_id for event_id in by_event if event_id not in there]
        effects = await store.claimed(consumer, gone) if gone else set()
        for event_id in gone:
            if event_id not in effects:
                lost.setdefault(event_id, []).extend(by_event[event_id])
    after = ""
    while lost and (rows := await notes.inbox_rows(_noted(consumer, "discarded"), after=after)):
        after = rows[-1]
        for row in rows:
            lost.pop(read_row(row)[0], None)
    return lost


async def reason_of(store: InboxStore, consumer: str, row: str) -> DeadLetterReason:
    """Why it became a letter."""
    return await _first_reason(store, consumer, row) or "exhausted"


def _say(incoming: Incoming, refusal: StoreRefused) -> None:
    logger.warning("%s: %s is noted in no row: %s", incoming.consumer, incoming.place, refusal)
