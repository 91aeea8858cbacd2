"""When a stream drops what a durable has not read: arithmetic on what the server says. Pure.

Owns: the estimate. Times between a stream's first message and its last are taken in proportion; how
fast it fills, from how long it took to get what it has.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from seaway.config import from_nanoseconds
from seaway.contracts import ConsumerInfo, StreamInfo
from seaway.words import counted, human_duration

USED = 0.5
"""Above that share of a limit, it is told."""


def max_age(stream: StreamInfo) -> timedelta | None:
    """Its limit; zero: none. ``None``: not known."""
    config = stream.document.get("config")
    if not isinstance(config, dict):
        return None
    return from_nanoseconds(int(config.get("max_age") or 0))


def ages(stream: StreamInfo) -> bool:
    """Whether it drops what nobody has read: by age, or since it makes room."""
    by_room = not stream.refuses_when_full and (
        stream.max_messages is not None or stream.max_bytes is not None
    )
    return stream.retention == "limits" and bool(by_room or max_age(stream))


def dropped_in(durable: ConsumerInfo, stream: StreamInfo, now: datetime) -> tuple[str, str] | None:
    """When the oldest that the durable has not settled goes, and by which limit; ``None``: not
    before more than half of the limit is left."""
    if not ages(stream) or not stream.messages or stream.first_at is None:
        return None
    oldest = min(max(durable.ack_floor + 1, stream.first_seq), stream.last_seq)
    found = [
        one
        for one in (_by_age(stream, oldest, durable.asked_at or now), *_by_room(stream, oldest))
        if one is not None and one[0] > USED
    ]
    if not found:
        return None
    _, when, limit = max(found)
    return when, limit


def _by_age(stream: StreamInfo, oldest: int, now: datetime) -> tuple[float, str, str] | None:
    limit = max_age(stream)
    if not limit or stream.first_at is None:
        return None
    began, ended = stream.first_at, stream.last_at or stream.first_at
    span = stream.last_seq - stream.first_seq
    stored = began + (ended - began) * ((oldest - stream.first_seq) / span if span else 0.0)
    left = limit - (now - stored)
    return (now - stored) / limit, f"in about {human_duration(left)}", "max_age"


def _by_room(stream: StreamInfo, oldest: int) -> list[tuple[float, str, str]]:
    """By messages, and by bytes as if all were of one size."""
    if stream.refuses_when_full:
        return []
    unread = stream.last_seq - oldest + 1
    each = stream.bytes / stream.messages
    found = []
    for limit, size, name in (
        (stream.max_messages, 1.0, "max_msgs"),
        (stream.max_bytes, each, "max_bytes"),
    ):
        if limit is not None and size:
            more = max(0, int((limit - unread * size) / size))
            found.append((unread * size / limit, _when(stream, more), name))
    return found


def _when(stream: StreamInfo, more: int) -> str:
    """After so many ``more`` messages, at the rate until now."""
    said = f"after {counted(more, 'message')} more"
    if stream.first_at is None or stream.last_at is None or stream.last_at <= stream.first_at:
        return said
    each = (stream.last_at - stream.first_at) / max(1, stream.messages - 1)
    return f"{said}, in about {human_duration(each * more)} at the rate until now"
