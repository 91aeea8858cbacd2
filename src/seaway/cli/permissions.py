"""``seaway permissions``: what each role may do on the server, to be given to the server."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from seaway.cli.session import print_json, run, settings
from seaway.config import Settings
from seaway.topology import ROLES, Rights, rights


class Format(StrEnum):
    """What ``permissions`` prints."""

    SERVER = "server"
    NSC = "nsc"
    JSON = "json"


def permissions(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help=f"{', '.join(ROLES)}.")],
    service: Annotated[
        str | None, typer.Option(help="Only this service's durables.", metavar="SERVICE")
    ] = None,
    parking: Annotated[
        bool, typer.Option("--parking", help='Its consumers have on_failure="park".')
    ] = False,
    shape: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.SERVER,
) -> None:
    """Print the least rights of a role on NATS, for the streams and durables of seaway.yaml."""

    async def load() -> Settings:
        return settings(ctx)

    async def find(configured: Settings) -> Rights:
        return rights(configured, role, service=service, parking=parking)

    found = run(find(run(load())))
    match shape:
        case Format.JSON:
            print_json(asdict(found))
        case Format.NSC:
            typer.echo(as_nsc(found, user_name(found.role, service)), nl=False)
        case Format.SERVER:
            typer.echo(as_server(found, user_name(found.role, service)), nl=False)


def user_name(role: str, service: str | None) -> str:
    """What the user is called: ``relay``, ``case_mgmt_consumer``."""
    return role if service is None else f"{service}_{role}"


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
