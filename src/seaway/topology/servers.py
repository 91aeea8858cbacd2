"""What a nats-server is not able to, since it is too old or no cluster. Pure.

Owns: since which release a field is there. Guarantees: a server is not asked for what it would take
and forget. What Seaway only wants for speed or safety is left out, and shows as a change once the
server has it; what the file asks for is an error that names the release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from seaway.contracts import JSON
from seaway.errors import ConfigError
from seaway.topology.shape import Topology, absent

SINCE: Mapping[str, tuple[int, int]] = {
    "allow_atomic": (2, 12),
    "priority_policy": (2, 11),
    "priority_groups": (2, 11),
    "priority_timeout": (2, 11),
    "compression": (2, 10),
    "filter_subjects": (2, 10),
}
_FOR_SPEED = frozenset({"allow_atomic"})
_ASKED_FOR_BY = {
    "priority_policy": "exclusive: true",
    "priority_groups": "exclusive: true",
    "priority_timeout": "exclusive: true",
}


def known_to(release: tuple[int, ...], wanted: Topology) -> Topology:
    """``wanted`` as far as a server of ``release`` knows it; ``()``: it knows everything.

    ``ConfigError`` where the file asks for more.
    """
    if not release:
        return wanted
    streams = {
        name: _known(release, config, f"stream {name}") for name, config in wanted.streams.items()
    }
    consumers = {
        key: _known(release, config, f"consumer {' > '.join(key)}")
        for key, config in wanted.consumers.items()
    }
    return replace(wanted, streams=streams, consumers=consumers)


def lowered(clustered: bool | None, wanted: Topology) -> tuple[str, ...]:
    """The streams that get one replica, since nobody wrote how many and the server is no cluster;
    ``None``: not known, and so none."""
    if clustered is not False:
        return ()
    return tuple(
        name
        for name, config in wanted.streams.items()
        if name in wanted.unwritten and config["num_replicas"] > 1
    )


def within_reach(clustered: bool | None, wanted: Topology) -> Topology:
    """``wanted`` with one replica of the streams that are ``lowered``."""
    single = {
        name: {**wanted.streams[name], "num_replicas": 1} for name in lowered(clustered, wanted)
    }
    return replace(wanted, streams={**wanted.streams, **single})


def _known(release: tuple[int, ...], config: JSON, title: str) -> JSON:
    known = dict(config)
    for name, since in SINCE.items():
        if release >= since or name not in known:
            continue
        value = known.pop(name)
        if name not in _FOR_SPEED and not absent(value):
            raise ConfigError(
                f"{title}: {_ASKED_FOR_BY.get(name, name)} needs nats-server {_text(since)} or "
                f"later, and this one is {_text(release)}",
                hint="upgrade the server, or take it out of the file",
            )
    return known


def keeps_positions(release: tuple[int, ...]) -> bool:
    """Whether a stream has metadata, where a durable's position is kept while it is replaced."""
    return not release or release >= (2, 10)


def since(name: str) -> str:
    """What to add to the word of a field that older servers do not have; empty for others."""
    return f" (needs nats-server {_text(SINCE[name])} or later)" if name in SINCE else ""


def _text(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))
