"""What the inbox knows of an event: how often it was tried, how it ended, what it waits behind.

**Tries** (ADR 0014). The server's count of deliveries begins anew when it is asked to give out
again what a process had on its way when it ended. So before any of that is tried, that is noted in
the inbox, in a transaction of its own; and so is what a handler refused. New events pay nothing.

**What does not come back.** What was given back its lane awaits, but not for ever. Others may have
been given it, and then the inbox knows or will know; or it is in the stream no more. The inbox is
asked soon, since others are mostly done at once, and then after pauses that grow up to
``ack_wait``. Only what is not there after some of those is given up: between two looks this process
ran, and where it was stopped meanwhile, what comes again may lie here unread.

**Waiting** behind an event of the same key that has failed (ADR 0010). A failed event's row is
written before its letter, and the letter before the acknowledgement; so a later event that looks
afterwards waits behind it, in whichever process. Events that were looked at before are concurrent
with the failure and go on. Who redrives is not known here: ``seaway dlq redrive`` for what failed,
the releaser for the rest.

    failed ──row──> letter ──> ack                  redriven, nothing before it ──> handled, no row
    later, a row before it ──row──> letter ──> ack  redriven, a row before it ──> a letter again

Guarantees: what kills its process each time is given up after ``max_deliver``, and what was only in
hand with it is not; the database is away only where a transaction of our own is refused (``away``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from seaway import logs
from seaway.consumer.lanes import InHand
from seaway.consumer.state import OUTAGE, State
from seaway.contracts import InboxRows, InboxStore, InboxTransaction, Incoming, ThreadInbox
from seaway.errors import (
    ConfigError,
    SeawayError,
    StoreRefused,
    StoreUnavailable,
    TransactionConflict,
)
from seaway.events import new_event_id
from seaway.inbox.letters import letter_rows, letters_of, note_moved, stored_of
from seaway.inbox.threads import Threads
from seaway.telemetry import HandledAs
from seaway.waiting import set_within
from seaway.waiting_events import Place, Standing

logger = logs.logger("seaway.consumer")

_TOGETHER = 2
"""How often what may have ended a process is tried while others are at work, too."""
_FIRST = timedelta(milliseconds=250)
_LOOKS = 4
"""After so many pauses of ``ack_wait`` it is given up."""
_ANSWER_SECONDS = 10.0


# ---------------------------------------------------------------------- tried, and settled


class Ended(SeawayError):
    """The process ended each time while this event was handled."""


async def note(state: State, item: InHand) -> int:
    """One more try; how many by now, and 0 without the database: the handler is not called then
    either."""
    setup = state.setup
    if setup.store is not None and setup.ordered:
        with contextlib.suppress(StoreUnavailable, StoreRefused):
            async with setup.store.transaction() as tx:
                tries = await tx.trying(setup.durable, [item.event_id])
            return tries[item.event_id]
    return 0


def must_be_alone(state: State, item: InHand) -> bool:
    """Whether nothing else may be at work with it, since that would be counted with it."""
    return item.tries > _TOGETHER or state.limits.is_last(item.deliveries)


async def given_up(state: State, item: InHand) -> Ended | None:
    """``Ended`` where it must not be tried again, since ``max_deliver`` earlier tries are noted;
    else ``None``. There may have been one more delivery, in which it was only in hand."""
    if not 0 < state.limits.max_deliver < item.before + item.tries:
        return None
    if item.place in await settled(state, [item.incoming]):
        return None
    item.tries -= 1
    return Ended(f"its process ended in the last of {item.deliveries} deliveries")


async def settled(state: State, messages: Sequence[Incoming]) -> set[Place]:
    """Those of the messages that have taken effect, or have become letters. None where the database
    is away: nothing can begin before it is back."""
    store = state.setup.store
    with contextlib.suppress(StoreUnavailable):
        if store is not None:
            return await _settled(state.setup.durable, store, messages)
    return set()


async def _settled(durable: str, store: InboxStore, messages: Sequence[Incoming]) -> set[Place]:
    consumer, rows = letter_rows(durable, messages)
    try:
        effects = await store.claimed(durable, {one.event_id for one in messages})
        letters = await store.claimed(consumer, rows)
    except StoreRefused:
        # The question about one of them spoils that about all: its own claim will tell.
        if len(messages) < 2:
            return set()
        middle = len(messages) // 2
        first = await _settled(durable, store, messages[:middle])
        return first | await _settled(durable, store, messages[middle:])
    return {rows[letter] for letter in letters} | {
        one.place for one in messages if one.event_id in effects
    }


async def lettered(state: State, messages: Sequence[Incoming]) -> Mapping[Place, bool]:
    """Those of the messages, published again by a relay, that were letters in the places where they
    were lost; whether the queue has had them. Asked until the database is there, or the stop."""
    setup, attempt = state.setup, 0
    while setup.store is not None and setup.notes is not None and not state.stop.is_set():
        try:
            return await _lettered(setup.durable, setup.store, setup.notes, messages)
        except StoreRefused:
            break  # No row can be about one of them. The others are found out when it is handled.
        except StoreUnavailable:
            attempt += 1
            await set_within(OUTAGE.delay(attempt), state.stop)
    return {}


async def _lettered(
    durable: str, store: InboxStore, notes: InboxRows, messages: Sequence[Incoming]
) -> Mapping[Place, bool]:
    places = {one.event_id: one.place for one in messages}
    known = await letters_of(notes, durable, places)
    if not known:
        return {}
    stored = await stored_of(store, durable, [row for rows in known.values() for row in rows])
    for one in messages:
        if not stored.isdisjoint(known.get(one.event_id, ())):
            await note_moved(store, one)
    return {places[event_id]: not stored.isdisjoint(rows) for event_id, rows in known.items()}


# ---------------------------------------------------------------------- given back


def await_return(state: State, item: InHand, delay: timedelta) -> None:
    """It is given back and comes again after ``delay``, here or elsewhere."""
    # Without an inbox nobody knows what others have done.
    pause = state.limits.ack_wait if state.setup.store is None else _shortest(state)
    state.lanes.await_return(item, state.now() + (delay + pause).total_seconds())


async def look_after(state: State, now: float) -> None:
    """Have keys go on without what is settled, or does not come any more."""
    if not state.lanes.overdue(now):
        return
    shortest, longest = _shortest(state).total_seconds(), state.limits.ack_wait.total_seconds()
    # With those that would be next: so there is never more than one look in the shortest pause.
    overdue = state.lanes.overdue(now + shortest)
    for awaited in overdue:
        # Others who have the turn go through its key in order: it comes here in our next one.
        awaited.looks += awaited.pause >= longest and not awaited.source.standby
        awaited.pause = min(max(shortest, 2 * awaited.pause), longest)
        awaited.until = now + awaited.pause
    done = await settled(state, [awaited.incoming for awaited in overdue])
    for awaited in overdue:
        place = awaited.incoming.place
        if place in done or state.setup.store is None:
            state.lanes.release(place)
        elif awaited.looks >= _LOOKS:
            logger.warning(
                "%s: %s:%d was given back and has not come again: its key goes on without it",
                *(state.setup.durable, *place),
            )
            state.lanes.release(place)


def _shortest(state: State) -> timedelta:
    return min(_FIRST, state.limits.ack_wait)


# ---------------------------------------------------------------------- lettered, or behind one

Admission: TypeAlias = Literal["handle", "wait", "lettered"]


def admission(standing: Standing, *, event_id: str, place: int, redriven: bool) -> Admission:
    """What to do with a delivery: handle it, have it wait, or leave it to its letter."""
    own, first = standing.own, standing.first
    if own is None and redriven:
        # Its place is not known; somebody wants it handled now.
        return "handle"
    if own is not None and own.letter is not None and not redriven and own.place == place:
        # Only its acknowledgement was lost. Published anew it would have another place.
        return "lettered"
    mine = place if own is None else own.place
    if first is None or standing.processed or (mine, event_id) <= (first.place, first.event_id):
        return "handle"
    return "wait"


async def set_aside(
    state: State, tx: InboxTransaction, items: Sequence[InHand]
) -> dict[Place, HandledAs]:
    """How those end that are not to be handled in ``tx``, the transaction of the effects."""
    aside: dict[Place, HandledAs] = {}
    if state.setup.keys.may_wait:
        keys = await tx.parked_keys(state.setup.durable, {item.key for item in items})
        for item in items:
            if item.lettered is not None:
                continue  # It waits, or was let go, as the event that it was.
            if item.key in keys and (found := await _admitted(tx, item)) != "handle":
                aside[item.place] = "parked" if found == "wait" else "already_processed"
    for item in items:
        if item.decided or item.lettered is False:
            aside.setdefault(item.place, "dead_lettered")
        elif item.lettered:
            aside[item.place] = "already_processed"
    return aside


class Decided(SeawayError):
    """Some of the transaction's events become letters, and have no effect; those know it now."""


async def unless_decided(state: State, tx: InboxTransaction, items: Sequence[InHand]) -> None:
    """``Decided`` where one of them becomes a letter; else none can any more, once ``tx`` has
    committed."""
    if not items:
        return
    consumer, rows = letter_rows(state.setup.durable, (item.incoming for item in items))
    new = {rows[row] for row in await tx.claim_many(consumer, list(rows))}
    decided = [item for item in items if item.place not in new]
    for item in decided:
        item.decided = True
    if decided:
        raise Decided("it becomes a letter")


async def _admitted(tx: InboxTransaction, item: InHand) -> Admission:
    incoming, event_id, key = item.incoming, item.event_id, item.key
    consumer, place, redriven = incoming.consumer, incoming.stream_seq, incoming.redriven
    standing = await tx.standing(consumer, event_id, key)
    found = admission(standing, event_id=event_id, place=place, redriven=redriven)
    if found == "wait":
        await tx.park(consumer, event_id, key, place=place, failed=False)
    elif found == "handle" and standing.own is not None:
        await tx.release(consumer, [event_id])
    return found


# ---------------------------------------------------------------------- whether it is there


async def away(store: InboxStore | None, durable: str) -> StoreUnavailable | None:
    """What a transaction of the consumer's own meets in the database; ``None``: it took effect, or
    there is no database.

    What one statement of a handler meets (a timeout, a lock, a limit, the end of its session) looks
    like an outage to whoever reads codes. Only another transaction tells them apart, one that does
    as little as every delivery does: what is refused to that is refused to all. It is committed,
    since a full disk may not be met before that. The row that it leaves in the inbox is forgotten
    with the others. ``ConfigError`` where no waiting would help.
    """
    return None if store is None else await _away(_probe(store, durable))


async def away_in(threads: Threads, inbox: ThreadInbox, durable: str) -> StoreUnavailable | None:
    """The same for what gives plain handlers their transactions."""
    return await _away(threads.carry(lambda _: _probe(inbox, durable)))


async def _probe(store: InboxStore | ThreadInbox, durable: str) -> None:
    async with store.transaction() as tx:
        await tx.claim(f"{durable} probe", new_event_id())


async def _away(probing: Coroutine[Any, Any, None]) -> StoreUnavailable | None:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await probing
    except TransactionConflict:
        return None
    except StoreUnavailable as error:
        return error
    except TimeoutError:
        return StoreUnavailable(f"the database did not answer within {_ANSWER_SECONDS:.0f} s")
    except ConfigError:
        raise
    except SeawayError as error:
        return StoreUnavailable(str(error))
    return None
