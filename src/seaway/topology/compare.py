"""What differs between the file and the server, and what each change would cost. Pure.

Owns: the knowledge of which fields the server changes in place, which need a new consumer, and
which would lose data. Guarantees: only fields that the file (or Seaway) declares are compared, and
the config to send holds every other field as the server has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias

from seaway import naming
from seaway.config import from_nanoseconds
from seaway.contracts import JSON, ConsumerInfo, StreamInfo
from seaway.errors import ConfigError
from seaway.topology import thresholds
from seaway.topology.fields import absent, names, shown
from seaway.topology.fields import field as known
from seaway.topology.shape import ConsumerKey, Topology, for_server, keeps_positions

Kind: TypeAlias = Literal["in_place", "create", "recreate_consumer", "loses_data", "unmanaged"]
_COST: Sequence[Kind] = ("in_place", "create", "recreate_consumer", "loses_data")

POSITION = "seaway.position."
"""Stream metadata that keeps a durable's position while the durable itself is being replaced."""

_FILTERS, _BIRTH = names("filter"), names("birth")
_NOT_COMPARED = names("identity", "birth", "filter")
_FOREIGN = ("KV_", "OBJ_", "$MQTT_")


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the server has, by name, and when that was read.

    ``release``: the server's, such as ``(2, 15)``; ``()`` where it is not known. ``clustered``:
    whether a stream can have replicas; ``None`` where that is not known.
    """

    streams: Mapping[str, StreamInfo]
    consumers: Mapping[ConsumerKey, ConsumerInfo]
    taken_at: datetime
    release: tuple[int, ...] = ()
    clustered: bool | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One field. ``reason`` says why its cost is more than an update."""

    field: str
    kept: Any
    wanted: Any
    kind: Kind = "in_place"
    reason: str = ""
    replaces: bool = False

    def __str__(self) -> str:
        kept, wanted = shown(self.field, self.kept), shown(self.field, self.wanted)
        return f"{self.field}: {kept} -> {wanted}"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done about one stream or durable.

    ``config`` is what the server is sent, ``declared`` the part of it that the file answers for.
    """

    kind: Kind
    stream: str
    durable: str | None = None
    differences: tuple[Difference, ...] = ()
    config: JSON = field(default_factory=dict)
    declared: JSON = field(default_factory=dict)
    replaces: bool = False
    """The object is deleted and made anew."""
    note: str = ""

    @property
    def title(self) -> str:
        """``stream SEA_EVENTS`` or ``consumer SEA_EVENTS > case_mgmt__from_sea``."""
        if self.durable is None:
            return f"stream {self.stream}"
        return f"consumer {self.stream} > {self.durable}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it costs what it costs; empty for what costs nothing."""
        return tuple(one.reason for one in self.differences if one.reason)

    def as_json(self) -> JSON:
        """For ``--json``: raw server values."""
        return {
            "kind": self.kind,
            "what": "stream" if self.durable is None else "consumer",
            "stream": self.stream,
            "durable": self.durable,
            "note": self.note,
            "differences": [
                {
                    "field": one.field,
                    "from": one.kept,
                    "to": one.wanted,
                    "kind": one.kind,
                    "reason": one.reason,
                }
                for one in self.differences
            ],
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """``changes`` in the order of their application; ``unmanaged`` and ``notes`` are only told."""

    changes: tuple[Change, ...]
    unmanaged: tuple[Change, ...] = ()
    replicas_of: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What was not asked of this server, since it is not able to."""

    @property
    def empty(self) -> bool:
        """The server is as the file says."""
        return not self.changes

    @property
    def losses(self) -> tuple[Change, ...]:
        """The changes that need permission."""
        return tuple(change for change in self.changes if change.kind == "loses_data")


def plan(desired: Topology, actual: ServerState) -> Plan:
    """The changes that make the server as desired: streams first, each list in the file's order.

    ``ConfigError`` where the file asks for what this server is too old for, and where the position
    of a durable that has to be made again cannot be read.
    """
    unwatched = () < actual.release < thresholds.SINCE and any(
        config.get("metadata") for config in desired.consumers.values()
    )
    desired, single = for_server(desired, actual.release, actual.clustered)
    streams: list[Change] = []
    replaced: set[str] = set()
    for name, config in desired.streams.items():
        held = actual.streams.get(name)
        if held is None:
            streams.append(_creation(config, name))
        elif change := _stream_change(config, held, actual.taken_at):
            streams.append(change)
            if change.replaces:
                replaced.add(name)
    consumers: list[Change] = []
    for (stream, durable), config in desired.consumers.items():
        owner = None if stream in replaced else actual.streams.get(stream)
        info = actual.consumers.get((stream, durable)) if owner else None
        if info is None or owner is None:
            start = _position(owner, durable) if owner else None
            new = positioned(config, start) if start else config
            note = f"continues at sequence {start}" if start else ""
            consumers.append(_creation(new, stream, durable, note))
        elif change := _consumer_change(config, info, owner, release=actual.release):
            consumers.append(change)
    return Plan(
        (*streams, *consumers),
        tuple(_unmanaged(desired, actual)),
        dict(desired.replicas_of),
        tuple(_notes(single, unwatched)),
    )


def _notes(single: Sequence[str], unwatched: bool) -> Iterator[str]:
    if single:
        yield (
            f"one replica instead of the default of 3, since this server is no cluster: "
            f"{', '.join(single)}. Where it becomes one, plan shows the difference"
        )
    if unwatched:
        yield (
            "alerts: are not written into the metadata of durables, which nats-server keeps since "
            "2.10"
        )


def _position(owner: StreamInfo, durable: str) -> int | None:
    """Where a durable was that went while it was being replaced; ``None``: none did."""
    mark = owner.metadata.get(POSITION + durable)
    if mark is None:
        return None
    if not (mark.isascii() and mark.isdigit() and int(mark)):
        raise ConfigError(
            f"stream {owner.name}: its metadata {POSITION}{durable} is {mark!r}, which is no "
            "sequence to go on from",
            hint="write the right one, or take it out: then the durable begins as the file says",
        )
    return int(mark)


def positioned(config: JSON, sequence: int) -> JSON:
    """``config`` for a durable that begins at ``sequence``."""
    return {**config, "deliver_policy": "by_start_sequence", "opt_start_seq": sequence}


def differences(
    wanted: JSON, kept: JSON, *, subjects: Sequence[str] = ()
) -> Iterator[tuple[str, Any, Any]]:
    """``(field, kept, wanted)`` where they differ. ``subjects``: what a missing filter means."""
    for name, value in wanted.items():
        if name in _NOT_COMPARED:
            continue
        if name == "metadata":
            yield from _metadata(value, kept.get(name) or {})
            continue
        if not _same(name, value, kept.get(name)):
            yield name, kept.get(name), value
    if wanted.keys() & _FILTERS:
        new, old = _filters(wanted), _filters(kept) or list(subjects)
        if set(new) != set(old):
            yield "filter_subjects", old, new


def _metadata(wanted: JSON, kept: JSON) -> Iterator[tuple[str, Any, Any]]:
    whole = thresholds.merged(wanted, kept)
    for name in sorted(whole.keys() | kept.keys()):
        if whole.get(name) != kept.get(name):
            yield f"metadata.{name}", kept.get(name), whole.get(name)


def _filters(config: JSON) -> list[str]:
    single = config.get("filter_subject")
    return [single] if single else list(config.get("filter_subjects") or ())


def _same(name: str, wanted: Any, kept: Any) -> bool:
    if name == "subjects":
        return set(wanted) == set(kept or ())
    # The server leaves out what is empty, and writes some defaults in words.
    return wanted == kept or (absent(wanted) and absent(kept))


def _creation(config: JSON, stream: str, durable: str | None = None, note: str = "") -> Change:
    return Change("create", stream, durable, config=config, declared=config, note=note)


def _changed(
    stream: str, durable: str | None, found: Iterable[Difference], wanted: JSON, merged: JSON
) -> Change | None:
    """``merged``: what is sent where the object itself can stay."""
    differing = tuple(found)
    if not differing:
        return None
    worst = max((one.kind for one in differing), key=_COST.index)
    replaces = any(one.replaces for one in differing)
    config = wanted if replaces else merged
    return Change(worst, stream, durable, differing, config, wanted, replaces)


def _stream_change(wanted: JSON, held: StreamInfo, now: datetime) -> Change | None:
    found = (
        _stream_cost(name, old, new, held, now)
        for name, old, new in differences(wanted, held.config)
    )
    return _changed(held.name, None, found, wanted, {**held.config, **wanted})


def _stream_cost(name: str, kept: Any, wanted: Any, held: StreamInfo, now: datetime) -> Difference:
    cost = known(name).cost
    workqueue = name == "retention" and "workqueue" in (kept, wanted)
    if cost == "new" or workqueue or (cost == "no_way_back" and kept):
        reason = f"{name} cannot be changed: needs a new stream, the old one's messages are lost"
        return Difference(name, kept, wanted, "loses_data", reason, replaces=True)
    if name == "retention" and wanted == "interest" and held.messages:
        reason = "drops every stored message that no consumer waits for"
        return Difference(name, kept, wanted, "loses_data", reason)
    if held.messages and _evicts(name, kept, wanted, held, now):
        reason = f"drops stored messages beyond {shown(name, wanted)}"
        return Difference(name, kept, wanted, "loses_data", reason)
    return Difference(name, kept, wanted)


def _evicts(name: str, kept: Any, wanted: Any, held: StreamInfo, now: datetime) -> bool:
    if name == "max_bytes":
        return bool(0 < wanted < held.bytes)
    if name == "max_msgs":
        return bool(0 < wanted < held.messages)
    if name == "max_msgs_per_subject":
        # How many messages each subject has is not in the state: any lowering may drop some.
        return bool(wanted > 0 and (not kept or kept < 0 or wanted < kept))
    if name == "max_age" and wanted:
        return held.first_at is not None and now - held.first_at > from_nanoseconds(wanted)
    return False


def _consumer_change(
    wanted: JSON, info: ConsumerInfo, owner: StreamInfo, *, release: tuple[int, ...]
) -> Change | None:
    found = (
        _consumer_cost(name, old, new, owner, release)
        for name, old, new in differences(wanted, info.config, subjects=owner.subjects)
    )
    merged = {**_without(info.config, _FILTERS), **_without(wanted, _BIRTH)}
    change = _changed(*info.key, found, wanted, merged)
    if change is None or "metadata" not in wanted:
        return change
    whole = thresholds.merged(wanted["metadata"], info.config.get("metadata"))
    if change.replaces:
        whole = thresholds.without_the_servers_own(whole)
    return replace(change, config={**change.config, "metadata": whole})


def _without(config: JSON, names: Iterable[str]) -> JSON:
    return {name: value for name, value in config.items() if name not in names}


def _consumer_cost(
    name: str, kept: Any, wanted: Any, owner: StreamInfo, release: tuple[int, ...]
) -> Difference:
    if known(name).cost != "new":
        return Difference(name, kept, wanted)
    if owner.retention == "interest":
        reason = f"{name} needs a new consumer; the stream drops what waits for the old one"
        return Difference(name, kept, wanted, "loses_data", reason, replaces=True)
    if owner.retention == "limits" and not keeps_positions(release):
        reason = (
            f"{name} needs a new consumer; should this end half way, it begins anew: "
            "nats-server before 2.10 keeps no position meanwhile"
        )
        return Difference(name, kept, wanted, "loses_data", reason, replaces=True)
    reason = f"{name} needs a new consumer, which continues where the old one was"
    return Difference(name, kept, wanted, "recreate_consumer", reason, replaces=True)


def _unmanaged(desired: Topology, actual: ServerState) -> Iterator[Change]:
    for name, info in actual.streams.items():
        if name in desired.streams or name.startswith(_FOREIGN):
            continue
        clashes = [
            other
            for other, config in desired.streams.items()
            if any(naming.overlap(one, two) for one in info.subjects for two in config["subjects"])
        ]
        note = f"its subjects overlap with those of {', '.join(clashes)}" if clashes else ""
        yield Change("unmanaged", name, note=note)
    for stream, durable in actual.consumers:
        if stream in desired.streams and (stream, durable) not in desired.consumers:
            way = f"to be rid of it: nats consumer rm {stream} {durable}"
            yield Change("unmanaged", stream, durable, note=way)
