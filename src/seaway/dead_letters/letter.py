"""A dead letter's form: what is kept of the message, and what is said of its failure. Pure.

Guarantees: the payload is kept byte for byte, the original headers too but for those by which
JetStream would act on the letter itself; a hostile text cannot add headers; reading back what was
written gives the same.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from seaway import headers as h
from seaway.contracts import DeadLetterReason, Incoming, Message, StoredMessage
from seaway.errors import DecodeError, InvalidName
from seaway.naming import (
    context_of,
    dlq_stream,
    dlq_subject,
    original_subject,
    parse_dlq_subject,
    redrive_stream,
    redrive_subject,
    stream_context,
)

ERROR_BYTES = 1024
STACK_BYTES = 8 * 1024

_CONTROL = re.compile(r"nats-", re.IGNORECASE)
"""Headers of JetStream's own: an id, an expectation, a batch, a TTL or a schedule belongs to the
publication that it came with, and would act on the letter."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it lies in its queue."""

    stored: StoredMessage
    event_id: str
    subject: str
    """The event's own subject."""
    stream: str
    stream_seq: int
    consumer: str
    deliveries: int
    reason: str
    error_type: str
    error: str
    stack: str
    failed_at: datetime

    @property
    def id(self) -> str:
        """What people call it: ``SEA_DLQ:17``."""
        return f"{self.stored.stream}:{self.stored.stream_seq}"

    @property
    def payload(self) -> bytes:
        """The event's payload."""
        return self.stored.message.payload

    def summary(self) -> dict[str, Any]:
        """For lists and JSON, without payload and stack."""
        return {
            "id": self.id,
            "event_id": self.event_id,
            "subject": self.subject,
            "consumer": self.consumer,
            "stream": self.stream,
            "stream_seq": self.stream_seq,
            "deliveries": self.deliveries,
            "reason": self.reason,
            "error_type": self.error_type,
            "error": self.error,
            "failed_at": h.format_time(self.failed_at),
        }


def queue_of(incoming: Incoming) -> tuple[str, str]:
    """``(stream, subject)`` of the letter for a message.

    A foreign subject that no context begins is filed under the context of its stream.
    """
    subject = original_subject(incoming.message.subject)
    context = stream_context(incoming.stream)
    try:
        if context_of(subject) == context:
            return dlq_stream(context), dlq_subject(subject)
    except InvalidName:
        pass
    return dlq_stream(context), f"{context}.dlq.{context}.{subject}"


def write(
    incoming: Incoming,
    *,
    reason: DeadLetterReason,
    error: BaseException | None,
    failed_at: datetime,
    room: int | None = None,
) -> Message:
    """The letter for a message that ``incoming.consumer`` gives up on.

    ``room``: how many bytes it may have in all; the stack, then the error's text, give way.
    """
    _, subject = queue_of(incoming)
    event_id = incoming.event_id
    headers = {
        **carried(incoming.message.headers),
        h.MSG_ID: _value(
            f"dlq:{incoming.consumer}:{incoming.stream}:{incoming.stream_seq}:{event_id}"
        ),
        h.EVENT_ID: _value(event_id),
        h.DLQ_STREAM: incoming.stream,
        h.DLQ_STREAM_SEQUENCE: str(incoming.stream_seq),
        h.DLQ_CONSUMER: incoming.consumer,
        h.DLQ_DELIVERIES: str(incoming.deliveries),
        h.DLQ_REASON: reason,
        h.DLQ_FAILED_AT: h.format_time(failed_at),
    }
    if error is not None:
        headers[h.DLQ_ERROR_TYPE] = _value(_type_name(error))
        headers[h.DLQ_ERROR] = _cut(_value(str(error)), ERROR_BYTES)
        stack = "".join(traceback.format_exception(error))
        headers[h.DLQ_ERROR_STACK] = _cut(_escape(stack), STACK_BYTES, end=True)
    letter = Message(subject, incoming.message.payload, headers)
    for name in (h.DLQ_ERROR_STACK, h.DLQ_ERROR):
        if room is not None and size_of(letter) > room:
            headers.pop(name, None)
    return letter


def read(stored: StoredMessage) -> Letter:
    """The letter in a stored message; ``DecodeError`` where a header is not as it should be.

    A message that somebody else put into the queue has no ``X-Dlq-`` headers: it reads as a letter
    of nobody (consumer empty), so that it can be seen and discarded.
    """
    headers = stored.message.headers
    try:
        subject = parse_dlq_subject(stored.message.subject)
    except InvalidName:
        subject = stored.message.subject
    try:
        return Letter(
            stored=stored,
            event_id=stored.event_id,
            subject=subject,
            stream=headers.get(h.DLQ_STREAM, ""),
            stream_seq=int(headers.get(h.DLQ_STREAM_SEQUENCE, "0")),
            consumer=headers.get(h.DLQ_CONSUMER, ""),
            deliveries=int(headers.get(h.DLQ_DELIVERIES, "0")),
            reason=headers.get(h.DLQ_REASON, ""),
            error_type=headers.get(h.DLQ_ERROR_TYPE, ""),
            error=headers.get(h.DLQ_ERROR, ""),
            stack=_unescape(headers.get(h.DLQ_ERROR_STACK, "")),
            failed_at=h.parse_time(headers[h.DLQ_FAILED_AT])
            if h.DLQ_FAILED_AT in headers
            else stored.stored_at,
        )
    except ValueError as error:
        raise DecodeError(f"{stored.stream}:{stored.stream_seq} is no letter: {error}") from error


def redriven(letter: Letter, *, payload: bytes | None, to_all: bool) -> tuple[str, Message]:
    """``(stream, message)`` that brings a letter's event back.

    To the consumer that failed alone, or, ``to_all``, to every consumer of its subject. The message
    id is fresh, or the stream would take it for a duplicate, and the same for the same letter and
    payload, so that a repeated redrive is one. The event's identity stays.
    """
    body = letter.payload if payload is None else payload
    edition = "" if payload is None else f":{hashlib.sha256(payload).hexdigest()[:16]}"
    kind = "republish" if to_all else "redrive"
    headers = {
        **carried(letter.stored.message.headers),
        h.MSG_ID: f"{kind}:{letter.id}:{h.format_time(letter.stored.stored_at)}{edition}",
        h.EVENT_ID: letter.event_id,
    }
    context = context_of(letter.subject)
    if to_all:
        return letter.stream, Message(letter.subject, body, headers)
    subject = redrive_subject(letter.consumer, letter.subject)
    return redrive_stream(context), Message(subject, body, headers)


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that go on with the event: none of JetStream's, none of an earlier letter."""
    kept: dict[str, str] = {}
    for name, value in headers.items():
        if _CONTROL.match(name) or name.lower().startswith(h.DLQ_PREFIX.lower()):
            continue
        try:
            h.check_header(name, value)
        except InvalidName:
            continue
        kept[name] = value
    return kept


def size_of(message: Message) -> int:
    """Bytes of headers and payload on the wire."""
    lines = sum(len(name) + len(value.encode()) + 4 for name, value in message.headers.items())
    return lines + 12 + len(message.payload)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _value(text: str) -> str:
    """One line that may stand in a header."""
    clean = text.encode("utf-8", "replace").decode()
    return "".join(char if char.isprintable() else " " for char in clean).strip()


def _escape(text: str) -> str:
    clean = text.encode("utf-8", "replace").decode().strip()
    escaped = clean.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n")
    return "".join(char if char.isprintable() or char == "\t" else " " for char in escaped)


def _unescape(text: str) -> str:
    named = {"n": "\n", "r": "\r", "\\": "\\"}
    return re.sub(r"\\([nr\\])", lambda match: named[match.group(1)], text)


def _cut(text: str, limit: int, *, end: bool = False) -> str:
    """At most ``limit`` bytes, from the beginning or the end, never half a character."""
    raw = text.encode()
    piece = raw[-limit:] if end else raw[:limit]
    return piece.decode("utf-8", "ignore").strip()
