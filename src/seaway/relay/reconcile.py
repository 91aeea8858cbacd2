"""What is on a stream and still in the outbox: found by asking the stream, and settled.

Owns: that comparison. Guarantees: complete for everything that had been published when it began,
by whomever; memory for one chunk of ids, however long the stream.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime

from seaway import headers as h
from seaway.contracts import BrokerAdmin, Lease, Sent
from seaway.errors import NotFound
from seaway.naming import RELAY

_CHUNK = 1000


async def settle_published(
    admin: BrokerAdmin, stream: str, lease: Lease, *, since: datetime, stop: asyncio.Event
) -> set[str] | None:
    """Settle every entry whose id ``stream`` has stored since then; their ids.

    Reads headers only. ``None``: stopped before it was complete. Raises what reading and settling
    raise; what was settled by then stays so.
    """
    settled: set[str] = set()
    chunk: dict[str, int] = {}

    async def settle() -> None:
        if found := await lease.find(list(chunk)):
            await lease.settle([Sent(entry, stream, chunk[entry.event_id]) for entry in found])
        settled.update(entry.event_id for entry in found)
        chunk.clear()

    stored = admin.read(stream, from_time=since, headers_only=True, reader=RELAY)
    try:
        async with aclosing(stored):
            async for each in stored:
                message_id = each.message.headers.get(h.MSG_ID)
                if message_id is not None:
                    chunk[message_id] = each.stream_seq
                if len(chunk) == _CHUNK:
                    await settle()
                if stop.is_set():
                    return None
    except NotFound:
        return settled
    await settle()
    return settled
