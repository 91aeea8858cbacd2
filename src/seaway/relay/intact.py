"""Up to which place a stream still holds what it acknowledged.

A stream loses its tail, never its middle: below a place that holds its event, all is as it was. So
the last intact place is found by halves. Owns: the search. Guarantees: what is gone from its place
(deleted, purged, expired, consumed) tells nothing.
"""

from __future__ import annotations

from seaway.contracts import BrokerAdmin, Lease, StreamInfo
from seaway.inbox.places import holds

_MOST_SILENT = 64
"""Places in a row at which nothing lies, until no more is asked."""


async def last_intact(admin: BrokerAdmin, lease: Lease, info: StreamInfo, *, of_all: bool) -> int:
    """The highest place up to which nothing of the lease's shards (``of_all``: of all) is lost.

    First down from the stream's end in steps that double, then between the lowest that is lost
    and the highest that is not by halves. With nothing else to be seen, only what lies beyond the
    end is lost.
    """
    stream, intact, lost = info.name, info.first_seq - 1, info.last_seq + 1
    at, step, silent = info.last_seq, 1, 0
    while at > intact:
        place = await lease.last_sent(stream, upto=at, of_all=of_all)
        if place is None or place.stream_seq <= intact:
            break
        held = await holds(admin, stream, place.stream_seq, place.event_id)
        if held:
            intact = place.stream_seq
            break
        if held is False:
            lost, silent = place.stream_seq, 0
        elif (silent := silent + 1) > _MOST_SILENT:
            break
        at, step = place.stream_seq - step, step * 2
    while lost - intact > 1:
        middle = (intact + lost) // 2
        place = await lease.last_sent(stream, upto=middle, of_all=of_all)
        held, left = True, _MOST_SILENT
        while place is not None and place.stream_seq > intact and left:
            held, left = await holds(admin, stream, place.stream_seq, place.event_id), left - 1
            if held is not None:
                break
            below = place.stream_seq - 1
            place = await lease.last_sent(stream, upto=below, of_all=of_all)
        if held is False and place is not None:
            lost = place.stream_seq
        else:
            intact = middle
    return lost - 1
