"""Lets events go that wait behind a dead letter, once that has been redriven or discarded.

Of each key of a parking consumer, the first row of its store says what it waits for (ADR 0010):

    failed, its letter in the queue ... a person; everything behind it waits, or (``parks`` is not
                                        set) goes on, and the row goes
    put off, and not sent yet ......... the server; everything behind it waits
    waiting, its letter in the queue .. it is its turn: redriven here, one of a key at a time
    its letter on the way as a redrive  the consumer; the row goes with the effects
    its letter nowhere ................ nobody: discarded, or removed by hand; the row goes

Owns: nothing; looks at rows and letters as they are, so a crash, or many of these at once, changes
nothing: a redrive has the same message id whoever sends it. Looks at once after a redrive of its
consumer was settled in this process, and every ``every`` for what was done elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Protocol

from seaway import logs
from seaway.contracts import Broker, ParkingStore, PlaceStore
from seaway.dead_letters.letter import Letter
from seaway.dead_letters.queue import DeadLetters
from seaway.dead_letters.selection import Selection
from seaway.errors import ApiError, NotFound, SeawayError, TransientError
from seaway.inbox.places import is_whole
from seaway.naming import (
    dlq_stream,
    later_filter,
    later_subject,
    redrive_stream,
    stream_context,
)
from seaway.retry import Backoff
from seaway.telemetry import Delivered, Signal, Telemetry
from seaway.waiting import done_before, set_within
from seaway.waiting_events import PUT_OFF, WaitingEvent, WaitingKeys

logger = logs.logger("seaway.releaser")

_BACKOFF = Backoff(timedelta(milliseconds=500), timedelta(seconds=30))
_UNDER_WAY = timedelta(minutes=1)
"""How long a row without a letter is taken for one whose letter is being written."""


class ReleasedStore(ParkingStore, PlaceStore, Protocol):
    """The application's own database."""


class Releaser:
    """For one parking consumer; any number of processes may run one."""

    def __init__(
        self,
        broker: Broker,
        store: ReleasedStore,
        *,
        consumer: str,
        stream: str,
        telemetry: Telemetry,
        every: timedelta = timedelta(seconds=5),
        keys: WaitingKeys | None = None,
        parks: bool = True,
    ) -> None:
        self._broker = broker
        self._store = store
        self._consumer = consumer
        self._stream = stream
        self._context = context = stream_context(stream)
        self._queue, self._redrives = dlq_stream(context), redrive_stream(context)
        self._letters = DeadLetters(broker, reader=consumer)
        self._telemetry = telemetry
        self._every = every
        self._keys = keys or WaitingKeys(always=True)
        self._keys.keep()
        self._parks = parks
        self._forget: Callable[[], object] | None = None
        self._nudge = asyncio.Event()
        self._seen: set[tuple[str, int | None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``. Heals outages by itself."""
        attempt, thorough = 0, True
        try:
            while not stop.is_set():
                self._listen(self._keys.may_wait)
                self._nudge.clear()
                try:
                    # Thousands may have their turn: a stop waits for none of them.
                    if not await done_before(stop, self.release(thorough=thorough)):
                        return
                    attempt, pause = 0, self._every
                except (TransientError, NotFound, ApiError) as error:
                    attempt += 1
                    said = attempt == 1 and self._keys.may_wait
                    log = logger.warning if said else logger.debug
                    log("%s: nothing is released: %s", self._consumer, error)
                    pause = _BACKOFF.delay(attempt)
                thorough = not await set_within(pause, self._nudge, stop)
        finally:
            self._listen(False)

    def _listen(self, wanted: bool) -> None:
        """To deliveries, each of which costs something: only where something waits."""
        if wanted and self._forget is None:
            self._forget = self._telemetry.subscribe(self._on_signal)
        elif not wanted and self._forget is not None:
            self._forget()
            self._forget = None

    def _on_signal(self, signal: Signal) -> None:
        if (
            isinstance(signal, Delivered)
            and signal.consumer == self._consumer
            and (signal.stream == self._redrives or signal.outcome == "parked")
        ):
            self._nudge.set()

    async def release(self, *, thorough: bool = True) -> int:
        """Redrive the letters whose turn it is; how many.

        ``thorough``: also look what became of letters that somebody else may have taken out.
        """
        released = 0
        if thorough:
            self._seen.clear()
        waiting: Collection[str] | None = None
        while True:
            look = self._keys.look()
            heads = await self._store.parked_heads(self._consumer)
            self._keys.found(bool(heads), look)
            gone: list[WaitingEvent] = []
            dropped = 0
            for head in heads:
                if head.processed:
                    dropped += await self._store.drop_parked(head)
                    continue
                mark = head.event_id, head.letter
                if mark in self._seen or (head.failed and not thorough) or _under_way(head):
                    continue
                if head.letter == PUT_OFF:
                    if waiting is None:
                        waiting = await self._put_off()
                    if later_subject(self._context, self._consumer, head.event_id) not in waiting:
                        gone.append(head)
                    continue
                letter = await self._letter_of(head)
                if letter is None:
                    gone.append(head)
                    continue
                if head.failed and not self._parks:
                    # It was put off, and that was cancelled: its key goes on without it.
                    dropped += await self._store.drop_parked(head)
                    continue
                self._seen.add(mark)
                if not head.failed:
                    released += await self._redrive(letter)
            if thorough and gone:
                dropped += await self._find(gone)
            if not dropped:
                return released

    async def _letter_of(self, head: WaitingEvent) -> Letter | None:
        if head.letter is None:
            return None
        for letter in await self._letters.list(Selection(ids=(f"{self._queue}:{head.letter}",))):
            if (letter.consumer, letter.event_id) == (self._consumer, head.event_id):
                return letter
        return None

    async def _put_off(self) -> Collection[str]:
        """The subjects under which something waits to be sent to this consumer."""
        wanted = later_filter(self._context, self._consumer)
        info = await self._broker.admin.stream(self._redrives, subjects=wanted)
        return () if info is None else info.subject_messages

    async def _redrive(self, letter: Letter) -> bool:
        try:
            await self._letters.redrive(letter)
        except (TransientError, ApiError):
            raise
        except SeawayError as error:
            admin, redrives = self._broker.admin, self._redrives
            if isinstance(error, NotFound) and not await admin.consumer(redrives, self._consumer):
                raise
            logger.error(
                "%s: it is the turn of %s, which cannot be redriven and holds up its key %r: %s",
                *(self._consumer, letter.id, letter.key, error),
            )
            return False
        return True

    async def _find(self, heads: list[WaitingEvent]) -> int:
        """What became of rows whose letters are not where they were; how many rows changed."""
        changed, kept = 0, (self._queue, self._redrives)
        if not await is_whole(self._broker.admin, self._store, *kept):
            return 0  # Their letters are lost, and made again: nobody discarded them.
        # In this order: a redrive is stored before its letter goes, a letter before its redrive.
        on_its_way = await self._letters.redriven(self._context, self._consumer)
        lost = [head for head in heads if head.event_id not in on_its_way]
        if not lost:
            return 0
        if await self._broker.admin.stream(self._queue) is None:
            raise NotFound(f"there is no stream {self._queue}: run `seaway topology apply`")
        found = await self._letters.of_consumer(self._context, self._consumer)
        if not await is_whole(self._broker.admin, self._store, *kept):
            return 0
        # Those of somebody else's making stand for nobody.
        letters = {letter.event_id: letter for letter in found if letter.has_place}
        for head in lost:
            letter = letters.get(head.event_id)
            if letter is not None:
                await self._adopt(head, letter)
                changed += 1
            elif head.letter is not None or await self._was_settled(head):
                changed += await self._store.drop_parked(head)
        return changed

    async def _adopt(self, head: WaitingEvent, letter: Letter) -> None:
        """Its letter was written by a process that died, or by a sweeper without this store."""
        async with self._store.transaction() as tx:
            await tx.park(
                head.consumer,
                head.event_id,
                head.key,
                place=head.place,
                failed=not letter.waits,
            )
            await tx.set_letter(head.consumer, head.event_id, letter.stored.stream_seq)

    async def _was_settled(self, head: WaitingEvent) -> bool:
        """Nobody will write the letter any more: the durable is past it, or it was a redrive."""
        info = await self._broker.admin.consumer(self._stream, self._consumer)
        return info is not None and head.place <= info.ack_floor


def _under_way(head: WaitingEvent) -> bool:
    return head.letter is None and datetime.now(UTC) - head.parked_at < _UNDER_WAY
