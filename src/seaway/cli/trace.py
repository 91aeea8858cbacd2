"""``seaway trace``: what became of an event, or of all that one request caused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from seaway.cli import session
from seaway.cli.printing import Json, json_text, note, printable, progress
from seaway.config import load_settings
from seaway.connections import database_station, server_station
from seaway.errors import ConfigError, NotFound, TransientError
from seaway.headers import usable


@session.runs
async def trace(
    ctx: typer.Context,
    wanted: Annotated[
        str,
        typer.Argument(metavar="ID", help="An event's or a correlation's id, or SEA_EVENTS:17."),
    ],
    also: Annotated[
        list[Path] | None,
        typer.Option(help="Another service's seaway.yaml: ask its database, too.", metavar="FILE"),
    ] = None,
    window: Annotated[
        Any,
        typer.Option(
            parser=session.duration,
            metavar="DURATION",
            help="How long after a known time to look for events of other services.",
        ),
    ] = "1m",
    everything: Annotated[bool, typer.Option("--all", help="Fold nothing.")] = False,
    svg: Annotated[
        Path | None, typer.Option(help="Draw it into this file.", metavar="FILE")
    ] = None,
    timeout: session.Timeout = "5s",
    as_json: Json = False,
) -> None:
    """Show what became of an event, or of all that one request caused.

    Asks the database and the server, and changes nothing. Exits 1 for an id that nobody knows.
    """
    if not usable(wanted):
        raise ConfigError(f"{wanted[:80]!r} can be no id", hint="an event's or a correlation's id")
    from seaway.history.trace import Tracer
    from seaway.history.trace.svg import drawn
    from seaway.history.trace.text import lines, reached

    settings = session.settings(ctx)
    others = [(str(path), database_station(load_settings(path))) for path in also or ()]
    databases = [("the database", database_station(settings)), *others]
    server = server_station(settings)
    async with session.bounded(server, *(one for _, one in databases)):
        with progress("reading headers", None) as advance:
            tracer = Tracer(
                settings, server, databases, within=timeout, window=window, advance=advance
            )
            found = await tracer.trace(wanted)
    if not found.searched:
        why = "; ".join(f"{name}: {said}" for name, said in found.away.items())
        raise TransientError(f"no station can be reached: {why}")
    if not found.members:
        for said in (*found.notes, *reached(found)):
            note(said)
        raise NotFound(f"{wanted} is not known to {', '.join(found.searched)}")
    if svg is not None:
        try:
            svg.write_text(drawn(found, everything=everything), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--svg {svg}: {error.strerror}") from error
    with session.unread():
        if as_json:
            head = json_text(found.as_json())
            typer.echo(f"{head[:-1]}, {json.dumps('members')}: [")
            for place, member in enumerate(found.members.values(), 1):
                comma = "," if place < len(found.members) else ""
                typer.echo(json_text(member.as_json()) + comma)
            typer.echo("]}")
        else:
            for line in lines(found, everything=everything):
                typer.echo(printable(line))
