"""What the stations of an event's way hold: streams, durables, queues of letters, the inbox.

Owns: how a stream is read from a place to a place, what a durable is to have handled by now, and
what of it is in its context's queues. Must not know: what is made of it. Only reads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from seaway import headers as h
from seaway.contracts import Broker, BrokerAdmin, ConsumerInfo, StoredMessage, StreamInfo
from seaway.dead_letters import DeadLetters, Letter, Selection
from seaway.headers import parse_time
from seaway.naming import OPERATOR, covers, dlq_stream, is_durable, redrive_stream

CHUNK = 20_000
"""Places that are compared at a time."""


def is_copy(stored: StoredMessage) -> bool:
    """Whether it was sent again on purpose, as ``seaway dlq redrive --to all`` does: a message with
    an id of its own, and the event's beside it. A first publication has one id."""
    found = stored.message.headers
    own = found.get(h.MSG_ID)
    return bool(own) and h.EVENT_ID in found and own != stored.event_id


@dataclass(slots=True)
class Taker:
    """A durable of an event stream: what it must have settled by the time it was asked about.

    ``first`` to ``floor``: every message of its filters between these places is acknowledged.
    """

    stream: str
    durable: str
    filters: tuple[str, ...]
    first: int
    floor: int

    def takes(self, subject: str) -> bool:
        """Whether its filters take ``subject``."""
        return not self.filters or any(covers(one, subject) for one in self.filters)


async def takers(admin: BrokerAdmin, info: StreamInfo, reader: str = OPERATOR) -> list[Taker]:
    """The durables of ``info``'s stream that could be Seaway's, by name."""
    found = []
    for listed in await admin.consumers(info.name):
        if listed.ephemeral or not is_durable(listed.durable):
            continue
        asked = await admin.consumer(info.name, listed.durable)  # A list may be a follower's.
        if asked is not None:
            first = await _first(admin, info, asked, reader)
            found.append(Taker(info.name, asked.durable, asked.filters, first, asked.ack_floor))
    return sorted(found, key=lambda one: one.durable)


async def _first(admin: BrokerAdmin, info: StreamInfo, durable: ConsumerInfo, reader: str) -> int:
    """From where on it was given messages; not from the first where it began later."""
    config = durable.document.get("config", {})
    policy = config.get("deliver_policy", "all")
    if policy == "all":
        return 1
    if policy == "by_start_sequence":
        return int(config.get("opt_start_seq", 1))
    begins = config.get("opt_start_time") if policy == "by_start_time" else durable.created
    return await place_at(admin, info, parse_time(str(begins)), reader)


async def place_at(
    admin: BrokerAdmin, info: StreamInfo, moment: datetime, reader: str = OPERATOR
) -> int:
    """The first place of what was stored at ``moment`` or later; behind the last where nothing
    was."""
    if info.first_at is None or moment <= info.first_at:
        return max(1, info.first_seq)
    if info.last_at is not None and moment > info.last_at:
        return info.last_seq + 1
    source = admin.read(info.name, from_time=moment, headers_only=True, reader=reader)
    async with aclosing(source) as messages:
        async for one in messages:
            return one.stream_seq
    return info.last_seq + 1


async def between(
    admin: BrokerAdmin, stream: str, first: int, last: int, reader: str = OPERATOR
) -> AsyncGenerator[StoredMessage]:
    """What lies in the places ``first..last``, in order, without payloads."""
    if first > last:
        return
    source = admin.read(stream, from_seq=first, headers_only=True, reader=reader)
    async with aclosing(source) as messages:
        async for one in messages:
            if one.stream_seq > last:
                return
            yield one


async def in_chunks(
    admin: BrokerAdmin, stream: str, first: int, last: int, reader: str = OPERATOR
) -> AsyncGenerator[tuple[int, int, list[StoredMessage]]]:
    """The same, ``CHUNK`` places at a time: from, to, and what lies there. None is left out where
    nothing lies."""
    held: list[StoredMessage] = []
    start = first
    async with aclosing(between(admin, stream, first, last, reader)) as messages:
        async for one in messages:
            while one.stream_seq >= start + CHUNK:
                yield start, start + CHUNK - 1, held
                start, held = start + CHUNK, []
            held.append(one)
    while start <= last:
        yield start, min(last, start + CHUNK - 1), held
        start, held = start + CHUNK, []


@dataclass(slots=True)
class Queues:
    """What waits in a context's queues: letters, and who of them is on the way back."""

    letters: list[Letter] = field(default_factory=list)
    redriven: Mapping[str, set[str]] = field(default_factory=dict)
    """By durable, the ids of events."""
    by_consumer: dict[str, set[str]] = field(default_factory=dict)

    def waits(self, durable: str) -> set[str]:
        """The events that have a letter of ``durable``, or are redriven to it."""
        return self.by_consumer.get(durable, set()) | self.redriven.get(durable, set())


async def queues(
    broker: Broker, context: str, durables: Sequence[str], reader: str = OPERATOR
) -> Queues:
    """First the letters, then the redrives: what goes from one to the other in between is seen."""
    name = dlq_stream(context)
    desk = DeadLetters(broker, reader=reader, queues=[name])
    found = Queues()
    async with aclosing(desk.letters(Selection(), payloads=False)) as letters:
        async for letter in letters:
            found.letters.append(letter)
            found.by_consumer.setdefault(letter.consumer, set()).add(letter.event_id)
    if await broker.admin.stream(redrive_stream(context)) is not None:
        found.redriven = {one: await desk.redriven(context, one) for one in durables}
    return found
