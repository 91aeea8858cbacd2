"""What every command shares: settings from flags, what is opened, one way to run and to end.

Owns: exit codes (0 done, 1 not so, 2 usage, 3 unreachable, 130 interrupted) and the connections.
Guarantees: a user's mistake is one line on stderr, never a traceback; SIGINT and SIGTERM end every
command in order; nothing that hangs in a driver holds up the end.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from seaway import process
from seaway.cli import printing
from seaway.config import (
    DEVELOPMENT_FILE,
    Settings,
    load_settings,
    parse_duration,
    settings_from_mapping,
)
from seaway.contracts import Broker, Store
from seaway.errors import ConfigError, NotPermitted, SeawayError, TransientError
from seaway.headers import parse_time
from seaway.parts import loop_factory
from seaway.stores import open_configured

if TYPE_CHECKING:
    from seaway.monitor import Station

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Project:
    """What a framework's own command says in place of ``seaway.yaml`` and of ``MODULE:APP``."""

    settings: Callable[[], Mapping[str, Any]]
    """Gives a mapping shaped like the file; ``ConfigError`` where it cannot."""
    shown: str
    """What errors call it."""
    application: str
    """``MODULE:APP``."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The root command's options, before configuration is read."""

    config: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    project: Project | None = None


def flags(ctx: typer.Context) -> Flags:
    """The root options of this call."""
    return ctx.find_root().obj or Flags()


def settings(ctx: typer.Context, *, required: bool = True) -> Settings:
    """The settings that flags, file and environment give; where there is no file, those that
    ``seaway run --dev`` brought up here. ``ConfigError`` otherwise, where one is ``required``."""
    given = flags(ctx)
    if given.config is None and (project := given.project) is not None:
        return settings_from_mapping(project.settings(), flags=given.overrides, shown=project.shown)
    return load_settings(
        given.config, flags=given.overrides, required=required, otherwise=DEVELOPMENT_FILE
    )


# ------------------------------------------------------------------------------- options


def duration(text: str) -> timedelta:
    """For ``typer.Option(parser=)``."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Timeout = Annotated[
    Any,
    typer.Option(
        "--timeout",
        parser=duration,
        metavar="DURATION",
        help="How long to wait for the server and the database.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        help="Serve /metrics of this process there; without HOST on loopback, 0 takes a free port.",
    ),
]
By = Annotated[
    str | None, typer.Option("--by", metavar="WHO", help="Who does so. Default: this user.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def moment(text: str | None, option: str) -> datetime | None:
    """An RFC 3339 time, or an age counted back from now; ``ConfigError`` names ``option``."""
    if text is None:
        return None
    with suppress(ValueError):
        return parse_time(text)
    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        raise ConfigError(
            f"{option} {text!r} is neither a time nor an age",
            hint="like 2026-11-24T08:00:00Z, or 2h",
        ) from None


def operator(by: str | None = None) -> str:
    """Who is noted to have done something: what ``--by`` says, else ``USER@HOST``."""
    return " ".join((by or "").split()) or process.operator()


# ------------------------------------------------------------------------------- what is opened


@asynccontextmanager
async def open_server(configured: Settings) -> AsyncIterator[Broker]:
    """The server of these settings, without a database; closed at the end."""
    from seaway.brokers import jetstream

    broker = await jetstream.connect(configured.nats)
    try:
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def open_database(
    ctx: typer.Context, *, create: bool = False, verify: bool = True
) -> AsyncIterator[Store]:
    """The verified database of these settings, without a server; closed at the end. A name that is
    written wrong makes no file, unless told to ``create`` it."""
    store = await open_configured(settings(ctx), create=create)
    try:
        if verify:
            await store.schema.verify()
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def bounded(*stations: Station[Any]) -> AsyncIterator[None]:
    """Close ``stations`` at the end; this process ends without waiting for one that has hung."""
    try:
        yield
    finally:
        await asyncio.gather(*(station.close() for station in stations))
        _hung.extend(station for station in stations if station.left_behind)


_hung: list[object] = []


# ------------------------------------------------------------------------------- running, ending


def runs(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A command out of a coroutine function: typer calls it, ``run`` brings it to its end."""

    @functools.wraps(work)
    def command(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(work(*args, **kwargs))

    return command


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end. SIGTERM and SIGINT cancel it, so that its contexts are left."""
    runner = asyncio.Runner(loop_factory=loop_factory())
    try:
        try:
            return runner.run(_until_signal(work))
        finally:
            if not _hung:
                runner.close()
            else:
                _hung.append(runner)  # Kept, since its end would wait for what hangs.
    except SeawayError as error:
        fail(str(error), exit_code(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    except BrokenPipeError:
        _say_no_more()
        raise typer.Exit(0) from None


@contextmanager
def verdict(code: int) -> Iterator[None]:
    """Print it in the block, and leave with ``code``, also where nobody reads it to its end."""
    with unread():
        yield
    raise typer.Exit(code)


@contextmanager
def unread() -> Iterator[None]:
    """What is printed in the block may find no reader; the command goes on."""
    try:
        yield
    except BrokenPipeError:
        _say_no_more()


def _say_no_more() -> None:
    """The reader of our stdout has gone (``| head``): nothing is wrong."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _until_signal(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None and hasattr(loop, "add_signal_handler"):
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def exit_code(error: SeawayError) -> int:
    """What the shell is told of ``error``."""
    if isinstance(error, ConfigError | NotPermitted):
        return 2
    return 3 if isinstance(error, TransientError) else 1


def fail(message: str, code: int) -> NoReturn:
    """Say why on stderr and leave with ``code``."""
    printing.complain(message)
    if printing.also_complain is not None:
        printing.also_complain(message)
    raise typer.Exit(code)


def confirm(question: str) -> None:
    """Go on after a yes only; whoever cannot answer is told how not to be asked."""
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        typer.echo(err=True)  # The question's line has no end yet.
        fail("nobody answers here: --yes does not ask", 1)


def leave_what_hangs(end: SystemExit) -> None:
    """End this process at once where something hangs in a driver or its thread."""
    if not _hung or not isinstance(end.code, int | None):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(end.code or 0)
