"""The dead letter queues: store, list, show, redrive, discard.

Authoritative: the ``{CONTEXT}_DLQ`` stream; there is no second list anywhere.

Listing reads the queue, oldest first: its price grows with the queue, unless letter ids are given.
Payloads are read only where they are asked for.

Redrive publishes first and removes the letter after the acknowledgement. A crash in between leaves
the letter, and redriving it again publishes under the same message id: within the stream's
duplicate window it is stored once, and beyond it the consumer's inbox knows the event.

A letter is somebody's word. Nothing is done for one with a ``problem``; and where its event still
lies where it says, that must be the one that it says, and goes on with the headers that it has
there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Literal, Self

from seaway import headers as h
from seaway.config import Settings
from seaway.contracts import (
    Broker,
    DeadLetterReason,
    Incoming,
    Message,
    Refused,
    Stored,
    StoredMessage,
)
from seaway.dead_letters import letter as form
from seaway.dead_letters.letter import Letter
from seaway.dead_letters.reading import Reading, letter_places, queues_from, unread
from seaway.dead_letters.selection import Selection
from seaway.dead_letters.sending import Sender
from seaway.dead_letters.writing import queue_of, size_as_letter, size_of
from seaway.errors import (
    ConfigError,
    InvalidName,
    NotFound,
    SeawayError,
    TransientError,
)
from seaway.naming import (
    OPERATOR,
    dlq_stream,
    is_subject,
    kind_of,
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
        self._sender = Sender(broker)
        self._reader = reader
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
        duplicate window.
        """
        return await self._sender.store(incoming, reason=reason, error=error)

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

    async def redriven(self, context: str, consumer: str) -> set[str]:
        """The ids of the events that are on their way to ``consumer`` as redrives."""
        stored = self._broker.admin.read(
            redrive_stream(context),
            filter_subjects=[redrive_filter(context, consumer)],
            headers_only=True,
            reader=self._reader,
        )
        return {one.event_id async for one in stored}

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
        queues = await self.queues()
        if after is not None:
            queues, beyond = queues_from(queues, after)
        for queue in queues:
            subjects = [f"{stream_context(queue)}.dlq.{wanted.subject}"] if wanted.subject else []
            read = reading.backwards if newest else reading.of
            async with aclosing(read(queue, subjects, beyond)) as letters:
                async for letter in letters:
                    yield letter
            beyond = None

    async def queues(self) -> Sequence[str]:
        """The names of the queues that there are, in the order in which they are read."""
        if self._queues is None:
            return sorted(await self.count())
        return [name for name in self._queues if await self._broker.admin.stream(name) is not None]

    def _reading(
        self, wanted: Selection, *, payloads: bool, advance: Callable[[int], None] = unread
    ) -> Reading:
        return Reading(
            self._broker.admin,
            self._reader,
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
        return await self._whole(found[0])

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
        letter = await self._whole(letter)
        return (await self.event(letter)).payload if letter.by_reference else letter.payload

    async def event(self, letter: Letter) -> Message:
        """The event as it was, also of a letter by reference: its subject, payload and headers.

        ``NotFound`` where something of it has gone, ``ConfigError`` where the letter names what is
        not its event's.
        """
        letter = await self._whole(letter)
        if not letter.by_reference and not letter.headers_by_reference:
            return _event(letter, None)
        original = await self._original(letter)
        if original is None:
            what = "payload was" if letter.by_reference else "headers were"
            raise NotFound(
                f"{letter.id}: its {what} left in {letter.stream}:{letter.stream_seq}, which does "
                "not hold it any more: redrive it with a --payload, or discard it"
            )
        return _event(letter, original)

    async def redrive(
        self,
        letter: Letter,
        *,
        payload: bytes | None = None,
        to: Literal["consumer", "all"] = "consumer",
    ) -> None:
        """Bring one letter's event back, then take the letter out of the queue.

        To the consumer that failed alone, or to all. ``payload`` replaces the event's own. Raises
        ``NotFound`` where its consumer or its payload is not there, ``ConfigError`` where it cannot
        be sent as it is or the letter is not what it says, ``BrokerUnavailable`` where it could not
        be stored; the letter stays in all cases.
        """
        if not letter.goes(to_all=to == "all"):
            raise _only_shown(letter)
        letter = await self._whole(letter)
        event = await self._to_send(letter, payload)
        try:
            stream, message = form.redriven(
                letter, event, edited=payload is not None, to_all=to == "all"
            )
        except InvalidName as error:
            raise ConfigError(f"{letter.id} cannot be redriven: {error}; discard it") from error
        await self._check_receivable(letter, message, to=to)
        outcome = await self._sender.send(stream, message)
        if isinstance(outcome, Refused) and not outcome.heals:
            raise ConfigError(f"{letter.id}: {stream} refused it: {outcome.description}")
        if not isinstance(outcome, Stored):
            raise await self._sender.refusal(stream, message, outcome)
        await self._broker.admin.delete_message(letter.stored.stream, letter.stored.stream_seq)

    async def _to_send(self, letter: Letter, payload: bytes | None) -> Message:
        """What is to be redriven: the event, with ``payload`` where that is given."""
        original = await self._original(letter)
        if payload is not None:
            return replace(_event(letter, original), payload=payload)
        if original is None:
            return await self.event(letter)
        if not letter.by_reference and letter.payload != original.message.payload:
            raise ConfigError(
                f"{letter.id}: its payload is not that of {letter.stream}:{letter.stream_seq}, so "
                "no consumer of Seaway wrote it: discard it, or say what to send with --payload"
            )
        return _event(letter, original)

    async def _original(self, letter: Letter) -> StoredMessage | None:
        """The event where its letter says that it lies; ``None`` where it does not any more.

        ``ConfigError`` where another one lies there, or it is no place of the letter's context: it
        would show or send what belongs to somebody else.
        """
        if letter.foreign:
            return None
        if not letter.has_place:
            raise _only_shown(letter)
        if letter.stream == redrive_stream(stream_context(letter.stored.stream)):
            return None  # Which drops what is acknowledged, so that no letter refers there.
        found = await self._broker.admin.get(letter.stream, letter.stream_seq)
        if found is None:
            return None
        if (found.event_id, found.event_subject) == (letter.event_id, letter.subject):
            return found
        if found.stored_at > letter.stored.stored_at:
            # The stream was made anew, or put back: its places have been given a second time.
            return None
        raise ConfigError(
            f"{letter.id}: {letter.stream}:{letter.stream_seq} holds another event than its "
            f"{letter.event_id!r}, so no consumer of Seaway wrote it: discard it"
        )

    async def redrive_all(
        self,
        letters: Sequence[Letter],
        *,
        payload: bytes | None = None,
        to: Literal["consumer", "all"] = "consumer",
        rate: float | None = None,
    ) -> AsyncIterator[tuple[Letter, SeawayError | None]]:
        """``redrive`` each, at most ``rate`` a second; yields each, with the reason where it stays.

        One that cannot be redriven does not hold up the others. ``TransientError`` ends it.
        """
        loop = asyncio.get_running_loop()
        due = loop.time()
        for letter in letters:
            if rate:
                await asyncio.sleep(max(0.0, due - loop.time()))
                due = max(due, loop.time()) + 1 / rate
            try:
                await self.redrive(letter, payload=payload, to=to)
            except TransientError:
                raise
            except SeawayError as error:
                yield letter, error
            else:
                yield letter, None

    async def discard(self, letter: Letter) -> bool:
        """Take one letter out of the queue for good; whether it was there."""
        return await self._broker.admin.delete_message(
            letter.stored.stream, letter.stored.stream_seq
        )

    async def _check_receivable(
        self, letter: Letter, message: Message, *, to: Literal["consumer", "all"]
    ) -> None:
        redrives = redrive_stream(stream_context(letter.stored.stream))
        # Who failed on a foreign one is not known.
        receiver = letter.foreign or await self._broker.admin.consumer(redrives, letter.consumer)
        if not receiver:
            raise NotFound(
                f"{letter.id}: nobody receives redrives for {letter.consumer} on {redrives}: "
                "declare it and run `seaway topology apply`, or discard the letter"
            )
        info = await self._broker.admin.server_info()
        size, most = size_of(message), info.max_payload_bytes
        if to == "consumer":
            # The redrive stream keeps a message only until it is acknowledged: what could not be
            # buried again with its payload must not go there.
            size = size_as_letter(message, stream=redrives, consumer=letter.consumer)
        if size > most:
            raise ConfigError(
                f"{letter.id}: {size} bytes are more than the server's max_payload of {most}",
                hint="give a smaller --payload, or raise max_payload",
            )
        block = h.header_bytes(message.headers)
        if block > h.HEADER_BLOCK_BYTES:
            raise ConfigError(
                f"{letter.id}: its {block} bytes of headers are more than the "
                f"{h.HEADER_BLOCK_BYTES} that the server takes; discard it"
            )

    async def _whole(self, letter: Letter) -> Letter:
        if not letter.bare:
            return letter
        stored = await self._broker.admin.get(letter.stored.stream, letter.stored.stream_seq)
        if stored is None:
            raise NotFound(f"there is no dead letter {letter.id} any more")
        return form.read(stored)


def _only_shown(letter: Letter) -> ConfigError:
    return ConfigError(f"{letter.id}: {letter.problem}; {letter.remedy}")


def _event(letter: Letter, original: StoredMessage | None) -> Message:
    """The event as its letter has it; of the ``original``, where that is there still, its headers
    and what the letter refers to."""
    if original is None:
        return Message(letter.subject, letter.payload, letter.headers)
    payload = original.message.payload if letter.by_reference else letter.payload
    headers = {**form.carried(original.message.headers), h.EVENT_ID: letter.event_id}
    return Message(letter.subject, payload, headers)
