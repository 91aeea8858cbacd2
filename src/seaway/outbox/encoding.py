"""From events to outbox rows: metadata, headers, subject and size, decided before any I/O.

Owns: what a row holds and every rule that an event has to keep at write time. Pure but for the
clock and the ids; must not know any database. Guarantees: a row that comes out of here can be
published as it is, and all events of a call pass or none is written.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import to_json

from seaway import headers as h
from seaway.errors import ConfigError, EventTooLarge, InvalidName
from seaway.events import (
    Chain,
    EventType,
    RawEvent,
    current_chain,
    event_type_of,
    new_event_id,
)
from seaway.naming import EventSubject, events_stream

_FRAME = b"NATS/1.0\r\n\r\n"
_FOREIGN_PREFIXES = ("nats-", h.DLQ_PREFIX.lower())


class OutboxRow(NamedTuple):
    """One row of ``seaway_outbox`` as the insert statement takes it."""

    event_id: str
    subject: str
    ordering_key: str
    payload: bytes
    headers: str
    added_at: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a message may be: a stream's own limit, else ``max_message_bytes``."""

    max_message_bytes: int
    by_stream: Mapping[str, int] = field(default_factory=dict)

    def of(self, context: str) -> int:
        """The limit of the context's stream in bytes, headers included."""
        if not self.by_stream:
            return self.max_message_bytes
        return self.by_stream.get(events_stream(context), self.max_message_bytes)


class Wishes(NamedTuple):
    """What the caller of ``add`` says for all events of the call."""

    key: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    headers: Mapping[str, str] = {}


_SAYS_NOTHING = RawEvent("", b"")
"""What an event of a class says of itself, besides its subject and its payload."""


def encode(events: Sequence[object], wishes: Wishes, limits: Limits) -> list[OutboxRow]:
    """One row an event, in the order given. Raises before anything could have been written."""
    now, chain = time.time_ns() // 1000, current_chain()
    rows = [_row(event, wishes, limits, now, chain) for event in events]
    if len(rows) > 1:
        _refuse_twins(ids_of(rows))
    return rows


def ids_of(rows: Iterable[OutboxRow]) -> list[str]:
    """The event ids, in order."""
    return [row.event_id for row in rows]


def _row(event: object, wishes: Wishes, limits: Limits, now: int, chain: Chain) -> OutboxRow:
    if isinstance(event, RawEvent):
        raw, subject = event, EventSubject.parse(event.subject)
        name, payload = raw.subject, raw.payload
        if not isinstance(payload, bytes):
            raise ConfigError(
                f"{subject}: the payload is {type(payload).__name__}, not bytes",
                hint="encode it, or declare the event with @event",
            )
    else:
        raw, event_type = _SAYS_NOTHING, event_type_of(event)
        subject, name, payload = event_type.subject, event_type.name, _payload(event_type, event)
    event_id = new_event_id() if raw.event_id is None else _own_id(raw.event_id)
    key = _text("key", _first(wishes.key, raw.key))
    correlation = _first(wishes.correlation_id, raw.correlation_id, chain.correlation_id)
    causation = _first(wishes.causation_id, raw.causation_id, chain.causation_id)
    headers = h.written(
        event_id,
        _text("correlation_id", correlation) or event_id,
        _text("causation_id", causation),
        subject.version,
        key,
        h.format_microseconds(now) if raw.occurred_at is None else _occurred_at(raw.occurred_at),
        raw.content_type,
        chain.traceparent,
        chain.tracestate,
    )
    if raw.headers or wishes.headers:
        headers = _with_extra(headers, {**raw.headers, **wishes.headers})
    text = to_json(headers)
    _check_size(subject, headers, text, payload, limits)
    return OutboxRow(event_id, name, key or name, payload, text.decode(), now)


def _payload(event_type: EventType[Any], event: object) -> bytes:
    if isinstance(event, type):
        raise ConfigError(
            f"{event.__qualname__} is an event's class, not an event", hint="add an instance of it"
        )
    try:
        return event_type.encode(event)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{event_type.subject}: the event cannot be written as JSON: {error}"
        ) from error


def _first(one: str | None, other: str | None, third: str | None = None) -> str | None:
    if one is not None:
        return one
    return third if other is None else other


def _text(what: str, value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ConfigError(
            f"{what} {value!r} is not a non-empty string",
            hint=f"pass {what}=str(...), or leave it out",
        )
    if len(value) > h.TEXT_BYTES or (not value.isascii() and _utf8_bytes(value) > h.TEXT_BYTES):
        raise EventTooLarge(
            f"{what} {value[:40]}… is {_utf8_bytes(value)} bytes, {h.TEXT_BYTES} are allowed",
            hint="give the id of a thing, or a hash",
        )
    return value


def _utf8_bytes(value: str) -> int:
    return len(value.encode("utf-8", "surrogatepass"))  # Broken text is refused later, by name.


def _own_id(event_id: str) -> str:
    # The id becomes the message id on the wire: two spellings of one id would both be stored.
    try:
        canonical = str(uuid.UUID(event_id))
    except (AttributeError, TypeError, ValueError):
        canonical = None
    if canonical != event_id:
        raise ConfigError(
            f"event id {event_id!r} is not a UUID in canonical text",
            hint="leave it out, and one is made",
        )
    return event_id


def _occurred_at(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ConfigError(
            f"occurred_at {moment.isoformat()} has no time zone", hint="give an aware datetime"
        )
    return h.format_time(moment)


def _with_extra(headers: dict[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    names = {name.lower(): name for name in headers}
    for name, value in extra.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"header {name!r}: {value!r} is not text", hint="use str(...)")
        h.check_header(name, value)
        lowered = name.lower()
        if lowered in h.RESERVED:
            raise ConfigError(
                f"header {name} is set by Seaway", hint="use the argument that stands for it"
            )
        if lowered.startswith(_FOREIGN_PREFIXES):
            raise ConfigError(f"headers that begin with {name[:5]} are not the writer's to set")
        if lowered in names:
            # A trace context of the event's own stands instead of the running code's.
            del headers[names[lowered]]
        names[lowered] = name
        headers[name] = value
    return headers


def _check_size(
    subject: EventSubject, headers: Mapping[str, str], text: bytes, payload: bytes, limits: Limits
) -> None:
    limit = limits.of(subject.context)
    # As JSON each header takes two bytes more than on the wire: nearly all events are told by that.
    longest = len(_FRAME) + len(text)
    if longest <= h.EVENT_HEADER_BYTES and longest + len(payload) <= limit:
        return
    try:
        block = h.header_bytes(headers)
    except UnicodeEncodeError as error:
        raise InvalidName(f"{subject}: a header is not valid Unicode: {error}") from error
    if block > h.EVENT_HEADER_BYTES:
        # The server's own bound: no stream and no setting takes more.
        raise EventTooLarge(
            f"{subject}: the event's headers are {block} bytes, {h.EVENT_HEADER_BYTES} are allowed",
            hint="put the content into the payload",
        )
    size = block + len(payload)
    if size > limit:
        raise EventTooLarge(
            f"{subject}: the event is {size} bytes with its headers, {limit} are allowed",
            hint="store the content elsewhere and let the event refer to it",
        )


def _refuse_twins(event_ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for event_id in event_ids:
        if event_id in seen:
            raise duplicate(event_id)
        seen.add(event_id)


def duplicate(event_id: str) -> ConfigError:
    """The error for an id that is in the outbox, or was sent from it, or is twice in one call."""
    return ConfigError(
        f"event {event_id} is in the outbox already, or was sent", hint="an event id is used once"
    )
