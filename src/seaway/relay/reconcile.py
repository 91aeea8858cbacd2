"""What is on a stream and still in the outbox: found by asking the stream, and settled.

Owns: that comparison. Guarantees: complete for everything that had been published when it began,
by whomever; nothing is settled because of its id alone; memory for one chunk of ids, however long
the stream.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from seaway import headers as h
from seaway.contracts import BrokerAdmin, Failed, Lease, Sent
from seaway.errors import NotFound
from seaway.naming import RELAY
from seaway.relay import decisions
from seaway.relay.duplicates import look

_CHUNK = 1000


@dataclass(slots=True)
class Found:
    """Ids of what was settled, and, by id, events whose id another message has taken."""

    settled: set[str] = field(default_factory=set)
    taken: dict[str, Failed] = field(default_factory=dict)


async def settle_published(
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
