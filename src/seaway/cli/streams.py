"""``seaway stream``, ``seaway consumer`` and ``seaway replay``: what is on the server.

A stream and a durable are shown as the nats CLI shows them, and a stream's history as JSON lines.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import typer

from seaway.cli import session
from seaway.cli.printing import (
    Column,
    Json,
    json_value,
    print_fields,
    print_json,
    print_list,
    say,
)
from seaway.contracts import BrokerAdmin, ConsumerInfo, StoredMessage, StreamInfo
from seaway.errors import ConfigError, NotFound
from seaway.headers import format_time
from seaway.naming import check_filter, events_stream
from seaway.words import human_bytes, nearest

app = typer.Typer(help="Look at streams.", no_args_is_help=True)
consumers = typer.Typer(help="Look at consumers.", no_args_is_help=True)

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
        found = await _stream(admin, name)
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
        await _stream(admin, stream)
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
        found = await admin.consumer(_checked(stream, "stream"), _checked(durable, "consumer"))
        if found is None:
            await _stream(admin, stream)
            names = [info.durable for info in await admin.consumers(stream)]
            raise _not_found("consumer", durable, names, f"on {stream}")
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


async def _stream(admin: BrokerAdmin, name: str) -> StreamInfo:
    """The stream; ``NotFound`` names those that there are."""
    found = await admin.stream(_checked(name, "stream"))
    if found is None:
        raise _not_found("stream", name, [info.name for info in await admin.streams()])
    return found


def _not_found(
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


def _checked(name: str, kind: str) -> str:
    """``name``, unless it could not be any stream's or consumer's: it becomes part of a subject."""
    if not name or any(char in " .*>/\\\t\r\n" or not char.isprintable() for char in name):
        raise NotFound(f"{name!r} cannot be the name of a {kind}")
    return name


# ------------------------------------------------------------------------------- replay


@session.runs
async def replay(
    ctx: typer.Context,
    stream: Annotated[str | None, typer.Option(help="Which stream.")] = None,
    context: Annotated[str | None, typer.Option(help="Or whose event stream, like sea.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only these, wildcards allowed.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="From a time, or an age like 2h.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before a time, or an age.")] = None,
    from_seq: Annotated[int | None, typer.Option(help="From this sequence.", min=1)] = None,
    to_seq: Annotated[int | None, typer.Option(help="To this sequence, included.", min=1)] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0: all.", min=0)] = 0,
) -> None:
    """Print the history of a stream as JSON lines, oldest first; it touches no consumer."""
    settings = session.settings(ctx)
    if since is not None and from_seq is not None:
        raise ConfigError("give either --from or --from-seq")
    name = stream or (events_stream(context) if context else None)
    if name is None:
        if len(settings.streams) != 1:
            raise ConfigError("which stream?", hint="--stream SEA_EVENTS, or --context sea")
        name = settings.streams[0].name
    ends = session.moment(until, "--until")
    count = 0
    async with session.open_server(settings) as broker:
        history = broker.admin.read(
            name,
            filter_subjects=[check_filter(subject)] if subject else [],
            from_seq=from_seq,
            from_time=session.moment(since, "--from"),
        )
        # A reader left early must remove its consumer while it is still connected.
        async with aclosing(history):
            async for stored in history:
                if to_seq is not None and stored.stream_seq > to_seq:
                    break
                if ends is not None and stored.stored_at >= ends:
                    break
                typer.echo(_line_of(stored))
                count += 1
                if count == limit:
                    break


def _line_of(stored: StoredMessage) -> str:
    """One message as a line of JSON; ``payload`` where it is JSON, else ``payload_base64``.

    A payload stands there as it was written, so that no number loses a digit on its way.
    """
    line: dict[str, Any] = {
        "stream": stored.stream,
        "stream_seq": stored.stream_seq,
        "stored_at": format_time(stored.stored_at),
        "subject": stored.message.subject,
        "event_id": stored.event_id,
        "headers": dict(stored.message.headers),
    }
    payload = stored.message.payload
    try:
        json_value(payload)
    except ValueError:
        line["payload_base64"] = base64.b64encode(payload).decode()
        return json.dumps(line, ensure_ascii=False)
    # Outside of its strings JSON takes a line break for a blank; inside there can be none.
    text = payload.decode().replace("\r", " ").replace("\n", " ").strip()
    return f'{json.dumps(line, ensure_ascii=False)[:-1]}, "payload": {text}}}'
