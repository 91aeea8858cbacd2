"""``seaway topology``: the file and the server, side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer
import yaml

from seaway import topology
from seaway.brokers import jetstream
from seaway.cli import session, tables
from seaway.cli.session import Json, err, flags, out, print_json, run, settings
from seaway.cli.tables import Column
from seaway.config import Settings, load_settings
from seaway.contracts import Broker
from seaway.words import counted

app = typer.Typer(
    help="Compare seaway.yaml with the server, change the server, or write the file from it.",
    no_args_is_help=True,
)

_WORDS = {
    "create": ("+", "create", "green"),
    "in_place": ("~", "change in place", "yellow"),
    "recreate_consumer": ("±", "new consumer, position kept", "yellow"),
    "loses_data": ("!", "loses data", "red"),
    "unmanaged": ("?", "not in the file, left alone", "dim"),
}


@app.command()
def plan(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what differs. Exit 0: nothing, 1: something."""
    found = run(_plan(ctx))
    _show(found, found.changes, as_json)
    if not found.empty:
        raise typer.Exit(1)


@app.command()
def apply(
    ctx: typer.Context,
    allow_data_loss: Annotated[
        bool, typer.Option("--allow-data-loss", help="Also make changes that drop messages.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the server as the file says. Safe to repeat."""
    found = run(_apply(ctx, allow_data_loss))
    _show(found, found.changes, as_json)
    if found.changes:
        session.note(
            f"{counted(len(found.changes), 'change')} made: the server is as the file says."
        )


@app.command()
def export(ctx: typer.Context, as_json: Json = False) -> None:
    """Print a seaway.yaml of the server's event streams and durables."""
    found = run(_export(ctx))
    for line in found.left_out:
        err.print(f"left out: {line}", markup=False)
    if as_json:
        print_json(found.mapping)
    else:
        typer.echo(yaml.safe_dump(found.mapping, sort_keys=False, allow_unicode=True), nl=False)


async def _plan(ctx: typer.Context) -> topology.Plan:
    configured = settings(ctx)
    async with _broker(configured) as broker:
        wanted = topology.desired(configured)
        return topology.plan(wanted, await topology.actual(broker.admin, wanted))


async def _apply(ctx: typer.Context, allow_data_loss: bool) -> topology.Plan:
    configured = settings(ctx)
    async with _broker(configured) as broker:
        wanted = topology.desired(configured)
        found = topology.plan(wanted, await topology.actual(broker.admin, wanted))
        await topology.apply(found, broker.admin, allow_data_loss)
        return found


async def _export(ctx: typer.Context) -> topology.Export:
    # There may be no file yet: this command is one way to get one.
    given = flags(ctx)
    configured = load_settings(given.config, flags=given.overrides, required=False)
    async with _broker(configured) as broker:
        return await topology.export(broker.admin)


@asynccontextmanager
async def _broker(configured: Settings) -> AsyncIterator[Broker]:
    broker = await jetstream.connect(configured.nats)
    try:
        yield broker
    finally:
        await broker.close()


def _show(found: topology.Plan, changes: tuple[topology.Change, ...], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "changes": [change.as_json() for change in changes],
                "unmanaged": [change.as_json() for change in found.unmanaged],
                "notes": list(found.notes),
            }
        )
        return
    for note in found.notes:
        err.print(note, markup=False, soft_wrap=True)
    if not changes:
        out.print("The server is as the file says.")
    if changes or found.unmanaged:
        rows, styles = [], []
        for change in (*changes, *found.unmanaged):
            sign, words, style = _WORDS[change.kind]
            lines = [*map(str, change.differences), *change.reasons]
            lines += [change.note] if change.note else []
            rows.append((sign, change.title, words, "\n".join(lines)))
            styles.append(style)
        columns = (
            Column(""),
            Column("WHAT"),
            Column("HOW", rank=1),
            Column("DIFFERENCE", words=True),
        )
        tables.show(columns, rows, styles)
