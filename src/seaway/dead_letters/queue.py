"""The dead letter queues: store, list, show, redrive, discard.

Authoritative: the ``{CONTEXT}_DLQ`` stream; there is no second list anywhere.

Redrive publishes first and removes the letter after the acknowledgement. A crash in between leaves
the letter, and redriving it again publishes under the same message id: within the stream's
duplicate window it is stored once, and beyond it the consumer's inbox knows the event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from seaway.contracts import Broker, DeadLetterReason, Incoming, Message, Stored
from seaway.dead_letters import letter as form
from seaway.dead_letters.letter import Letter
from seaway.errors import BrokerUnavailable, ConfigError, InvalidName, NotFound
from seaway.naming import context_of, covers, stream_context

_TIMEOUT = timedelta(seconds=5)


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
    """The letters of every context on this server (``contracts.DeadLetterSink``)."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def store(
        self, incoming: Incoming, *, reason: DeadLetterReason, error: BaseException | None
    ) -> None:
        """Return when the queue has acknowledged the letter.

        ``BrokerUnavailable`` otherwise: leave the message where it is. Idempotent within the
        queue's duplicate window.
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
        await self._publish(stream, message)

    async def letters(self, selection: Selection | None = None) -> AsyncIterator[Letter]:
        """The selected letters, oldest first in each queue."""
        wanted = selection or Selection()
        for stream in await self._queues(wanted):
            filters = []
            if wanted.subject is not None:
                filters = [f"{stream_context(stream)}.dlq.{wanted.subject}"]
            async for stored in self._broker.admin.read(stream, filter_subjects=filters):
                letter = form.read(stored)
                if wanted.takes(letter):
                    yield letter

    async def list(self, selection: Selection | None = None, *, limit: int = 0) -> Sequence[Letter]:
        """The selected letters; at most ``limit`` where it is not 0."""
        found: list[Letter] = []
        async for letter in self.letters(selection):
            found.append(letter)
            if len(found) == limit:
                break
        return found

    async def get(self, letter_id: str, *, consumer: str | None = None) -> Letter:
        """One letter by its id or its event's id; ``NotFound``, or ``ConfigError`` for several."""
        found = await self.list(Selection(ids=(letter_id,), consumer=consumer))
        if not found:
            raise NotFound(f"there is no dead letter {letter_id}")
        if len(found) > 1:
            names = ", ".join(f"{letter.id} ({letter.consumer})" for letter in found)
            raise ConfigError(f"{letter_id} has several letters: {names}", hint="name one of them")
        return found[0]

    async def count(self) -> dict[str, int]:
        """How many letters each queue holds."""
        return {
            info["config"]["name"]: int(info["state"]["messages"])
            for info in await self._broker.admin.streams()
            if info["config"]["name"].endswith("_DLQ")
        }

    async def redrive(
        self,
        letter: Letter,
        *,
        payload: bytes | None = None,
        to: Literal["consumer", "all"] = "consumer",
    ) -> None:
        """Bring one letter's event back, then take the letter out of the queue.

        To the consumer that failed alone, or to all. ``payload`` replaces the event's own. Raises
        ``NotFound`` where nobody would receive it, ``BrokerUnavailable`` where it could not be
        stored; the letter stays in both cases.
        """
        if not letter.consumer or not letter.stream:
            raise ConfigError(f"{letter.id} does not say which consumer failed; discard it")
        try:
            stream, message = form.redriven(letter, payload=payload, to_all=to == "all")
        except InvalidName as error:
            raise ConfigError(f"{letter.id} cannot be redriven: {error}") from error
        if to == "all" and stream.endswith("_REDRIVE"):
            stream = f"{context_of(letter.subject).upper()}_EVENTS"
        if to == "consumer" and await self._broker.admin.consumer(stream, letter.consumer) is None:
            raise NotFound(
                f"{letter.id}: nobody receives redrives for {letter.consumer} on {stream}: "
                "run `seaway topology apply`, or redrive --to all"
            )
        await self._publish(stream, message)
        await self._broker.admin.delete_message(letter.stored.stream, letter.stored.stream_seq)

    async def redrive_all(
        self,
        letters: Sequence[Letter],
        *,
        payload: bytes | None = None,
        to: Literal["consumer", "all"] = "consumer",
        rate: float | None = None,
    ) -> AsyncIterator[Letter]:
        """``redrive`` each, at most ``rate`` a second; yields each that is done."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for letter in letters:
            if rate:
                await asyncio.sleep(max(0.0, due - loop.time()))
                due = max(due, loop.time()) + 1 / rate
            await self.redrive(letter, payload=payload, to=to)
            yield letter

    async def discard(self, letter: Letter) -> bool:
        """Take one letter out of the queue for good; whether it was there."""
        return await self._broker.admin.delete_message(
            letter.stored.stream, letter.stored.stream_seq
        )

    async def _queues(self, selection: Selection) -> Sequence[str]:
        names = sorted((await self.count()).keys())
        contexts = {name: stream_context(name) for name in names}
        if selection.subject is not None and "*" not in selection.subject.partition(".")[0]:
            first = selection.subject.partition(".")[0]
            names = [name for name in names if first in (">", contexts[name])]
        return names

    async def _publish(self, stream: str, message: Message) -> None:
        [outcome] = await self._broker.publish(stream, [message], timeout=_TIMEOUT)
        if not isinstance(outcome, Stored):
            if await self._broker.admin.stream(stream) is None:
                raise BrokerUnavailable(f"there is no stream {stream}: run `seaway topology apply`")
            raise BrokerUnavailable(f"{stream} did not take {message.subject}: {outcome}")
