"""What lies in streams and what is handed out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from seaway import headers as h
from seaway.naming import kind_of, original_subject

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Message:
    """What is published, or was stored: a subject, bytes, and headers (names as written)."""

    subject: str
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The ordering key: ``X-Ordering-Key``, else the subject."""
        return h.ordering_key(self.subject, self.headers)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it lies in a stream."""

    message: Message
    stream: str
    stream_seq: int
    stored_at: datetime

    @property
    def place(self) -> tuple[str, int]:
        """Which message it is: stream and sequence."""
        return self.stream, self.stream_seq

    @property
    def identity(self) -> str:
        """The same for whatever its stream may lose: ``{stream}:{stream_seq}``. The place that a
        lost redrive had may be given to another redrive of its event: the moment, in microseconds,
        tells them apart, ``{stream}@{moment}:{stream_seq}``."""
        stream = self.stream
        if kind_of(stream) == "redrive":
            stream = f"{stream}@{(self.stored_at - _EPOCH) // timedelta(microseconds=1)}"
        return f"{stream}:{self.stream_seq}"

    @property
    def event_subject(self) -> str:
        """The subject that its event was published to, also where it is redriven or a letter."""
        return original_subject(self.message.subject)

    @property
    def redriven(self) -> bool:
        """Whether it is not the event itself, but sent again to one consumer."""
        return self.event_subject != self.message.subject

    @property
    def key(self) -> str:
        """The event's ordering key."""
        return h.ordering_key(self.event_subject, self.message.headers)

    @property
    def event_id(self) -> str:
        """The event's identity, ``{stream}:{stream_seq}`` for a foreign message without one."""
        return h.identity(self.message.headers, fallback_id=f"{self.stream}:{self.stream_seq}")

    @property
    def correlation_id(self) -> str:
        """The chain that it belongs to; its event id where it begins one."""
        return h.correlation(self.message.headers) or self.event_id


@dataclass(frozen=True, slots=True)
class Incoming(StoredMessage):
    """A stored message handed to a durable, to be settled through its ``Subscription``."""

    consumer: str
    consumer_seq: int
    deliveries: int
    """How often the server has delivered it by now, this time included: 1 at first."""
    pending: int
    """How many more messages the durable had waiting when this one was sent."""
    reply: str = ""
    """Opaque to everybody but the subscription that delivered it; empty where none has."""

    @classmethod
    def read(cls, found: StoredMessage, consumer: str, *, deliveries: int) -> Incoming:
        """What was read from its stream, as a delivery of which only the place is known."""
        return cls(
            message=found.message,
            stream=found.stream,
            stream_seq=found.stream_seq,
            stored_at=found.stored_at,
            consumer=consumer,
            consumer_seq=0,
            deliveries=deliveries,
            pending=0,
        )
