"""``MemoryBroker``: the streams of a test, with the semantics of real ones and no server.

Owns: publishing, pulls and their ack timers. Guarantees: it passes the conformance
suite of ``contracts.Broker``. Where it is less than a server: one process, no accounts, no mirrors;
what falls due (redelivery, max_deliver, max_age) happens when somebody looks.

    broker = MemoryBroker()
    await broker.admin.create_stream({"name": "SEA_EVENTS", "subjects": ["sea.event.>"]})
    await broker.publish("SEA_EVENTS", [message], timeout=timedelta(seconds=1))
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from seaway import headers as h
from seaway.brokers.jetstream import api
from seaway.contracts import (
    JSON,
    ConsumerInfo,
    Granted,
    Held,
    Incoming,
    Message,
    PublishOutcome,
    Refused,
    ServerInfo,
    Stored,
    StoredMessage,
    StreamInfo,
    Subscription,
    Unconfirmed,
)
from seaway.errors import BrokerUnavailable, ConfigError, InvalidName, NotFound
from seaway.naming import OPERATOR, check_subject, covers, overlap
from seaway.testing.memory_streams import (
    Delivered,
    MemoryConsumer,
    MemoryStream,
    consumer_config,
    size_of,
    stream_config,
    utc_now,
)

_PAUSE_LOOK_SECONDS = 0.01
_ADVISORY = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"


class MemoryBroker:
    """``contracts.Broker`` in this process's memory. ``max_payload_bytes`` as a server's."""

    def __init__(self, *, max_payload_bytes: int = 1024 * 1024) -> None:
        self._streams: dict[str, MemoryStream] = {}
        self._max_payload = max_payload_bytes
        self._news = asyncio.Event()
        self._closed = False
        self.epoch = 0
        self._admin = MemoryAdmin(self)

    @property
    def admin(self) -> MemoryAdmin:
        """Its streams and durables."""
        return self._admin

    async def publish(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        timeout: timedelta,
        after: asyncio.Future[bool] | None = None,
        epoch: int | None = None,
    ) -> Sequence[PublishOutcome]:
        """See ``contracts.Broker.publish``; answers at once."""
        if after is not None and not await after:
            return [Held()] * len(messages)
        if epoch not in (None, self.epoch):
            return [Unconfirmed("the connection is another one")] * len(messages)
        outcomes: list[PublishOutcome] = []
        blocked: set[str] = set()
        for message in messages:
            outcome = Held() if message.key in blocked else self._store(message)
            outcomes.append(outcome)
            if not isinstance(outcome, Stored) or outcome.duplicate:
                blocked.add(message.key)
        self._tell()
        return outcomes

    async def schedule(
        self, stream: str, message: Message, *, at: datetime, subject: str, timeout: timedelta
    ) -> PublishOutcome:
        """See ``contracts.Broker.schedule``; answers at once."""
        outcome = self._store(message, partial(self._schedule, stream, message, at, subject))
        self._tell()
        return outcome

    @asynccontextmanager
    async def subscribe(self, stream: str, durable: str) -> AsyncIterator[Subscription]:
        """See ``contracts.Broker.subscribe``."""
        self._find(stream, durable)
        pull = _MemoryPull(self, stream, durable)
        try:
            yield pull
        finally:
            pull.leave()

    def hand(self, stream: str, durable: str, message: Message, *, deliveries: int) -> int:
        """Store ``message``, of any size, as one that ``durable`` has tried before: it comes as the
        delivery of that number. Its sequence.

        ``NotFound`` where the durable is not there, ``ConfigError`` where its filter does not take
        the subject, or the stream does not take the message or holds it already.
        """
        found, consumer = self._find(stream, durable)
        if not consumer.takes(message.subject):
            raise ConfigError(f"{durable} on {stream} is not given {message.subject}")
        stored = found.store(message)
        if not isinstance(stored, Stored) or stored.duplicate:
            why = "is there already" if isinstance(stored, Stored) else stored.description
            raise ConfigError(f"{stream} does not take the message: {why}")
        consumer.tried[stored.stream_seq] = deliveries - 1
        self._tell()
        return stored.stream_seq

    async def close(self) -> None:
        """Refuse everything from now on. Idempotent; the streams stay readable for the test."""
        self._closed = True
        self._tell()

    # ------------------------------------------------------------------ within this module

    def _schedule(
        self, stream: str, message: Message, at: datetime, subject: str
    ) -> Stored | Refused:
        found = self._streams.get(stream)
        if found is None or not found.takes(subject):
            return api.unheard("no stream takes this subject")
        return found.schedule(message, at, subject)

    def _publish(self, message: Message) -> Stored | Refused:
        for stream in self._streams.values():
            if stream.takes(message.subject):
                return stream.store(message)
        return api.unheard("no stream takes this subject")

    def _store(
        self, message: Message, store: Callable[[], Stored | Refused] | None = None
    ) -> Stored | Refused:
        if self._closed:
            return api.unheard("the connection is closed")
        if size_of(message) > self._max_payload:
            return api.refused("maximum payload exceeded", code=400, err_code=api.TOO_LARGE)
        try:
            check_subject(message.subject)
            for name in message.headers:
                h.check_control(name)
        except InvalidName as error:
            return api.refused(str(error), code=400, err_code=0)
        return self._publish(message) if store is None else store()

    def _find(self, stream: str, durable: str) -> tuple[MemoryStream, MemoryConsumer]:
        try:
            found = self._streams[stream]
            return found, found.consumers[durable]
        except KeyError:
            raise NotFound(f"there is no consumer {durable} on {stream}") from None

    def _tell(self) -> None:
        """Wake every waiting pull."""
        self._news.set()
        self._news = asyncio.Event()

    def _advise(
        self, stream: MemoryStream, consumer: MemoryConsumer, seq: int, deliveries: int
    ) -> None:
        body = {
            "type": "io.nats.jetstream.advisory.v1.max_deliver",
            "id": uuid.uuid4().hex,
            "timestamp": h.format_time(utc_now()),
            "stream": stream.name,
            "consumer": consumer.config["name"],
            "stream_seq": seq,
            "deliveries": deliveries,
        }
        subject = f"{_ADVISORY}.{stream.name}.{consumer.config['name']}"
        self._store(Message(subject, json.dumps(body).encode()))
        self._tell()


class _MemoryPull:
    """``contracts.Subscription`` of a ``MemoryBroker``."""

    def __init__(self, broker: MemoryBroker, stream: str, durable: str) -> None:
        self._broker = broker
        self._stream = stream
        self._durable = durable
        self.open = True
        self.gaps = 0
        self._drained = False

    @property
    def standby(self) -> bool:
        try:
            _, consumer = self._broker._find(self._stream, self._durable)
        except NotFound:
            return False
        return consumer.exclusive and consumer.pinned is not self

    def leave(self) -> None:
        """Settle nothing any more, and let another have its turn."""
        self.open = False
        with contextlib.suppress(NotFound):
            _, consumer = self._broker._find(self._stream, self._durable)
            if consumer.pinned is self:
                consumer.pinned = None
                self._broker._tell()

    async def next(self, limit: int, *, timeout: timedelta) -> Sequence[Incoming]:
        loop = asyncio.get_running_loop()
        deadline, gaps = loop.time() + timeout.total_seconds(), self.gaps
        while True:
            if self._drained or self.gaps != gaps:
                return []
            if self._broker._closed:
                raise BrokerUnavailable(f"pulling {self._durable}: the connection is closed")
            news = self._broker._news
            stream, consumer = self._broker._find(self._stream, self._durable)
            taken = self._take(stream, consumer, limit, loop.time())
            if taken or self.gaps != gaps or loop.time() >= deadline:
                return taken
            due = min((sent.due for sent in consumer.out.values()), default=deadline)
            if consumer.paused:
                due = loop.time() + _PAUSE_LOOK_SECONDS
            if stream.later:
                left = (min(stream.later.values()) - utc_now()).total_seconds()
                due = min(due, loop.time() + max(left, 0.001))
            consumer.waiting += 1
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(deadline, due)):
                        await news.wait()
            finally:
                consumer.waiting -= 1

    def _take(
        self, stream: MemoryStream, consumer: MemoryConsumer, limit: int, now: float
    ) -> Sequence[Incoming]:
        """What can be delivered now: what comes again first, then the new."""
        if consumer.paused or (consumer.exclusive and consumer.pinned not in (None, self)):
            return []
        stream.expire(utc_now())
        stream.send(utc_now())
        if consumer.exclusive and consumer.pinned is None:
            if consumer.out or stream.pending(consumer):
                consumer.pinned, consumer.pinned_at = self, utc_now()
                self.gaps += 1
            return []
        taken: list[tuple[int, int]] = []
        most = consumer.config["max_deliver"]
        for seq, sent in sorted(consumer.out.items()):
            if sent.due > now or len(taken) == limit:
                continue
            if 0 < most <= sent.deliveries:
                del consumer.out[seq]
                self._broker._advise(stream, consumer, seq, sent.deliveries)
            else:
                taken.append((seq, sent.deliveries + 1))
        fresh = stream.pending(consumer)
        room = limit - len(taken)
        if consumer.config["max_ack_pending"] > 0:
            room = min(room, consumer.config["max_ack_pending"] - len(consumer.out))
        for seq in fresh[: max(0, room)]:
            consumer.cursor = seq + 1
            consumer.delivered_seq = seq
            taken.append((seq, 1 + consumer.tried.pop(seq, 0)))
        left = len(fresh)
        delivered: list[Incoming] = []
        for seq, deliveries in taken:
            left -= seq not in consumer.out
            delivered.append(self._deliver(stream, consumer, seq, deliveries, now, left))
        return delivered

    def _deliver(
        self,
        stream: MemoryStream,
        consumer: MemoryConsumer,
        seq: int,
        deliveries: int,
        now: float,
        pending: int,
    ) -> Incoming:
        consumer.consumer_seq += 1
        consumer.active_at = utc_now()
        if consumer.config["ack_policy"] != "none":
            due = now + consumer.ack_wait(deliveries)
            consumer.out[seq] = Delivered(consumer.consumer_seq, deliveries, due)
        stored = stream.messages[seq]
        return Incoming(
            message=stored.message,
            stream=stream.name,
            stream_seq=seq,
            stored_at=stored.stored_at,
            consumer=self._durable,
            consumer_seq=consumer.consumer_seq,
            deliveries=deliveries,
            pending=pending,
            reply=f"{stream.name}.{self._durable}.{seq}",
        )

    async def rewind(self, to: int | None = None) -> int | None:
        stream, consumer = self._broker._find(self._stream, self._durable)
        if to is not None:
            upto = consumer.delivered_seq
            stream.set_back(consumer, to)
            self._broker._tell()
            return upto
        if consumer.pinned is not self if consumer.exclusive else consumer.waiting:
            return None
        upto = consumer.delivered_seq if consumer.out else 0
        stream.rewind(consumer)
        return upto

    async def drain(self) -> None:
        self._drained = True
        self._broker._tell()

    async def ack(self, *incoming: Incoming) -> Sequence[bool]:
        confirmed = self._settle(incoming)
        return [confirmed] * len(incoming)

    async def nak(self, incoming: Incoming, *, delay: timedelta) -> None:
        self._postpone([incoming], max(delay.total_seconds(), 0.0))

    async def in_progress(self, *incoming: Incoming) -> None:
        self._postpone(incoming, None)

    def _settle(self, incoming: Iterable[Incoming]) -> bool:
        with contextlib.suppress(NotFound):
            if self.open and not self._broker._closed:
                stream, consumer = self._broker._find(self._stream, self._durable)
                for delivery in incoming:
                    stream.settle(consumer, delivery.stream_seq)
                self._broker._tell()  # There may be room under max_ack_pending again.
                return True
        return False

    def _postpone(self, incoming: Iterable[Incoming], delay: float | None) -> None:
        with contextlib.suppress(NotFound):
            if self.open and not self._broker._closed:
                _, consumer = self._broker._find(self._stream, self._durable)
                now = asyncio.get_running_loop().time()
                for delivery in incoming:
                    if (sent := consumer.out.get(delivery.stream_seq)) is not None:
                        wait = consumer.ack_wait(sent.deliveries) if delay is None else delay
                        sent.due = now + wait
                self._broker._tell()


class MemoryAdmin:
    """``contracts.BrokerAdmin`` of a ``MemoryBroker``."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._streams = broker._streams

    async def server_info(self) -> ServerInfo:
        return ServerInfo("memory", True, self._broker._max_payload, "memory", None, "memory://")

    async def granted(self) -> Granted:
        return Granted()

    # ------------------------------------------------------------------ streams

    async def streams(self) -> Sequence[StreamInfo]:
        return [self._streams[name].info() for name in sorted(self._streams)]

    async def stream(self, name: str, *, subjects: str | None = None) -> StreamInfo | None:
        found = self._streams.get(name)
        if found is None:
            return None
        found.expire(utc_now())
        found.send(utc_now())
        return found.info(subjects)

    async def create_stream(self, config: JSON) -> StreamInfo:
        name, wanted = config["name"], stream_config(config)
        if (found := self._streams.get(name)) is not None:
            if found.config != wanted:
                raise api.api_error(
                    "stream name already in use with a different configuration",
                    code=400,
                    err_code=api.STREAM_EXISTS,
                )
            return found.info()
        self._refuse_overlap(wanted)
        _refuse_policy(wanted)
        self._streams[name] = MemoryStream(wanted, utc_now())
        return self._streams[name].info()

    async def update_stream(self, config: JSON) -> StreamInfo:
        found = self._existing(config["name"])
        wanted = stream_config(config)
        self._refuse_overlap(wanted)
        _refuse_policy(wanted, found.config)
        found.config = wanted
        return found.info()

    async def delete_stream(self, name: str) -> bool:
        gone = self._streams.pop(name, None) is not None
        self._broker._tell()
        return gone

    def _existing(self, name: str) -> MemoryStream:
        if name not in self._streams:
            raise api.api_error("stream not found", code=404, err_code=api.STREAM_NOT_FOUND)
        return self._streams[name]

    def _refuse_overlap(self, wanted: JSON) -> None:
        for other in self._streams.values():
            if other.name != wanted["name"] and any(
                overlap(mine, theirs)
                for mine in wanted["subjects"]
                for theirs in other.config["subjects"]
            ):
                raise api.api_error(
                    "subjects overlap with an existing stream",
                    code=400,
                    err_code=api.SUBJECTS_OVERLAP,
                )

    # ------------------------------------------------------------------ consumers

    async def consumers(self, stream: str) -> Sequence[ConsumerInfo]:
        found = self._existing(stream)
        return [found.consumer_info(found.consumers[name]) for name in sorted(found.consumers)]

    async def consumer(self, stream: str, durable: str) -> ConsumerInfo | None:
        with contextlib.suppress(NotFound):
            found, consumer = self._broker._find(stream, durable)
            return found.consumer_info(consumer)
        return None

    async def create_consumer(self, stream: str, config: JSON) -> ConsumerInfo:
        found, wanted = self._existing(stream), consumer_config(config)
        consumer = found.consumers.get(wanted["name"])
        if consumer is not None and consumer.config != wanted:
            raise api.api_error("consumer already exists", code=400, err_code=api.CONSUMER_EXISTS)
        if consumer is None:
            consumer = MemoryConsumer(wanted, utc_now(), found.start_of(wanted))
            found.consumers[wanted["name"]] = consumer
        return found.consumer_info(consumer)

    async def update_consumer(self, stream: str, config: JSON) -> ConsumerInfo:
        found, wanted = self._existing(stream), consumer_config(config)
        consumer = found.consumers.get(wanted["name"])
        if consumer is None:
            raise api.api_error(
                "consumer does not exist", code=400, err_code=api.CONSUMER_DOES_NOT_EXIST
            )
        consumer.config = wanted
        self._broker._tell()
        return found.consumer_info(consumer)

    async def delete_consumer(self, stream: str, durable: str) -> bool:
        found = self._streams.get(stream)
        gone = found is not None and found.consumers.pop(durable, None) is not None
        self._broker._tell()
        return gone

    async def reset_consumer(self, stream: str, durable: str, to: int | None = None) -> bool:
        with contextlib.suppress(NotFound):
            found, consumer = self._broker._find(stream, durable)
            if to is None:
                found.rewind(consumer)
            else:
                found.set_back(consumer, to)
            self._broker._tell()
            return True
        return False

    async def pause_consumer(self, stream: str, durable: str, until: datetime | None) -> bool:
        with contextlib.suppress(NotFound):
            _, consumer = self._broker._find(stream, durable)
            consumer.config.pop("pause_until", None)
            if until is not None and until > utc_now():
                consumer.config["pause_until"] = h.format_time(until)
            self._broker._tell()
            return True
        return False

    # ------------------------------------------------------------------ messages

    async def get(self, stream: str, stream_seq: int) -> StoredMessage | None:
        found = self._streams.get(stream)
        if found is None:
            return None
        found.send(utc_now())
        return found.messages.get(stream_seq)

    async def delete_message(self, stream: str, stream_seq: int) -> bool:
        found = self._streams.get(stream)
        if found is None:
            return False
        found.send(utc_now())
        return found.remove(stream_seq)

    async def read(
        self,
        stream: str,
        *,
        filter_subjects: Sequence[str] = (),
        from_seq: int | None = None,
        from_time: datetime | None = None,
        headers_only: bool = False,
        reader: str = OPERATOR,
    ) -> AsyncGenerator[StoredMessage, None]:
        found = self._streams.get(stream)
        if found is None:
            raise NotFound(f"there is no stream {stream}")
        found.send(utc_now())
        for seq, stored in tuple(found.messages.items()):
            subject = stored.message.subject
            if from_seq is not None and seq < from_seq:
                continue
            if from_seq is None and from_time is not None and stored.stored_at < from_time:
                continue
            if filter_subjects and not any(covers(one, subject) for one in filter_subjects):
                continue
            if headers_only:
                yield replace(stored, message=replace(stored.message, payload=b""))
            else:
                yield stored

    async def count(
        self,
        stream: str,
        *,
        filter_subjects: Sequence[str] = (),
        from_seq: int = 1,
        reader: str = OPERATOR,
    ) -> int:
        found = self.read(stream, filter_subjects=filter_subjects, from_seq=from_seq)
        return len([stored async for stored in found])


def _refuse_policy(wanted: JSON, known: JSON | None = None) -> None:
    """What a stream that sends later may not be."""
    later = bool(wanted.get("allow_msg_schedules"))
    why = ""
    if later and wanted["discard"] == "new":
        why = "message scheduling cannot use discard new"
    if known is not None and known.get("allow_msg_schedules") and not later:
        why = "message schedules can not be disabled"
    if why:
        raise api.api_error(why, code=500, err_code=api.STREAM_INVALID)
