"""How often an event has been tried, over all lives of the processes (ADR 0014).

The server's count of deliveries begins anew when it is asked to give out again what a process had
on its way when it ended. So before any of that is tried, that is noted in the inbox, in a
transaction of its own; and so is what a handler refused. New events pay nothing.

Owns: the count, and when it is one too many. Guarantees: what kills its process each time is given
up after ``max_deliver``, and what was only in hand with it is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from seaway.consumer.lanes import InHand
from seaway.consumer.state import State
from seaway.contracts import InboxStore, Incoming
from seaway.errors import SeawayError, StoreRefused, StoreUnavailable
from seaway.parked import Place, letter_rows

_TOGETHER = 2
"""How often what may have ended a process is tried while others are at work, too."""


class Ended(SeawayError):
    """The process ended each time while this event was handled."""


async def note(state: State, item: InHand) -> int:
    """One more try; how many by now, and 0 without the database: the handler is not called then
    either."""
    store, event_id = state.setup.store, item.incoming.event_id
    if store is not None and state.setup.ordered:
        with contextlib.suppress(StoreUnavailable, StoreRefused):
            async with store.transaction() as tx:
                tries = await tx.trying(state.setup.durable, [event_id])
            return tries[event_id]
    return 0


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


def must_be_alone(state: State, item: InHand) -> bool:
    """Whether nothing else may be at work with it, since that would be counted with it."""
    return item.tries > _TOGETHER or state.limits.is_last(item.deliveries)


async def given_up(state: State, item: InHand) -> Ended | None:
    """``Ended`` where it must not be tried again, since ``max_deliver`` earlier tries are noted;
    else ``None``. There may have been one more delivery, in which it was only in hand."""
    if not 0 < state.limits.max_deliver < item.tries:
        return None
    if item.place in await settled(state, [item.incoming]):
        return None
    item.tries -= 1
    return Ended(f"its process ended in the last of {item.deliveries} deliveries")
