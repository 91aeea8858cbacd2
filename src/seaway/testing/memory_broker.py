"""``MemoryBroker``: the streams of a test, with the semantics of real ones and no server.

Owns: streams, durables and their ack timers in dictionaries. Guarantees: it passes the conformance
suite of ``contracts.Broker``. Where it is less than a server: one process, no accounts, no mirrors;
what falls due (redelivery, max_deliver, max_age) happens when somebody looks.

    broker = MemoryBroker()
    await broker.admin.create_stream({"name": "SEA_EVENTS", "subjects": ["sea.event.>"]})
    await broker.publish("SEA_EVENTS", [message], timeout=timedelta(seconds=1))
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from seaway import headers as h
from seaway.contracts import (
    JSON,
    Held,
    Incoming,
    Message,
    PublishOutcome,
    Refused,
    ServerInfo,
    Stored,
    StoredMessage,
    Subscription,
)
from seaway.errors import ApiError, BrokerUnavailable, InvalidName, NotFound
from seaway.naming import check_subject, covers, overlap

_ADVISORY = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"
_STREAM_DEFAULTS: JSON = {
    "retention": "limits",
    "discard": "old",
    "storage": "memory",
    "num_replicas": 1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msg_size": -1,
    "max_consumers": -1,
    "duplicate_window": 120 * 10**9,
}
_CONSUMER_DEFAULTS: JSON = {
    "ack_policy": "explicit",
    "deliver_policy": "all",
    "replay_policy": "instant",
    "ack_wait": 30 * 10**9,
    "max_deliver": -1,
    "max_ack_pending": 1000,
    "max_waiting": 512,
}


def _now() -> datetime:
    return datetime.now(UTC)


def _size_of(message: Message) -> int:
    headers = sum(len(name) + len(value.encode()) + 4 for name, value in message.headers.items())
    return len(message.payload) + (headers + 12 if message.headers else 0)


@dataclass(slots=True)
class _Delivered:
    """A message that a durable has out: how often, under which number, and until when."""

    consumer_seq: int
    deliveries: int
    due: float


@dataclass(slots=True)
class _Consumer:
    config: JSON
    created: datetime
    cursor: int
    """The stream sequence that it has not looked at yet."""
    delivered_seq: int = 0
    consumer_seq: int = 0
    waiting: int = 0
    out: dict[int, _Delivered] = field(default_factory=dict)

    def takes(self, subject: str) -> bool:
        """Whether its filters let this subject through."""
        one = self.config.get("filter_subject")
        filters = self.config.get("filter_subjects") or ([one] if one else [">"])
        return any(covers(pattern, subject) for pattern in filters)

    def ack_wait(self, deliveries: int) -> float:
        """Seconds until the delivery of this number comes again."""
        waits = self.config.get("backoff") or [self.config["ack_wait"]]
        return float(waits[min(deliveries, len(waits)) - 1]) / 1e9

    def wants(self, seq: int, subject: str) -> bool:
        """Whether it has still to settle this one."""
        return seq in self.out or (seq >= self.cursor and self.takes(subject))


@dataclass(slots=True)
class _Stream:
    config: JSON
    created: datetime
    last_seq: int = 0
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    ids: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    consumers: dict[str, _Consumer] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def size(self) -> int:
        return sum(_size_of(stored.message) for stored in self.messages.values())

    @property
    def first_seq(self) -> int:
        return min(self.messages, default=self.last_seq + 1 if self.last_seq else 0)

    def takes(self, subject: str) -> bool:
        """Whether its subjects capture this one."""
        return any(covers(pattern, subject) for pattern in self.config["subjects"])

    def store(self, message: Message) -> Stored | Refused:
        """Take the message in, or say why not."""
        now, config = _now(), self.config
        self.expire(now)
        message_id = message.headers.get(h.MSG_ID)
        if message_id in self.ids:
            return Stored(self.ids[message_id][0], duplicate=True)
        size = _size_of(message)
        if 0 <= config["max_msg_size"] < size:
            return Refused("message size exceeds maximum allowed", 400, 10054, heals=False)
        if config["discard"] == "new":
            if 0 < config["max_msgs"] <= len(self.messages):
                return Refused("maximum messages exceeded", 503, 10077, heals=True)
            if 0 < config["max_bytes"] < self.size + size:
                return Refused("maximum bytes exceeded", 503, 10077, heals=True)
        self.last_seq = seq = self.last_seq + 1
        if message_id is not None:
            self.ids[message_id] = (seq, now)
        kept = config["retention"] != "interest" or any(
            consumer.takes(message.subject) for consumer in self.consumers.values()
        )
        if kept:
            message = replace(message, headers=dict(message.headers))
            self.messages[seq] = StoredMessage(message, self.name, seq, now)
        while 0 < config["max_msgs"] < len(self.messages):
            self.remove(self.first_seq)
        while self.messages and 0 < config["max_bytes"] < self.size:
            self.remove(self.first_seq)
        return Stored(seq)

    def expire(self, now: datetime) -> None:
        """Forget what max_age and duplicate_window have let go."""
        known_since = now - timedelta(microseconds=self.config["duplicate_window"] / 1000)
        self.ids = {name: (s, at) for name, (s, at) in self.ids.items() if at >= known_since}
        if age := self.config["max_age"]:
            oldest = now - timedelta(microseconds=age / 1000)
            for seq in [seq for seq, old in self.messages.items() if old.stored_at < oldest]:
                self.remove(seq)

    def remove(self, seq: int) -> bool:
        """Take a message out of the stream and of what its durables have out."""
        for consumer in self.consumers.values():
            consumer.out.pop(seq, None)
        return self.messages.pop(seq, None) is not None

    def settle(self, consumer: _Consumer, seq: int) -> None:
        """An ack or term: the durable is done with it, and so may be the stream."""
        if consumer.out.pop(seq, None) is None or seq not in self.messages:
            return
        subject = self.messages[seq].message.subject
        match self.config["retention"]:
            case "workqueue":
                self.remove(seq)
            case "interest":
                if not any(other.wants(seq, subject) for other in self.consumers.values()):
                    self.remove(seq)

    def pending(self, consumer: _Consumer) -> list[int]:
        """What waits to be delivered for the first time."""
        return [
            seq
            for seq, stored in self.messages.items()
            if seq >= consumer.cursor and consumer.takes(stored.message.subject)
        ]

    def start_of(self, config: JSON) -> int:
        """Where a new durable begins."""
        match config["deliver_policy"]:
            case "new":
                return self.last_seq + 1
            case "last":
                return self.last_seq
            case "by_start_sequence":
                return int(config["opt_start_seq"])
            case "by_start_time":
                since = h.parse_time(config["opt_start_time"])
                later = (seq for seq, old in self.messages.items() if old.stored_at >= since)
                return min(later, default=self.last_seq + 1)
            case _:
                return 1

    def info(self) -> JSON:
        """The stream as the server's JSON."""
        first, last = self.messages.get(self.first_seq), self.messages.get(self.last_seq)
        return {
            "config": copy.deepcopy(self.config),
            "created": h.format_time(self.created),
            "state": {
                "messages": len(self.messages),
                "bytes": self.size,
                "first_seq": self.first_seq,
                "first_ts": h.format_time(first.stored_at) if first else "0001-01-01T00:00:00Z",
                "last_seq": self.last_seq,
                "last_ts": h.format_time(last.stored_at) if last else "0001-01-01T00:00:00Z",
                "consumer_count": len(self.consumers),
            },
        }

    def consumer_info(self, consumer: _Consumer) -> JSON:
        """A durable as the server's JSON."""
        floor = {"consumer_seq": consumer.consumer_seq, "stream_seq": consumer.delivered_seq}
        if consumer.out:
            lowest = min(delivered.consumer_seq for delivered in consumer.out.values())
            floor = {"consumer_seq": lowest - 1, "stream_seq": min(consumer.out) - 1}
        again = sum(delivered.deliveries > 1 for delivered in consumer.out.values())
        return {
            "stream_name": self.name,
            "name": consumer.config["name"],
            "created": h.format_time(consumer.created),
            "config": copy.deepcopy(consumer.config),
            "delivered": {
                "consumer_seq": consumer.consumer_seq,
                "stream_seq": consumer.delivered_seq,
            },
            "ack_floor": floor,
            "num_ack_pending": len(consumer.out),
            "num_redelivered": again,
            "num_waiting": consumer.waiting,
            "num_pending": len(self.pending(consumer)),
        }


class MemoryBroker:
    """``contracts.Broker`` in this process's memory. ``max_payload_bytes`` as a server's."""

    def __init__(self, *, max_payload_bytes: int = 1024 * 1024) -> None:
        self._streams: dict[str, _Stream] = {}
        self._max_payload = max_payload_bytes
        self._news = asyncio.Event()
        self._closed = False
        self._admin = MemoryAdmin(self)

    @property
    def admin(self) -> MemoryAdmin:
        """Its streams and durables."""
        return self._admin

    async def publish(
        self, stream: str, messages: Sequence[Message], *, timeout: timedelta
    ) -> Sequence[PublishOutcome]:
        """See ``contracts.Broker.publish``; answers at once."""
        outcomes: list[PublishOutcome] = []
        blocked: set[str] = set()
        for message in messages:
            outcome = Held() if message.key in blocked else self._store(message)
            outcomes.append(outcome)
            if not isinstance(outcome, Stored):
                blocked.add(message.key)
        self._tell()
        return outcomes

    @asynccontextmanager
    async def subscribe(self, stream: str, durable: str) -> AsyncIterator[Subscription]:
        """See ``contracts.Broker.subscribe``."""
        self._find(stream, durable)
        pull = _MemoryPull(self, stream, durable)
        try:
            yield pull
        finally:
            pull.open = False

    async def close(self) -> None:
        """Refuse everything from now on. Idempotent; the streams stay readable for the test."""
        self._closed = True
        self._tell()

    # ------------------------------------------------------------------ within this module

    def _store(self, message: Message) -> Stored | Refused:
        if self._closed:
            return Refused("the connection is closed", 503, 0, heals=True)
        if _size_of(message) > self._max_payload:
            return Refused("maximum payload exceeded", 400, 10054, heals=False)
        try:
            check_subject(message.subject)
        except InvalidName as error:
            return Refused(str(error), 400, 0, heals=False)
        for stream in self._streams.values():
            if stream.takes(message.subject):
                return stream.store(message)
        return Refused("no stream takes this subject", 503, 0, heals=True)

    def _find(self, stream: str, durable: str) -> tuple[_Stream, _Consumer]:
        try:
            found = self._streams[stream]
            return found, found.consumers[durable]
        except KeyError:
            raise NotFound(f"there is no consumer {durable} on {stream}") from None

    def _tell(self) -> None:
        """Wake every waiting pull."""
        self._news.set()
        self._news = asyncio.Event()

    def _advise(self, stream: _Stream, consumer: _Consumer, seq: int, deliveries: int) -> None:
        body = {
            "type": "io.nats.jetstream.advisory.v1.max_deliver",
            "id": uuid.uuid4().hex,
            "timestamp": h.format_time(_now()),
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

    async def next(self, limit: int, *, timeout: timedelta) -> Sequence[Incoming]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        while True:
            if self._broker._closed:
                raise BrokerUnavailable(f"pulling {self._durable}: the connection is closed")
            news = self._broker._news
            stream, consumer = self._broker._find(self._stream, self._durable)
            if taken := self._take(stream, consumer, limit, loop.time()):
                return taken
            if loop.time() >= deadline:
                return []
            due = min((sent.due for sent in consumer.out.values()), default=deadline)
            consumer.waiting += 1
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(deadline, due)):
                        await news.wait()
            finally:
                consumer.waiting -= 1

    def _take(
        self, stream: _Stream, consumer: _Consumer, limit: int, now: float
    ) -> Sequence[Incoming]:
        """What can be delivered now: what comes again first, then the new."""
        stream.expire(_now())
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
            taken.append((seq, 1))
        left = len(fresh) - sum(deliveries == 1 for _, deliveries in taken)
        return [
            self._deliver(stream, consumer, seq, deliveries, now, left + place)
            for place, (seq, deliveries) in zip(range(len(taken) - 1, -1, -1), taken, strict=True)
        ]

    def _deliver(
        self,
        stream: _Stream,
        consumer: _Consumer,
        seq: int,
        deliveries: int,
        now: float,
        pending: int,
    ) -> Incoming:
        consumer.consumer_seq += 1
        if consumer.config["ack_policy"] != "none":
            due = now + consumer.ack_wait(deliveries)
            consumer.out[seq] = _Delivered(consumer.consumer_seq, deliveries, due)
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

    async def ack(self, *incoming: Incoming) -> Sequence[bool]:
        confirmed = self._settle(incoming)
        return [confirmed] * len(incoming)

    async def nak(self, incoming: Incoming, *, delay: timedelta) -> None:
        self._postpone([incoming], max(delay.total_seconds(), 0.0))

    async def in_progress(self, *incoming: Incoming) -> None:
        self._postpone(incoming, None)

    async def term(self, incoming: Incoming, *, reason: str) -> None:
        self._settle([incoming])

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

    # ------------------------------------------------------------------ streams

    async def streams(self) -> Sequence[JSON]:
        return [self._streams[name].info() for name in sorted(self._streams)]

    async def stream(self, name: str) -> JSON | None:
        found = self._streams.get(name)
        if found is None:
            return None
        found.expire(_now())
        return found.info()

    async def create_stream(self, config: JSON) -> JSON:
        name, wanted = config["name"], _stream_config(config)
        if (found := self._streams.get(name)) is not None:
            if found.config != wanted:
                raise ApiError(
                    "stream name already in use with a different configuration",
                    code=400,
                    err_code=10058,
                )
            return found.info()
        self._refuse_overlap(wanted)
        self._streams[name] = _Stream(wanted, _now())
        return self._streams[name].info()

    async def update_stream(self, config: JSON) -> JSON:
        found = self._existing(config["name"])
        wanted = _stream_config(config)
        self._refuse_overlap(wanted)
        found.config = wanted
        return found.info()

    async def delete_stream(self, name: str) -> bool:
        gone = self._streams.pop(name, None) is not None
        self._broker._tell()
        return gone

    def _existing(self, name: str) -> _Stream:
        if name not in self._streams:
            raise ApiError("stream not found", code=404, err_code=10059)
        return self._streams[name]

    def _refuse_overlap(self, wanted: JSON) -> None:
        for other in self._streams.values():
            if other.name != wanted["name"] and any(
                overlap(mine, theirs)
                for mine in wanted["subjects"]
                for theirs in other.config["subjects"]
            ):
                raise ApiError("subjects overlap with an existing stream", code=400, err_code=10065)

    # ------------------------------------------------------------------ consumers

    async def consumers(self, stream: str) -> Sequence[JSON]:
        found = self._existing(stream)
        return [found.consumer_info(found.consumers[name]) for name in sorted(found.consumers)]

    async def consumer(self, stream: str, durable: str) -> JSON | None:
        with contextlib.suppress(NotFound):
            found, consumer = self._broker._find(stream, durable)
            return found.consumer_info(consumer)
        return None

    async def create_consumer(self, stream: str, config: JSON) -> JSON:
        found, wanted = self._existing(stream), _consumer_config(config)
        consumer = found.consumers.get(wanted["name"])
        if consumer is not None and consumer.config != wanted:
            raise ApiError("consumer already exists", code=400, err_code=10148)
        if consumer is None:
            consumer = _Consumer(wanted, _now(), found.start_of(wanted))
            found.consumers[wanted["name"]] = consumer
        return found.consumer_info(consumer)

    async def update_consumer(self, stream: str, config: JSON) -> JSON:
        found, wanted = self._existing(stream), _consumer_config(config)
        consumer = found.consumers.get(wanted["name"])
        if consumer is None:
            raise ApiError("consumer does not exist", code=400, err_code=10149)
        consumer.config = wanted
        self._broker._tell()
        return found.consumer_info(consumer)

    async def delete_consumer(self, stream: str, durable: str) -> bool:
        found = self._streams.get(stream)
        gone = found is not None and found.consumers.pop(durable, None) is not None
        self._broker._tell()
        return gone

    # ------------------------------------------------------------------ messages

    async def get(self, stream: str, stream_seq: int) -> StoredMessage | None:
        found = self._streams.get(stream)
        return None if found is None else found.messages.get(stream_seq)

    async def delete_message(self, stream: str, stream_seq: int) -> bool:
        found = self._streams.get(stream)
        return found is not None and found.remove(stream_seq)

    async def read(
        self,
        stream: str,
        *,
        filter_subjects: Sequence[str] = (),
        from_seq: int | None = None,
        from_time: datetime | None = None,
        headers_only: bool = False,
    ) -> AsyncIterator[StoredMessage]:
        found = self._streams.get(stream)
        if found is None:
            raise NotFound(f"there is no stream {stream}")
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


def _stream_config(config: JSON) -> JSON:
    return {**_STREAM_DEFAULTS, "subjects": [config["name"]], **copy.deepcopy(config)}


def _consumer_config(config: JSON) -> JSON:
    name = config.get("durable_name") or config["name"]
    return {**_CONSUMER_DEFAULTS, **copy.deepcopy(config), "name": name}
