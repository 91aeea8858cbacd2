"""Dead letters and redrives that their streams have lost are made again, as letters (ADR 0024).

Whoever stores a letter says so in the inbox, and how far a queue has come is noted. Where a queue,
or a stream of redrives, does not hold any more what it held last, each event with such a row, and
without effect, letter or redrive, becomes a letter again: of the event as it lies in its stream
now. What was discarded stays away, where the discarding was noted.

Owns: those notes. Guarantees: nothing is made again while nothing was lost; whoever dies half way,
or comes second, changes nothing: the letter's id is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from seaway import logs
from seaway.contracts import (
    Broker,
    InboxStore,
    Incoming,
    KnownPlace,
    Notes,
    StoredMessage,
)
from seaway.dead_letters.letter import Letter
from seaway.dead_letters.queue import DeadLetters
from seaway.dead_letters.unreported import Swept
from seaway.errors import NotPermitted, SeawayError
from seaway.inbox.letters import claimed, lost_letters, note_again, read_row, reason_of, stored
from seaway.inbox.places import LETTERS, entry, is_there, is_whole, last_place
from seaway.naming import SWEEPER, dlq_stream, redrive_stream, stream_context
from seaway.retry import Backoff
from seaway.telemetry import Relettered, Telemetry

logger = logs.logger("seaway.sweeper")


_PAUSES = Backoff(timedelta(seconds=5), timedelta(minutes=10))
_ATTEMPTS = 12
"""For about an hour."""
_CLOCKS_DIFFER = timedelta(minutes=10)
_SETTLED = timedelta(seconds=30)
"""How long after a loss was seen what had been in hand may still become letters, or have effects:
it is looked again as long."""
_EPOCH = datetime(1970, 1, 2, tzinfo=UTC)
_MOST_IDS = 1000


class LostLetter(SeawayError):
    """The queue had lost this letter: it was made again from its event."""


def kept_in(stream: str) -> tuple[str, str]:
    """The queue and the stream of redrives of an event stream's context."""
    context = stream_context(stream)
    return dlq_stream(context), redrive_stream(context)


@dataclass(slots=True)
class _Loss:
    """Of a queue or its redrives: when it was seen, over which connection, and what was done."""

    seen: float
    epoch: int
    due: float = 0.0
    """When to look again for events of lost letters that were not found ``attempts`` times."""
    attempts: int = 0
    ends: Sequence[KnownPlace | None] = ()
    """The last places at the last look."""


class Relettering:
    """For the consumers of one application; ``store`` is their inbox."""

    def __init__(
        self,
        broker: Broker,
        letters: DeadLetters,
        store: InboxStore,
        notes: Notes,
        consumers: Mapping[str, Swept],
        telemetry: Telemetry,
    ) -> None:
        self._broker = broker
        self._admin = broker.admin
        self._letters = letters
        self._store = store
        self._notes = notes
        self._consumers = consumers
        self._telemetry = telemetry
        self._now = asyncio.get_running_loop().time
        self._losses: dict[str, _Loss] = {}
        """By event stream."""

    async def look(self) -> int:
        """Make again what is lost; how many letters. Look again after an error."""
        made = 0
        for stream in dict.fromkeys(one.stream for one in self._consumers.values()):
            # Read before that is judged: what is lost in between lies below what will be noted.
            ends = [await self._end(kept) for kept in kept_in(stream)]
            if await is_whole(self._admin, self._notes, *kept_in(stream)):
                self._losses.pop(stream, None)
                await self._note(ends, lower=False)
                continue
            loss = self._losses.get(stream)
            if loss is None or await self._is_another(loss):
                loss = self._losses[stream] = _Loss(self._now(), self._broker.epoch)
            loss.ends = ends
            if self._now() < loss.due:
                continue
            lacking: dict[str, set[str]] = {}
            for name, swept in self._consumers.items():
                if swept.stream == stream:
                    made += await self._put_right(name, swept, lacking)
            # Until then what is noted says what is lost, to any process.
            if lacking and await self._waits(stream, loss, lacking):
                continue
            if self._now() - loss.seen < _SETTLED.total_seconds():
                continue
            del self._losses[stream]
            await self._note(ends, lower=True)
        return made

    async def _is_another(self, loss: _Loss) -> bool:
        """Whether something may have been lost since the last look."""
        if loss.epoch != self._broker.epoch:
            return True
        return False in [await is_there(self._admin, end) for end in loss.ends if end]

    async def _waits(
        self, stream: str, loss: _Loss, lacking: Mapping[str, Collection[str]]
    ) -> bool:
        """Whether to look again for events whose letters are lost, and that the stream has lost as
        well: their relay publishes them again, if it can."""
        loss.attempts += 1
        if loss.attempts <= _ATTEMPTS:
            loss.due = self._now() + _PAUSES.delay(loss.attempts).total_seconds()
            return True
        queue, _ = kept_in(stream)
        for name, ids in lacking.items():
            logger.error(
                "%s has lost %d dead letters of %s, whose events %s does not hold any more: %s",
                *(queue, len(ids), name, stream, ", ".join(sorted(ids)[:10])),
            )
            detail = {"consumer": name, "letters": len(ids), "ids": sorted(ids)[:_MOST_IDS]}
            await self._notes.note(entry("letters lost", queue, detail))
        return False

    async def _end(self, stream: str) -> KnownPlace | None:
        """Its last place, 0 where it has lost all, or never held any; ``None`` where it is not
        there."""
        held = await self._admin.stream(stream)
        if held is None:
            return None
        return await last_place(self._admin, stream, held.last_seq)

    async def _note(self, ends: Sequence[KnownPlace | None], *, lower: bool) -> None:
        """After its letters were made again: before, what is noted says what is lost."""
        noted = {one.stream: one for one in await self._notes.places(LETTERS)}
        for end in ends:
            known = noted.get(end.stream) if end else None
            before = known.stream_seq if known else 1
            if end is None or (before > end.stream_seq and not lower):
                continue
            same = known and (known.stream_seq, known.event_id) == (end.stream_seq, end.event_id)
            if not same or (known and end.event_id and known.stored_at != end.stored_at):
                await self._notes.know(end)

    async def _put_right(self, name: str, swept: Swept, lacking: dict[str, set[str]]) -> int:
        """How many letters were made. Into ``lacking``, those whose events are not in their
        stream."""
        queue, redrives = kept_in(swept.stream)
        if await self._admin.stream(queue) is None or await self._admin.stream(redrives) is None:
            return 0
        context = stream_context(swept.stream)
        # In this order: a letter goes from here once its redrive is stored, and a redrive once it
        # is a letter again.
        there = {one.event_id for one in await self._letters.of_consumer(context, name)}
        on_their_way = await self._letters.redrives(context, name)
        letters = await self._letters.of_consumer(context, name)
        await self._take_out(name, on_their_way, letters)
        there |= {one.event_id for one in on_their_way} | {one.event_id for one in letters}
        lost = await lost_letters(self._store, self._notes, name, there)
        made: list[str] = []
        try:
            async for event_id, found in self._events(swept.stream, lost):
                incoming = Incoming.read(found, name, deliveries=0)
                reason = await reason_of(self._store, name, lost[event_id][0])
                letter = await self._letters.store_again(
                    incoming, reason=reason, error=LostLetter()
                )
                parks = swept.parks or reason == "parked"
                await note_again(self._store, incoming, letter, reason, parks=parks)
                made.append(event_id)
        finally:
            if made:
                detail = {"consumer": name, "letters": len(made), "ids": made[:_MOST_IDS]}
                await self._notes.note(entry("relettered", queue, detail))
                self._telemetry.emit(Relettered(queue, len(made)))
        if gone := lost.keys() - set(made):
            lacking[name] = gone
        return len(made)

    async def _take_out(
        self, name: str, on_their_way: Sequence[StoredMessage], letters: Sequence[Letter]
    ) -> None:
        """The letters that came back though their event has got further: it has taken effect, has
        a later letter, or is still to be redriven."""
        newest = {one.event_id: one.id for one in letters}
        redrives = {one.event_id: one for one in on_their_way if one.event_id in newest}
        decided = await stored(self._store, name, redrives.values())
        again = {one.event_id: one for one in redrives.values() if one.place not in decided}
        done = await claimed(self._store, name, newest)
        for one in letters:
            redrive = again.get(one.event_id)
            waits = redrive is not None and one.place != redrive.place
            if one.problem or not (waits or one.event_id in done or one.id != newest[one.event_id]):
                continue
            try:
                await self._letters.discard(one)
            except NotPermitted as error:
                logger.warning("%s came back with its queue and stays there: %s", one.id, error)
                return
            logger.info("%s came back with its queue and is taken out again", one.id)

    async def _events(
        self, stream: str, lost: Mapping[str, Collection[str]]
    ) -> AsyncIterator[tuple[str, StoredMessage]]:
        """The lost letters' events, where they were or wherever they lie now."""
        elsewhere: set[str] = set()
        for event_id, rows in lost.items():
            for at, stream_seq in (read_row(row)[1] for row in rows):
                found = await self._admin.get(stream, stream_seq) if at == stream else None
                if found is not None and found.event_id == event_id:
                    yield event_id, found
                    break
            else:
                elsewhere.add(event_id)
        if not elsewhere:
            return
        # Published again after the last letter was noted.
        noted = [one.stored_at for one in await self._notes.places(LETTERS)]
        since = min(noted, default=_EPOCH) - _CLOCKS_DIFFER
        reading = self._admin.read(stream, from_time=since, headers_only=True, reader=SWEEPER)
        async with aclosing(reading):
            async for one in reading:
                if one.event_id in elsewhere:
                    elsewhere.discard(one.event_id)
                    whole = await self._admin.get(*one.place)
                    if whole is not None:
                        yield one.event_id, whole
