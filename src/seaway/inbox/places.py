"""Whether a stream still holds what it is known to have held (ADR 0024).

A stream may come back as an earlier state of itself: its end is gone, and the sequences of that are
given a second time. What lies at or below a place that is intact is intact, too.

    holds our event ............. intact up to there
    holds another, or is beyond the stream's end ... lost from there on, and perhaps before
    holds nothing ............... deleted, purged or expired: that says nothing
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from seaway.contracts import (
    BrokerAdmin,
    KnownPlace,
    LogEntry,
    PlaceStore,
    StoredMessage,
    StreamInfo,
)

LETTERS = "letters"
"""As which part the last places of queues of dead letters and of redrives are noted."""


async def holds(admin: BrokerAdmin, stream: str, stream_seq: int, event_id: str) -> bool | None:
    """Whether that event lies in that place; ``None``: nothing does, and that tells nothing."""
    found = await admin.get(stream, stream_seq)
    if found is not None:
        return found.event_id == event_id
    held = await admin.stream(stream)
    return False if held is not None and held.last_seq < stream_seq else None


async def what_became_of(admin: BrokerAdmin, known: KnownPlace, held: StreamInfo) -> str:
    """Why a place that was there is not there any more; empty where nothing says so. ``held``: its
    stream as it is now."""
    stream, stream_seq = known.stream, known.stream_seq
    if stream_seq > held.last_seq:
        return f"it had {stream}:{stream_seq}, and now ends at {held.last_seq}"
    found = await admin.get(stream, stream_seq)
    return "" if found is None or is_at(found, known) else f"{stream}:{stream_seq} is another now"


def is_at(found: StoredMessage, known: KnownPlace) -> bool:
    """Whether what lies in that place is what was known to."""
    return (found.event_id, found.stored_at) == (known.event_id, known.stored_at)


def entry(action: str, about: str, detail: Mapping[str, Any]) -> LogEntry:
    """What is noted of it, as done by this process."""
    return LogEntry(action, about, detail, f"{socket.gethostname()}:{os.getpid()}")


async def is_whole(admin: BrokerAdmin, notes: PlaceStore, *streams: str) -> bool:
    """Whether each of them still holds what it is known to have held last, as far as that can be
    told. False: letters may be lacking that nobody has taken out."""
    known = {one.stream: one for one in await notes.places(LETTERS)}
    for stream in streams:
        place = known.get(stream)
        # Of one that had gone when it was noted no event is known.
        if place and await holds(admin, stream, place.stream_seq, place.event_id) is False:
            return False
    return True


async def note_stored_now(
    admin: BrokerAdmin, notes: PlaceStore, stream: str, stream_seq: int, event_id: str
) -> None:
    """``note_last`` of what was stored just now, while the stream still holds what it is known to
    have held before: else that note is all that tells of a loss that nobody has looked at yet."""
    if await is_whole(admin, notes, stream):
        await note_last(notes, stream, stream_seq, event_id)


async def note_last(notes: PlaceStore, stream: str, stream_seq: int, event_id: str) -> None:
    """The last that a queue, or a stream of redrives, is known to have stored."""
    await notes.know(KnownPlace(LETTERS, stream, stream_seq, event_id, datetime.now(UTC)))
