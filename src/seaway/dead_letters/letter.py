"""A dead letter's form: what is kept of the message, and what is said of its failure. Pure.

Guarantees: the payload is kept byte for byte, the original headers too but for those by which
JetStream would act on the letter itself; a hostile text cannot add headers; reading back what was
written gives the same. No error, however hostile, keeps a letter from being written.

Where payload and headers leave no room for the letter's own headers below the server's limit, the
letter is written *by reference*: without payload, naming the place in the stream where it lies.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from seaway import headers as h
from seaway.contracts import DeadLetterReason, Incoming, Message, StoredMessage
from seaway.errors import InvalidName
from seaway.naming import (
    dlq_stream,
    events_stream,
    redrive_stream,
    redrive_subject,
    stream_context,
)

PAYLOAD = f"{h.DLQ_PREFIX}Payload"
BY_REFERENCE = "by-reference"
ERROR_TYPE_BYTES = 256
ERROR_BYTES = 1024
STACK_BYTES = 8 * 1024
_SUBJECT_BYTES = 3 * 1024
"""A foreign subject up to this length has room for a letter's and a redrive's prefix."""
_SUBJECT_SHOWN = 60

_CONTROL = re.compile(r"nats-", re.IGNORECASE)
"""Headers of JetStream's own: an id, an expectation, a batch, a TTL or a schedule belongs to the
publication that it came with, and would act on the letter."""

_NUMBER = re.compile(r"[0-9]{1,19}")
_LINE_BYTES = len(": \r\n")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}


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
    problem: str = ""
    """Why it cannot be read as a letter of Seaway's; such a one can be seen and discarded."""
    bare: bool = False
    """Listed without its payload."""

    @property
    def by_reference(self) -> bool:
        """Whether the payload was left where ``stream`` and ``stream_seq`` say."""
        return self.stored.message.headers.get(PAYLOAD) == BY_REFERENCE

    @property
    def id(self) -> str:
        """What people call it: ``SEA_DLQ:17``."""
        return f"{self.stored.stream}:{self.stored.stream_seq}"

    @property
    def key(self) -> str:
        """The event's ordering key."""
        return h.ordering_key(self.subject, self.stored.message.headers)

    @property
    def waits(self) -> bool:
        """Whether it is here for an earlier event of its key, and did not fail itself."""
        return self.reason == "parked"

    @property
    def payload(self) -> bytes:
        """The event's payload; empty in a letter by reference. ``ValueError`` in a ``bare`` one."""
        if self.bare:
            raise ValueError(f"{self.id} was listed without its payload")
        return self.stored.message.payload

    def summary(self) -> dict[str, Any]:
        """For lists and JSON, without payload and stack."""
        return {
            "id": self.id,
            "event_id": self.event_id,
            "subject": self.subject,
            "key": self.key,
            "consumer": self.consumer,
            "stream": self.stream,
            "stream_seq": self.stream_seq,
            "deliveries": self.deliveries,
            "reason": self.reason,
            "error_type": self.error_type,
            "error": self.error,
            "failed_at": h.format_time(self.failed_at),
            **({"problem": self.problem} if self.problem else {}),
        }


def queue_of(incoming: Incoming) -> tuple[str, str]:
    """``(stream, subject)`` of the letter for a message.

    The context is the stream's: it is the event's own too, but for a foreign subject.
    """
    context, subject = stream_context(incoming.stream), incoming.event_subject
    if len(subject.encode()) > _SUBJECT_BYTES:
        # No line of the protocol would hold it; nobody can send it again under this name.
        digest = hashlib.sha256(subject.encode()).hexdigest()
        subject = f"{subject[:_SUBJECT_SHOWN].rstrip('.')}.{digest}"
    return dlq_stream(context), f"{context}.dlq.{subject}"


def write(
    incoming: Incoming,
    *,
    reason: DeadLetterReason,
    error: BaseException | None,
    failed_at: datetime,
    room: int | None = None,
) -> Message:
    """The letter for a message that ``incoming.consumer`` gives up on.

    ``room``: how many bytes it may have in all. The stack gives way first, then the error's text,
    then the payload: such a letter is by reference.
    """
    _, subject = queue_of(incoming)
    own = {
        h.MSG_ID: letter_id(incoming),
        h.EVENT_ID: incoming.event_id,
        h.DLQ_STREAM: incoming.stream,
        h.DLQ_STREAM_SEQUENCE: str(incoming.stream_seq),
        h.DLQ_CONSUMER: incoming.consumer,
        h.DLQ_DELIVERIES: str(incoming.deliveries),
        h.DLQ_REASON: reason,
        h.DLQ_FAILED_AT: h.format_time(failed_at),
    }
    letter = Message(
        subject, incoming.message.payload, {**carried(incoming.message.headers), **own}
    )
    if room is not None and size_of(letter) > room:
        own[PAYLOAD] = BY_REFERENCE
        letter = Message(subject, b"", {**carried(incoming.message.headers), **own})
        if size_of(letter) > room:
            letter = Message(subject, b"", own)
    if error is None:
        return letter
    left = STACK_BYTES * 2 if room is None else room - size_of(letter)
    headers = dict(letter.headers)
    for name, text, limit, cut in (
        (h.DLQ_ERROR_TYPE, _type_name(error), ERROR_TYPE_BYTES, _head),
        (h.DLQ_ERROR, _text(error), ERROR_BYTES, _head),
        (h.DLQ_ERROR_STACK, _stack(error), STACK_BYTES, _tail),
    ):
        value = cut(text, min(limit, left - len(name) - _LINE_BYTES))
        if value:
            headers[name] = value
            left -= len(name) + _LINE_BYTES + len(value.encode())
    return Message(subject, letter.payload, headers)


def letter_id(incoming: Incoming) -> str:
    """The message id of the letter: the same whoever writes it, and how often."""
    place = f"{incoming.stream}:{incoming.stream_seq}"
    return f"dlq:{incoming.consumer}:{place}:{incoming.event_id}"


def read(stored: StoredMessage, *, bare: bool = False) -> Letter:
    """The letter in a stored message. Never fails, or one foreign message would hide all others.

    What somebody else put into the queue, or a header that is not as it should be, gives a letter
    with a ``problem``.
    """
    headers = stored.message.headers
    problem, failed_at = "", stored.stored_at
    missing = [
        name for name in (h.DLQ_STREAM, h.DLQ_CONSUMER, h.DLQ_REASON) if not headers.get(name)
    ]
    if missing:
        problem = f"it has no {missing[0]}"

    def number(name: str) -> int:
        nonlocal problem
        text = headers.get(name, "")
        if not _NUMBER.fullmatch(text):
            problem = problem or f"{name} {text[:40]!r} is not a number"
            return 0
        return int(text)

    stream_seq, deliveries = number(h.DLQ_STREAM_SEQUENCE), number(h.DLQ_DELIVERIES)
    try:
        failed_at = h.parse_time(headers.get(h.DLQ_FAILED_AT, ""))
    except ValueError as error:
        problem = problem or f"{h.DLQ_FAILED_AT}: {error}"
    return Letter(
        stored=stored,
        event_id=stored.event_id,
        subject=stored.message.subject.removeprefix(f"{stream_context(stored.stream)}.dlq."),
        stream=headers.get(h.DLQ_STREAM, ""),
        stream_seq=stream_seq,
        consumer=headers.get(h.DLQ_CONSUMER, ""),
        deliveries=deliveries,
        reason=headers.get(h.DLQ_REASON, ""),
        error_type=headers.get(h.DLQ_ERROR_TYPE, ""),
        error=headers.get(h.DLQ_ERROR, ""),
        stack=_unescape(headers.get(h.DLQ_ERROR_STACK, "")),
        failed_at=failed_at,
        problem=problem,
        bare=bare,
    )


def redriven(letter: Letter, *, payload: bytes | None, to_all: bool) -> tuple[str, Message]:
    """``(stream, message)`` that brings a letter's event back.

    To the consumer that failed alone, or, ``to_all``, to every consumer of its subject. The message
    id is fresh, or the stream would take it for a duplicate, and the same for the same letter and
    payload, so that a repeated redrive is one. The event's identity stays. ``InvalidName`` for a
    foreign subject that would not reach the consumer as what it was.
    """
    body = letter.payload if payload is None else payload
    edition = "" if payload is None else f":{hashlib.sha256(payload).hexdigest()[:16]}"
    kind = "republish" if to_all else "redrive"
    headers = {
        **carried(letter.stored.message.headers),
        h.MSG_ID: f"{kind}:{letter.id}:{h.format_time(letter.stored.stored_at)}{edition}",
        h.EVENT_ID: letter.event_id,
    }
    context = stream_context(letter.stored.stream)
    if to_all:
        from_redrive = letter.stream == redrive_stream(context)
        stream = events_stream(context) if from_redrive else letter.stream
        return stream, Message(letter.subject, body, headers)
    subject = redrive_subject(letter.consumer, letter.subject)
    if not subject.startswith(f"{context}."):
        raise InvalidName(f"{letter.subject!r} is not a subject of {context}")
    return redrive_stream(context), Message(subject, body, headers)


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that go on with the event: none of JetStream's, none of an earlier letter. Its
    key is the same afterwards, also where it was not usable."""
    kept: dict[str, str] = {}
    if key := headers.get(h.ORDERING_KEY):
        headers = {**headers, h.ORDERING_KEY: h.usable_key(key)}
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
    """Bytes of headers and payload, as the server counts them against ``max_payload``."""
    return h.wire_bytes(message.headers, message.payload)


def size_as_letter(message: Message, *, stream: str, consumer: str) -> int:
    """What ``message`` takes at least, once it lies in ``stream`` and is dead-lettered from it."""
    far = datetime.max.replace(tzinfo=UTC)
    incoming = Incoming(message, stream, 10**19, far, consumer, 10**19, 10**19, 0)
    return size_of(write(incoming, reason="undecodable", error=None, failed_at=far))


def _type_name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__
    return _one_line(name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}")


def _text(error: BaseException) -> str:
    try:
        return _one_line(str(error))
    except Exception as failure:
        return f"(its text cannot be had: {type(failure).__name__})"


def _stack(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as failure:
        return f"(its stack cannot be had: {type(failure).__name__})"


def _one_line(text: str) -> str:
    """``text`` as it may stand in a header: printable, blanks for all else."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _head(text: str, limit: int) -> str:
    """At most ``limit`` bytes of the beginning, never half a character."""
    return text.encode()[: max(0, limit)].decode("utf-8", "ignore").strip()


def _tail(text: str, limit: int) -> str:
    """The end of ``text``, escaped to one line of at most ``limit`` bytes, no escape cut in two."""
    pieces: list[str] = []
    for char in reversed(text.strip()[-max(0, limit) :]):
        piece = _ESCAPES.get(char) or (char if char == "\t" or char.isprintable() else " ")
        limit -= len(piece.encode())
        if limit < 0:
            break
        pieces.append(piece)
    return "".join(reversed(pieces)).strip()


def _unescape(text: str) -> str:
    return re.sub(r"\\([nr\\])", lambda match: _ESCAPED[match[1]], text)
