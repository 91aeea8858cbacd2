"""``seaway doctor``: what is wrong across the layers, with what mends it.

It looks twice, about a second apart, changes nothing, and ends in time whatever hangs. The exit
code is 0 where nothing is critical or a warning, 1 where something is, 3 where neither the server
nor the database can be reached.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from datetime import timedelta
from typing import Annotated, Any

import typer

from seaway.cli import session
from seaway.cli.printing import Json, print_json, say
from seaway.cli.session import bounded, duration, run
from seaway.connections import database_station, server_station
from seaway.doctor import (
    Declared,
    Diagnosis,
    Weight,
    check_monitoring,
    diagnose,
    explained,
    gather,
    grouped,
    known,
    markdown,
    page,
    summary,
)
from seaway.events import registry
from seaway.topology import rights

_STYLES = {Weight.CRITICAL: "red", Weight.WARNING: "yellow", Weight.ADVICE: "cyan"}
_MARGIN = 9


def doctor(
    ctx: typer.Context,
    application: Annotated[
        str | None,
        typer.Option(
            "--app",
            metavar="MODULE:APP",
            help="Also look at this application's events and handlers.",
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="Whether this connection's user has the rights of a role; can be repeated.",
        ),
    ] = None,
    monitoring: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The server's HTTP monitoring, such as http://127.0.0.1:8222."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="CODE", help="Leave a finding out; can be repeated."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain", metavar="CODE", help="Print what a finding means and end; all: every one."
        ),
    ] = None,
    apart: Annotated[
        Any,
        typer.Option(
            "--sample", parser=duration, metavar="DURATION", help="How far apart the two looks are."
        ),
    ] = "1s",
    timeout: session.Timeout = "5s",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Find what is wrong, or will be, across server, streams, database and code; and what mends it.

    Exit 0: nothing more than advice; 1: a warning, or critical; 3: nothing can be reached.
    """
    if explain is not None:
        typer.echo(run(_explain(explain)), nl=False)
        return
    found = run(_diagnosed(ctx, application, role, monitoring, skip, apart, timeout))
    with session.verdict(found.exit_code):
        if as_json:
            print_json(found.as_json())
        elif as_markdown:
            say(markdown(found).rstrip("\n"))
        else:
            _lines(found)


async def _explain(code: str) -> str:
    return page() if code.lower() == "all" else explained(known(code))


async def _diagnosed(
    ctx: typer.Context,
    application: str | None,
    roles: list[str] | None,
    monitoring: str | None,
    skip: list[str] | None,
    apart: timedelta,
    timeout: timedelta,
) -> Diagnosis:
    flags = session.flags(ctx)
    for code in skip or ():
        known(code)
    if monitoring is not None:
        check_monitoring(monitoring)
    if application is None and flags.project is not None:
        application = flags.project.application
    declared = None
    if application is None:
        configured = session.settings(ctx)
    else:
        from seaway.cli.run import load_application

        made = load_application(application, flags)
        configured = made.settings
        consumers = {name: one.handles for name, one in made.consumers.items()}
        declared = Declared(registry.subjects, consumers)
    for role in roles or ():
        rights(configured, role)  # Says which there are, before anybody is asked.
    server, database = server_station(configured), database_station(configured)
    async with bounded(server, database):
        found = await gather(
            *(configured, server, database),
            within=timeout,
            apart=apart,
            monitoring=monitoring,
            declared=declared,
            roles=roles or (),
        )
    return diagnose(found, skip=skip or ())


def _lines(found: Diagnosis) -> None:
    """On a terminal what is prose is folded; what is to be copied is not."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for group in grouped(found):
        entry, weight = group[0].entry, group[0].weight
        say(f"{entry.code} {weight:<8} {entry.title}", _STYLES[weight])
        for place, one in enumerate(group):
            _said("" if place else "seen", one.seen, width)
        _said("why", entry.why, width, "dim")
        _said("mend", group[0].mend, 0)
    if found.unexamined:
        say("not examined", "dim")
        reasons: dict[str, list[str]] = {}
        for out in found.unexamined:
            reasons.setdefault(out.reason, []).append(out.entry.code)
        for reason, codes in reasons.items():
            _said("", f"{', '.join(codes)}: {reason}", width, "dim")
    worst = found.ailments[0].weight if found.ailments else None
    say(summary(found), "green" if worst is None else _STYLES[worst])


def _said(what: str, text: str, width: int, style: str | None = None) -> None:
    lines = [text]
    if width > _MARGIN + 20:
        wrapped = textwrap.wrap(
            text, width - _MARGIN, break_long_words=False, break_on_hyphens=False
        )
        lines = wrapped or [text]
    for place, line in enumerate(lines):
        say(f"  {what if place == 0 else '':<{_MARGIN - 2}}{line}", style)
