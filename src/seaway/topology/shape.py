"""What the settings ask for, as JetStream's own configuration. Pure.

Owns: which streams and durables there are for an event stream, and their values. Guarantees: every
value of the settings arrives in the server's units, to the nanosecond and byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from seaway import naming
from seaway.config import (
    UNLIMITED,
    ConsumerSettings,
    Settings,
    StreamSettings,
    to_nanoseconds,
)
from seaway.contracts import JSON

ConsumerKey: TypeAlias = tuple[str, str]
"""``(stream, durable)``."""

ADVISORY_AGE = timedelta(days=7)
LETTER_WINDOW = timedelta(hours=1)
"""How long the same letter, stored again because its delivery was not acknowledged, is known."""

TURN = timedelta(seconds=5)
"""How long the process that an exclusive durable gives its messages to may say nothing until
another has its turn. It says something every second."""

_EXCLUSIVE: JSON = {
    "priority_policy": "pinned_client",
    "priority_groups": ["seaway"],
    "priority_timeout": to_nanoseconds(TURN),
}
_SHARED: JSON = {"priority_policy": "none", "priority_groups": [], "priority_timeout": 0}

_OPTIONAL_STREAM_FIELDS = (
    "description",
    "discard",
    "discard_new_per_subject",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "max_consumers",
    "compression",
    "deny_delete",
    "deny_purge",
    "allow_rollup_hdrs",
)
_OPTIONAL_CONSUMER_FIELDS = ("description", "max_waiting")


@dataclass(frozen=True, slots=True)
class Topology:
    """Configs by name. ``replicas_of`` gives the replicas of each profile of the file, so that a
    refusal can name the one that fits. ``unwritten``: the streams whose replicas nobody wrote."""

    streams: Mapping[str, JSON]
    consumers: Mapping[ConsumerKey, JSON]
    replicas_of: Mapping[str, int] = field(default_factory=dict)
    unwritten: frozenset[str] = frozenset()


def absent(value: Any) -> bool:
    """Whether a field with ``value`` may as well not be there; the server leaves out such."""
    return value is None or value == "none" or value in (0, "", [])


def desired(settings: Settings) -> Topology:
    """Event streams, and what each implies: dead letters, redrives, the advisories of all."""
    streams: dict[str, JSON] = {}
    consumers: dict[ConsumerKey, JSON] = {}
    unwritten: set[str] = set()
    for stream in settings.streams:
        for config in (_events(stream), _dead_letters(stream), _redrives(stream)):
            streams[config["name"]] = config
            if not _says_replicas(stream):
                unwritten.add(config["name"])
    if settings.streams:
        advisories = _advisories(settings.streams)
        streams[advisories["name"]] = advisories
        if not any(_says_replicas(stream) and stream.replicas > 1 for stream in settings.streams):
            unwritten.add(advisories["name"])
        consumers[naming.ADVISORY_STREAM, naming.SWEEPER_DURABLE] = _sweeper()
    for consumer in settings.consumers:
        context = naming.stream_context(consumer.stream)
        consumers[consumer.stream, consumer.durable] = _durable(consumer, consumer.filters)
        redrive = {
            **_durable(consumer, (naming.redrive_filter(context, consumer.durable),)),
            "deliver_policy": "all",
        }
        consumers[naming.redrive_stream(context), consumer.durable] = redrive
    replicas_of = {
        name: profile.replicas
        for name, profile in settings.profiles.items()
        if profile.replicas is not None
    }
    return Topology(streams, consumers, replicas_of, frozenset(unwritten))


def _says_replicas(stream: StreamSettings) -> bool:
    """Whether the file or its profile says how many, so that nothing else may be made of it."""
    return "replicas" in stream.model_fields_set


def _events(stream: StreamSettings) -> JSON:
    values = {name: getattr(stream, name) for name in _OPTIONAL_STREAM_FIELDS}
    return {
        "name": stream.name,
        "subjects": list(stream.subjects),
        "retention": stream.retention,
        "max_age": to_nanoseconds(stream.max_age),
        "max_bytes": stream.max_bytes,
        "storage": stream.storage,
        "num_replicas": stream.replicas,
        "duplicate_window": to_nanoseconds(stream.duplicate_window),
        "allow_direct": stream.allow_direct,
        "allow_atomic": True,
        **{name: value for name, value in values.items() if value is not None},
    }


def _dead_letters(stream: StreamSettings) -> JSON:
    """Unlimited: a letter leaves only when somebody redrives or discards it."""
    return {
        "name": naming.dlq_stream(stream.context),
        "subjects": [naming.dlq_filter(stream.context)],
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "max_bytes": UNLIMITED,
        "storage": stream.storage,
        "num_replicas": stream.replicas,
        "duplicate_window": to_nanoseconds(LETTER_WINDOW),
        "allow_direct": True,
    }


def _redrives(stream: StreamSettings) -> JSON:
    return {
        "name": naming.redrive_stream(stream.context),
        "subjects": [naming.redrive_filter(stream.context)],
        "retention": "workqueue",
        "discard": "new",
        "max_age": 0,
        "max_bytes": UNLIMITED,
        "storage": stream.storage,
        "num_replicas": stream.replicas,
        "allow_direct": True,
    }


def _advisories(streams: tuple[StreamSettings, ...]) -> JSON:
    return {
        "name": naming.ADVISORY_STREAM,
        "subjects": list(naming.ADVISORY_SUBJECTS),
        "retention": "limits",
        "max_age": to_nanoseconds(ADVISORY_AGE),
        "max_bytes": UNLIMITED,
        "storage": "file" if any(stream.storage == "file" for stream in streams) else "memory",
        "num_replicas": max(stream.replicas for stream in streams),
        "allow_direct": True,
    }


def _sweeper() -> JSON:
    """What an advisory says has to become a letter, however long that takes."""
    return {
        "name": naming.SWEEPER_DURABLE,
        "durable_name": naming.SWEEPER_DURABLE,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": to_nanoseconds(timedelta(seconds=30)),
        "max_deliver": UNLIMITED,
        "max_ack_pending": 100,
    }


def _durable(consumer: ConsumerSettings, filters: tuple[str, ...]) -> JSON:
    values = {name: getattr(consumer, name) for name in _OPTIONAL_CONSUMER_FIELDS}
    subjects: JSON = (
        {"filter_subject": filters[0]} if len(filters) == 1 else {"filter_subjects": list(filters)}
    )
    return {
        "name": consumer.durable,
        "durable_name": consumer.durable,
        **subjects,
        "deliver_policy": consumer.deliver_policy,
        "ack_policy": consumer.ack_policy,
        "ack_wait": to_nanoseconds(consumer.ack_wait),
        "max_deliver": consumer.max_deliver,
        "max_ack_pending": consumer.max_ack_pending,
        # Each of these would break a promise where somebody had set it by hand: the server's
        # backoff overrides ack_wait, the others drop payloads, positions or pulls.
        "backoff": [],
        "headers_only": False,
        "inactive_threshold": 0,
        "deliver_subject": "",
        **(_EXCLUSIVE if consumer.exclusive else _SHARED),
        **{name: value for name, value in values.items() if value is not None},
    }
