"""Messages that a durable gave up on while no stream recorded the advisory.

Nothing at the server says it either. Its acknowledgement floor stays below such a message only
until the next acknowledgement while nothing else is pending; so the streams are read, headers only,
and compared with the inbox, the dead letters and the redrives:

- what a durable has been given and does not wait for, at every start, above its floor;
- below it as well what is older than the stream of advisories, once for each time that it was
  made anew; an inbox row says that it was done. Usually that is nothing.
- of a redrive stream, which forgets what is acknowledged, everything below the floor.

Only for the durables of this application's own store: which messages were handled, its inbox knows.
What an operator discarded in that time looks the same, and becomes a letter again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Protocol

from seaway import headers as h
from seaway.contracts import Broker, ConsumerInfo, InboxStore, Incoming, Notes, StoredMessage
from seaway.dead_letters.queue import DeadLetters
from seaway.errors import StoreRefused
from seaway.inbox.places import what_became_of
from seaway.naming import (
    ADVISORY_STREAM,
    SWEEPER,
    redrive_stream,
    stream_context,
)


class Swept(Protocol):
    """A consumer of this application, as the sweeper knows it (``Consumer``).

    ``stream``: its event stream. ``parks``: whether later events of a key wait behind a failed one.
    """

    @property
    def stream(self) -> str: ...
    @property
    def parks(self) -> bool: ...
    def handles(self, subject: str, /) -> bool:
        """Whether it has a handler: what it ignores leaves no row in the inbox."""
        ...


class SweptStore(InboxStore, Notes, Protocol):
    """The application's own database."""


class Unreported:
    """Looks through the event stream of each of ``consumers``, and that of its redrives."""

    def __init__(
        self,
        broker: Broker,
        letters: DeadLetters,
        store: SweptStore,
        consumers: Mapping[str, Swept],
    ) -> None:
        self._admin = broker.admin
        self._letters = letters
        self._store = store
        self._consumers = consumers
        self.undecided = False
        """Whether the last look left out what may still be on its way: look again later."""

    async def find(self) -> AsyncGenerator[Incoming]:
        """What a durable does not get any more and has no letter. Look again after an error."""
        self.undecided = False
        advisories = await self._admin.stream(ADVISORY_STREAM)
        made = advisories.created if advisories else ""
        for name, swept in self._consumers.items():
            for stream in (swept.stream, redrive_stream(stream_context(swept.stream))):
                consumer = await self._admin.consumer(stream, name)
                if consumer is None:
                    continue
                async with aclosing(self._of(consumer, made)) as found:
                    async for one in found:
                        yield one

    async def _of(self, consumer: ConsumerInfo, made: str) -> AsyncGenerator[Incoming]:
        stream, name = consumer.key
        if await self._has_lost(consumer):
            self.undecided = True  # What it is past has not been given to it.
            return
        mark = f"{stream} {made}"
        looked = not made or bool(await self._store.claimed(_marked(name), [mark]))
        known: set[str] | None = None
        before = None if looked else h.parse_time(made)
        async with aclosing(self._candidates(consumer, before)) as candidates:
            async for found in candidates:
                if not self._consumers[name].handles(found.event_subject):
                    continue
                if await self._has_effect(name, found):
                    continue
                if known is None:
                    known = await self._known(stream, name)
                if found.event_id not in known:
                    whole = await self._admin.get(stream, found.stream_seq) or found
                    yield Incoming.read(whole, name, deliveries=consumer.max_deliver or 0)
        undecided = await self._waits(stream, name)
        self.undecided |= undecided
        if not looked and not undecided:
            async with self._store.transaction() as tx:
                await tx.claim(_marked(name), mark)

    async def _has_lost(self, consumer: ConsumerInfo) -> bool:
        """Whether the stream has lost what the durable was given, and it was not set back yet."""
        stream, name = consumer.key
        held = await self._admin.stream(stream)
        if held is None or consumer.stream_seq > held.last_seq:
            return True
        known = {one.stream: one for one in await self._store.places(name)}.get(stream)
        return known is not None and bool(await what_became_of(self._admin, known, held))

    async def _has_effect(self, consumer: str, found: StoredMessage) -> bool:
        try:
            return bool(await self._store.claimed(consumer, [found.event_id]))
        except StoreRefused:
            return False  # An id that no row can hold has none.

    async def _candidates(
        self, consumer: ConsumerInfo, before: datetime | None
    ) -> AsyncGenerator[StoredMessage]:
        """What the durable was given and does not wait for; below its floor, where acknowledged
        messages stay, only what is older than ``before``."""
        stream, name = consumer.key
        floor, delivered = consumer.ack_floor, consumer.stream_seq
        keeps = stream != redrive_stream(stream_context(stream))
        if before is not None or not keeps:
            async with aclosing(self._read(consumer, None)) as oldest:
                async for found in oldest:
                    late = keeps and before is not None and found.stored_at >= before
                    if late or found.stream_seq > floor:
                        break
                    yield found
        if floor < delivered and not consumer.num_ack_pending:
            async with aclosing(self._read(consumer, floor + 1)) as newest:
                async for found in newest:
                    # Nothing may have come to be on its way since then.
                    if found.stream_seq > delivered or await self._waits(stream, name):
                        break
                    yield found

    async def _waits(self, stream: str, consumer: str) -> bool:
        """Whether the durable waits for anything that it was given."""
        info = await self._admin.consumer(stream, consumer)
        return info is None or info.num_ack_pending > 0

    def _read(self, consumer: ConsumerInfo, first: int | None) -> AsyncGenerator[StoredMessage]:
        return self._admin.read(
            consumer.stream,
            filter_subjects=consumer.filters,
            from_seq=first,
            headers_only=True,
            reader=SWEEPER,
        )

    async def _known(self, stream: str, consumer: str) -> set[str]:
        """The events that have a letter of this consumer, or are redriven to it."""
        context = stream_context(stream)
        known: set[str] = set()
        if stream != redrive_stream(context):
            # First: a redrive that fails becomes a letter before it goes from here.
            known = await self._letters.redriven(context, consumer)
        letters = await self._letters.of_consumer(context, consumer)
        return known | {letter.event_id for letter in letters}


def _marked(consumer: str) -> str:
    """The name in the inbox under which a durable's streams are noted as looked through."""
    return f"{consumer} unreported"
