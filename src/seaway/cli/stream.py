"""``seaway stream``: what streams there are, and one of them as the nats CLI shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from seaway.brokers import jetstream
from seaway.cli import tables
from seaway.cli.session import Json, flags, out, print_json, run
from seaway.cli.tables import Column
from seaway.config import load_settings
from seaway.contracts import BrokerAdmin, StreamInfo
from seaway.errors import NotFound
from seaway.headers import format_time
from seaway.monitor.wording import human_bytes
from seaway.words import nearest

app = typer.Typer(help="Look at streams.", no_args_is_help=True)


@app.command()
def ls(ctx: typer.Context, as_json: Json = False) -> None:
    """List the server's streams."""
    infos = run(_streams(ctx))
    if as_json:
        print_json([one.document for one in infos])
        return
    if not infos:
        out.print("There are no streams: seaway topology apply makes those of seaway.yaml.")
        return
    tables.show(
        (
            Column("STREAM"),
            Column("SUBJECTS", rank=2),
            Column("MESSAGES", right=True),
            Column("BYTES", right=True),
            Column("FULL", rank=1, right=True),
            Column("CONSUMERS", rank=3, right=True),
        ),
        [
            (
                one.name,
                ", ".join(one.subjects),
                f"{one.messages:,}",
                human_bytes(one.bytes),
                "–" if one.fill is None else f"{one.fill:.1%}",
                str(one.consumer_count),
            )
            for one in infos
        ],
    )


@app.command()
def info(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Like SEA_EVENTS.")],
    as_json: Json = False,
) -> None:
    """Show one stream; the JSON is that of `nats stream info NAME --json`."""
    found = run(_stream(ctx, name))
    if as_json:
        print_json(found.document)
        return
    led = f", leader {found.leader}" if found.leader else ""
    show(
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


async def _streams(ctx: typer.Context) -> list[StreamInfo]:
    async with connected(ctx) as admin:
        return sorted(await admin.streams(), key=lambda info: info.name)


async def _stream(ctx: typer.Context, name: str) -> StreamInfo:
    async with connected(ctx) as admin:
        found = await admin.stream(checked(name, "stream"))
        if found is None:
            raise await no_such_stream(admin, name)
        return found


@asynccontextmanager
async def connected(ctx: typer.Context) -> AsyncIterator[BrokerAdmin]:
    """The server of the flags, the file or the environment; no file is needed to look."""
    given = flags(ctx)
    configured = load_settings(given.config, flags=given.overrides, required=False)
    broker = await jetstream.connect(configured.nats)
    try:
        yield broker.admin
    finally:
        await broker.close()


async def no_such_stream(admin: BrokerAdmin, name: str) -> NotFound:
    """The error that names the streams there are."""
    return not_found("stream", name, [info.name for info in await admin.streams()])


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


def show(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    """A titled list of names and values."""
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        pad_edge=False,
    )
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(str(value)))
    out.print(table)
