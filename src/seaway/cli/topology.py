"""``seaway topology`` and ``seaway permissions``: what the file wants of the server.

The file and the server side by side, one made as the other is; and the rights of each role there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
import yaml

from seaway import topology
from seaway.cli import printing, session
from seaway.cli.printing import Column, Json, print_json, print_list, say
from seaway.config import DEFAULT_FILE, Lacking, Settings
from seaway.contracts import BrokerAdmin
from seaway.topology import ROLES, Change, Rights, rights
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


def _difference(change: Change) -> str:
    lines = [*map(str, change.differences), *change.reasons]
    return "\n".join([*lines, change.note] if change.note else lines)


_COLUMNS: Sequence[Column[Change]] = (
    Column("", lambda one: _WORDS[one.kind][0]),
    Column("WHAT", lambda one: one.title),
    Column("HOW", lambda one: _WORDS[one.kind][1], rank=1),
    Column("DIFFERENCE", _difference, words=True),
)


@app.command()
def plan(
    ctx: typer.Context,
    application: Annotated[
        str | None,
        typer.Option(
            "--app",
            metavar="MODULE:APP",
            help="Show first what this application names and the file does not.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what differs. Exit 0: nothing, 1: something.

    With --app, and always in a Django project, what the application's code names has to be in the
    file first: while it is not, the lines to add are shown, and no server is asked.
    """
    configured, missing = session.run(_wanted(ctx, application))
    if missing:
        with session.verdict(1):
            _show_lacking(missing, application or "the code", configured, as_json)
    found = session.run(_planned(configured))
    with session.verdict(0 if found.empty else 1):
        _show(found, as_json)


async def _wanted(ctx: typer.Context, application: str | None) -> tuple[Settings, Lacking]:
    flags = session.flags(ctx)
    if application is None and flags.project is not None:
        application = flags.project.application
    if application is None:
        return session.settings(ctx), Lacking()
    from seaway.cli.run import load_application

    made = load_application(application, flags, required=False)
    return made.settings, made.lacking()


async def _planned(configured: Settings) -> topology.Plan:
    async with _compared(configured) as (found, _):
        return found


def _show_lacking(missing: Lacking, application: str, configured: Settings, as_json: bool) -> None:
    if as_json:
        print_json({"lacking": missing.mapping})
        return
    file = configured.source or f"{DEFAULT_FILE}, which is not here (`seaway init` writes one)"
    printing.note(f"{application} names what is not in {file}. To add:")
    typer.echo(missing.text, nl=False)


@app.command()
@session.runs
async def apply(
    ctx: typer.Context,
    allow_data_loss: Annotated[
        bool, typer.Option("--allow-data-loss", help="Also make changes that drop messages.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the server as the file says. Safe to repeat."""
    async with _compared(session.settings(ctx)) as (found, admin):
        await topology.apply(found, admin, allow_data_loss)
    _show(found, as_json)
    if found.changes:
        printing.note(
            f"{counted(len(found.changes), 'change')} made: the server is as the file says."
        )


@app.command()
@session.runs
async def export(ctx: typer.Context, as_json: Json = False) -> None:
    """Print a seaway.yaml of the server's event streams and durables."""
    # There may be no file yet: this command is one way to get one.
    async with session.open_server(session.settings(ctx, required=False)) as broker:
        found = await topology.export(broker.admin)
    for line in found.left_out:
        printing.note(f"left out: {line}")
    if as_json:
        print_json(found.mapping)
    else:
        typer.echo(yaml.safe_dump(found.mapping, sort_keys=False, allow_unicode=True), nl=False)


@asynccontextmanager
async def _compared(configured: Settings) -> AsyncIterator[tuple[topology.Plan, BrokerAdmin]]:
    """What makes the server as the file says, and the server."""
    async with session.open_server(configured) as broker:
        wanted = topology.desired(configured)
        yield topology.plan(wanted, await topology.actual(broker.admin, wanted)), broker.admin


def _show(found: topology.Plan, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "changes": [change.as_json() for change in found.changes],
                "unmanaged": [change.as_json() for change in found.unmanaged],
                "notes": list(found.notes),
            }
        )
        return
    for line in found.notes:
        printing.note(line)
    if not found.changes:
        say("The server is as the file says.")
    if found.changes or found.unmanaged:
        print_list(_COLUMNS, (*found.changes, *found.unmanaged), lambda one: _WORDS[one.kind][2])


# ------------------------------------------------------------------------------- permissions


class Format(StrEnum):
    """What ``permissions`` prints."""

    SERVER = "server"
    NSC = "nsc"
    JSON = "json"


@session.runs
async def permissions(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help=f"{', '.join(ROLES)}.")],
    service: Annotated[
        str | None, typer.Option(help="Only this service's durables.", metavar="SERVICE")
    ] = None,
    parking: Annotated[
        bool, typer.Option("--parking", help="Its consumers park, or put retries off.")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Its watcher runs seaway serve --audit.")
    ] = False,
    shape: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.SERVER,
) -> None:
    """Print the least rights of a role on NATS, for the streams and durables of seaway.yaml."""
    found = rights(session.settings(ctx), role, service=service, parking=parking, audit=audit)
    user = role if service is None else f"{service}_{role}"
    match shape:
        case Format.JSON:
            print_json(asdict(found))
        case Format.NSC:
            typer.echo(as_nsc(found, user), nl=False)
        case Format.SERVER:
            typer.echo(as_server(found, user), nl=False)


def as_server(found: Rights, user: str) -> str:
    """An entry of ``users`` in nats-server's configuration, of ``authorization`` or an account."""
    if not found.publish:
        return f"# {user} needs no user: it writes to its database alone.\n"
    lines = [
        f"# {user}: set nats.inbox_prefix to {found.inbox}",
        "{",
        f"  user: {user}",
        f"  password: ${user.upper()}_PASSWORD",
        "  permissions: {",
        "    publish: {",
        "      allow: [",
        *(f'        "{subject}"' for subject in found.publish),
        "      ]",
        "    }",
        "    subscribe: {",
        "      allow: [",
        *(f'        "{subject}"' for subject in found.subscribe),
        "      ]",
        "    }",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def as_nsc(found: Rights, user: str) -> str:
    """The command that makes the user in the current account."""
    if not found.publish:
        return f"# {user} needs no user: it writes to its database alone.\n"
    lines = [
        f"# {user}: set nats.inbox_prefix to {found.inbox}",
        f"nsc add user {user} \\",
        *(f"  --allow-pub '{subject}' \\" for subject in found.publish),
        *(f"  --allow-sub '{subject}' \\" for subject in found.subscribe),
    ]
    return "\n".join(lines).removesuffix(" \\") + "\n"
