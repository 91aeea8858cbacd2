"""Redrives that the server sends later (ADR 0030): retries that were put off, letters with a time.

    Retry(after=6h) ──put_off──┐                              ┌─ its time ──> a redrive ──> handled
    redrive(letter, at=...) ───┴──> waits in {CONTEXT}_REDRIVE ┤
                                                              └─ cancelled ─> a letter

What waits is the event, whole, with the headers of its letter: so it is listed as one, and is one
again where somebody cancels it. It lies under a subject of its own for each event and consumer,
which no durable reads: one that is put off again takes the place of what was there.

Owns: that form, and whether a stream can do it. Guarantees: what is called stored is stored, and
comes once; the caller settles the message, or removes the letter, after that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from seaway import headers as h
from seaway.contracts import Broker, Incoming, Message, Stored, StoredMessage, StreamInfo
from seaway.dead_letters import letter as form
from seaway.dead_letters.letter import HEADERS, PAYLOAD, Letter
from seaway.dead_letters.sending import Sender
from seaway.dead_letters.writing import size_as_letter, write
from seaway.errors import LONGEST, ConfigError, SeawayError
from seaway.naming import (
    MAX_WIRE_SUBJECT_BYTES,
    events_stream,
    is_durable,
    is_event_of,
    later_subject,
    original_subject,
    redrive_stream,
    stream_context,
)

_OWN_BYTES = 256
"""What the server adds to the headers, besides two subjects."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What waits for its time. ``letter``: as it would lie in the queue; its ``id`` is the place
    where it waits (``SEA_REDRIVE:17``). ``at``: by the server's clock; ``None``: not to be read."""

    letter: Letter
    at: datetime | None

    @property
    def id(self) -> str:
        """What people call it: ``SEA_REDRIVE:17``."""
        return self.letter.id

    @property
    def target(self) -> str:
        """The subject that it is sent to."""
        return self.letter.stored.message.headers.get(h.SCHEDULE_TARGET, "")


def read(stored: StoredMessage, *, bare: bool = False) -> Scheduled:
    """What waits in a stored message. Never fails: what it names that cannot be makes a letter with
    a ``problem``."""
    headers, context = stored.message.headers, stream_context(stored.stream)
    subject = original_subject(headers.get(h.SCHEDULE_TARGET, ""))
    message = replace(stored.message, subject=f"{context}.dlq.{subject}")
    letter = form.read(replace(stored, message=message), bare=bare)
    try:
        return Scheduled(letter, h.parse_schedule(headers.get(h.SCHEDULE, "")))
    except ValueError as error:
        problem = letter.problem or f"{h.SCHEDULE}: {error}"
        return Scheduled(replace(letter, problem=problem), None)


def cannot_wait(stream: str, info: StreamInfo | None, wait: timedelta) -> str:
    """Why nothing can wait there for so long; empty where it can."""
    if info is None:
        return f"there is no stream {stream}: run `seaway topology apply`"
    if not info.schedules:
        return (
            f"{stream} sends nothing later: that needs nats-server 2.12 or newer, and `seaway "
            "topology apply`"
        )
    if info.max_age is not None and info.max_age <= wait:
        return f"{stream} keeps nothing for so long: its max_age is {info.max_age}"
    return ""


def now_of(info: StreamInfo | None) -> datetime:
    """The time by the server's clock, which it sends by; ours where it does not say."""
    return (info and info.asked_at) or datetime.now(UTC)


class Later:
    """Has things sent later, over ``broker``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._sender = Sender(broker)

    async def put_off(
        self, incoming: Incoming, *, after: timedelta, error: BaseException | None
    ) -> str:
        """See ``contracts.DeadLetterSink``."""
        context = stream_context(incoming.stream)
        stream = redrive_stream(context)
        try:
            info = await self._broker.admin.stream(stream)
            if why := cannot_wait(stream, info, after):
                return why
            if not is_event_of(context, incoming.event_subject) or not is_durable(
                incoming.consumer
            ):
                return "a redrive cannot have its subject"
            room = (await self._broker.admin.server_info()).max_payload_bytes
            message = _retry(incoming, error, room)
            if message is None:
                return "there is no room for it beside what a letter says"
            under = later_subject(context, incoming.consumer, incoming.event_id)
            outcome = await self._sender.schedule(
                stream, message, at=now_of(info) + after, under=under
            )
            if isinstance(outcome, Stored):
                return ""
            return str(await self._sender.refusal(stream, replace(message, subject=under), outcome))
        except SeawayError as failure:
            return str(failure)

    async def send(self, letter: Letter, redrive: Message, *, at: datetime) -> datetime:
        """Have a letter's ``redrive`` sent at ``at``, by the server's clock, which is given back as
        it is now. ``ConfigError`` where that cannot be, ``BrokerUnavailable`` where it could not be
        stored."""
        context = stream_context(letter.stored.stream)
        stream = redrive_stream(context)
        info = await self._broker.admin.stream(stream)
        now = now_of(info)
        if at <= now:
            raise ConfigError(
                f"{h.format_time(at)} is past: by the server's clock it is {h.format_time(now)}"
            )
        if at - now > LONGEST:
            raise ConfigError(f"{h.format_time(at)} is more than a year from now")
        if why := cannot_wait(stream, info, at - now):
            raise ConfigError(why, hint="redrive it when it is time")
        said = {
            name: value
            for name, value in letter.stored.message.headers.items()
            if name.startswith(h.DLQ_PREFIX) and name not in (PAYLOAD, HEADERS)
        }
        own = {h.MSG_ID: f"later:{redrive.headers[h.MSG_ID]}:{h.format_time(at)}"}
        under = later_subject(context, letter.consumer, letter.event_id)
        message = _fitting(replace(redrive, headers={**redrive.headers, **said, **own}), under)
        if message is None:
            raise ConfigError(f"{letter.id}: there is no room for what its redrive takes along")
        outcome = await self._sender.schedule(stream, message, at=at, under=under)
        if not isinstance(outcome, Stored):
            raise await self._sender.refusal(stream, replace(message, subject=under), outcome)
        return now


def _retry(incoming: Incoming, error: BaseException | None, room: int) -> Message | None:
    """What brings a message back to its consumer; ``None`` where there is no room for all of it, or
    would be none once it became a letter: nothing else keeps it."""
    context, consumer = stream_context(incoming.stream), incoming.consumer
    subject = f"{context}.redrive.{consumer}.{incoming.event_subject}"
    if len(subject.encode()) > MAX_WIRE_SUBJECT_BYTES:
        return None
    under = later_subject(context, consumer, incoming.event_id)
    spare = _OWN_BYTES + len(subject.encode()) + len(under)
    letter = write(
        incoming,
        reason="exhausted",  # Once it is cancelled, it has no further try.
        error=error,
        failed_at=datetime.now(UTC),
        room=room - spare,
        kept=False,
    )
    if HEADERS in letter.headers or h.DLQ_REASON not in letter.headers:
        return None
    own = {
        h.MSG_ID: f"later:{consumer}:{incoming.identity}:{incoming.event_id}:{incoming.deliveries}",
        h.ATTEMPTS: str(incoming.deliveries),
    }
    if incoming.stream == events_stream(context):
        own[h.EVENT_PLACE] = f"{incoming.stream}:{incoming.stream_seq}"
    message = Message(subject, letter.payload, {**letter.headers, **own})
    if size_as_letter(message, stream=redrive_stream(context), consumer=consumer) > room:
        return None
    return _fitting(message, under)


def _fitting(message: Message, under: str) -> Message | None:
    """``message`` with headers that a server takes when it sends it; what is said of its error
    gives way. ``None``: too many are left."""
    most = h.HEADER_BLOCK_BYTES - _OWN_BYTES - len(message.subject.encode()) - len(under)
    headers = dict(message.headers)
    for name in (h.DLQ_ERROR_STACK, h.DLQ_ERROR, h.DLQ_ERROR_TYPE):
        if h.header_bytes(headers) <= most:
            break
        headers.pop(name, None)
    return replace(message, headers=headers) if h.header_bytes(headers) <= most else None
