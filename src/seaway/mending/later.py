"""What the server is to send later: looked at, and cancelled (ADR 0030).

A cancelled one becomes a letter, again where it was one: an event leaves a consumer handled or as a
letter, and a wait that is over is neither. First the letter is stored, then what waited is taken
away; so whoever dies in between leaves both, and the inbox lets one of them pass.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from seaway import headers as h
from seaway.contracts import Broker, Message, Refused, Stored
from seaway.dead_letters.later import Scheduled, read
from seaway.dead_letters.letter import BY_REFERENCE, PAYLOAD
from seaway.dead_letters.selection import Selection
from seaway.dead_letters.sending import Sender
from seaway.dead_letters.writing import letter_subject
from seaway.errors import ConfigError, NotFound
from seaway.naming import dlq_stream, later_filter, redrive_stream, stream_context


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What was cancelled. ``letter``: the id of the letter that its event has now (``SEA_DLQ:17``).
    ``late``: it was sent, or cancelled by somebody else, in that moment: it may have been handled,
    and then redriving the letter does nothing."""

    scheduled: Scheduled
    letter: str
    late: bool


async def scheduled(
    broker: Broker, contexts: Sequence[str], wanted: Selection, *, reader: str
) -> AsyncGenerator[Scheduled]:
    """What waits in each of the ``contexts``, as far as it is ``wanted``; ids are those of their
    places (``SEA_REDRIVE:17``) or of events."""
    for context in contexts:
        stream = redrive_stream(context)
        if await broker.admin.stream(stream) is None:
            continue
        whole = wanted.reads_payloads
        reading = broker.admin.read(
            stream, filter_subjects=[later_filter(context)], headers_only=not whole, reader=reader
        )
        async with aclosing(reading):
            async for stored in reading:
                found = read(stored, bare=not whole)
                if wanted.takes(found.letter) and (
                    not whole or wanted.takes_payload(stored.message.payload)
                ):
                    yield found


async def cancel(broker: Broker, waiting: Scheduled) -> Cancelled:
    """Have it not be sent: its event becomes a letter.

    ``NotFound`` where it does not wait any more, ``ConfigError`` for what nobody of Seaway has
    written, ``BrokerUnavailable`` where the letter could not be stored: then it still waits.
    """
    stream, stream_seq = waiting.letter.stored.place
    stored = await broker.admin.get(stream, stream_seq)
    if stored is None:
        raise NotFound(f"{waiting.id} waits no more: it was sent, or cancelled before")
    whole = read(stored)
    if whole.letter.problem:
        raise ConfigError(f"{waiting.id}: {whole.letter.problem}; nothing is done with it")
    queue = dlq_stream(stream_context(stream))
    sender = Sender(broker)
    letter = await _letter(broker, whole)
    outcome = await sender.send(queue, letter)
    if isinstance(outcome, Refused) and not outcome.heals:
        raise ConfigError(f"{waiting.id}: {queue} refused its letter: {outcome.description}")
    if not isinstance(outcome, Stored):
        raise await sender.refusal(queue, letter, outcome)
    there = await broker.admin.delete_message(stream, stream_seq)
    return Cancelled(whole, f"{queue}:{outcome.stream_seq}", late=not there)


async def _letter(broker: Broker, waiting: Scheduled) -> Message:
    """The letter that it becomes: its event's own payload, where that is kept."""
    letter = waiting.letter
    headers = {
        name: value
        for name, value in letter.stored.message.headers.items()
        if not name.startswith("Nats-") and name != h.ATTEMPTS
    }
    place = f"{letter.id}:{h.format_time(letter.stored.stored_at)}"
    headers[h.MSG_ID] = f"cancelled:{place}:{letter.event_id}"
    context = stream_context(letter.stored.stream)
    made = Message(letter_subject(context, letter.subject), letter.payload, headers)
    if letter.stream == redrive_stream(context):
        return made
    original = await broker.admin.get(letter.stream, letter.stream_seq)
    if (
        original is not None
        and (original.event_id, original.event_subject) == (letter.event_id, letter.subject)
        and original.message.payload != letter.payload
    ):
        # It was to be sent with another one; a letter has its event's own.
        return replace(made, payload=b"", headers={**headers, PAYLOAD: BY_REFERENCE})
    return made
