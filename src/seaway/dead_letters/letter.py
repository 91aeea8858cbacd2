"""A dead letter's form: what lies in a queue, and what brings its event back. Pure.

Guarantees: reading back what was written (``writing``) gives the same; whatever somebody put into a
queue can be read. Who may do that may not reach out of the queue's context: a letter that names
anything but an event's subject, a stream and a durable's name of that context has a ``problem``,
and nothing is done with it but to show and to discard it. A ``foreign`` one names nothing: it lies
among the context's events, nobody says for whom, and can go to all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, get_args

from seaway import headers as h
from seaway.contracts import DeadLetterReason, Message, StoredMessage
from seaway.errors import InvalidName
from seaway.naming import (
    MAX_WIRE_SUBJECT_BYTES,
    events_stream,
    is_durable,
    is_event_of,
    redrive_stream,
    stream_context,
)

PAYLOAD = f"{h.DLQ_PREFIX}Payload"
HEADERS = f"{h.DLQ_PREFIX}Headers"
SUBJECT = f"{h.DLQ_PREFIX}Subject"
"""The event's own subject, where the letter's could not hold it."""
BY_REFERENCE = "by-reference"
LEFT_OUT = "left-out"
FOREIGN = "foreign"
"""The reason of a letter that none of Seaway's headers gives one."""

_CONTROL = re.compile(r"nats-", re.IGNORECASE)
"""Headers of JetStream's own: an id, an expectation, a batch, a TTL or a schedule belongs to the
publication that it came with, and would act on the letter."""

_NOT_THE_EVENTS = (h.DLQ_PREFIX.lower(), h.HEALED.lower(), h.ATTEMPTS.lower())

_KNOWN_VERSION = "1"
"""Of a letter's form. What none is written on is of the first."""

_NUMBER = re.compile(r"[0-9]{1,19}")
_COUNT = re.compile(r"[0-9]{1,9}")
_REASONS = get_args(DeadLetterReason)
_TOLD = 80
"""How many characters of a foreign text a problem repeats."""
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


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
    failed_at: datetime
    problem: str = ""
    """Why nothing may be done with it but to show and to discard it: it cannot be read as a letter
    of Seaway's, or names what lies outside its context. A ``foreign`` one can be sent to all."""
    foreign: bool = False
    """Whether it has none of Seaway's headers, and an event's subject: another program put it
    here, and who failed is not known."""
    bare: bool = False
    """Listed without its payload."""

    @property
    def stack(self) -> str:
        """The error's traceback, or its end; read when it is asked for: queues can be long."""
        return _unescape(self.stored.message.headers.get(h.DLQ_ERROR_STACK, ""))

    @property
    def by_reference(self) -> bool:
        """Whether the payload was left where ``stream`` and ``stream_seq`` say."""
        return self.stored.message.headers.get(PAYLOAD) == BY_REFERENCE

    @property
    def headers_by_reference(self) -> bool:
        """Whether some of the event's headers were left there."""
        return self.stored.message.headers.get(HEADERS) == BY_REFERENCE

    @property
    def lacks_headers(self) -> bool:
        """Whether some of the event's headers are nowhere any more: there was no room."""
        return self.stored.message.headers.get(HEADERS) == LEFT_OUT

    @property
    def headers(self) -> dict[str, str]:
        """Those of the event's headers that the letter has."""
        return carried(self.stored.message.headers)

    @property
    def has_place(self) -> bool:
        """Whether ``stream`` and ``stream_seq`` are a place among the events of its context."""
        _, own = _queue(self.stored.stream)
        return self.stream in own and self.stream_seq > 0

    @property
    def place(self) -> tuple[str, int]:
        """Where its event lay."""
        return self.stream, self.stream_seq

    @property
    def id(self) -> str:
        """What people call it: ``SEA_DLQ:17``."""
        return f"{self.stored.stream}:{self.stored.stream_seq}"

    @property
    def key(self) -> str:
        """The event's ordering key."""
        return h.ordering_key(self.subject, self.stored.message.headers)

    @property
    def event_place(self) -> tuple[str, int] | None:
        """Where its event lies as it was written, also where this is the letter of a redrive;
        ``None`` where nobody says. Never outside its context."""
        events = events_stream(stream_context(self.stored.stream))
        said = self.stored.message.headers.get(h.EVENT_PLACE, "")
        stream, _, stream_seq = said.rpartition(":")
        if stream == events and _NUMBER.fullmatch(stream_seq) and int(stream_seq):
            return stream, int(stream_seq)
        return self.place if self.stream == events and self.stream_seq > 0 else None

    @property
    def mended_from(self) -> str:
        """Of a payload that was changed by a redrive: ``sha256:`` and the hash of the event's own;
        empty where none was."""
        return self.stored.message.headers.get(h.MENDED_FROM, "")[:_TOLD]

    @property
    def redrives(self) -> int:
        """How often its event has been redriven by now; 0 where that cannot be read."""
        text = self.stored.message.headers.get(h.REDRIVE_COUNT, "")
        return int(text) if _COUNT.fullmatch(text) else 0

    @property
    def waits(self) -> bool:
        """Whether it is here for an earlier event of its key, and did not fail itself."""
        return self.reason == "parked"

    @property
    def remedy(self) -> str:
        """What can be done with one that has a ``problem``."""
        if self.foreign:
            return "it can be shown, discarded and redriven --to all"
        return "it can be shown and discarded, and nothing else"

    def goes(self, *, to_all: bool) -> bool:
        """Whether it may be redriven: to the consumer that failed, or to all."""
        return not self.problem or (self.foreign and to_all)

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
            "redrives": self.redrives,
            "reason": self.reason,
            "error_type": self.error_type,
            "error": self.error,
            "failed_at": h.format_time(self.failed_at),
            **({"problem": self.problem} if self.problem else {}),
            **({"foreign": True} if self.foreign else {}),
        }


def read(stored: StoredMessage, *, bare: bool = False) -> Letter:
    """The letter in a stored message. Never fails, or one foreign message would hide all others.

    What somebody else put into the queue, or a header that is not as it should be, gives a letter
    with a ``problem``.
    """
    headers, event_id = stored.message.headers, stored.event_id
    context, own_streams = _queue(stored.stream)
    problems: list[str] = []
    if (version := headers.get(h.DLQ_VERSION, _KNOWN_VERSION)) != _KNOWN_VERSION:
        problems.append(f"{h.DLQ_VERSION} {version[:_TOLD]!r}: a newer Seaway may know it")
    problems += [
        f"it has no {name}"
        for name in (h.DLQ_STREAM, h.DLQ_CONSUMER, h.DLQ_REASON, h.EVENT_ID)
        if not headers.get(name)
    ]

    def number(name: str, least: int) -> int:
        text = headers.get(name, "")
        if not _NUMBER.fullmatch(text) or int(text) < least:
            problems.append(f"{name} {text[:_TOLD]!r} is not a number of {least} or more")
            return 0
        return int(text)

    failed_at = stored.stored_at
    stream_seq, deliveries = number(h.DLQ_STREAM_SEQUENCE, 1), number(h.DLQ_DELIVERIES, 0)
    try:
        failed_at = h.parse_time(headers.get(h.DLQ_FAILED_AT, "")[:_TOLD])
    except ValueError as error:
        problems.append(f"{h.DLQ_FAILED_AT}: {error}")
    own = stored.message.subject.removeprefix(f"{context}.dlq.")
    subject = headers.get(SUBJECT) or own
    stream, consumer = headers.get(h.DLQ_STREAM, ""), headers.get(h.DLQ_CONSUMER, "")
    reason = headers.get(h.DLQ_REASON, "")
    if stream not in own_streams:
        problems.append(f"{h.DLQ_STREAM} {stream[:_TOLD]!r} is no stream of {context}'s events")
    if not is_durable(consumer):
        problems.append(f"{h.DLQ_CONSUMER} {consumer[:_TOLD]!r} is no durable's name")
    if reason not in _REASONS:
        problems.append(f"{h.DLQ_REASON} {reason[:_TOLD]!r} is none of {', '.join(_REASONS)}")
    if not (is_event := is_event_of(context, subject)):
        problems.append(f"{subject[:_TOLD]!r} is not the subject of an event of {context}")
    if event_id != headers.get(h.EVENT_ID):
        problems.append(f"its {h.EVENT_ID} cannot be an event's")
    foreign = (
        bool(problems)
        and is_event
        and headers.get(h.EVENT_ID) in (None, event_id)
        and not any(name.lower().startswith(h.DLQ_PREFIX.lower()) for name in headers)
    )
    return Letter(
        stored=stored,
        event_id=event_id,
        subject=subject,
        stream=stream,
        stream_seq=stream_seq,
        consumer=consumer,
        deliveries=deliveries,
        reason=FOREIGN if foreign else reason,
        error_type=headers.get(h.DLQ_ERROR_TYPE, ""),
        error=headers.get(h.DLQ_ERROR, ""),
        failed_at=failed_at,
        problem=problems[0] if problems else "",
        foreign=foreign,
        bare=bare,
    )


def redriven(
    letter: Letter, event: Message, *, edition: bytes | None, to_all: bool
) -> tuple[str, Message]:
    """``(stream, message)`` that brings a letter's ``event`` back.

    To the consumer that failed alone, or, ``to_all``, to every consumer of its subject. The message
    id is fresh, or the stream would take it for a duplicate, and the same for the same letter and
    payload, so that a repeated redrive is one. The event's identity stays. ``edition``: what tells
    it apart, where it is not the event as it was. ``InvalidName`` where no subject can hold it.

    Only for a letter without a ``problem``, or, to all, a ``foreign`` one.
    """
    mark = "" if edition is None else f":{hashlib.sha256(edition).hexdigest()[:16]}"
    headers = {
        **carried(event.headers),
        h.MSG_ID: redrive_id(letter, to_all=to_all) + mark,
        h.EVENT_ID: letter.event_id,
        h.REDRIVE_COUNT: str(letter.redrives + 1),
    }
    if letter.event_place is not None:
        headers[h.EVENT_PLACE] = "{}:{}".format(*letter.event_place)
    for name in (h.EVENT_PLACE, h.MENDED_FROM):
        if h.header_bytes(headers) > h.EVENT_HEADER_BYTES:  # The event's own come first.
            headers.pop(name, None)
    context = stream_context(letter.stored.stream)
    if to_all:
        stream, subject = events_stream(context), letter.subject
    else:
        stream = redrive_stream(context)
        subject = f"{context}.redrive.{letter.consumer}.{letter.subject}"
    if len(subject.encode()) > MAX_WIRE_SUBJECT_BYTES:
        raise InvalidName(f"{subject[:_TOLD]}… is longer than {MAX_WIRE_SUBJECT_BYTES} bytes")
    return stream, Message(subject, event.payload, headers)


def redrive_id(letter: Letter, *, to_all: bool = False) -> str:
    """With what the message id of every redrive of this letter begins, whatever its payload."""
    kind = "republish" if to_all else "redrive"
    return f"{kind}:{letter.id}:{h.format_time(letter.stored.stored_at)}"


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that go on with the event: none of JetStream's, none of an earlier letter. Its
    key is the same afterwards, also where it was not usable."""
    if key := headers.get(h.ORDERING_KEY):
        headers = {**headers, h.ORDERING_KEY: h.usable_key(key)}
    return _sendable(headers, without=_NOT_THE_EVENTS)


def again(letter: StoredMessage, message_id: str) -> Message:
    """What puts a letter that was taken out into its queue again, as it was: under another message
    id, and without orders to the server, which have been carried out."""
    headers = _sendable(letter.message.headers)
    if h.MSG_ID in letter.message.headers:
        headers.setdefault(h.EVENT_ID, letter.event_id)  # It has no other.
    return replace(letter.message, headers={**headers, h.MSG_ID: message_id})


def _sendable(headers: Mapping[str, str], *, without: tuple[str, ...] = ()) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, value in headers.items():
        if _CONTROL.match(name) or name.lower().startswith(without):
            continue
        try:
            h.check_header(name, value)
        except InvalidName:
            continue
        kept[name] = value
    return kept


def _unescape(text: str) -> str:
    parts = text.split("\\\\")
    return "\\".join(part.replace("\\n", "\n").replace("\\r", "\r") for part in parts)


@lru_cache(maxsize=256)
def _queue(stream: str) -> tuple[str, tuple[str, str]]:
    """The context of a queue, and the streams that its letters' events can lie in."""
    context = stream_context(stream)
    return context, (events_stream(context), redrive_stream(context))
