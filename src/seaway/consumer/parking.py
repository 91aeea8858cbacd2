"""Whose turn it is among the events of a key of which one has failed (ADR 0010).

Owns: the decision, and the rows that it rests on. A failed event's row is written before its
letter, and the letter before the acknowledgement; so a later event that looks afterwards goes
behind it, in whichever process. Events that were looked at before are concurrent with the failure
and go on.

    failed ──row──> letter ──> ack                  redriven, nothing before it ──> handled, no row
    later, a row before it ──row──> letter ──> ack  redriven, a row before it ──> a letter again

Knows nothing of who redrives: ``seaway dlq redrive`` for what failed, the releaser for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from seaway.consumer.lanes import InHand
from seaway.contracts import InboxStore, InboxTransaction, Incoming
from seaway.parked import Place, Standing, letter_row
from seaway.telemetry import HandledAs

Turn: TypeAlias = Literal["handle", "park", "lettered"]


def decide(standing: Standing, *, event_id: str, place: int, redriven: bool) -> Turn:
    """What to do with a delivery: handle it, park it, or leave it to its letter."""
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
    return "park"


async def take_turns(tx: InboxTransaction, items: Sequence[InHand]) -> dict[Place, HandledAs]:
    """How those end that are not to be handled in ``tx``, the transaction of the effects."""
    if not items:
        return {}
    aside: dict[Place, HandledAs] = {}
    keys = await tx.parked_keys(items[0].incoming.consumer, {item.key for item in items})
    for item in items:
        if item.key in keys:
            turn = await _take_turn(tx, item.incoming, item.key)
            if turn != "handle":
                aside[item.place] = "parked" if turn == "park" else "already_processed"
    return aside


async def _take_turn(tx: InboxTransaction, incoming: Incoming, key: str) -> Turn:
    consumer, event_id, redriven = incoming.consumer, incoming.event_id, incoming.redriven
    standing = await tx.standing(consumer, event_id, key)
    turn = decide(standing, event_id=event_id, place=incoming.stream_seq, redriven=redriven)
    if turn == "park":
        await tx.park(consumer, event_id, key, place=incoming.stream_seq, failed=False)
    elif turn == "handle" and standing.own is not None:
        await tx.release(consumer, [event_id])
    return turn


async def note_failure(store: InboxStore, incoming: Incoming, key: str) -> bool:
    """Let the later events of its key wait; false where it has taken effect after all."""
    consumer, event_id = incoming.consumer, incoming.event_id
    if await store.claimed(consumer, [event_id]):
        return False
    place = 0 if incoming.redriven else incoming.stream_seq
    async with store.transaction() as tx:
        await tx.park(consumer, event_id, key, place=place, failed=True)
    return True


async def note_letter(store: InboxStore, incoming: Incoming, letter: int, *, parks: bool) -> None:
    """The letter is stored. Not before this may the message be acknowledged: what is neither
    pending at the server nor known to the inbox would be waited for."""
    async with store.transaction() as tx:
        await tx.claim(*letter_row(incoming.consumer, incoming.place, incoming.event_id))
        if parks:
            await tx.set_letter(incoming.consumer, incoming.event_id, letter)
        else:
            await tx.release(incoming.consumer, [incoming.event_id])  # Redriven it is tried anew.
