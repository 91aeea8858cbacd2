"""The dead letter queues: store, list, show, redrive, discard.

Authoritative: the ``{CONTEXT}_DLQ`` stream; there is no second list anywhere.

Listing reads the queue, oldest first: its price grows with the queue, unless letter ids are given.
Payloads are read only where they are asked for.

What a letter's event is, and how it goes back, is ``redriving``'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from typing import Self

from seaway.config import Settings
from seaway.contracts import (
    Broker,
    DeadLetterReason,
    Incoming,
    Message,
    StoredMessage,
    StreamInfo,
)
from seaway.dead_letters import letter as form
from seaway.dead_letters.later import Later
from seaway.dead_letters.letter import Letter
from seaway.dead_letters.reading import Reading, letter_places, queues_from, unread
from seaway.dead_letters.redriving import Pace, Redriving, Target
from seaway.dead_letters.selection import Selection
from seaway.dead_letters.sending import Sender
from seaway.dead_letters.writing import queue_of
from seaway.errors import (
    ConfigError,
    NotFound,
    NotPermitted,
    SeawayError,
    TransientError,
)
from seaway.naming import (
    OPERATOR,
    dlq_stream,
    is_subject,
    kind_of,
    later_filter,
    redrive_filter,
    redrive_stream,
    stream_context,
)


class DeadLetters:
    """The letters of every context on this server (``contracts.DeadLetterSink``).

    ``reader``: as who to read them. ``queues``: the only ones that are looked for letters.
    """

    def __init__(
        self, broker: Broker, *, reader: str = OPERATOR, queues: Sequence[str] | None = None
    ) -> None:
        self._broker = broker
        self._redriving = Redriving(broker)
        self.reader = reader
        self._queues = queues

    @classmethod
    def configured(cls, broker: Broker, settings: Settings) -> Self:
        """Those of the contexts in ``settings``; where there are none, every one."""
        queues = [dlq_stream(stream.context) for stream in settings.streams]
        return cls(broker, queues=queues or None)

    async def store(
        self, incoming: Incoming, *, reason: DeadLetterReason, error: BaseException | None
    ) -> int:
        """Return when the queue has acknowledged the letter: its sequence there.

        ``TransientError`` otherwise: leave the message where it is. Idempotent within the queue's
        duplicate window. A redrive that its stream has lost, while the letter that it was made of
        is there again, is that letter.
        """
        if incoming.stream == redrive_stream(stream_context(incoming.stream)):
            with suppress(NotPermitted):  # Then there may be two.
                if there := await self._came_back(incoming):
                    return there
        return await Sender(self._broker).store(incoming, reason=reason, error=error)

    async def store_again(
        self, incoming: Incoming, *, reason: DeadLetterReason, error: BaseException
    ) -> int:
        """The same for a letter that its queue has lost, though it may still remember its id."""
        return await Sender(self._broker).store(incoming, reason=reason, error=error, lost=True)

    async def _came_back(self, incoming: Incoming) -> int | None:
        """The place of the letter of a redrive that is gone, though nobody has acknowledged it."""
        found = await self._broker.admin.get(*incoming.place)
        if found is not None and found.event_id == incoming.event_id:
            return None
        context = stream_context(incoming.stream)
        letters = await self.of_consumer(context, incoming.consumer)
        places = [one.stored.stream_seq for one in letters if one.event_id == incoming.event_id]
        return max(places, default=None)

    async def put_off(
        self, incoming: Incoming, *, after: timedelta, error: BaseException | None
    ) -> str:
        """See ``contracts.DeadLetterSink``."""
        return await Later(self._broker).put_off(incoming, after=after, error=error)

    async def has_letter(self, incoming: Incoming) -> bool:
        """Whether its consumer has a letter of this message. Reads headers only, of the letters of
        events of its type."""
        _, subject = queue_of(incoming)
        # A foreign subject may hold what would be a wildcard in a filter, and meet another's.
        subjects = [subject] if is_subject(subject) else []
        context = stream_context(incoming.stream)
        letters = await self.of_consumer(context, incoming.consumer, subjects=subjects)
        message = (*incoming.place, incoming.event_id)
        return any((one.stream, one.stream_seq, one.event_id) == message for one in letters)

    async def of_consumer(
        self, context: str, consumer: str, *, subjects: Sequence[str] = ()
    ) -> Sequence[Letter]:
        """One consumer's letters, ``bare``, with these subjects (none: all); empty where their
        queue is not there."""
        queue, wanted = dlq_stream(context), Selection(consumer=consumer)
        if await self._broker.admin.stream(queue) is None:
            return ()
        async with aclosing(self._reading(wanted, payloads=False).of(queue, subjects)) as letters:
            return [letter async for letter in letters]

    async def redrives(self, context: str, consumer: str) -> Sequence[StoredMessage]:
        """What is on its way to ``consumer`` as redrives, now or later; without payloads."""
        found: list[StoredMessage] = []
        # In this order: what is sent in between was seen while it waited, or is seen afterwards.
        for subjects in (later_filter(context, consumer), redrive_filter(context, consumer)):
            stored = self._broker.admin.read(
                redrive_stream(context),
                filter_subjects=[subjects],
                headers_only=True,
                reader=self.reader,
            )
            found += [one async for one in stored]
        return found

    async def redriven(self, context: str, consumer: str) -> set[str]:
        """The ids of their events."""
        return {one.event_id for one in await self.redrives(context, consumer)}

    async def redriven_letters(self, context: str, after: int = 0) -> AsyncGenerator[Letter]:
        """The letters of redrives in a context's queue, ``bare``, behind a place in it."""
        queue, redrives = dlq_stream(context), redrive_stream(context)
        stream = self._broker.admin.read(
            queue, from_seq=after + 1, headers_only=True, reader=self.reader
        )
        async with aclosing(stream):
            async for stored in stream:
                if (letter := form.read(stored, bare=True)).stream == redrives:
                    yield letter

    async def ends(self) -> dict[str, int]:
        """The last place of each queue; none where nothing ever lay there."""
        return {one.name: one.last_seq for one in await self.queues()}

    async def queues(self) -> Sequence[StreamInfo]:
        """The queues that there are, in the order in which they are read."""
        admin = self._broker.admin
        if self._queues is not None:
            asked = [await admin.stream(queue) for queue in self._queues]
            return [one for one in asked if one is not None]
        found = [one for one in await admin.streams() if kind_of(one.name) == "dlq"]
        return sorted(found, key=lambda one: one.name)

    async def letters(
        self,
        selection: Selection | None = None,
        *,
        payloads: bool = True,
        after: str | None = None,
        newest: bool = False,
        advance: Callable[[int], None] = unread,
    ) -> AsyncGenerator[Letter]:
        """The selected letters: queue by queue, in each the oldest first, or the ``newest``; those
        of letter ids in the order of these. Close it where you leave it early.

        Without ``payloads``, ``bare`` ones, and the server sends headers only, unless the selection
        asks for what payloads hold. ``after``: only what comes behind the letter of this id in that
        order, whether that is there still or not. ``advance`` is told how many more were looked at.
        """
        wanted = selection or Selection()
        places = letter_places(wanted.ids)
        reading = self._reading(wanted, payloads=payloads or bool(places), advance=advance)
        if places:
            for place in places:
                stored = await self._broker.admin.get(*place)
                if stored is not None and (letter := await reading.take(stored)) is not None:
                    yield letter
            return
        beyond: int | None = None
        queues: Sequence[str] = [info.name for info in await self.queues()]
        if after is not None:
            queues, beyond = queues_from(queues, after)
        for queue in queues:
            subjects = [f"{stream_context(queue)}.dlq.{wanted.subject}"] if wanted.subject else []
            read = reading.backwards if newest else reading.of
            async with aclosing(read(queue, subjects, beyond)) as letters:
                async for letter in letters:
                    yield letter
            beyond = None

    def _reading(
        self, wanted: Selection, *, payloads: bool, advance: Callable[[int], None] = unread
    ) -> Reading:
        return Reading(
            self._broker.admin,
            self.reader,
            wanted,
            payloads=payloads,
            payload_of=self.payload,
            advance=advance,
        )

    async def list(
        self, selection: Selection | None = None, *, limit: int = 0, payloads: bool = True
    ) -> Sequence[Letter]:
        """The selected letters; at most ``limit`` where it is not 0. See ``letters``."""
        found: list[Letter] = []
        async with aclosing(self.letters(selection, payloads=payloads)) as letters:
            async for letter in letters:
                found.append(letter)
                if len(found) == limit:
                    break
        return found

    async def get(self, letter_id: str, *, consumer: str | None = None) -> Letter:
        """One letter by its id or its event's id; ``NotFound``, or ``ConfigError`` for several."""
        found = await self.list(Selection(ids=(letter_id,), consumer=consumer), payloads=False)
        if not found:
            raise NotFound(f"there is no dead letter {letter_id}")
        if len(found) > 1:
            names = ", ".join(f"{letter.id} ({letter.consumer})" for letter in found)
            raise ConfigError(f"{letter_id} has several letters: {names}", hint="name one of them")
        return await self._redriving.whole(found[0])

    async def waiting(self, letters: Iterable[Letter] | None = None) -> Sequence[Letter]:
        """Who waits behind ``letters`` (``None``: behind any), oldest first.

        Those of the same consumer and key that did not fail themselves and are later in the event
        stream.
        """
        parked = await self.list(Selection(reason="parked"), payloads=False)
        found = [one for one in parked if one.has_place]
        if letters is None:
            return found
        failed = {(one.consumer, one.key) for one in letters if not one.waits}
        return [one for one in found if (one.consumer, one.key) in failed]

    async def count(self) -> dict[str, int]:
        """How many letters each queue holds."""
        return {
            info.name: info.messages
            for info in await self._broker.admin.streams()
            if kind_of(info.name) == "dlq"
        }

    async def payload(self, letter: Letter) -> bytes:
        """The event's payload, also of a letter by reference. ``NotFound`` where it has gone,
        ``ConfigError`` where the letter names what is not its event's."""
        letter = await self._redriving.whole(letter)
        return (await self.event(letter)).payload if letter.by_reference else letter.payload

    async def event(self, letter: Letter) -> Message:
        """The event as it was, also of a letter by reference: its subject, payload and headers.

        ``NotFound`` where something of it has gone, ``ConfigError`` where the letter names what is
        not its event's.
        """
        return await self._redriving.event(letter)

    async def to_send(self, letter: Letter, *, to: Target = "consumer") -> Message:
        """What ``redrive`` would send. Raises as that does."""
        return await self._redriving.to_send(letter, to)

    async def as_written(self, letter: Letter) -> Message | None:
        """The event as its writer wrote it, however often it was redriven and mended since;
        ``None`` where its stream does not have it any more."""
        found = await self._redriving.as_written(letter)
        return None if found is None else found.message

    async def redrive(
        self,
        letter: Letter,
        *,
        payload: bytes | None = None,
        to: Target = "consumer",
        at: datetime | None = None,
    ) -> None:
        """Bring one letter's event back, then take the letter out of the queue.

        To the consumer that failed alone, or to all. ``payload`` replaces the event's own. ``at``:
        the server sends it then, by its own clock; until then it is among what is ``scheduled``.
        Only to the consumer, and only where its redrive stream can (ADR 0030). Raises
        ``NotFound`` where its consumer or its payload is not there, ``ConfigError`` where it cannot
        be sent as it is or the letter is not what it says, ``BrokerUnavailable`` where it could not
        be stored; the letter stays in all cases.
        """
        [outcome] = await self._redriving.redrive([letter], payload=payload, to=to, at=at)
        if isinstance(outcome, SeawayError):
            raise outcome

    async def redrive_all(
        self,
        letters: Sequence[Letter],
        *,
        payload: bytes | None = None,
        to: Target = "consumer",
        rate: float | None = None,
        at: datetime | None = None,
    ) -> AsyncIterator[tuple[Letter, SeawayError | None]]:
        """``redrive`` each, at most ``rate`` a second; yields each, with the reason where it stays.

        Those of one key go in the order given; many are on their way at a time. One that cannot be
        redriven does not hold up the others. ``TransientError`` ends it.
        """
        pace = Pace(rate)
        for first in range(0, len(letters), pace.batch):
            some = letters[first : first + pace.batch]
            await pace.turn(len(some))
            outcomes = await self._redriving.redrive(some, payload=payload, to=to, at=at)
            away: TransientError | None = None
            for letter, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, TransientError):
                    away = away or outcome
                else:
                    yield letter, outcome if isinstance(outcome, SeawayError) else None
            if away is not None:
                raise away

    async def discard(self, letter: Letter) -> bool:
        """Take one letter out of the queue for good; whether it was there."""
        return await self._broker.admin.delete_message(
            letter.stored.stream, letter.stored.stream_seq
        )
