"""Finds what no consumer could bury: messages whose last delivery died with its process.

The server stops delivering at ``max_deliver`` and says so once, in an advisory that the stream
``SEAWAY_ADVISORIES`` keeps; nothing else shows it (``num_ack_pending`` is 0 again). The sweeper
turns each advisory into a letter and acknowledges it afterwards. Advisories may repeat, and a
consumer may have stored the letter itself before it lost its acknowledgement: the letter's id is
the same, and the queue is searched for it first.

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
from datetime import timedelta

from seaway.contracts import (
    Broker,
    DeadLetterReason,
    InboxStore,
    Incoming,
    StoredMessage,
    Subscription,
)
from seaway.dead_letters.queue import DeadLetters, Selection
from seaway.errors import ApiError, InvalidName, NotFound, TransientError
from seaway.naming import (
    ADVISORY_STREAM,
    MAX_DELIVERIES_PREFIX,
    Durable,
    original_subject,
    stream_context,
)
from seaway.retry import Backoff
from seaway.telemetry import DeadLettered, Telemetry

logger = logging.getLogger("seaway.sweeper")

DURABLE = "seaway__sweeper"
_BATCH = 100
_POLL = timedelta(seconds=5)
_BACKOFF = Backoff(timedelta(milliseconds=500), timedelta(seconds=30))


class Sweeper:
    """One sweep of the advisories, by any number of processes: they share a durable."""

    def __init__(
        self,
        broker: Broker,
        *,
        store: InboxStore | None = None,
        durables: Collection[str] = (),
        telemetry: Telemetry | None = None,
    ) -> None:
        self._broker = broker
        self._letters = DeadLetters(broker)
        self._store = store
        self._durables = frozenset(durables)
        self._telemetry = telemetry or Telemetry()

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until ``stop``. Heals outages by itself; says once where the stream is missing."""
        attempt, said = 0, False
        while not stop.is_set():
            try:
                await self._prepare()
                await self.sweep_unreported()
                attempt = 0
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
                for advisory in pull.result():
                    await self._take(advisory)
                    await source.ack(advisory)
        finally:
            stopping.cancel()

    async def _take(self, advisory: Incoming) -> None:
        exhausted = advisory.message.subject.startswith(MAX_DELIVERIES_PREFIX)
        reason: DeadLetterReason = "exhausted" if exhausted else "terminated"
        try:
            said = json.loads(advisory.message.payload)
            stream, consumer = str(said["stream"]), str(said["consumer"])
            stream_seq, deliveries = int(said["stream_seq"]), int(said.get("deliveries", 0))
        except (ValueError, KeyError, TypeError):
            logger.error("an advisory cannot be read: %r", advisory.message.payload[:200])
            return
        if not _is_ours(stream, consumer):
            return
        found = await self._broker.admin.get(stream, stream_seq)
        if found is None:
            logger.warning("%s gave up on %s:%d, which is gone", consumer, stream, stream_seq)
            return
        await self._bury(found, consumer, deliveries, reason)

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
                async for found in self._broker.admin.read(
                    stream, filter_subjects=filters, from_seq=floor + 1
                ):
                    if found.stream_seq > delivered:
                        break
                    if name in await self._store.processed(found.event_id):
                        continue
                    if await self._gave_up_on(stream, name):
                        deliveries = int(config.get("max_deliver", 0))
                        buried += await self._bury(found, name, deliveries, "exhausted")
        return buried

    async def _gave_up_on(self, stream: str, consumer: str) -> bool:
        """Still nothing pending: the message is not merely on its way to somebody."""
        info = await self._broker.admin.consumer(stream, consumer)
        return info is not None and not info.get("num_ack_pending")

    async def _bury(
        self, found: StoredMessage, consumer: str, deliveries: int, reason: DeadLetterReason
    ) -> bool:
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
        known = await self._letters.list(
            Selection(
                ids=(found.event_id,),
                consumer=consumer,
                subject=original_subject(found.message.subject),
            )
        )
        if any((one.stream, one.stream_seq) == (found.stream, found.stream_seq) for one in known):
            return False
        if (
            self._store is not None
            and consumer in self._durables
            and consumer in await self._store.processed(found.event_id)
        ):
            # It took effect, and only its acknowledgement was lost.
            return False
        await self._letters.store(incoming, reason=reason, error=None)
        if found.stream.endswith("_REDRIVE"):
            # A work queue keeps what nobody acknowledges: its letter stands for it now.
            await self._broker.admin.delete_message(found.stream, found.stream_seq)
        logger.error("%s: %s is a dead letter: %s", consumer, found.event_id, reason)
        self._telemetry.emit(DeadLettered(found.stream, consumer, found.event_id, reason, ""))
        return True


def _is_ours(stream: str, consumer: str) -> bool:
    try:
        stream_context(stream)
        Durable.parse(consumer)
    except InvalidName:
        return False
    return True
