"""Whether a stream still holds what it is known to have held (ADR 0024).

A stream may come back as an earlier state of itself: its end is gone, and the sequences of that are
given a second time. What lies at or below a place that is intact is intact, too.

    holds our event ............. intact up to there
    holds another, or is beyond the stream's end ... lost from there on, and perhaps before
    holds nothing ............... deleted, purged or expired: that says nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from seaway.process import this_process

LETTERS = "letters"
"""As which part the last places of queues of dead letters and of redrives are noted."""


async def holds(admin: BrokerAdmin, stream: str, stream_seq: int, event_id: str) -> bool | None:
    """Whether that event lies in that place; ``None``: nothing does, and that tells nothing."""
    return await _lies(admin, stream, stream_seq, lambda found: found.event_id == event_id)


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
    return LogEntry(action, about, detail, this_process())


async def is_there(admin: BrokerAdmin, known: KnownPlace) -> bool | None:
    """Whether that message still lies there; ``None``: nothing does, and that tells nothing. Not
    the same event alone: its letter may be in that place again, and those before it not yet."""
    return await _lies(admin, known.stream, known.stream_seq, lambda found: is_at(found, known))


async def _lies(
    admin: BrokerAdmin, stream: str, stream_seq: int, is_it: Callable[[StoredMessage], bool]
) -> bool | None:
    found = await admin.get(stream, stream_seq)
    if found is not None:
        return is_it(found)
    held = await admin.stream(stream)
    return False if held is not None and held.last_seq < stream_seq else None


async def is_whole(admin: BrokerAdmin, notes: PlaceStore, *streams: str) -> bool:
    """Whether each of them still holds what it is known to have held last, as far as that can be
    told. False: letters may be lacking that nobody has taken out."""
    known = {one.stream: one for one in await notes.places(LETTERS)}
    for stream in streams:
        if stream in known and await is_there(admin, known[stream]) is False:
            return False
    return True


async def last_place(admin: BrokerAdmin, stream: str, stream_seq: int) -> KnownPlace:
    """As the last that a queue, or a stream of redrives, is known to have stored; without an event
    where that has gone."""
    found = await admin.get(stream, stream_seq)
    if found is None:
        return KnownPlace(LETTERS, stream, stream_seq, "", datetime.now(UTC))
    return KnownPlace(LETTERS, stream, stream_seq, found.event_id, found.stored_at)


async def note_stored_now(
    admin: BrokerAdmin, notes: PlaceStore, stream: str, stream_seq: int, event_id: str
) -> None:
    """Note as the last place what was stored just now, also where it is lost already; but not while
    the stream lacks what it is known to have held before: then that note is all that tells of a
    loss that nobody has looked at yet."""
    if await is_whole(admin, notes, stream):
        place = await last_place(admin, stream, stream_seq)
        await notes.know(place._replace(event_id=event_id))
