"""Writing a dead letter: what is kept of the message, and what is said of its failure. Pure.

Guarantees: every message has a letter that its queue takes, whatever subject, headers, ids, payload
and error it brings, and a hostile text cannot add headers. Where there is no room for all, the last
of these gives way first:

    the letter's own headers; the payload; the event's ordering key, chain and trace;
    its other headers; the error's type, its text, its stack

Payload and headers that gave way are *by reference*: they lie where the letter says, in a stream
that keeps them. Where it does not keep them, the payload comes first of all: headers are then left
out, at the very last the letter's own, and such a letter can be shown and discarded only.
"""

from __future__ import annotations

import contextlib
import json
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from seaway import headers as h
from seaway.contracts import DeadLetterReason, Incoming, Message
from seaway.dead_letters.letter import (
    BY_REFERENCE,
    ESCAPES,
    HEADERS,
    LEFT_OUT,
    PAYLOAD,
    SUBJECT,
    carried,
)
from seaway.errors import InvalidName
from seaway.naming import MAX_WIRE_SUBJECT_BYTES, dlq_stream, stream_context

ERROR_TYPE_BYTES = 256
ERROR_BYTES = 1024
STACK_BYTES = 8 * 1024
ERROR_ROOM_BYTES = 512
"""Headers that can be had elsewhere leave so much to the error."""

_METADATA = (
    h.ORDERING_KEY,
    h.CORRELATION_ID,
    h.CAUSATION_ID,
    h.EVENT_VERSION,
    h.CONTENT_TYPE,
    h.OCCURRED_AT,
    h.REDRIVE_COUNT,
    h.TRACEPARENT,
    h.TRACESTATE,
    h.EVENT_PLACE,
    h.MENDED_FROM,
)
_LINE_BYTES = len(": \r\n")
_BLOCK_BYTES = len(b"NATS/1.0\r\n\r\n")
_SUBJECT_HEADER_BYTES = 4096
_TOKEN = re.compile(r"[^\s\ud800-\udfff]+")
_CUT = "~"
"""The last token of a letter's subject that is not its event's whole subject."""


def queue_of(incoming: Incoming) -> tuple[str, str]:
    """``(stream, subject)`` of the letter for a message.

    The context is the stream's: it is the event's own too, but for a foreign subject.
    """
    context = stream_context(incoming.stream)
    return dlq_stream(context), letter_subject(context, incoming.event_subject)


def letter_subject(context: str, event_subject: str) -> str:
    """Under which a letter of such an event lies. Of a subject that cannot be sent with the prefix
    (too long, or blanks), the first tokens."""
    subject = f"{context}.dlq.{event_subject}"
    tokens = subject.split(".")
    if len(subject.encode("utf-8", "replace")) > MAX_WIRE_SUBJECT_BYTES or not all(
        map(_TOKEN.fullmatch, tokens)
    ):
        subject = f"{context}.dlq"
        for token in tokens[2:]:
            longer = f"{subject}.{token}"
            if not _TOKEN.fullmatch(token) or len(longer.encode()) > MAX_WIRE_SUBJECT_BYTES - 2:
                break
            subject = longer
        subject = f"{subject}.{_CUT}"
    return subject


def write(
    incoming: Incoming,
    *,
    reason: DeadLetterReason,
    error: BaseException | None,
    failed_at: datetime,
    room: int | None = None,
    kept: bool = True,
) -> Message:
    """The letter for a message that ``incoming.consumer`` gives up on.

    ``room``: how many bytes of headers and payload its queue takes (``None``: any number).
    ``kept``: whether the message stays in its stream after its acknowledgement.
    """
    _, subject = queue_of(incoming)
    own = {
        h.EVENT_ID: incoming.event_id,
        h.DLQ_CONSUMER: incoming.consumer,
        h.DLQ_STREAM: incoming.stream,
        h.DLQ_STREAM_SEQUENCE: str(incoming.stream_seq),
        h.DLQ_REASON: reason,
        h.DLQ_FAILED_AT: h.format_time(failed_at),
        h.DLQ_DELIVERIES: str(incoming.deliveries),
        h.MSG_ID: letter_id(incoming),
    }
    if subject.endswith(f".{_CUT}"):
        own[SUBJECT] = _as_header(incoming.event_subject)
    payload, event = incoming.message.payload, carried(incoming.message.headers)
    if kept:
        spare = 0 if error is None else ERROR_ROOM_BYTES
        headers = _with_event(own, event, payload, room, spare, BY_REFERENCE)
        lacks = _lacking(headers, event)
        if payload and (lacks or _left(headers, payload, room) < 0):
            bare = {**own, PAYLOAD: BY_REFERENCE}
            bare = _with_event(bare, event, b"", room, spare, BY_REFERENCE)
            if _left(headers, payload, room) < 0 or _lacking(bare, event) < lacks:
                headers, payload = bare, b""
    else:
        headers = _with_event(own, event, payload, room, 0, LEFT_OUT)
        if _left(headers, payload, room) < 0:
            headers = _filled({}, own.items(), _left({}, payload, room))
    if error is not None:
        _say(error, headers, _left(headers, payload, room))
    return Message(subject, payload, headers)


def letter_id(incoming: Incoming) -> str:
    """The message id of the letter: the same whoever writes it, and how often."""
    return f"dlq:{incoming.consumer}:{incoming.identity}:{incoming.event_id}"


def size_of(message: Message) -> int:
    """Bytes of headers and payload, as the server counts them against ``max_payload``."""
    return h.wire_bytes(message.headers, message.payload)


def size_as_letter(message: Message, *, stream: str, consumer: str) -> int:
    """What ``message`` takes at least, once it lies in ``stream`` and is dead-lettered from it:
    with its payload, but only those headers that an event of Seaway's has."""
    far = datetime.max.replace(tzinfo=UTC)
    known = {*_METADATA, h.EVENT_ID, h.MSG_ID}
    least = replace(
        message,
        headers={name: value for name, value in message.headers.items() if name in known},
    )
    incoming = Incoming(least, stream, 10**19, far, consumer, 10**19, 10**19, 0)
    return size_of(write(incoming, reason="undecodable", error=None, failed_at=far, kept=False))


def _left(headers: Mapping[str, str], payload: bytes, room: int | None, spare: int = 0) -> int:
    """How many bytes of further header lines fit; negative where what is there does not.

    ``spare``: how much of a header block is left to something else.
    """
    block = h.header_bytes(headers) or _BLOCK_BYTES
    within = h.HEADER_BLOCK_BYTES - spare - block
    return within if room is None else min(within, room - block - len(payload))


def _with_event(
    own: Mapping[str, str],
    event: Mapping[str, str],
    payload: bytes,
    room: int | None,
    spare: int,
    mark: str,
) -> dict[str, str]:
    """``own`` headers and the event's, or as many of these as fit and ``mark`` that says so."""
    whole = {**event, **own}
    if _left(whole, payload, room, spare) >= 0:
        return whole
    first = {name: event[name] for name in _METADATA if name in event}
    rest = (pair for pair in event.items() if pair[0] not in first and pair[0] not in own)
    headers = {**own, HEADERS: mark}
    return _filled(headers, (*first.items(), *rest), _left(headers, payload, room, spare))


def _filled(
    headers: Mapping[str, str], lines: Iterable[tuple[str, str]], left: int
) -> dict[str, str]:
    """``headers`` and those of ``lines`` that fit into ``left`` bytes, in this order."""
    filled = dict(headers)
    for name, value in lines:
        size = len(f"{name}{value}".encode()) + _LINE_BYTES
        if size <= left:
            filled[name] = value
            left -= size
    return filled


def _lacking(headers: Mapping[str, str], event: Mapping[str, str]) -> int:
    """How much of the event's own metadata is not among ``headers``."""
    return sum(name in event and name not in headers for name in _METADATA)


def _as_header(subject: str) -> str:
    """A subject as it may stand in a header. One that may not is quoted, so that nobody takes it
    for the subject of another event."""
    with contextlib.suppress(InvalidName):
        h.check_header(SUBJECT, subject)
        if len(subject.encode()) <= _SUBJECT_HEADER_BYTES:
            return subject
    return json.dumps(subject)[:_SUBJECT_HEADER_BYTES]


def _say(error: BaseException, headers: dict[str, str], left: int) -> None:
    """Add to ``headers`` what ``left`` bytes hold of the error."""
    for name, text, limit, cut in (
        (h.DLQ_ERROR_TYPE, _had("type", _type_name, error), ERROR_TYPE_BYTES, _head),
        (h.DLQ_ERROR, _had("text", _text, error), ERROR_BYTES, _head),
        (h.DLQ_ERROR_STACK, _had("stack", _stack, error), STACK_BYTES, _tail),
    ):
        value = cut(text, min(limit, left - len(name) - _LINE_BYTES))
        if value:
            headers[name] = value
            left -= len(name) + _LINE_BYTES + len(value.encode())


def _had(what: str, read: Callable[[BaseException], str], error: BaseException) -> str:
    """An exception is somebody else's code: what it says of itself may fail too."""
    try:
        return read(error)
    except Exception as failure:
        return f"(its {what} cannot be had: {type(failure).__name__})"


def _type_name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__
    return _one_line(name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}")


def _text(error: BaseException) -> str:
    return _one_line(str(error)[: 4 * ERROR_BYTES])


def _stack(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


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
        piece = ESCAPES.get(char) or (char if char == "\t" or char.isprintable() else " ")
        limit -= len(piece.encode())
        if limit < 0:
            break
        pieces.append(piece)
    return "".join(reversed(pieces)).strip()
