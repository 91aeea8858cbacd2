"""What ``MemoryBroker`` keeps: streams, durables, and the rules of a server's storage.

Owns: limits, retention, deduplication and the JSON that describes them. Knows no event loop:
whoever delivers brings the time.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from seaway import headers as h
from seaway.brokers.jetstream.api import (
    BAD_TARGET,
    SCHEDULES_DISABLED,
    STREAM_FULL,
    TOO_LARGE,
    consumer_info,
    refused,
    stream_info,
)
from seaway.contracts import (
    JSON,
    ConsumerInfo,
    Message,
    Refused,
    Stored,
    StoredMessage,
    StreamInfo,
)
from seaway.naming import covers

_STREAM_DEFAULTS: JSON = {
    "retention": "limits",
    "discard": "old",
    "storage": "memory",
    "num_replicas": 1,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
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


def utc_now() -> datetime:
    """Aware, UTC."""
    return datetime.now(UTC)


def size_of(message: Message) -> int:
    """Bytes of headers and payload as a server counts them."""
    headers = sum(len(name) + len(value.encode()) + 4 for name, value in message.headers.items())
    return len(message.payload) + (headers + 12 if message.headers else 0)


@dataclass(slots=True)
class Delivered:
    """A message that a durable has out: how often, under which number, and until when."""

    consumer_seq: int
    deliveries: int
    due: float


@dataclass(slots=True)
class MemoryConsumer:
    """A durable, and what it has out."""

    config: JSON
    created: datetime
    cursor: int
    """The stream sequence that it has not looked at yet."""
    delivered_seq: int = 0
    consumer_seq: int = 0
    waiting: int = 0
    out: dict[int, Delivered] = field(default_factory=dict)
    tried: dict[int, int] = field(default_factory=dict)
    """How often it has had what it has not looked at yet (``MemoryBroker.hand``)."""
    pinned: object = None
    """Of an exclusive durable: who is given its messages."""
    pinned_at: datetime | None = None
    active_at: datetime | None = None
    """When it last gave something out, or something was settled."""

    @property
    def exclusive(self) -> bool:
        """Whether one subscription at a time is given messages."""
        return bool(self.config.get("priority_policy") == "pinned_client")

    @property
    def paused(self) -> bool:
        """Whether it gives nothing out now."""
        until = self.config.get("pause_until")
        return until is not None and h.parse_time(until) > utc_now()

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
class MemoryStream:
    """A stream, its messages and its durables."""

    config: JSON
    created: datetime
    last_seq: int = 0
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    ids: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    consumers: dict[str, MemoryConsumer] = field(default_factory=dict)
    later: dict[int, datetime] = field(default_factory=dict)
    """What is to be sent, by sequence, and when."""

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def size(self) -> int:
        return sum(size_of(stored.message) for stored in self.messages.values())

    @property
    def first_seq(self) -> int:
        return min(self.messages, default=self.last_seq + 1 if self.last_seq else 0)

    def takes(self, subject: str) -> bool:
        """Whether its subjects capture this one."""
        return any(covers(pattern, subject) for pattern in self.config["subjects"])

    def store(self, message: Message) -> Stored | Refused:
        """Take the message in, or say why not."""
        now, config = utc_now(), self.config
        self.expire(now)
        message_id = message.headers.get(h.MSG_ID)
        if message_id in self.ids:
            return Stored(self.ids[message_id][0], duplicate=True)
        size = size_of(message)
        if 0 <= config["max_msg_size"] < size:
            return refused("message size exceeds maximum allowed", code=400, err_code=TOO_LARGE)
        twins = self._of(message.subject)
        if config["discard"] == "new" and (lacking := self._lacking(size, twins)):
            return refused(lacking, code=503, err_code=STREAM_FULL)
        self.last_seq = seq = self.last_seq + 1
        if message_id is not None:
            self.ids[message_id] = (seq, now)
        kept = config["retention"] != "interest" or any(
            consumer.takes(message.subject) for consumer in self.consumers.values()
        )
        if kept:
            message = replace(message, headers=dict(message.headers))
            self.messages[seq] = StoredMessage(message, self.name, seq, now)
        if 0 < config["max_msgs_per_subject"] <= len(twins):
            self.remove(twins[0])
        while 0 < config["max_msgs"] < len(self.messages):
            self.remove(self.first_seq)
        while self.messages and 0 < config["max_bytes"] < self.size:
            self.remove(self.first_seq)
        return Stored(seq)

    def schedule(self, message: Message, at: datetime, subject: str) -> Stored | Refused:
        """Take the message in, to be sent at that time, in place of what lies under ``subject``."""
        if not self.config.get("allow_msg_schedules"):
            return refused("message schedules is disabled", code=400, err_code=SCHEDULES_DISABLED)
        if not self.takes(message.subject):
            return refused("message schedules target is invalid", code=400, err_code=BAD_TARGET)
        own = {h.SCHEDULE: h.format_schedule(at), h.SCHEDULE_TARGET: message.subject}
        stored = self.store(Message(subject, message.payload, {**message.headers, **own}))
        if isinstance(stored, Stored) and not stored.duplicate:
            for seq in [seq for seq in self.later if self._lies_under(seq, subject)]:
                self.remove(seq)
            self.later[stored.stream_seq] = at
        return stored

    def _lies_under(self, seq: int, subject: str) -> bool:
        return self.messages[seq].message.subject == subject

    def send(self, now: datetime) -> None:
        """Send what is due, as far as there is room."""
        for seq in sorted(seq for seq, at in self.later.items() if at <= now):
            waiting = self.messages[seq].message
            headers = {
                name: value
                for name, value in waiting.headers.items()
                if name not in (h.MSG_ID, h.SCHEDULE, h.SCHEDULE_TARGET)
            }
            own = {"Nats-Scheduler": waiting.subject, "Nats-Schedule-Next": "purge"}
            target = waiting.headers[h.SCHEDULE_TARGET]
            if isinstance(self.store(Message(target, waiting.payload, {**headers, **own})), Stored):
                self.remove(seq)

    def _of(self, subject: str) -> list[int]:
        """The sequences of a subject's messages, where their number is bounded."""
        if self.config["max_msgs_per_subject"] <= 0:
            return []
        return [seq for seq, old in self.messages.items() if old.message.subject == subject]

    def _lacking(self, size: int, twins: Sequence[int]) -> str:
        """Which bound leaves no room for a message; empty where there is room."""
        config = self.config
        if config.get("discard_new_per_subject") and (
            0 < config["max_msgs_per_subject"] <= len(twins)
        ):
            return "maximum messages per subject exceeded"
        if 0 < config["max_msgs"] <= len(self.messages):
            return "maximum messages exceeded"
        if 0 < config["max_bytes"] < self.size + size:
            return "maximum bytes exceeded"
        return ""

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
        self.later.pop(seq, None)
        return self.messages.pop(seq, None) is not None

    def settle(self, consumer: MemoryConsumer, seq: int) -> None:
        """An ack or term: the durable is done with it, and so may be the stream."""
        consumer.active_at = utc_now()
        if consumer.out.pop(seq, None) is None or seq not in self.messages:
            return
        subject = self.messages[seq].message.subject
        match self.config["retention"]:
            case "workqueue":
                self.remove(seq)
            case "interest":
                if not any(other.wants(seq, subject) for other in self.consumers.values()):
                    self.remove(seq)

    def rewind(self, consumer: MemoryConsumer) -> None:
        """Give out again what is behind the ack floor."""
        if consumer.out:
            consumer.cursor = min(consumer.out)
            consumer.delivered_seq, consumer.consumer_seq = consumer.cursor - 1, 0
            consumer.out.clear()

    def set_back(self, consumer: MemoryConsumer, to: int) -> None:
        """Give out from there on, whatever was settled."""
        consumer.cursor, consumer.delivered_seq, consumer.consumer_seq = to, to - 1, 0
        consumer.out.clear()

    def lose(self, last_seq: int) -> None:
        """As after a power failure: what came after that one was never stored."""
        self.messages = {seq: one for seq, one in self.messages.items() if seq <= last_seq}
        self.ids = {name: (seq, at) for name, (seq, at) in self.ids.items() if seq <= last_seq}
        self.later = {seq: at for seq, at in self.later.items() if seq <= last_seq}
        self.last_seq = last_seq

    def pending(self, consumer: MemoryConsumer) -> list[int]:
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

    def info(self, subjects: str | None = None) -> StreamInfo:
        """What a server would say of it, read in the same way."""
        first, last = self.messages.get(self.first_seq), self.messages.get(self.last_seq)
        holes = self.last_seq - self.first_seq + 1 - len(self.messages) if first else 0
        held = Counter(one.message.subject for one in self.messages.values())
        asked = {name: n for name, n in held.items() if subjects and covers(subjects, name)}
        answer = {
            "config": copy.deepcopy(self.config),
            "created": h.format_time(self.created),
            "ts": h.format_time(utc_now()),
            "state": {
                "messages": len(self.messages),
                "bytes": self.size,
                "first_seq": self.first_seq,
                "first_ts": h.format_time(first.stored_at) if first else "0001-01-01T00:00:00Z",
                "last_seq": self.last_seq,
                "last_ts": h.format_time(last.stored_at) if last else "0001-01-01T00:00:00Z",
                "num_deleted": holes,
                "consumer_count": len(self.consumers),
                "num_subjects": len(held),
                "subjects": asked,
            },
        }
        return stream_info(answer)

    def consumer_info(self, consumer: MemoryConsumer) -> ConsumerInfo:
        """What a server would say of a durable, read in the same way."""
        floor = {"consumer_seq": consumer.consumer_seq, "stream_seq": consumer.delivered_seq}
        if consumer.out:
            lowest = min(delivered.consumer_seq for delivered in consumer.out.values())
            floor = {"consumer_seq": lowest - 1, "stream_seq": min(consumer.out) - 1}
        again = sum(delivered.deliveries > 1 for delivered in consumer.out.values())
        groups = {}
        if consumer.exclusive:
            pinned = {}
            if consumer.pinned is not None and consumer.pinned_at is not None:
                since = h.format_time(consumer.pinned_at)
                pinned = {"pinned_client_id": str(id(consumer.pinned)), "pinned_ts": since}
            groups = {
                "priority_groups": [{"group": consumer.config["priority_groups"][0], **pinned}]
            }
        answer = {
            "stream_name": self.name,
            "name": consumer.config["name"],
            "created": h.format_time(consumer.created),
            "config": copy.deepcopy(consumer.config),
            "delivered": {
                "consumer_seq": consumer.consumer_seq,
                "stream_seq": consumer.delivered_seq,
                "last_active": h.format_time(consumer.active_at) if consumer.active_at else None,
            },
            "ack_floor": floor,
            "num_ack_pending": len(consumer.out),
            "num_redelivered": again,
            "num_waiting": consumer.waiting,
            "num_pending": len(self.pending(consumer)),
            "paused": consumer.paused,
            "ts": h.format_time(utc_now()),
            **groups,
        }
        return consumer_info(answer)


def stream_config(config: JSON) -> JSON:
    """``config`` with what a server fills in."""
    return {**_STREAM_DEFAULTS, "subjects": [config["name"]], **copy.deepcopy(config)}


def consumer_config(config: JSON) -> JSON:
    """``config`` with what a server fills in."""
    name = config.get("durable_name") or config["name"]
    return {**_CONSUMER_DEFAULTS, **copy.deepcopy(config), "name": name}
