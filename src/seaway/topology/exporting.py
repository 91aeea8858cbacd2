"""What the server has, as the mapping of a ``seaway.yaml``.

Owns: the way back from server values to the file's words. Guarantees: what it gives loads; what
could not is left out and named with its reason, never bent into shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seaway.config import settings_from_mapping
from seaway.contracts import JSON, BrokerAdmin
from seaway.errors import ConfigError
from seaway.naming import kind_of
from seaway.topology.compare import ServerState
from seaway.topology.execute import actual
from seaway.topology.fields import CONSUMER, STREAM, Field


@dataclass(frozen=True, slots=True)
class Export:
    """``mapping`` for the file; ``left_out``: what it cannot hold, and why."""

    mapping: JSON
    left_out: tuple[str, ...] = ()


async def export(admin: BrokerAdmin) -> Export:
    """``exported`` of what the server has now."""
    return exported(await actual(admin))


def exported(state: ServerState) -> Export:
    """Event streams and their durables; dead letters, redrives and advisories are implied."""
    streams: list[JSON] = []
    consumers: list[JSON] = []
    left_out: list[str] = []
    for name, info in sorted(state.streams.items()):
        if kind_of(name) != "events":
            continue
        # The server leaves out what is zero or false.
        config = {"max_age": 0, "allow_direct": False, **info.config}
        stream = _written(config, STREAM)
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
            written = _written(found.config, CONSUMER)
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


def _written(config: JSON, fields: Sequence[Field]) -> JSON:
    """``fields`` in the file's words and this order, without those that say what is so anyway."""
    values = {
        one: one.written(config[one.name])
        for one in fields
        if one.exported and config.get(one.name) is not None and config[one.name] not in ("", [])
    }
    return {one.setting or one.name: v for one, v in values.items() if v != one.left_out}


def _refusal(mapping: JSON) -> str:
    try:
        settings_from_mapping(mapping, environ={})
    except ConfigError as error:
        return str(error)
    return ""
