"""Finds what no consumer could bury: messages whose last delivery died with its process.

The server stops delivering at ``max_deliver`` and says so once, in an advisory that the stream
``SEAWAY_ADVISORIES`` keeps; nothing else shows it (``num_ack_pending`` is 0 again). The sweeper
turns each advisory into a letter and acknowledges it afterwards. Advisories may repeat, and a
consumer may have stored the letter itself before it lost its acknowledgement: the letter's id is
the same, so the queue takes it once; for an advisory that is older than the queue's memory of ids
(it had waited for a sweeper), the queue is searched first.

At start it also looks where advisories may be missing (their stream did not exist yet): a durable
with ``ack_floor < delivered`` and nothing pending has given up on something in between. Which of
those were handled, only its inbox knows: so this is done for the durables of this store alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from seaway import headers as h
from seaway.contracts import (
    Broker,
    DeadLetterReason,
    InboxStore,
    Incoming,
    StoredMessage,
    Subscription,
)
from seaway.dead_letters.queue import DeadLetters, Selection
from seaway.errors import ApiError, DecodeError, InvalidName, NotFound, TransientError
from seaway.naming import (
    ADVISORY_STREAM,
    MAX_DELIVERIES_PREFIX,
    Durable,
    dlq_stream,
    events_stream,
    original_subject,
    redrive_stream,
    stream_context,
)
from seaway.retry import Backoff
from seaway.telemetry import DeadLettered, Telemetry

logger = logging.getLogger("seaway.sweeper")

DURABLE = "seaway__sweeper"
_BATCH = 100
_POLL = timedelta(seconds=5)
_BACKOFF = Backoff(timedelta(milliseconds=500), timedelta(seconds=30))
_RETRY = Backoff(timedelta(seconds=1), timedelta(minutes=5), timedelta(seconds=1))


@dataclass(frozen=True, slots=True)
class Advisory:
    """What the server said of a message that a durable does not get any more."""

    reason: DeadLetterReason
    stream: str
    consumer: str
    stream_seq: int
    deliveries: int

    @classmethod
    def parse(cls, subject: str, payload: bytes) -> Advisory:
        """``DecodeError`` where it is not what the server writes."""
        try:
            said = json.loads(payload)
            stream, consumer = said["stream"], said["consumer"]
            stream_seq, deliveries = said["stream_seq"], said.get("deliveries", 0)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DecodeError(f"an advisory cannot be read: {payload[:200]!r}") from error
        texts, numbers = (stream, consumer), (stream_seq, deliveries)
        if not all(type(text) is str for text in texts) or not all(
            type(number) is int and 0 <= number < 2**63 for number in numbers
        ):
            raise DecodeError(f"an advisory cannot be read: {payload[:200]!r}")
        exhausted = subject.startswith(MAX_DELIVERIES_PREFIX)
        return cls(
            "exhausted" if exhausted else "terminated", stream, consumer, stream_seq, deliveries
        )

    @property
    def ours(self) -> bool:
        """Whether a durable of an event or redrive stream is meant."""
        try:
            context = stream_context(self.stream)
            Durable.parse(self.consumer)
        except InvalidName:
            return False
        return self.stream in (events_stream(context), redrive_stream(context))


class Sweeper:
    """One sweep of the advisories, by any number of processes: they share a durable."""

    def __init__(
        self,
        broker: Broker,
        *,
        store: InboxStore | None = None,
        durables: Collection[str] = (),
        parking: Collection[str] = (),
        telemetry: Telemetry | None = None,
    ) -> None:
        self._broker = broker
        self._letters = DeadLetters(broker)
        self._store = store
        self._durables = frozenset(durables)
        self._parking = frozenset(parking)
        self._telemetry = telemetry or Telemetry()

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until ``stop``. Heals outages by itself; says once where the stream is missing."""
        attempt, said = 0, False
        while not stop.is_set():
            try:
                await self._prepare()
                await self.sweep_unreported()
                attempt, said = 0, False
                async with self._broker.subscribe(ADVISORY_STREAM, DURABLE) as source:
                    await self._sweep(source, stop)
            except (TransientError, NotFound, ApiError) as error:
                attempt += 1
                if not said:
                    logger.warning("the sweeper waits: %s", error)
                    said = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BACKOFF.delay(attempt).total_seconds()):
                        await stop.wait()

    async def _prepare(self) -> None:
        admin = self._broker.admin
        info = await admin.stream(ADVISORY_STREAM)
        if info is None:
            raise NotFound(f"there is no stream {ADVISORY_STREAM}: run `seaway topology apply`")
        if await admin.consumer(ADVISORY_STREAM, DURABLE) is None:
            await admin.create_consumer(
                ADVISORY_STREAM,
                {
                    "durable_name": DURABLE,
                    "ack_policy": "explicit",
                    "ack_wait": 30 * 10**9,
                    "max_deliver": -1,
                    "max_ack_pending": _BATCH,
                },
            )

    async def _sweep(self, source: Subscription, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                pull = asyncio.create_task(source.next(_BATCH, timeout=_POLL))
                await asyncio.wait({pull, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not pull.done():
                    pull.cancel()
                    await asyncio.wait({pull})
                if pull.cancelled():
                    return
                for incoming in pull.result():
                    await self._settle(source, incoming)
        finally:
            stopping.cancel()

    async def _settle(self, source: Subscription, incoming: Incoming) -> None:
        try:
            advisory = Advisory.parse(incoming.message.subject, incoming.message.payload)
            if advisory.ours:
                await self._take(advisory, incoming.stored_at)
        except DecodeError as error:
            logger.error("%s", error)
        except (TransientError, ApiError) as error:
            # One message that cannot be buried now must not keep the others from it.
            log = logger.warning if incoming.deliveries == 1 else logger.debug
            log("the sweeper tries again later: %s", error)
            await source.nak(incoming, delay=_RETRY.delay(incoming.deliveries))
            return
        await source.ack(incoming)

    async def _take(self, advisory: Advisory, said_at: datetime) -> None:
        stream, stream_seq = advisory.stream, advisory.stream_seq
        found = await self._broker.admin.get(stream, stream_seq)
        if found is None:
            logger.warning(
                "%s gave up on %s:%d, which is gone", advisory.consumer, stream, stream_seq
            )
            return
        await self._bury(found, advisory.consumer, advisory.deliveries, advisory.reason, said_at)

    async def sweep_unreported(self) -> int:
        """Bury what durables gave up on without an advisory; how many letters were written."""
        if self._store is None:
            return 0
        buried = 0
        for info in await self._broker.admin.streams():
            stream = info["config"]["name"]
            if not stream.endswith("_EVENTS"):
                continue
            for consumer in await self._broker.admin.consumers(stream):
                name, config = consumer["name"], consumer["config"]
                floor = int(consumer["ack_floor"]["stream_seq"])
                delivered = int(consumer["delivered"]["stream_seq"])
                if (
                    floor >= delivered
                    or consumer.get("num_ack_pending")
                    or name not in self._durables
                ):
                    continue
                filters = [config["filter_subject"]] if config.get("filter_subject") else []
                stored = self._broker.admin.read(
                    stream, filter_subjects=filters, from_seq=floor + 1
                )
                async with aclosing(stored):
                    async for found in stored:
                        if found.stream_seq > delivered:
                            break
                        if name in await self._store.processed(found.event_id):
                            continue
                        if await self._gave_up_on(stream, name):
                            deliveries = int(config.get("max_deliver", 0))
                            buried += await self._bury(found, name, deliveries, "exhausted", None)
        return buried

    async def _gave_up_on(self, stream: str, consumer: str) -> bool:
        """Still nothing pending: the message is not merely on its way to somebody."""
        info = await self._broker.admin.consumer(stream, consumer)
        return info is not None and not info.get("num_ack_pending")

    async def _bury(
        self,
        found: StoredMessage,
        consumer: str,
        deliveries: int,
        reason: DeadLetterReason,
        since: datetime | None,
    ) -> bool:
        """Whether a letter was written. ``since``: when it was given up on; ``None``: not known."""
        incoming = Incoming(
            message=found.message,
            stream=found.stream,
            stream_seq=found.stream_seq,
            stored_at=found.stored_at,
            consumer=consumer,
            consumer_seq=0,
            deliveries=deliveries,
            pending=0,
        )
        needed = not await self._took_effect(incoming) and not await self._is_there(incoming, since)
        if needed:
            await self._store_letter(incoming, reason)
            self._telemetry.emit(DeadLettered(found.stream, consumer, found.event_id, reason, ""))
        if found.stream == redrive_stream(stream_context(found.stream)):
            # A work queue keeps what nobody acknowledges: its letter stands for it now.
            await self._broker.admin.delete_message(found.stream, found.stream_seq)
        return needed

    async def _store_letter(self, incoming: Incoming, reason: DeadLetterReason) -> None:
        """The later events of its key wait, if this store is the one that remembers it."""
        store, consumer, event_id = self._store, incoming.consumer, incoming.event_id
        if store is None or consumer not in self._parking:
            await self._letters.store(incoming, reason=reason, error=None)
            return
        subject = original_subject(incoming.message.subject)
        key = h.ordering_key(subject, incoming.message.headers)
        place = incoming.stream_seq if subject == incoming.message.subject else 0
        async with store.transaction() as tx:
            await tx.park(consumer, event_id, key, place=place, failed=True)
        letter = await self._letters.store(incoming, reason=reason, error=None)
        async with store.transaction() as tx:
            await tx.set_letter(consumer, event_id, letter)

    async def _took_effect(self, incoming: Incoming) -> bool:
        """Only its acknowledgement was lost."""
        return (
            self._store is not None
            and incoming.consumer in self._durables
            and incoming.consumer in await self._store.processed(incoming.event_id)
        )

    async def _is_there(self, incoming: Incoming, since: datetime | None) -> bool:
        """Whether the queue holds the letter, though it may have forgotten the letter's id."""
        queue = dlq_stream(stream_context(incoming.stream))
        info = await self._broker.admin.stream(queue)
        window = timedelta(
            microseconds=int(info["config"].get("duplicate_window", 0)) / 1000 if info else 0
        )
        # The consumer's own letter is older than the advisory by its ack_wait: half is on the safe
        # side, and searching the queue for each advisory of a flood would take for ever.
        if since is not None and datetime.now(UTC) - since < window / 2:
            return False
        known = await self._letters.list(
            Selection(
                consumer=incoming.consumer,
                subject=original_subject(incoming.message.subject),
            ),
            payloads=False,
        )
        place = (incoming.stream, incoming.stream_seq)
        return any((letter.stream, letter.stream_seq) == place for letter in known)
