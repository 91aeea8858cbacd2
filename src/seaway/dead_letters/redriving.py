"""Letters' events on their way back: what a letter's event is, and many of them sent at a time.

    letters ──> ready: whole, its event changed, and it can be received and buried again
                  │ or why it stays
                  └──> sent, those of a key in order ──acknowledged──> their letters removed

Publishes first and removes a letter after the acknowledgement. A crash in between leaves the
letter, and redriving it again publishes under the same message id: within the stream's duplicate
window it is stored once, and beyond it the consumer's inbox knows the event.

A letter is somebody's word. Nothing is done for one with a ``problem``; and where its event still
lies where it says, that must be the one that it says, and goes on with the headers that it has
there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from seaway import headers as h
from seaway.contracts import (
    Broker,
    Held,
    Message,
    PublishOutcome,
    Refused,
    Stored,
    StoredMessage,
)
from seaway.dead_letters import letter as form
from seaway.dead_letters.later import Later
from seaway.dead_letters.letter import Letter
from seaway.dead_letters.sending import Sender
from seaway.dead_letters.writing import size_as_letter, size_of
from seaway.errors import (
    BrokerUnavailable,
    ConfigError,
    InvalidName,
    NotFound,
    SeawayError,
)
from seaway.naming import redrive_stream, stream_context

Target: TypeAlias = Literal["consumer", "all"]
Change: TypeAlias = Callable[[Letter, Message], Awaitable[Message]]
"""What a letter's event is sent as; a ``SeawayError`` says why it is not sent."""

BATCH = 500
"""Letters that are on their way at a time."""


class Place(NamedTuple):
    """Where a redrive was stored; sequence 0: that is not known."""

    stream: str
    stream_seq: int


@dataclass(frozen=True, slots=True)
class Ready:
    """What would be sent for a letter, which is whole."""

    letter: Letter
    stream: str
    message: Message
    changed: bool = False


class Pace:
    """At most ``rate`` letters a second; ``None``: as fast as it goes. ``batch``: how many to send
    at a time."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._due = asyncio.get_running_loop().time()
        self.batch = BATCH if not rate else max(1, min(BATCH, int(rate / 4)))

    async def turn(self, count: int) -> None:
        """Return when so many more may go."""
        if self._rate:
            now = asyncio.get_running_loop().time
            await asyncio.sleep(max(0.0, self._due - now()))
            self._due = max(self._due, now()) + count / self._rate


class Redriving:
    """Over ``broker``. Of many, each has its own outcome, in the order given."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._sender = Sender(broker)
        self._later = Later(broker)

    async def redrive(
        self,
        letters: Sequence[Letter],
        *,
        payload: bytes | None = None,
        to: Target = "consumer",
        at: datetime | None = None,
    ) -> list[Place | SeawayError]:
        """Bring their events back and remove them: where each lies then, or why it stays. ``at``:
        as in ``send``."""
        found = await self.ready(letters, payload=payload, to=to)
        sent = iter(await self.send([one for one in found if isinstance(one, Ready)], at=at))
        return [next(sent) if isinstance(one, Ready) else one for one in found]

    async def ready(
        self,
        letters: Sequence[Letter],
        *,
        payload: bytes | None = None,
        to: Target = "consumer",
        change: Change | None = None,
    ) -> list[Ready | SeawayError]:
        """What would be sent for each, or why it would stay. Nothing is changed.

        ``payload``: in place of the event's own. ``change``: is given each letter and its event,
        with the ``payload``. ``NotFound`` of a letter that somebody has taken out.
        """
        twins = await self._twins(letters)

        async def one(letter: Letter) -> Ready | SeawayError:
            try:
                return await self._ready(letter, payload, to, change, twins)
            except SeawayError as error:
                return error

        return await asyncio.gather(*map(one, letters))

    async def send(
        self, ready: Sequence[Ready], *, at: datetime | None = None
    ) -> list[Place | SeawayError]:
        """Publish each, then remove its letter: where it lies then, or why it was not stored.

        Where its letter could not be removed, that is its outcome: it may be sent again. ``at``:
        the server is to send it then, to its consumer alone; where it lies then is not known.
        """
        if at is not None:
            return await asyncio.gather(*(self._sent_later(one, at) for one in ready))
        by_stream: dict[str, list[int]] = {}
        for place, one in enumerate(ready):
            by_stream.setdefault(one.stream, []).append(place)
        outcomes: dict[int, Place | SeawayError] = {}
        for stream, places in by_stream.items():
            some = [ready[place] for place in places]
            sent = await self._sender.send_all(stream, [one.message for one in some])
            settled = await asyncio.gather(*map(self._settled, some, sent))
            outcomes.update(zip(places, settled, strict=True))
        return [outcomes[place] for place in range(len(ready))]

    async def _sent_later(self, ready: Ready, at: datetime) -> Place | SeawayError:
        letter = ready.letter
        if ready.stream != _twin(letter)[0]:
            return ConfigError(f"{letter.id}: at a time it can be redriven to its consumer only")
        try:
            await self._later.send(letter, ready.message, at=at)
            await self.remove(letter)
        except SeawayError as error:
            return error
        return Place(ready.stream, 0)

    async def _settled(self, ready: Ready, outcome: PublishOutcome) -> Place | SeawayError:
        letter, stream = ready.letter, ready.stream
        try:
            if isinstance(outcome, Held):
                return BrokerUnavailable(f"{stream} took nothing more: {letter.id} was not sent")
            if isinstance(outcome, Refused) and not outcome.heals:
                return ConfigError(f"{letter.id}: {stream} refused it: {outcome.description}")
            if not isinstance(outcome, Stored):
                return await self._sender.refusal(stream, ready.message, outcome)
            await self.remove(letter)
        except SeawayError as error:
            return error
        return Place(stream, outcome.stream_seq)

    async def remove(self, letter: Letter) -> bool:
        """Take it out of its queue; whether it was there."""
        return await self._broker.admin.delete_message(*letter.stored.place)

    async def whole(self, letter: Letter) -> Letter:
        """The letter with its payload; ``NotFound`` where it has been taken out."""
        if not letter.bare:
            return letter
        stored = await self._broker.admin.get(*letter.stored.place)
        if stored is None or stored.stored_at != letter.stored.stored_at:
            raise NotFound(f"there is no dead letter {letter.id} any more")
        return form.read(stored)

    async def event(self, letter: Letter) -> Message:
        """The event as it was. See ``DeadLetters.event``."""
        letter = await self.whole(letter)
        if not letter.by_reference and not letter.headers_by_reference:
            return _event(letter, None)
        return _of_whole(letter, await self._original(letter))

    async def _ready(
        self,
        letter: Letter,
        payload: bytes | None,
        to: Target,
        change: Change | None,
        twins: Mapping[tuple[str, str], bool | SeawayError],
    ) -> Ready:
        if not letter.goes(to_all=to == "all"):
            raise only_shown(letter)
        letter = await self.whole(letter)
        before = await self._to_send(letter, payload)
        event = was = before.event
        if change is not None:
            event = replace(await change(letter, event), subject=event.subject)
        edition = event.payload if payload is not None or event.payload != was.payload else None
        if event.headers != was.headers:
            edition = b"\0".join((event.payload, *(f"{pair}".encode() for pair in _sorted(event))))
        if event.payload != before.payload or event.headers != was.headers:
            # What it was at first: it may be mended more than once.
            event = replace(event, headers={h.MENDED_FROM: _hash(before.payload), **event.headers})
        try:
            stream, message = form.redriven(letter, event, edition=edition, to_all=to == "all")
        except InvalidName as error:
            raise ConfigError(f"{letter.id} cannot be redriven: {error}; discard it") from error
        await self._check_receivable(letter, message, to, twins)
        return Ready(letter, stream, message, edition is not None)

    async def to_send(self, letter: Letter, to: Target) -> Message:
        """What a redrive of it would send, unless that is changed. ``NotFound`` where something of
        it has gone, ``ConfigError`` where nothing is sent of it as it is."""
        if not letter.goes(to_all=to == "all"):
            raise only_shown(letter)
        return (await self._to_send(await self.whole(letter), None)).event

    async def as_written(self, letter: Letter) -> StoredMessage | None:
        """The event where it lies as its writer wrote it, however often it was redriven and mended
        since; ``None`` where it does not any more, or nobody says where."""
        if letter.event_place is None:
            return None
        found = await self._broker.admin.get(*letter.event_place)
        if found is None or (found.event_id, found.event_subject) != (
            letter.event_id,
            letter.subject,
        ):
            return None
        return found

    async def _to_send(self, letter: Letter, payload: bytes | None) -> _Before:
        original = await self._original(letter)
        if payload is not None:
            event = _event(letter, original)
            gone = letter.by_reference and original is None
            return _Before(replace(event, payload=payload), None if gone else event.payload)
        if original is None:
            event = _of_whole(letter, None)
            return _Before(event, event.payload)
        if not letter.by_reference and letter.payload != original.message.payload:
            raise ConfigError(
                f"{letter.id}: its payload is not that of {letter.stream}:{letter.stream_seq}, so "
                "no consumer of Seaway wrote it: discard it, or say what to send with --payload"
            )
        event = _event(letter, original)
        return _Before(event, event.payload)

    async def _original(self, letter: Letter) -> StoredMessage | None:
        """The event where its letter says that it lies; ``None`` where it does not any more.

        ``ConfigError`` where another one lies there, or it is no place of the letter's context: it
        would show or send what belongs to somebody else.
        """
        if letter.foreign:
            return None
        if not letter.has_place:
            raise only_shown(letter)
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

    async def _twins(self, letters: Sequence[Letter]) -> dict[tuple[str, str], bool | SeawayError]:
        """Of each stream of redrives and consumer, whether anybody receives them."""
        wanted = dict.fromkeys(_twin(one) for one in letters if not one.problem)
        found: dict[tuple[str, str], bool | SeawayError] = {}
        for twin in wanted:
            try:
                found[twin] = await self._broker.admin.consumer(*twin) is not None
            except SeawayError as error:
                found[twin] = error
        return found

    async def _check_receivable(
        self,
        letter: Letter,
        message: Message,
        to: Target,
        twins: Mapping[tuple[str, str], bool | SeawayError],
    ) -> None:
        redrives, consumer = twin = _twin(letter)
        there = letter.foreign or twins[twin]  # Who failed on a foreign one is not known.
        if isinstance(there, SeawayError):
            raise there
        if not there:
            raise NotFound(
                f"{letter.id}: nobody receives redrives for {consumer} on {redrives}: "
                "declare it and run `seaway topology apply`, or discard the letter"
            )
        info = await self._broker.admin.server_info()
        size, most = size_of(message), info.max_payload_bytes
        if to == "consumer" and size + h.HEADER_BLOCK_BYTES > most:
            # The redrive stream keeps a message only until it is acknowledged: what could not be
            # buried again with its payload must not go there. Few are that large.
            size = size_as_letter(message, stream=redrives, consumer=consumer)
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


class _Before(NamedTuple):
    """What is to be redriven before anybody changes it, and the payload that its letter has;
    ``None`` where that has gone."""

    event: Message
    payload: bytes | None


def _hash(payload: bytes | None) -> str:
    return f"sha256:{'unknown' if payload is None else hashlib.sha256(payload).hexdigest()}"


def _twin(letter: Letter) -> tuple[str, str]:
    return redrive_stream(stream_context(letter.stored.stream)), letter.consumer


def _sorted(event: Message) -> list[tuple[str, str]]:
    return sorted(event.headers.items())


def only_shown(letter: Letter) -> ConfigError:
    """Of a letter with a problem."""
    return ConfigError(f"{letter.id}: {letter.problem}; {letter.remedy}")


def _event(letter: Letter, original: StoredMessage | None) -> Message:
    """The event as its letter has it; of the ``original``, where that is there still, its headers
    and what the letter refers to."""
    if original is None:
        return Message(letter.subject, letter.payload, letter.headers)
    payload = original.message.payload if letter.by_reference else letter.payload
    headers = {**form.carried(original.message.headers), h.EVENT_ID: letter.event_id}
    return Message(letter.subject, payload, headers)


def _of_whole(letter: Letter, original: StoredMessage | None) -> Message:
    """The same; ``NotFound`` where something of it was left with an original that has gone."""
    if original is None and (letter.by_reference or letter.headers_by_reference):
        what = "payload was" if letter.by_reference else "headers were"
        raise NotFound(
            f"{letter.id}: its {what} left in {letter.stream}:{letter.stream_seq}, which does "
            "not hold it any more: redrive it with a --payload, or discard it"
        )
    return _event(letter, original)
