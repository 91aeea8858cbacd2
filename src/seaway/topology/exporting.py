"""What the server has, as the mapping of a ``seaway.yaml``.

Owns: the way back from server values to the file's words. Guarantees: what it gives loads; what
could not is left out and named with its reason, never bent into shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


_STREAM_FIELDS = (
    *("name", "description", "subjects", "retention", "max_age", "max_bytes", "storage"),
    *("num_replicas", "duplicate_window", "discard", "discard_new_per_subject", "max_msgs"),
    *("max_msgs_per_subject", "max_msg_size", "max_consumers", "compression", "allow_direct"),
    *("deny_delete", "deny_purge", "allow_rollup_hdrs"),
)
_CONSUMER_FIELDS = (
    *("durable_name", "description", "filter_subject", "filter_subjects", "ack_policy"),
    *("ack_wait", "max_deliver", "max_ack_pending", "priority_policy", "max_waiting"),
)
_RENAMED = {"num_replicas": "replicas", "durable_name": "durable", "priority_policy": "exclusive"}
_WRITTEN: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("max_age", "duplicate_window", "ack_wait"), _duration),
    **dict.fromkeys(("max_bytes", "max_msg_size"), format_size),
    "priority_policy": lambda policy: policy == "pinned_client",
}
_STREAM_DEFAULTS: JSON = {
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
_CONSUMER_DEFAULTS: JSON = {"exclusive": False, "max_waiting": 512}


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
        # The server leaves out what is zero or false.
        config = {"max_age": 0, "allow_direct": False, **info.config}
        stream = _written(config, _STREAM_FIELDS, _STREAM_DEFAULTS)
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
            written = _written(found.config, _CONSUMER_FIELDS, _CONSUMER_DEFAULTS)
            consumer = {"stream": name, **written}
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


def _written(config: JSON, fields: Sequence[str], defaults: JSON) -> JSON:
    """``fields`` in the file's words and this order, without those that say what is so anyway."""
    values = {
        _RENAMED.get(name, name): _WRITTEN.get(name, lambda value: value)(config[name])
        for name in fields
        if config.get(name) is not None and config[name] not in ("", [])
    }
    return {
        key: value for key, value in values.items() if key not in defaults or value != defaults[key]
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
