"""Streams and consumers out of the API's answers (``contracts.StreamInfo``, ``ConsumerInfo``).

Owns: which field of JetStream's JSON says what, and what a missing one means: servers leave out
what is empty, older ones what they do not know. Guarantees: what is there and cannot be read
raises, naming the field; it never becomes zero. Source: nats-server 2.9 to 2.15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from seaway.contracts import JSON, ConsumerInfo, StreamInfo
from seaway.errors import BrokerUnavailable
from seaway.headers import parse_time

T = TypeVar("T")

_PAGING = frozenset({"total", "offset", "limit"})
"""Of the answer, not of the stream."""

PINNED = "pinned_client"
"""The ``priority_policy`` of an exclusive durable."""


def stream_info(answer: JSON) -> StreamInfo:
    """Of STREAM.INFO, and of an entry of STREAM.LIST. ``BrokerUnavailable`` where it is neither."""
    info = _Part("a stream", answer)
    info.what = name = info.part("config").text("name")
    config, state, cluster = info.part("config"), info.part("state"), info.part("cluster", {})
    messages = state.number("messages")
    per_subject = config.limit("max_msgs_per_subject")
    refuses = config.text("discard", "old") == "new"
    return StreamInfo(
        name=name,
        subjects=config.texts("subjects"),
        created=info.moment("created"),
        retention=config.text("retention", "limits"),
        messages=messages,
        bytes=state.number("bytes"),
        first_seq=state.number("first_seq"),
        last_seq=state.number("last_seq"),
        consumer_count=state.number("consumer_count", 0),
        num_deleted=state.number("num_deleted", 0),
        num_subjects=state.number("num_subjects", 0),
        # Of an empty one, they are of what it held once, or the year one.
        first_at=state.time("first_ts") if messages else None,
        last_at=state.time("last_ts") if messages else None,
        storage=config.text("storage", "file"),
        max_bytes=config.limit("max_bytes"),
        max_messages=config.limit("max_msgs"),
        max_messages_per_subject=per_subject,
        max_message_bytes=config.limit("max_msg_size"),
        duplicate_window=config.span("duplicate_window", timedelta()),
        refuses_when_full=refuses,
        refuses_per_subject=refuses and config.flag("discard_new_per_subject"),
        replicas=config.number("num_replicas", 1),
        cluster=cluster.text("name", "") or None,
        leader=cluster.text("leader", "") or None,
        domain=info.text("domain", "") or None,
        subject_messages=state.mapping("subjects", int),
        metadata=config.mapping("metadata", str),
        document={name: value for name, value in answer.items() if name not in _PAGING},
    )


def consumer_info(answer: JSON) -> ConsumerInfo:
    """Of CONSUMER.INFO, and of an entry of CONSUMER.LIST. ``BrokerUnavailable`` where it is
    neither."""
    info = _Part("a consumer", answer)
    stream, name = info.text("stream_name"), info.text("name")
    info.what = f"{stream} > {name}"
    config, delivered, floor = info.part("config"), info.part("delivered"), info.part("ack_floor")
    active = [one for one in (delivered.time("last_active"), floor.time("last_active")) if one]
    filters = config.texts("filter_subjects")
    groups = info.parts("priority_groups")
    return ConsumerInfo(
        stream=stream,
        durable=name,
        created=info.moment("created"),
        num_pending=info.number("num_pending"),
        num_ack_pending=info.number("num_ack_pending"),
        num_redelivered=info.number("num_redelivered"),
        num_waiting=info.number("num_waiting"),
        consumer_seq=delivered.number("consumer_seq"),
        stream_seq=delivered.number("stream_seq"),
        ack_floor=floor.number("stream_seq"),
        filters=filters or tuple(filter(None, [config.text("filter_subject", "")])),
        ack_wait=config.span("ack_wait", timedelta(seconds=30)),
        max_deliver=config.limit("max_deliver"),
        max_ack_pending=config.limit("max_ack_pending"),
        ephemeral=not config.text("durable_name", ""),
        pulled=not config.text("deliver_subject", ""),
        exclusive=config.text("priority_policy", "none") == PINNED,
        given_to_one_since=next(
            (one.time("pinned_ts") for one in groups if one.text("pinned_client_id", "")), None
        ),
        paused_until=config.time("pause_until") if info.flag("paused") else None,
        asked_at=info.time("ts"),
        last_active_at=max(active, default=None),
        document=answer,
    )


@dataclass(slots=True)
class _Part:
    """An object of an answer about ``what``. A field without a default has to be there."""

    what: str
    values: Mapping[str, Any]
    path: str = ""

    def number(self, name: str, default: int | None = None) -> int:
        return self._read(name, int, default)

    def text(self, name: str, default: str | None = None) -> str:
        return self._read(name, str, default)

    def flag(self, name: str) -> bool:
        return self._read(name, bool, False)

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self._each(name, self._read(name, list, []), str))

    def mapping(self, name: str, kind: type[T]) -> dict[str, T]:
        found = self._read(name, dict, {})
        return dict(zip(found, self._each(name, list(found.values()), kind), strict=True))

    def part(self, name: str, default: JSON | None = None) -> _Part:
        return _Part(self.what, self._read(name, dict, default), f"{self.path}{name}.")

    def parts(self, name: str) -> list[_Part]:
        found = self._each(name, self._read(name, list, []), dict)
        return [_Part(self.what, one, f"{self.path}{name}.") for one in found]

    def limit(self, name: str) -> int | None:
        """``None`` for 0 and below, which is what servers call unlimited."""
        value = self.number(name, 0)
        return value if value > 0 else None

    def span(self, name: str, default: timedelta) -> timedelta:
        """Nanoseconds; to the microsecond."""
        value = self.number(name, 0)
        return timedelta(microseconds=value // 1000) if value else default

    def moment(self, name: str) -> str:
        """The text of a time, which names what was made then."""
        text = self.text(name)
        self._time(name, text)
        return text

    def time(self, name: str) -> datetime | None:
        text = self.text(name, "")
        return self._time(name, text) if text else None

    def _time(self, name: str, text: str) -> datetime:
        try:
            return parse_time(text)
        except ValueError:
            raise self._unreadable(name, text) from None

    def _read(self, name: str, kind: type[T], default: T | None) -> T:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        [read] = self._each(name, [value], kind)
        return read

    def _each(self, name: str, values: list[Any], kind: type[T]) -> list[T]:
        for value in values:
            if type(value) is not kind:  # A bool is an int.
                raise self._unreadable(name, value)
        return values

    def _unreadable(self, name: str, value: object) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"the server's answer about {self.what} cannot be read: {self.path}{name} is "
            f"{value!r:.80}"
        )
