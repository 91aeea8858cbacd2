"""The dead letter queues: store, list, show, redrive, discard.

Authoritative: the ``{CONTEXT}_DLQ`` stream; there is no second list anywhere.

Listing reads the queue, oldest first: its price grows with the queue, unless letter ids are given.
Payloads are read only where they are asked for.

Redrive publishes first and removes the letter after the acknowledgement. A crash in between leaves
the letter, and redriving it again publishes under the same message id: within the stream's
duplicate window it is stored once, and beyond it the consumer's inbox knows the event.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from seaway import headers as h
from seaway.contracts import (
    DENIED,
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
from seaway.errors import (
    BrokerUnavailable,
    ConfigError,
    InvalidName,
    NotFound,
    NotPermitted,
    SeawayError,
    TransientError,
)
from seaway.naming import OPERATOR, check_filter, covers, dlq_stream, stream_context
from seaway.parked import Place

_TIMEOUT = timedelta(seconds=5)
_LETTER_ID = re.compile(r"([A-Z][A-Z0-9_]*_DLQ):([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters. Empty: all of them. ``ids`` are letter ids (``SEA_DLQ:17``) or event ids."""

    ids: tuple[str, ...] = ()
    consumer: str | None = None
    subject: str | None = None
    """The event's subject; may hold wildcards."""
    reason: str | None = None
    error_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if self.subject is not None:
            check_filter(self.subject)

    def may_take(self, stored: StoredMessage) -> bool:
        """What two headers say, before the others are looked at: queues can be long."""
        headers = stored.message.headers
        return self.reason in (None, headers.get(h.DLQ_REASON, "")) and self.consumer in (
            None,
            headers.get(h.DLQ_CONSUMER, ""),
        )

    def takes(self, letter: Letter) -> bool:
        """Whether ``letter`` is one of them."""
        return (
            (not self.ids or letter.id in self.ids or letter.event_id in self.ids)
            and self.consumer in (None, letter.consumer)
            and (self.subject is None or covers(self.subject, letter.subject))
            and self.reason in (None, letter.reason)
            and self.error_type in (None, letter.error_type, letter.error_type.rpartition(".")[2])
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )


class DeadLetters:
    """The letters of every context on this server (``contracts.DeadLetterSink``).

    ``reader``: as who to read them. ``queues``: the only ones that are looked for letters.
    """

    def __init__(
        self, broker: Broker, *, reader: str = OPERATOR, queues: Sequence[str] | None = None
    ) -> None:
        self._broker = broker
        self._reader = reader
        self._queues = queues

    async def store(
        self, incoming: Incoming, *, reason: DeadLetterReason, error: BaseException | None
    ) -> int:
        """Return when the queue has acknowledged the letter: its sequence there.

        ``TransientError`` otherwise: leave the message where it is. Idempotent within the queue's
        duplicate window.
        """
        stream, _ = form.queue_of(incoming)
        info = await self._broker.admin.server_info()
        message = form.write(
            incoming,
            reason=reason,
            error=error,
            failed_at=datetime.now(UTC),
            room=info.max_payload_bytes,
        )
        if form.PAYLOAD in message.headers:
            await self._check_kept(incoming)
        return await self._publish(stream, message)

    async def lettered(self, consumer: str, messages: Collection[Incoming]) -> set[Place]:
        """Where those of the messages lie that have a letter of this consumer. Reads headers only,
        of the letters of events of the same types."""
        queues: dict[str, set[str]] = {}
        for message in messages:
            queue, subject = form.queue_of(message)
            queues.setdefault(queue, set()).add(subject)
        found: set[tuple[Place, str]] = set()
        for queue, subjects in queues.items():
            if await self._broker.admin.stream(queue) is None:
                continue
            selected = self._selected(
                queue, sorted(subjects), Selection(consumer=consumer), payloads=False
            )
            async with aclosing(selected) as letters:
                async for letter in letters:
                    found.add(((letter.stream, letter.stream_seq), letter.event_id))
        return {one.place for one in messages if (one.place, one.event_id) in found}

    async def letters(
        self, selection: Selection | None = None, *, payloads: bool = True
    ) -> AsyncGenerator[Letter]:
        """The selected letters, oldest first in each queue. Close it where you leave it early.

        Without ``payloads``, ``bare`` ones, and the server sends headers only.
        """
        wanted = selection or Selection()
        if wanted.ids and all(map(_LETTER_ID.fullmatch, wanted.ids)):
            for place in dict.fromkeys(wanted.ids):
                stream, _, stream_seq = place.partition(":")
                stored = await self._broker.admin.get(stream, int(stream_seq))
                if stored is not None and wanted.takes(letter := form.read(stored)):
                    yield letter
            return
        for stream in sorted(await self.count()) if self._queues is None else self._queues:
            if self._queues is not None and await self._broker.admin.stream(stream) is None:
                continue
            filters = []
            if wanted.subject is not None:
                filters = [f"{stream_context(stream)}.dlq.{wanted.subject}"]
            selected = self._selected(stream, filters, wanted, payloads=payloads)
            async with aclosing(selected) as letters:
                async for letter in letters:
                    yield letter

    async def _selected(
        self, queue: str, subjects: Sequence[str], wanted: Selection, *, payloads: bool
    ) -> AsyncGenerator[Letter]:
        """One queue's letters with these subjects (none: all), as far as they are ``wanted``."""
        stream = self._broker.admin.read(
            queue, filter_subjects=subjects, headers_only=not payloads, reader=self._reader
        )
        # Left to the garbage collector, a reader abandoned early outlives its connection.
        async with aclosing(stream):
            async for stored in stream:
                if not wanted.may_take(stored):
                    continue
                if wanted.takes(letter := form.read(stored, bare=not payloads)):
                    yield letter

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
        found = await self.list(Selection(reason="parked"), payloads=False)
        if letters is None:
            return found
        failed = {(one.consumer, one.key) for one in letters if not one.waits}
        return [one for one in found if (one.consumer, one.key) in failed]

    async def count(self) -> dict[str, int]:
        """How many letters each queue holds."""
        return {
            info["config"]["name"]: int(info["state"]["messages"])
            for info in await self._broker.admin.streams()
            if _is_queue(info["config"]["name"])
        }

    async def payload(self, letter: Letter) -> bytes:
        """The event's payload, also of a letter by reference; ``NotFound`` where it has gone."""
        letter = await self._whole(letter)
        if not letter.by_reference:
            return letter.payload
        found = await self._broker.admin.get(letter.stream, letter.stream_seq)
        if found is None or found.event_id != letter.event_id:
            raise NotFound(
                f"{letter.id}: its payload was left in {letter.stream}:{letter.stream_seq}, "
                "which does not hold it any more"
            )
        return found.message.payload

    async def redrive(
        self,
        letter: Letter,
        *,
        payload: bytes | None = None,
        to: Literal["consumer", "all"] = "consumer",
    ) -> None:
        """Bring one letter's event back, then take the letter out of the queue.

        To the consumer that failed alone, or to all. ``payload`` replaces the event's own. Raises
        ``NotFound`` where nobody would receive it, ``ConfigError`` where it cannot be sent as it
        is, ``BrokerUnavailable`` where it could not be stored; the letter stays in all cases.
        """
        if letter.problem:
            raise ConfigError(f"{letter.id} cannot be redriven: {letter.problem}; discard it")
        letter = await self._whole(letter)
        if payload is None:
            payload = await self.payload(letter) if letter.by_reference else None
        try:
            stream, message = form.redriven(letter, payload=payload, to_all=to == "all")
        except InvalidName as error:
            raise ConfigError(
                f"{letter.id} cannot be redriven to its consumer: {error}; redrive --to all"
            ) from error
        if to == "consumer":
            await self._check_receivable(letter, stream, message)
        await self._publish(stream, message)
        await self._broker.admin.delete_message(letter.stored.stream, letter.stored.stream_seq)

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

    async def _check_kept(self, incoming: Incoming) -> None:
        """A letter by reference is only as good as the message that it refers to."""
        info = await self._broker.admin.stream(incoming.stream)
        if info is None or info["config"].get("retention") != "limits":
            raise TransientError(
                f"{incoming.stream}:{incoming.stream_seq} leaves no room for a letter's headers, "
                "and its stream would drop it: raise the server's max_payload"
            )

    async def _check_receivable(self, letter: Letter, stream: str, message: Message) -> None:
        consumer = await self._broker.admin.consumer(stream, letter.consumer)
        if consumer is None:
            raise NotFound(
                f"{letter.id}: nobody receives redrives for {letter.consumer} on {stream}: "
                "run `seaway topology apply`, or redrive --to all"
            )
        # The redrive stream keeps a message only until it is acknowledged: what could not be
        # buried again with its payload must not go there.
        info = await self._broker.admin.server_info()
        size = form.size_as_letter(message, stream=stream, consumer=letter.consumer)
        if size > info.max_payload_bytes:
            raise ConfigError(
                f"{letter.id}: {size} bytes as a letter are more than the server's "
                f"max_payload of {info.max_payload_bytes}",
                hint="give a smaller --payload, or raise max_payload",
            )

    async def _whole(self, letter: Letter) -> Letter:
        if not letter.bare:
            return letter
        stored = await self._broker.admin.get(letter.stored.stream, letter.stored.stream_seq)
        if stored is None:
            raise NotFound(f"there is no dead letter {letter.id} any more")
        return form.read(stored)

    async def _publish(self, stream: str, message: Message) -> int:
        [outcome] = await self._broker.publish(stream, [message], timeout=_TIMEOUT)
        if isinstance(outcome, Stored):
            return outcome.stream_seq
        if isinstance(outcome, Refused) and outcome.code == DENIED:
            raise NotPermitted("publish", message.subject, message.subject)
        if await self._broker.admin.stream(stream) is None:
            raise BrokerUnavailable(f"there is no stream {stream}: run `seaway topology apply`")
        reason = outcome.description if isinstance(outcome, Refused) else str(outcome)
        raise BrokerUnavailable(f"{stream} did not take {message.subject}: {reason}")


def _is_queue(stream: str) -> bool:
    try:
        return dlq_stream(stream_context(stream)) == stream
    except InvalidName:
        return False
