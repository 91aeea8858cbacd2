"""``seaway``: one command line. Each group is a file; this one gathers them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import seaway
from seaway.cli import (
    check,
    consumer,
    db,
    demo,
    dev,
    dlq,
    init,
    outbox,
    permissions,
    relay,
    replay,
    run,
    serve,
    stream,
    topology,
)
from seaway.cli.session import Flags, ending


class Commands(TyperGroup):
    """All of them; an option that stands on the wrong side of a command is told where it goes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _placing():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _placing():
            return super().invoke(ctx)


@contextmanager
def _placing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # By name: the class stands in typer itself, or in click, as the version has it.
        if type(error).__name__ == "NoSuchOption":
            _place(error)
        raise


def _place(error: Any) -> None:
    option, here = error.option_name, error.ctx
    root = here.find_root()
    if here is not root and _takes(root.command, option):
        _, _, command = here.command_path.partition(" ")
        error.message += f". It goes before the command: seaway {option} ... {command}"
    elif any(_takes(one, option) for one in _behind(here.command)):
        error.message += f". It goes after the command: seaway ... {option}"
    else:
        return
    error.possibilities = None


def _takes(command: Any, option: str) -> bool:
    return any(option in one.opts or option in one.secondary_opts for one in command.params)


def _behind(command: Any) -> Iterator[Any]:
    for one in getattr(command, "commands", {}).values():
        yield one
        yield from _behind(one)


app = typer.Typer(
    name="seaway",
    cls=Commands,
    help="Reliable domain events on NATS JetStream: outbox, relay, consumers, dead letters.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for group in (topology, db, outbox, stream, consumer, dlq):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
for command in (
    init.init,
    demo.demo,
    dev.dev,
    relay.relay,
    run.run_application,
    replay.replay,
    check.check,
    serve.serve,
    permissions.permissions,
):
    app.command(name="run" if command is run.run_application else None)(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seaway {seaway.__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="seaway.yaml [env: SEAWAY_CONFIG]", metavar="FILE"),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="A profile of the file.")] = None,
    database: Annotated[str | None, typer.Option(help="Database URL.", metavar="URL")] = None,
    server: Annotated[
        str | None, typer.Option("--server", "-s", help="NATS server URL(s).", metavar="URL")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the nats CLI.")] = None,
    creds: Annotated[Path | None, typer.Option(help="Credentials file.", metavar="FILE")] = None,
    nkey: Annotated[Path | None, typer.Option(help="NKey seed file.", metavar="FILE")] = None,
    user: Annotated[str | None, typer.Option(help="User name.")] = None,
    password: Annotated[
        str | None, typer.Option(help="Password; NATS_PASSWORD keeps it out of `ps`.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Token; NATS_TOKEN keeps it out of `ps`.")
    ] = None,
    tlscert: Annotated[Path | None, typer.Option(help="TLS certificate.", metavar="FILE")] = None,
    tlskey: Annotated[Path | None, typer.Option(help="TLS key.", metavar="FILE")] = None,
    tlsca: Annotated[Path | None, typer.Option(help="TLS authority.", metavar="FILE")] = None,
    tlsfirst: Annotated[
        bool | None, typer.Option("--tlsfirst", help="TLS before the server's greeting.")
    ] = None,
    js_domain: Annotated[
        str | None, typer.Option("--js-domain", help="JetStream domain.", metavar="DOMAIN")
    ] = None,
    js_api_prefix: Annotated[
        str | None,
        typer.Option("--js-api-prefix", help="Prefix of JetStream's API.", metavar="PREFIX"),
    ] = None,
    inbox_prefix: Annotated[str | None, typer.Option(help="Prefix of reply subjects.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Root options come before the command; what they leave out, file and environment give."""
    nats: dict[str, Any] = {
        "url": server,
        "context": context,
        "creds": creds,
        "nkey": nkey,
        "user": user,
        "password": password,
        "token": token,
        "tls_cert": tlscert,
        "tls_key": tlskey,
        "tls_ca": tlsca,
        "tls_first": tlsfirst,
        "jetstream_domain": js_domain,
        "jetstream_api_prefix": js_api_prefix,
        "inbox_prefix": inbox_prefix,
    }
    overrides: dict[str, Any] = {"profile": profile, "database": database}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    given = {name: value for name, value in nats.items() if value is not None}
    if given:
        overrides["nats"] = given
    ctx.obj = Flags(config, overrides)


def main() -> None:
    """The console script."""
    with ending():
        app()
