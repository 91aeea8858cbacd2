"""What an audit found, mended as far as that can be done without guessing.

| what | how it is mended |
| --- | --- |
| missing on the stream | published again from ``seaway_sent``, under its id |
| neither effect nor letter nor pending | a letter, decided in the inbox first |
| anything else | not at all: what is right is for people to say |

Guarantees: what cannot be mended stays as it is, and says why. Idempotent: an event that has come
back in between is not published twice within the stream's duplicate window, and one that has its
effect by now gets no letter. What is published again goes to the stream's end: order by key is not
kept for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from seaway.contracts import Broker, Incoming, Store, Stored
from seaway.dead_letters import DeadLetters
from seaway.errors import SeawayError, TransientError
from seaway.history.findings import Finding, Kind
from seaway.inbox.letters import note_stored, to_letter
from seaway.naming import OPERATOR

MENDED: tuple[Kind, ...] = ("missing", "no_effect")
_TIMEOUT = timedelta(seconds=5)


class NoEffect(SeawayError):
    """Said in the letters that ``seaway audit --mend`` writes."""


@dataclass(frozen=True, slots=True)
class Mended:
    """``done``: what was done; empty where it stays, and ``why`` says why."""

    finding: Finding
    done: str = ""
    why: str = ""


class Mender:
    """Mends findings of ``broker`` and ``store``."""

    def __init__(self, broker: Broker, store: Store, *, reader: str = OPERATOR) -> None:
        self._broker = broker
        self._store = store
        self._letters = DeadLetters(broker, reader=reader)

    async def mend(self, findings: Sequence[Finding]) -> AsyncIterator[Mended]:
        """Mend those of ``MENDED``, one after the other. ``TransientError`` ends it."""
        for one in findings:
            if one.kind not in MENDED:
                continue
            try:
                work = self._publish(one) if one.kind == "missing" else self._bury(one)
                yield await work
            except TransientError:
                raise
            except SeawayError as error:
                yield Mended(one, why=str(error))

    async def _publish(self, one: Finding) -> Mended:
        known = (await self._store.committed([one.event_id])).get(one.event_id)
        rows = await self._store.sent(event_id=one.event_id, limit=1)
        if known is None or not rows or known.stream_seq in (0, -1):
            return Mended(one, why="the outbox does not have it any more")
        place = known.stream_seq if known.stream_seq > 0 else -2 - known.stream_seq
        there = await self._broker.admin.get(one.stream, place)
        if there is not None and there.event_id == one.event_id:
            return Mended(one, why="it is there again")
        outcome, *_ = await self._broker.publish(
            one.stream, [rows[0].entry.message], timeout=_TIMEOUT
        )
        if not isinstance(outcome, Stored):
            return Mended(one, why=f"{one.stream} did not take it: {outcome}")
        found = await self._broker.admin.get(one.stream, outcome.stream_seq)
        if found is None or found.event_id != one.event_id:
            return Mended(
                one,
                why=f"{one.stream} still knows its id, and takes it once its duplicate window has "
                "passed",
            )
        await self._store.moved(one.event_id, one.stream, known.stream_seq, outcome.stream_seq)
        return Mended(one, done=f"published again, in place {outcome.stream_seq}")

    async def _bury(self, one: Finding) -> Mended:
        stored = await self._broker.admin.get(one.stream, one.stream_seq)
        if stored is None or stored.event_id != one.event_id:
            return Mended(one, why="the stream does not hold it any more")
        incoming = Incoming.read(stored, one.consumer, deliveries=0)
        reason = await to_letter(self._store, incoming, "terminated", parks=False)
        if reason is None:
            if await self._store.claimed(one.consumer, [one.event_id]):
                return Mended(one, why="it has its effect by now")
            if await self._letters.has_letter(incoming):
                return Mended(one, why="it has its letter by now")
            reason = "terminated"  # Its letter was stored, and its queue has lost it.
        error = NoEffect("acknowledged, and without effect: found by seaway audit")
        letter = await self._letters.store_again(incoming, reason=reason, error=error)
        await note_stored(self._store, incoming, letter, parks=False)
        return Mended(one, done=f"letter {letter}, to be redriven or discarded")
