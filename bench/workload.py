"""What everybody relays: the same events, headers and stream. Pure; knows no client."""

from __future__ import annotations

import json
import uuid

SUBJECT = "sea.event.case_moved.v1"
STREAM = "SEA_EVENTS"
STREAM_CONFIG = {
    "name": STREAM,
    "subjects": ["sea.event.>"],
    "storage": "file",
    "allow_atomic": True,
    "allow_direct": True,
}
KEYS = 200
MESSAGE_ID = "Nats-Msg-Id"
ORDERING_KEY = "X-Ordering-Key"
_NOTE = "x" * 150


def event_id(number: int) -> str:
    """The id of event ``number``, as long as any UUID."""
    return str(uuid.UUID(int=(1 << 120) + number))


def key(number: int) -> str:
    """One of ``KEYS`` ordering keys."""
    return f"case-{number % KEYS}"


def body(number: int) -> dict[str, object]:
    """What event ``number`` says; it tells the number and the key again."""
    return {"case": key(number), "number": number, "note": _NOTE}


def payload(number: int) -> bytes:
    """``body`` as JSON, about 200 bytes."""
    return json.dumps(body(number)).encode()


def headers(number: int) -> dict[str, str]:
    """The two headers that everybody sends; what a product adds of its own comes on top."""
    return {MESSAGE_ID: event_id(number), ORDERING_KEY: key(number)}
