"""``seaway stream``: what streams there are, and one of them as the nats CLI shows it."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from seaway.brokers import jetstream
from seaway.cli import tables
from seaway.cli.session import Json, flags, out, print_json, run
from seaway.cli.tables import Column
from seaway.config import load_settings
from seaway.contracts import JSON, BrokerAdmin
from seaway.errors import NotFound
from seaway.monitor.snapshot import StreamView
from seaway.monitor.wording import human_bytes

_PAGING = frozenset({"total", "offset", "limit"})
"""Of the API's answer, not of the stream: the nats CLI leaves them out as well."""

app = typer.Typer(help="Look at streams.", no_args_is_help=True)


@app.command()
def ls(ctx: typer.Context, as_json: Json = False) -> None:
    """List the server's streams."""
    infos = run(_streams(ctx))
    if as_json:
        print_json(infos)
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
                view.name,
                ", ".join(view.subjects),
                f"{view.messages:,}",
                human_bytes(view.bytes),
                "–" if view.fill is None else f"{view.fill:.1%}",
                str(view.consumer_count),
            )
            for view in map(StreamView.read, infos)
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
        print_json(found)
        return
    view, state = StreamView.read(found), found["state"]
    show(
        view.name,
        [
            ("subjects", ", ".join(view.subjects)),
            ("retention", f"{view.retention}, {found['config'].get('storage', 'file')}"),
            ("replicas", str(view.replicas) + (f", leader {view.leader}" if view.leader else "")),
            ("messages", f"{view.messages:,}"),
            ("bytes", human_bytes(view.bytes)),
            ("of its limit", "unlimited" if view.fill is None else f"{view.fill:.1%}"),
            ("first", f"{view.first_seq:,} at {state.get('first_ts', '–')}"),
            ("last", f"{view.last_seq:,} at {state.get('last_ts', '–')}"),
            ("deleted inside", f"{view.num_deleted:,}"),
            ("consumers", str(view.consumer_count)),
            ("created", str(found.get("created", "–"))),
        ],
    )


async def _streams(ctx: typer.Context) -> list[JSON]:
    async with connected(ctx) as admin:
        return sorted(await admin.streams(), key=lambda info: str(info["config"]["name"]))


async def _stream(ctx: typer.Context, name: str) -> JSON:
    async with connected(ctx) as admin:
        found = await admin.stream(checked(name, "stream"))
        if found is None:
            raise await no_such_stream(admin, name)
        return {name: value for name, value in found.items() if name not in _PAGING}


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
    return not_found(
        "stream", name, [str(info["config"]["name"]) for info in await admin.streams()]
    )


def not_found(
    kind: str, name: str, known: Iterable[str], where: str = "on this server"
) -> NotFound:
    """``there is no stream X``, and what there is instead, the likely one first."""
    names = sorted(known)
    if not names:
        return NotFound(f"there is no {kind} {name}: there are none {where}")
    near = difflib.get_close_matches(name.upper(), [n.upper() for n in names], n=1)
    meant = next((n for n in names if near and n.upper() == near[0]), None)
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
