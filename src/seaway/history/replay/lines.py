"""A stored event as a line of JSON that ``seaway outbox add`` takes as the same event.

Owns: what a line says. Guarantees: added, it is the event that it was: id, subject, key, chain,
headers of the writer's own, and payload byte for byte. A payload that JSON would not give back as
it was goes as base64, and beside it for whoever reads, as JSON where it is that.
"""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

from seaway import headers as h
from seaway.contracts import StoredMessage
from seaway.headers import format_time

_FIELDS = (
    ("key", h.ORDERING_KEY),
    ("correlation_id", h.CORRELATION_ID),
    ("causation_id", h.CAUSATION_ID),
    ("occurred_at", h.OCCURRED_AT),
    ("content_type", h.CONTENT_TYPE),
)
_NOT_THE_WRITERS = ("nats-", h.DLQ_PREFIX.lower(), h.HEALED.lower())


def line_of(stored: StoredMessage) -> str:
    """The line, without its end. ``id`` is left out of a foreign message whose id no outbox takes:
    added, it gets a new one; ``foreign_id`` says what it was."""
    headers = stored.message.headers
    line: dict[str, Any] = {
        "stream": stored.stream,
        "stream_seq": stored.stream_seq,
        "stored_at": format_time(stored.stored_at),
        "subject": stored.message.subject,
        "id" if is_own(stored.event_id) else "foreign_id": stored.event_id,
    }
    line |= {name: headers[header] for name, header in _FIELDS if headers.get(header)}
    own = {
        name: value
        for name, value in headers.items()
        if name.lower() not in h.RESERVED and not name.lower().startswith(_NOT_THE_WRITERS)
    }
    if own:
        line["headers"] = own
    text, exact = _json_text(stored.message.payload)
    if not exact:
        line["payload_base64"] = base64.b64encode(stored.message.payload).decode()
    said = json.dumps(line, ensure_ascii=False)
    # As it was written: no number loses a digit on its way.
    return said if text is None else f'{said[:-1]}, "payload": {text}}}'


def is_own(event_id: str) -> bool:
    """Whether an outbox takes it: a UUID in canonical text."""
    try:
        return str(uuid.UUID(event_id)) == event_id
    except ValueError:
        return False


def compact(value: Any) -> bytes:
    """JSON as an outbox writes what is added from a line. ``ValueError`` for what JSON or UTF-8
    cannot say."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _json_text(payload: bytes) -> tuple[str | None, bool]:
    """The payload as one line of JSON, ``None`` where it is none; whether it comes back from there
    as it was."""
    try:
        text = payload.decode()
        value = json.loads(text, parse_constant=_refuse)
        exact = compact(value) == payload
    except (ValueError, RecursionError):
        return None, False
    # Outside of its strings JSON takes a line break for a blank; inside there can be none.
    return text.replace("\r", " ").replace("\n", " ").strip(), exact


def _refuse(name: str) -> None:
    raise ValueError(name)
