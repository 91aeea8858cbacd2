"""What a stream has already of what is in the outbox: found there, compared, settled.

A stream drops what comes under an id that it knows, whatever lies there: anybody who may publish to
it can take an event's id before the relay does, and a writer can give one id to two events. And it
forgets ids, so that what was published and not settled is looked for before it is sent again.

Owns: telling the event from another message under its id; settling what is there. Guarantees:
complete for everything that had been published when it began, by whomever; nothing is settled
because of its id alone; a run of events that an earlier attempt has stored costs one look, however
long it is; memory for one chunk of ids, however long the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from seaway import headers as h
from seaway.contracts import BrokerAdmin, Failed, Lease, OutboxEntry, Sent, StoredMessage
from seaway.errors import NotFound
from seaway.naming import RELAY
from seaway.relay import decisions

CLOCK_SKEW = timedelta(minutes=1)
"""How far the database's clock may be ahead of the server's when ids are looked up."""
NEAR = 100
"""Messages between two of ours that are read rather than asked for anew."""
_CHUNK = 1000
_ALIKE = (h.EVENT_VERSION, h.ORDERING_KEY, h.CONTENT_TYPE)


@dataclass(slots=True)
class Seen:
    """By event id: where the event itself lies, and what lies there in its stead."""

    own: dict[str, int] = field(default_factory=dict)
    foreign: dict[str, StoredMessage] = field(default_factory=dict)

    def saw(self, entry: OutboxEntry, stored: StoredMessage) -> None:
        """Take in what is stored under the entry's id; once is enough for its own."""
        if is_event(entry, stored):
            self.own[entry.event_id] = stored.stream_seq
            self.foreign.pop(entry.event_id, None)
        elif entry.event_id not in self.own:
            self.foreign[entry.event_id] = stored


def is_event(entry: OutboxEntry, stored: StoredMessage) -> bool:
    """Subject, payload, identity, and what tells how it is read and in which order."""
    ours, theirs = entry.message, stored.message
    return (
        ours.subject == theirs.subject
        and ours.payload == theirs.payload
        and entry.event_id == h.identity(theirs.headers, fallback_id="")
        and all(_text(ours.headers, name) == _text(theirs.headers, name) for name in _ALIKE)
    )


def _text(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name, "").strip()  # Readers drop the blanks around a value.


async def look(
    admin: BrokerAdmin,
    stream: str,
    known: Sequence[tuple[OutboxEntry, int]],
    behind: Iterable[OutboxEntry] = (),
) -> Seen:
    """What lies at the places of ``known``, which the stream gave for their ids.

    ``behind``: entries that may lie after those. What is gone from its place (consumed, expired) is
    taken for the event's own: nothing tells otherwise. Raises what reading raises.
    """
    places = {seq: entry for entry, seq in known}
    others = {entry.event_id: entry for entry in behind}
    left, seen = sorted(places), Seen()
    while left:
        reached = first = left[0]
        if not others and (len(left) == 1 or left[1] - first > NEAR):
            stored = await admin.get(stream, first)
            if stored is not None:
                seen.saw(places[first], stored)
        else:
            reached = await _read(admin, stream, left, places, others, seen)
        left = [seq for seq in left if seq > reached]
    for entry, seq in known:
        if entry.event_id not in seen.foreign:
            seen.own.setdefault(entry.event_id, seq)
    return seen


async def _read(
    admin: BrokerAdmin,
    stream: str,
    left: Sequence[int],
    places: Mapping[int, OutboxEntry],
    others: Mapping[str, OutboxEntry],
    seen: Seen,
) -> int:
    """Read on from the first place for as long as there is something of ours; how far it came."""
    ahead = iter(left)
    wanted: int | None = next(ahead)
    hit = left[0]
    async with aclosing(admin.read(stream, from_seq=left[0], reader=RELAY)) as reading:
        async for stored in reading:
            seq = stored.stream_seq
            while wanted is not None and wanted <= seq:
                wanted = next(ahead, None)
            entry = places.get(seq) or others.get(stored.message.headers.get(h.MSG_ID, ""))
            if entry is not None:
                hit = seq
                seen.saw(entry, stored)
            elif seq - hit > NEAR and (wanted is None or wanted - seq > NEAR):
                return seq
    return left[-1]


@dataclass(slots=True)
class Found:
    """Ids of what was settled, and, by id, events whose id another message has taken."""

    settled: set[str] = field(default_factory=set)
    taken: dict[str, Failed] = field(default_factory=dict)


async def settle_stored(
    admin: BrokerAdmin, stream: str, lease: Lease, *, since: datetime, stop: asyncio.Event
) -> Found | None:
    """Settle every entry that ``stream`` has stored since then.

    Reads headers, and in full only what lies under an id that the outbox has. ``None``: stopped
    before it was complete. Raises what reading and settling raise; what was settled by then stays
    so. What was ``taken`` is left to the caller to record.
    """
    found = Found()
    chunk: dict[str, int] = {}

    async def settle() -> None:
        if entries := await lease.find(list(chunk)):
            seen = await look(admin, stream, [(entry, chunk[entry.event_id]) for entry in entries])
            own = [entry for entry in entries if entry.event_id in seen.own]
            await lease.settle([Sent(entry, stream, seen.own[entry.event_id]) for entry in own])
            for entry in entries:
                other = seen.foreign.get(entry.event_id)
                if other is None:
                    found.settled.add(entry.event_id)
                    found.taken.pop(entry.event_id, None)
                else:
                    found.taken[entry.event_id] = decisions.taken(entry, other)
        chunk.clear()

    stored = admin.read(stream, from_time=since, headers_only=True, reader=RELAY)
    try:
        async with aclosing(stored):
            async for each in stored:
                message_id = each.message.headers.get(h.MSG_ID)
                if message_id in chunk:
                    await settle()  # Twice on the stream: one of them may be the event.
                if message_id is not None:
                    chunk[message_id] = each.stream_seq
                if len(chunk) == _CHUNK:
                    await settle()
                if stop.is_set():
                    return None
    except NotFound:
        return found
    await settle()
    return found
