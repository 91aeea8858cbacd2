"""What the settings ask for, as JetStream's own configuration, for one server. Pure.

Owns: which streams and durables there are for an event stream, and their values. Guarantees: every
value of the settings arrives in the server's units, to the nanosecond and byte; a server that is
too old, or no cluster, is not asked for what it would take and forget. What Seaway only wants for
speed or safety is left out, and shows as a change once the server has it; what the file asks for is
an error that names the release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeAlias

from seaway import naming
from seaway.config import (
    UNLIMITED,
    AlertSettings,
    ConsumerSettings,
    Settings,
    StreamSettings,
    to_nanoseconds,
)
from seaway.contracts import JSON
from seaway.errors import ConfigError
from seaway.topology import thresholds
from seaway.topology.fields import CONSUMER, FIELDS, STREAM, absent, needs

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

_NICE_TO_HAVE = frozenset({"allow_atomic", "allow_msg_schedules", "metadata"})


@dataclass(frozen=True, slots=True)
class Topology:
    """Configs by name. ``replicas_of`` gives the replicas of each profile of the file, so that a
    refusal can name the one that fits. ``unwritten``: the streams whose replicas nobody wrote."""

    streams: Mapping[str, JSON]
    consumers: Mapping[ConsumerKey, JSON]
    replicas_of: Mapping[str, int] = field(default_factory=dict)
    unwritten: frozenset[str] = frozenset()


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
        own, redriven = consumer.filters, (naming.redrive_filter(context, consumer.durable),)
        consumers[consumer.stream, consumer.durable] = _durable(consumer, own, settings.alerts)
        redrive = {**_durable(consumer, redriven, settings.alerts), "deliver_policy": "all"}
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
    values = {one.name: getattr(stream, one.name) for one in STREAM if one.optional}
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
    """A letter leaves only when somebody redrives or discards it."""
    return {
        "name": naming.dlq_stream(stream.context),
        "subjects": [naming.dlq_filter(stream.context)],
        "retention": "limits",
        **_unlimited(stream),
        "duplicate_window": to_nanoseconds(LETTER_WINDOW),
    }


def _redrives(stream: StreamSettings) -> JSON:
    return {
        "name": naming.redrive_stream(stream.context),
        "subjects": [naming.redrive_filter(stream.context)],
        "retention": "workqueue",
        **_unlimited(stream),
        "allow_msg_schedules": True,
        # A server that sends later takes no other. It drops nothing while there is no limit.
        "discard": "old",
        "max_msgs": UNLIMITED,
        "max_msgs_per_subject": UNLIMITED,
    }


def _unlimited(stream: StreamSettings) -> JSON:
    return {
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


def _durable(consumer: ConsumerSettings, filters: tuple[str, ...], alerts: AlertSettings) -> JSON:
    values = {one.name: getattr(consumer, one.name) for one in CONSUMER if one.optional}
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
        "metadata": thresholds.metadata(alerts),
        **{name: value for name, value in values.items() if value is not None},
    }


# ------------------------------------------------------------------ on one server


def for_server(
    wanted: Topology, release: tuple[int, ...] = (), clustered: bool | None = None
) -> tuple[Topology, tuple[str, ...]]:
    """``wanted`` as far as a server of ``release`` knows it, and the streams that get one replica
    there, since nobody wrote how many and it is no cluster. ``()`` and ``None``: not known, and so
    it can do everything. ``ConfigError`` where the file asks for more.
    """
    lowered = tuple(
        name
        for name, config in wanted.streams.items()
        if clustered is False and name in wanted.unwritten and config["num_replicas"] > 1
    )
    streams = {
        name: _known(release, config, f"stream {name}") for name, config in wanted.streams.items()
    }
    single = {name: {**streams[name], "num_replicas": 1} for name in lowered}
    consumers = {
        key: _known(release, config, f"consumer {' > '.join(key)}")
        for key, config in wanted.consumers.items()
    }
    return replace(wanted, streams={**streams, **single}, consumers=consumers), lowered


def _known(release: tuple[int, ...], config: JSON, title: str) -> JSON:
    known = dict(config)
    for name, one in FIELDS.items():
        if not release or release >= one.since or name not in known:
            continue
        if name == "allow_msg_schedules":
            known["discard"] = "new"
        if name not in _NICE_TO_HAVE and not absent(known[name]):
            asked = "exclusive: true" if one.setting == "exclusive" else name
            raise ConfigError(
                f"{title}: {asked} {needs(name)}, and this one is {'.'.join(map(str, release))}",
                hint="upgrade the server, or take it out of the file",
            )
        del known[name]
    return known


def keeps_positions(release: tuple[int, ...]) -> bool:
    """Whether a stream has metadata, where a durable's position is kept while it is replaced."""
    return not release or release >= (2, 10)
