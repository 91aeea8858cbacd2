"""Fields of streams and durables that need more than being sent: a row for each. Pure.

Owns: what a field is called in the file and in which unit, what a change of it costs, and since
which nats-server it is there. Knows no values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from seaway.config import format_duration, format_size, from_nanoseconds

Cost: TypeAlias = Literal["in_place", "new", "no_way_back", "identity", "birth", "filter"]
"""What a change of a field takes: an update; a new stream or durable; an update, and a new stream
to undo it. Never compared: ``identity``, and what matters only at a durable's ``birth`` (where it
began says nothing about where it is). Two fields are a ``filter``, and compared as one."""


@dataclass(frozen=True, slots=True)
class Field:
    """``setting``: its key in the file, where that is not its name; ``exported``: it may stand
    there, and need not as ``left_out``. ``optional``: sent only where the file has it."""

    name: str
    setting: str = ""
    unit: Literal["", "duration", "size"] = ""
    cost: Cost = "in_place"
    since: tuple[int, ...] = ()
    left_out: Any = None
    optional: bool = False
    exported: bool = True

    def written(self, value: Any) -> Any:
        """A server value as the file writes it."""
        if self.unit == "duration":
            return format_duration(from_nanoseconds(value))
        if self.unit == "size":
            return format_size(value)
        return value == "pinned_client" if self.name == "priority_policy" else value


STREAM: Sequence[Field] = (
    Field("name", cost="identity"),
    Field("description", optional=True),
    Field("subjects"),
    Field("retention"),
    Field("max_age", unit="duration"),
    Field("max_bytes", unit="size"),
    Field("storage", cost="new"),
    Field("num_replicas", "replicas"),
    Field("duplicate_window", unit="duration"),
    Field("discard", optional=True, left_out="old"),
    Field("discard_new_per_subject", optional=True, left_out=False),
    Field("max_msgs", optional=True, left_out=-1),
    Field("max_msgs_per_subject", optional=True, left_out=-1),
    Field("max_msg_size", unit="size", optional=True, left_out="unlimited"),
    Field("max_consumers", cost="new", optional=True, left_out=-1),
    Field("compression", since=(2, 10), optional=True, left_out="none"),
    Field("allow_direct", left_out=True),
    Field("deny_delete", cost="no_way_back", optional=True, left_out=False),
    Field("deny_purge", cost="no_way_back", optional=True, left_out=False),
    Field("allow_rollup_hdrs", optional=True, left_out=False),
    Field("allow_atomic", since=(2, 12), exported=False),
    Field("allow_msg_schedules", cost="no_way_back", since=(2, 12), exported=False),
)
CONSUMER: Sequence[Field] = (
    Field("name", cost="identity", exported=False),
    Field("durable_name", "durable", cost="identity"),
    Field("description", optional=True),
    Field("filter_subject", cost="filter"),
    Field("filter_subjects", cost="filter", since=(2, 10)),
    Field("ack_policy", cost="new"),
    Field("ack_wait", unit="duration"),
    Field("max_deliver"),
    Field("max_ack_pending"),
    Field("priority_policy", "exclusive", since=(2, 11), left_out=False),
    Field("priority_groups", since=(2, 11), exported=False),
    Field("priority_timeout", unit="duration", since=(2, 11), exported=False),
    Field("max_waiting", cost="new", optional=True, left_out=512),
    Field("deliver_subject", cost="new", exported=False),
    Field("replay_policy", cost="new", exported=False),
    Field("deliver_policy", cost="birth", exported=False),
    Field("opt_start_seq", cost="birth", exported=False),
    Field("opt_start_time", cost="birth", exported=False),
    Field("inactive_threshold", unit="duration", exported=False),
    Field("metadata", since=(2, 10), exported=False),
)
FIELDS: Mapping[str, Field] = {one.name: one for one in (*STREAM, *CONSUMER)}


def field(name: str) -> Field:
    """What is known of a field; of most, nothing but its name."""
    return FIELDS.get(name) or Field(name)


def names(*costs: Cost) -> frozenset[str]:
    """The fields whose change takes one of these."""
    return frozenset(name for name, one in FIELDS.items() if one.cost in costs)


def absent(value: Any) -> bool:
    """Whether a field with ``value`` may as well not be there; the server leaves out such."""
    return value is None or value == "none" or value in (0, "", [])


def shown(name: str, value: Any) -> str:
    """A server value for people: ``7d``, ``10GB``, ``unlimited``, ``none``."""
    unit = field(name).unit
    if value is None or value == "" or (name == "priority_timeout" and not value):
        return "none"
    if unit and isinstance(value, int):
        return "unlimited" if unit == "duration" and not value else field(name).written(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def needs(name: str) -> str:
    """Which server has a field; empty where every one does."""
    since = ".".join(map(str, field(name).since))
    return f"needs nats-server {since} or later" if since else ""
