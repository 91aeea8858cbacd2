"""The server: read, changed, and written as a ``seaway.yaml``. The only I/O of topology.

Owns: the order of changes, reading back, the words of the server's refusals, and the way back from
server values to the file's words. Guarantees: data is never lost without permission, checked before
the first change; every step can be repeated; what an export gives loads, and what could not is left
out and named with its reason, never bent into shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from seaway.config import settings_from_mapping
from seaway.contracts import JSON, BrokerAdmin, ConsumerInfo, StreamInfo
from seaway.errors import ApiError, ConfigError, SeawayError
from seaway.naming import kind_of
from seaway.topology import thresholds
from seaway.topology.compare import (
    POSITION,
    Change,
    Plan,
    ServerState,
    differences,
    positioned,
)
from seaway.topology.fields import CONSUMER, STREAM, Field, needs, shown
from seaway.topology.shape import ConsumerKey, Topology


async def actual(admin: BrokerAdmin, desired: Topology | None = None) -> ServerState:
    """What the server has: all streams, and the consumers of those that are desired.

    Without ``desired``: the consumers of every stream whose name is that of a context's stream.
    ``ConfigError`` where the server or the account has no JetStream.
    """
    server = await admin.server_info()
    if not server.jetstream:
        raise ConfigError(f"the server {server.url} has no JetStream", hint="start it with -js")
    with _explained("reading the streams", None):
        streams = {info.name: info for info in await admin.streams()}
        consumers: dict[ConsumerKey, ConsumerInfo] = {}
        for name in streams:
            if name in desired.streams if desired is not None else kind_of(name):
                consumers |= {info.key: info for info in await admin.consumers(name)}
    # A stream tells of its cluster also where it is reached through a server of another.
    told = any(info.cluster for info in streams.values())
    clustered = told or (None if server.elsewhere else server.cluster is not None)
    return ServerState(streams, consumers, datetime.now(UTC), server.release, clustered)


async def apply(
    plan: Plan, admin: BrokerAdmin, allow_data_loss: bool = False
) -> tuple[Change, ...]:
    """Carry the plan out; what was done, in order. Idempotent; may be cancelled and run again.

    ``SeawayError`` before anything is changed where a plan has losses, without ``allow_data_loss``;
    likewise where the server kept something else than it was sent, ``ApiError``
    where it refused.
    """
    if plan.losses and not allow_data_loss:
        lines = "; ".join(f"{change.title}: {'; '.join(change.reasons)}" for change in plan.losses)
        raise SeawayError(f"would lose data: {lines} (--allow-data-loss does it anyway)")
    for change in plan.changes:
        with _explained(change.title, plan, change):
            if change.durable is None:
                await _apply_stream(change, admin)
            else:
                await _apply_consumer(change, change.durable, admin)
    return plan.changes


async def _apply_stream(change: Change, admin: BrokerAdmin) -> None:
    if change.replaces:
        await admin.delete_stream(change.stream)
    if change.replaces or change.kind == "create":
        await admin.create_stream(change.config)
    else:
        await admin.update_stream(change.config)
    _check_kept(change, await admin.stream(change.stream))


async def _apply_consumer(change: Change, durable: str, admin: BrokerAdmin) -> None:
    if change.replaces:
        await _replace(change, durable, admin)
    elif change.kind == "create":
        await admin.create_consumer(change.stream, change.config)
        await _forget_position(change.stream, durable, admin)
    else:
        await admin.update_consumer(change.stream, change.config)
    _check_kept(change, await admin.consumer(change.stream, durable))


async def _replace(change: Change, durable: str, admin: BrokerAdmin) -> None:
    """Delete and create a durable so that a crash between the two does not forget its position."""
    stream = await admin.stream(change.stream)
    old = await admin.consumer(change.stream, durable)
    if stream is None or old is None:
        raise SeawayError(f"{change.title} has gone since the plan was made: plan again")
    config = change.config
    if stream.retention == "workqueue":
        # What was acknowledged is no longer there; such a stream takes no other start.
        config = {**config, "deliver_policy": "all"}
    else:
        start = old.ack_floor + 1
        config = positioned(config, start)
        marked = {**stream.metadata, POSITION + durable: str(start)}
        await admin.update_stream({**stream.config, "metadata": marked})
    await admin.delete_consumer(change.stream, durable)
    await admin.create_consumer(change.stream, config)
    await _forget_position(change.stream, durable, admin)


async def _forget_position(stream: str, durable: str, admin: BrokerAdmin) -> None:
    info, mark = await admin.stream(stream), POSITION + durable
    if info is not None and mark in info.metadata:
        left = {name: value for name, value in info.metadata.items() if name != mark}
        await admin.update_stream({**info.config, "metadata": left})


def _check_kept(change: Change, info: StreamInfo | ConsumerInfo | None) -> None:
    """Raise where what the server has now is not what it was sent."""
    if info is None:
        raise SeawayError(f"{change.title}: the server took it and does not have it")
    for name, kept, wanted in differences(change.declared, info.config):
        why = f" ({needs(name)})" if needs(name) else ""
        raise SeawayError(
            f"{change.title}: the server kept {name} {shown(name, kept)}, "
            f"not {shown(name, wanted)}{why}"
        )


@contextmanager
def _explained(doing: str, plan: Plan | None, change: Change | None = None) -> Iterator[None]:
    """The server's refusals in the words of the file."""
    try:
        yield
    except ApiError as error:
        if error.why == "no_jetstream":
            raise ConfigError(
                f"JetStream is not enabled: {error.description}",
                hint="start nats-server with -js, or enable it for this account",
            ) from error
        if plan and change and error.why == "too_many_replicas":
            replicas = change.config.get("num_replicas")
            raise ConfigError(
                f"{doing}: replicas: {replicas} is more than this server or cluster has "
                f"({error.description})",
                hint=_fitting_profile(plan, replicas or 1),
            ) from error
        text = f"{doing}: {error.description}"
        if plan and change and error.why == "subjects_taken":
            streams = [one for one in plan.unmanaged if one.durable is None]
            holders = [one.stream for one in streams if change.stream in one.note]
            text += f" (held by {', '.join(holders)})" if holders else ""
        raise ApiError(text, code=error.code, err_code=error.err_code, why=error.why) from error


def _fitting_profile(plan: Plan, replicas: int) -> str:
    fitting = {name: n for name, n in plan.replicas_of.items() if n < replicas}
    if not fitting:
        return (
            "leave `replicas` out, which asks for 1 where the server is no cluster, or add a "
            "profile: `profiles: {development: {replicas: 1}}`"
        )
    name, count = min(fitting.items(), key=lambda item: item[1])
    return f"profile {name} has replicas: {count}: use --profile {name}"


# ------------------------------------------------------------------ as a file


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
    durables: list[JSON] = []
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
                durables.append(found.config)
    mapping: JSON = {"streams": streams, "consumers": consumers}
    alerts, why = thresholds.exported(durables)
    if why := why or _refusal({"alerts": alerts}):
        left_out.append(f"alerts: {why}")
    elif alerts:
        mapping["alerts"] = alerts
    return Export(mapping, tuple(left_out))


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
