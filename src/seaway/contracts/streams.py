"""Streams and consumers as the server describes them: configuration and state, as typed values.

Whoever implements ``BrokerAdmin`` reads them from the server's answers, once; what cannot be read
raises there. Limits of ``None`` are unlimited. The documents behind them, with every field that the
server sent, are for whoever compares, exports or shows them whole: ``topology`` and ``--json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias

JSON: TypeAlias = dict[str, Any]
"""A JSON object as the server sends it. Never narrowed: unknown fields must survive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What the server says of a stream or a consumer alike."""

    created: str
    """The server's text, to the nanosecond: another one means another one of the same name."""
    document: JSON = field(default_factory=dict, repr=False, compare=False)
    """All of the server's answer."""

    @property
    def config(self) -> JSON:
        """Its configuration as the server writes it, and takes it."""
        config: JSON = self.document["config"]
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo(_Described):
    """A stream: what it takes and keeps, and what it holds now."""

    name: str
    subjects: tuple[str, ...]
    retention: str
    """``limits``, ``interest`` or ``workqueue``."""
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    consumer_count: int
    num_deleted: int = 0
    """Holes between its first message and its last."""
    num_subjects: int = 0
    first_at: datetime | None = None
    """When the first of its messages was stored; ``None`` where it is empty."""
    last_at: datetime | None = None
    storage: str = "file"
    """``file`` or ``memory``."""
    max_bytes: int | None = None
    max_messages: int | None = None
    max_messages_per_subject: int | None = None
    max_message_bytes: int | None = None
    duplicate_window: timedelta = timedelta()
    """How long it knows the ids of what it stored; zero: not at all."""
    refuses_when_full: bool = False
    """Else it drops its oldest."""
    refuses_per_subject: bool = False
    """What ``max_messages_per_subject`` has no room for, too."""
    replicas: int = 1
    cluster: str | None = None
    leader: str | None = None
    domain: str | None = None
    subject_messages: Mapping[str, int] = field(default_factory=dict)
    """Messages by subject, of the subjects that were asked for."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    schedules: bool = False
    """Whether it sends what is stored for later (nats-server 2.12, ``allow_msg_schedules``)."""
    max_age: timedelta | None = None
    """``None``: it keeps a message however old that is."""
    asked_at: datetime | None = None
    """By the server's clock; ``None``: it does not say (before 2.10)."""

    @property
    def fill(self) -> float | None:
        """0 to 1 of the limit that is nearest; ``None`` without limits."""
        return max((ratio for ratio, _ in self._ratios()), default=None)

    @property
    def nearest_limit(self) -> str:
        """The name of that limit; empty without limits."""
        return max(self._ratios(), default=(0.0, ""))[1]

    @property
    def full_subjects(self) -> tuple[str, ...]:
        """Of ``subject_messages``, those that take no more."""
        most = self.max_messages_per_subject
        if most is None or not self.refuses_per_subject:
            return ()
        return tuple(sorted(one for one, held in self.subject_messages.items() if held >= most))

    def _ratios(self) -> list[tuple[float, str]]:
        return [
            (used / limit, name)
            for used, limit, name in (
                (self.bytes, self.max_bytes, "max_bytes"),
                (self.messages, self.max_messages, "max_msgs"),
            )
            if limit
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerInfo(_Described):
    """A consumer of a stream: what it is given, and how far it has come."""

    stream: str
    durable: str
    """Its name; ``ephemeral`` ones have one, too."""
    num_pending: int
    """Messages that it was never given."""
    num_ack_pending: int
    """Given and not settled."""
    num_redelivered: int
    num_waiting: int
    """Pulls that wait for messages."""
    consumer_seq: int
    """Deliveries ever made, redeliveries included."""
    stream_seq: int
    """The highest stream sequence delivered so far."""
    ack_floor: int
    """Every message up to this stream sequence is settled."""
    filters: tuple[str, ...] = ()
    """Empty: all of its stream."""
    ack_wait: timedelta = timedelta(seconds=30)
    max_deliver: int | None = None
    max_ack_pending: int | None = None
    ephemeral: bool = False
    """The server drops it once nobody uses it."""
    pulled: bool = True
    """Whether clients take from it; the server pushes otherwise."""
    exclusive: bool = False
    """Whether one client at a time is given its messages."""
    given_to_one_since: datetime | None = None
    """Since when that has been the same client; ``None``: none has its turn."""
    paused_until: datetime | None = None
    asked_at: datetime | None = None
    """By the server's clock; ``None``: it does not say (before 2.10)."""
    last_active_at: datetime | None = None
    """The last delivery or acknowledgement; a server that was restarted has forgotten it."""

    @property
    def key(self) -> tuple[str, str]:
        """``(stream, durable)``."""
        return self.stream, self.durable

    @property
    def settled(self) -> bool:
        """Whether all that there was for it has been given out and settled."""
        return not self.num_pending and not self.num_ack_pending

    @property
    def never_pulled(self) -> bool:
        """Nobody has ever taken from it, nor does now."""
        return self.pulled and self.consumer_seq == 0 and self.num_waiting == 0
