"""What the server has, as the mapping of a ``seaway.yaml``.

Owns: the way back from server values to the file's words. Guarantees: what it gives loads; what
could not is left out and named with its reason, never bent into shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seaway import naming
from seaway.config import (
    format_duration,
    format_size,
    from_nanoseconds,
    settings_from_mapping,
)
from seaway.contracts import JSON, BrokerAdmin
from seaway.errors import ConfigError
from seaway.topology.compare import ServerState
from seaway.topology.execute import actual


@dataclass(frozen=True, slots=True)
class Export:
    """``mapping`` for the file; ``left_out``: what it cannot hold, and why."""

    mapping: JSON
    left_out: tuple[str, ...] = ()


def _duration(value: int) -> str:
    return format_duration(from_nanoseconds(value))


def _same(value: Any) -> Any:
    return value


def _pinned(policy: str) -> bool:
    return policy == "pinned_client"


_STREAM_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _same),
    "description": ("description", _same),
    "subjects": ("subjects", _same),
    "retention": ("retention", _same),
    "max_age": ("max_age", _duration),
    "max_bytes": ("max_bytes", format_size),
    "storage": ("storage", _same),
    "num_replicas": ("replicas", _same),
    "duplicate_window": ("duplicate_window", _duration),
    "discard": ("discard", _same),
    "discard_new_per_subject": ("discard_new_per_subject", _same),
    "max_msgs": ("max_msgs", _same),
    "max_msgs_per_subject": ("max_msgs_per_subject", _same),
    "max_msg_size": ("max_msg_size", format_size),
    "max_consumers": ("max_consumers", _same),
    "compression": ("compression", _same),
    "allow_direct": ("allow_direct", _same),
    "deny_delete": ("deny_delete", _same),
    "deny_purge": ("deny_purge", _same),
    "allow_rollup_hdrs": ("allow_rollup_hdrs", _same),
}
_STREAM_DEFAULTS: Mapping[str, Any] = {
    "discard": "old",
    "discard_new_per_subject": False,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "max_msg_size": "unlimited",
    "max_consumers": -1,
    "compression": "none",
    "allow_direct": True,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
}
_CONSUMER_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "durable_name": ("durable", _same),
    "description": ("description", _same),
    "filter_subject": ("filter_subject", _same),
    "filter_subjects": ("filter_subjects", _same),
    "ack_policy": ("ack_policy", _same),
    "ack_wait": ("ack_wait", _duration),
    "max_deliver": ("max_deliver", _same),
    "max_ack_pending": ("max_ack_pending", _same),
    "priority_policy": ("exclusive", _pinned),
    "max_waiting": ("max_waiting", _same),
}
_CONSUMER_DEFAULTS: Mapping[str, Any] = {"exclusive": False, "max_waiting": 512}


async def export(admin: BrokerAdmin) -> Export:
    """``exported`` of what the server has now."""
    return exported(await actual(admin))


def exported(state: ServerState) -> Export:
    """Event streams and their durables; dead letters, redrives and advisories are implied."""
    streams: list[JSON] = []
    consumers: list[JSON] = []
    left_out: list[str] = []
    for name, info in sorted(state.streams.items()):
        if not _is_event_stream(name):
            continue
        config = info.config
        stream = {
            "allow_direct": False,
            "max_age": "0",
            **_written(config, _STREAM_FIELDS),
        }
        stream = _ordered(stream, _STREAM_FIELDS, _STREAM_DEFAULTS)
        if config.get("mirror") or config.get("sources") or config.get("subject_transform"):
            left_out.append(f"stream {name}: is fed by other streams or rewrites subjects")
            continue
        if reason := _refusal({"streams": [stream]}):
            left_out.append(f"stream {name}: {reason}")
            continue
        streams.append(stream)
        for (owner, durable), found in sorted(state.consumers.items()):
            if owner != name:
                continue
            consumer = _ordered(
                _written(found.config, _CONSUMER_FIELDS), _CONSUMER_FIELDS, _CONSUMER_DEFAULTS
            )
            consumer = {"stream": name, **consumer}
            reason = _refusal({"streams": [*streams], "consumers": [*consumers, consumer]})
            if not found.pulled:
                reason = "it is a push consumer"
            if (policy := found.config.get("priority_policy")) in ("overflow", "prioritized"):
                reason = f"its pulls have priorities: {policy}"
            if reason:
                left_out.append(f"consumer {name} > {durable}: {reason}")
            else:
                consumers.append(consumer)
    return Export({"streams": streams, "consumers": consumers}, tuple(left_out))


def _written(config: JSON, fields: Mapping[str, tuple[str, Callable[[Any], Any]]]) -> JSON:
    return {
        key: convert(config[name])
        for name, (key, convert) in fields.items()
        if config.get(name) is not None and config[name] not in ("", [])
    }


def _ordered(
    values: JSON,
    fields: Mapping[str, tuple[str, Callable[[Any], Any]]],
    defaults: Mapping[str, Any],
) -> JSON:
    return {
        key: values[key]
        for key, _ in fields.values()
        if key in values and (key not in defaults or values[key] != defaults[key])
    }


def _refusal(mapping: JSON) -> str:
    try:
        settings_from_mapping(mapping, environ={})
    except ConfigError as error:
        return str(error)
    return ""


def _is_event_stream(name: str) -> bool:
    try:
        return naming.events_stream(naming.stream_context(name)) == name
    except ConfigError:
        return False
