"""``seaway``: one command line. This module knows where each command is, and the root options.

Guarantees: a command's module is imported when the command is run or asked about, so that
``--version`` and ``--help`` load neither engines nor clients.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import seaway

if TYPE_CHECKING:
    from seaway.cli.session import Project

_COMMANDS = {
    "init": ("dev:init", "Write a commented seaway.yaml (or the file that --config names)."),
    "demo": (
        "dev:demo",
        "Run the whole way on embedded servers; exit 0 only if it was exact.",
    ),
    "dev": (
        "dev:dev",
        "Start nats-server with JetStream (three with --cluster 3) until Ctrl-C, and print its "
        "URL.",
    ),
    "relay": (
        "run:relay",
        "Publish the outbox until SIGINT or SIGTERM; the batch in flight is finished.",
    ),
    "run": (
        "run:run_application",
        "Run an application until SIGINT or SIGTERM, then drain; a second signal ends it at once.",
    ),
    "replay": (
        "replay:replay",
        "Print a stream's history as lines for outbox add, or run a handler over it again.",
    ),
    "check": (
        "check:check",
        "Judge server, streams, consumers and outbox. Exit 0 ok, 1 warning, 2 critical, 3 unknown.",
    ),
    "audit": (
        "audit:audit",
        "Compare outbox, streams, inbox and letters by id. Exit 0 the same, 1 not, 3 unreachable.",
    ),
    "doctor": (
        "doctor:doctor",
        "Find what is wrong, or will be, across server, streams, database and code; and what mends "
        "it.",
    ),
    "trace": (
        "trace:trace",
        "Show what became of an event, or of all that one request caused.",
    ),
    "serve": (
        "serve:serve",
        "Serve the dashboard, /healthz, /readyz and /metrics until Ctrl-C.",
    ),
    "permissions": (
        "topology:permissions",
        "Print the least rights of a role on NATS, for the streams and durables of seaway.yaml.",
    ),
    "topology": (
        "topology:app",
        "Compare seaway.yaml with the server, change the server, or write the file from it.",
    ),
    "db": ("db:app", "Seaway's own tables in your database."),
    "outbox": ("outbox:app", "The outbox: add events, see and retry what waits."),
    "log": (
        "noted:app",
        "What was done that somebody must know of: healed, set back, made again.",
    ),
    "stream": ("streams:app", "Look at streams."),
    "consumer": ("steering:app", "Consumers: look at them, set one back, pause it."),
    "dlq": ("dlq:app", "Dead letters: list, show, redrive, discard."),
}
"""Where each is (its module here, and what in it), and its line in the list of commands."""


class Command(TyperCommand):
    """A command, or a group of them, whose module is imported when more is asked of it than its
    line in the list of commands."""

    def __init__(self, name: str, place: str, line: str) -> None:
        super().__init__(name, short_help=line)
        self.place = place
        del self.help, self.params

    @cached_property
    def real(self) -> Any:
        """The command itself."""
        module, _, attribute = self.place.partition(":")
        try:
            found = getattr(import_module(f"seaway.cli.{module}"), attribute)
        finally:
            gc.enable()
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(found)
        return typer.main.get_command(alone)

    def __getattr__(self, name: str) -> Any:
        if name == "real":
            raise AttributeError(name)
        return getattr(self.real, name)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        return self.real.make_context(*args, **extra)


class Commands(TyperGroup):
    """All of them; an option that stands on the wrong side of a command is told where it goes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (place, line) in _COMMANDS.items():
            self.add_command(Command(name, place, line))

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
    url: Annotated[
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
    tls_cert: Annotated[
        Path | None, typer.Option("--tlscert", help="TLS certificate.", metavar="FILE")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tlskey", help="TLS key.", metavar="FILE")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option("--tlsca", help="TLS authority.", metavar="FILE")
    ] = None,
    tls_first: Annotated[
        bool | None, typer.Option("--tlsfirst", help="TLS before the server's greeting.")
    ] = None,
    jetstream_domain: Annotated[
        str | None, typer.Option("--js-domain", help="JetStream domain.", metavar="DOMAIN")
    ] = None,
    jetstream_api_prefix: Annotated[
        str | None,
        typer.Option("--js-api-prefix", help="Prefix of JetStream's API.", metavar="PREFIX"),
    ] = None,
    inbox_prefix: Annotated[str | None, typer.Option(help="Prefix of reply subjects.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Root options come before the command; what they leave out, file and environment give."""
    from seaway.cli.session import Flags

    given = {name: value for name, value in ctx.params.items() if value is not None}
    of_nats = given.keys() - {"config", "version", "profile", "database"}
    overrides: dict[str, Any] = {
        name: given[name] for name in ("profile", "database") if name in given
    }
    if of_nats:  # Each is called as its key under ``nats:`` of the file.
        overrides["nats"] = {name: given[name] for name in of_nats}
    ctx.obj = Flags(config, overrides, project=ctx.obj)


def main(
    arguments: Sequence[str] | None = None, *, name: str = "seaway", project: Project | None = None
) -> None:
    """The console script; and, with ``arguments``, a framework's own command, which is called
    ``name`` and has its ``project``. Raises ``SystemExit``."""
    try:
        app(arguments, prog_name=name, obj=project)
    except SystemExit as end:
        if "seaway.cli.session" in sys.modules:
            sys.modules["seaway.cli.session"].leave_what_hangs(end)
        raise
