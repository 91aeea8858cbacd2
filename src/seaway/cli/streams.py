"""``seaway stream`` and ``seaway consumer``: what is on the server, as the nats CLI shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

import typer

from seaway.cli import session
from seaway.cli.printing import (
    Column,
    Json,
    print_fields,
    print_json,
    print_list,
    say,
)
from seaway.contracts import BrokerAdmin, ConsumerInfo, StreamInfo
from seaway.errors import NotFound
from seaway.headers import format_time
from seaway.words import human_bytes, nearest

app = typer.Typer(help="Look at streams.", no_args_is_help=True)
consumers = typer.Typer(
    help="Consumers: look at them, set one back, pause it.", no_args_is_help=True
)

Stream = Annotated[str, typer.Argument(metavar="STREAM", help="Like SEA_EVENTS.")]

_STREAMS: Sequence[Column[StreamInfo]] = (
    Column("STREAM", lambda one: one.name),
    Column("SUBJECTS", lambda one: ", ".join(one.subjects), rank=2),
    Column("MESSAGES", lambda one: f"{one.messages:,}", right=True),
    Column("BYTES", lambda one: human_bytes(one.bytes), right=True),
    Column("FULL", lambda one: "–" if one.fill is None else f"{one.fill:.1%}", rank=1, right=True),
    Column("CONSUMERS", lambda one: str(one.consumer_count), rank=3, right=True),
)
_CONSUMERS: Sequence[Column[ConsumerInfo]] = (
    Column("CONSUMER", lambda one: one.durable),
    Column("FILTER", lambda one: "\n".join(one.filters) or "all", rank=2),
    Column("PENDING", lambda one: f"{one.num_pending:,}", right=True),
    Column("ACK PENDING", lambda one: f"{one.num_ack_pending:,}", right=True),
    Column("REDELIVERED", lambda one: f"{one.num_redelivered:,}", rank=1, right=True),
    Column("WAITING", lambda one: str(one.num_waiting), rank=3, right=True),
)


@app.command("ls")
@session.runs
async def list_streams(ctx: typer.Context, as_json: Json = False) -> None:
    """List the server's streams."""
    async with _admin(ctx) as admin:
        infos = sorted(await admin.streams(), key=lambda info: info.name)
    if as_json:
        print_json([one.document for one in infos])
    elif infos:
        print_list(_STREAMS, infos)
    else:
        say("There are no streams: seaway topology apply makes those of seaway.yaml.")


@app.command("info")
@session.runs
async def stream_info(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Like SEA_EVENTS.")],
    as_json: Json = False,
) -> None:
    """Show one stream; the JSON is that of `nats stream info NAME --json`."""
    async with _admin(ctx) as admin:
        found = await stream_of(admin, name)
    if as_json:
        print_json(found.document)
        return
    led = f", leader {found.leader}" if found.leader else ""
    print_fields(
        found.name,
        [
            ("subjects", ", ".join(found.subjects)),
            ("retention", f"{found.retention}, {found.storage}"),
            ("replicas", f"{found.replicas}{led}"),
            ("messages", f"{found.messages:,}"),
            ("bytes", human_bytes(found.bytes)),
            ("of its limit", "unlimited" if found.fill is None else f"{found.fill:.1%}"),
            ("first", f"{found.first_seq:,}{_at(found.first_at)}"),
            ("last", f"{found.last_seq:,}{_at(found.last_at)}"),
            ("deleted inside", f"{found.num_deleted:,}"),
            ("consumers", str(found.consumer_count)),
            ("created", found.created),
        ],
    )


def _at(moment: datetime | None) -> str:
    return f" at {format_time(moment)}" if moment else ""


@consumers.command("ls")
@session.runs
async def list_consumers(ctx: typer.Context, stream: Stream, as_json: Json = False) -> None:
    """List a stream's durables."""
    async with _admin(ctx) as admin:
        await stream_of(admin, stream)
        listed = sorted(one.key for one in await admin.consumers(stream) if not one.ephemeral)
        # Lists may come from a follower, whose figures are stale: ask for each.
        asked = await asyncio.gather(*(admin.consumer(*key) for key in listed))
    infos = [one for one in asked if one is not None]
    if as_json:
        print_json([one.document for one in infos])
    elif infos:
        print_list(_CONSUMERS, infos)
    else:
        say(f"{stream} has no durables: seaway topology apply makes those of seaway.yaml.")


@consumers.command("info")
@session.runs
async def consumer_info(
    ctx: typer.Context,
    stream: Stream,
    durable: Annotated[str, typer.Argument(metavar="DURABLE", help="Like case_mgmt__from_sea.")],
    as_json: Json = False,
) -> None:
    """Show one durable; the JSON is that of `nats consumer info STREAM DURABLE --json`."""
    async with _admin(ctx) as admin:
        found = await admin.consumer(checked(stream, "stream"), checked(durable, "consumer"))
        if found is None:
            await stream_of(admin, stream)
            names = [info.durable for info in await admin.consumers(stream)]
            raise not_found("consumer", durable, names, f"on {stream}")
    if as_json:
        print_json(found.document)
        return
    held = f"{found.num_ack_pending:,}"
    times = "time" if found.consumer_seq == 1 else "times"
    if found.max_ack_pending:
        held += f" of {found.max_ack_pending:,}"
    print_fields(
        f"{found.stream} / {found.durable}",
        [
            ("filter", ", ".join(found.filters) or "all"),
            ("pending", f"{found.num_pending:,}"),
            ("ack pending", held),
            ("redelivered now", f"{found.num_redelivered:,}"),
            ("waiting pulls", str(found.num_waiting)),
            ("delivered", f"{found.consumer_seq:,} {times}, up to sequence {found.stream_seq:,}"),
            ("settled", f"all up to sequence {found.ack_floor:,}"),
            ("ack wait", f"{found.ack_wait.total_seconds():g} s"),
            ("max deliver", str(found.max_deliver or "unlimited")),
            ("exclusive", _turn(found)),
            ("created", found.created),
        ],
    )


def _turn(found: ConsumerInfo) -> str:
    """Whether one process at a time is given messages, and since when that is this one."""
    if not found.exclusive:
        return "no"
    if found.given_to_one_since is None:
        return "yes, to no process now"
    return f"yes, to one process since {format_time(found.given_to_one_since)}"


@asynccontextmanager
async def _admin(ctx: typer.Context) -> AsyncIterator[BrokerAdmin]:
    """The server of the flags, the file or the environment; no file is needed to look."""
    async with session.open_server(session.settings(ctx, required=False)) as broker:
        yield broker.admin


async def stream_of(admin: BrokerAdmin, name: str) -> StreamInfo:
    """The stream; ``NotFound`` names those that there are."""
    found = await admin.stream(checked(name, "stream"))
    if found is None:
        raise not_found("stream", name, [info.name for info in await admin.streams()])
    return found


def not_found(
    kind: str, name: str, known: Iterable[str], where: str = "on this server"
) -> NotFound:
    """``there is no stream X``, and what there is instead, the likely one first."""
    names = sorted(known)
    if not names:
        return NotFound(f"there is no {kind} {name}: there are none {where}")
    near = nearest(name.upper(), (n.upper() for n in names))
    meant = next((n for n in names if n.upper() == near), None)
    hint = f"did you mean {meant}? " if meant else ""
    return NotFound(f"there is no {kind} {name} ({hint}{where}: {', '.join(names)})")


def checked(name: str, kind: str) -> str:
    """``name``, unless it could not be any stream's or consumer's: it becomes part of a subject."""
    if not name or any(char in " .*>/\\\t\r\n" or not char.isprintable() for char in name):
        raise NotFound(f"{name!r} cannot be the name of a {kind}")
    return name
