"""What every command shares: settings from flags, one way to run, to fail, and to print.

Owns: exit codes (0 done, 1 not so, 2 usage, 3 unreachable, 130 interrupted), the two consoles
(data on stdout, everything else on stderr) and the connection. Guarantees: a user's mistake is one
line on stderr, never a traceback; SIGINT and SIGTERM end every command in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress

from seaway.app import Seaway
from seaway.config import Settings, load_settings, parse_duration
from seaway.contracts import Store
from seaway.errors import ConfigError, NotPermitted, SeawayError, TransientError
from seaway.monitor import Station
from seaway.parts import loop_factory, stop_on_signals
from seaway.stores import open_configured

__all__ = [
    "Flags",
    "Json",
    "Metrics",
    "Timeout",
    "bounded",
    "confirm",
    "duration",
    "ending",
    "err",
    "exit_code",
    "fail",
    "flags",
    "json_text",
    "open_app",
    "open_database",
    "out",
    "print_json",
    "printable",
    "progress",
    "run",
    "settings",
    "stop_on_signals",
]

T = TypeVar("T")

# In a pipe a line is as long as it is: what reads it may be looking for an id.
_ENDLESS = 1_000_000
out = Console(highlight=False, width=None if sys.stdout.isatty() else _ENDLESS)
err = Console(stderr=True, highlight=False)


def _print_note(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


def _print_complaint(text: str) -> None:
    err.print(f"seaway: {printable(text)}", style="red", markup=False, soft_wrap=True)


note: Callable[[str], None] = _print_note
"""How a command says what it does; a log that is set up takes it over."""
complain: Callable[[str], None] = _print_complaint
"""How a command says why it ends; a log for machines takes it over."""
also_complain: Callable[[str], None] | None = None
"""Who is told that as well: an application's own log."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


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


@dataclass(frozen=True, slots=True)
class Flags:
    """The root command's options, before configuration is read."""

    config: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


def flags(ctx: typer.Context) -> Flags:
    """The root options of this call."""
    return ctx.find_root().obj or Flags()


def settings(ctx: typer.Context) -> Settings:
    """The settings that flags, file and environment give; ``ConfigError`` otherwise."""
    given = flags(ctx)
    return load_settings(given.config, flags=given.overrides)


@asynccontextmanager
async def open_app(ctx: typer.Context, *, wait: bool = False) -> AsyncIterator[Seaway]:
    """The connected application of these settings; ``wait``: for ever, where no server answers."""
    async with Seaway(settings(ctx), wait=wait) as app:
        yield app


@asynccontextmanager
async def open_database(ctx: typer.Context) -> AsyncIterator[Store]:
    """The verified database of these settings, without a server; closed at the end. A name that is
    written wrong makes no file."""
    store = await open_configured(settings(ctx), create=False)
    try:
        await store.schema.verify()
        yield store
    finally:
        await store.close()


def exit_code(error: SeawayError) -> int:
    """What the shell is told of ``error``."""
    if isinstance(error, ConfigError | NotPermitted):
        return 2
    return 3 if isinstance(error, TransientError) else 1


def fail(message: str, code: int) -> NoReturn:
    """Say why on stderr and leave with ``code``."""
    complain(message)
    if also_complain is not None:
        also_complain(message)
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
        # The reader of our stdout has gone (``| head``): nothing is wrong, and nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


_hung: list[object] = []


@asynccontextmanager
async def bounded(*stations: Station[Any]) -> AsyncIterator[None]:
    """Close ``stations`` at the end; this process ends without waiting for one that has hung."""
    try:
        yield
    finally:
        await asyncio.gather(*(station.close() for station in stations))
        _hung.extend(station for station in stations if station.left_behind)


@contextmanager
def ending() -> Iterator[None]:
    """Around the whole command: nothing that hangs in a driver or its thread holds up its end."""
    try:
        yield
    except SystemExit as end:
        if not _hung or not isinstance(end.code, int | None):
            raise
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(end.code or 0)


async def _until_signal(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None and hasattr(loop, "add_signal_handler"):
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for what takes longer than two seconds; plain lines where it is no terminal.

    The block is given a call that says how many more are done.
    """
    if err.is_terminal:
        with Progress(console=err, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, said_at = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, said_at
        done += count
        if time.monotonic() - said_at >= 2:
            said_at = time.monotonic()
            note(f"{what}: {done}" + ("" if total is None else f" of {total}"))

    yield advance


def print_json(value: Any) -> None:
    """``value`` as indented JSON on stdout; times as RFC 3339."""
    typer.echo(json_text(value, indent=2))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """``value`` as JSON in which nothing stands that a terminal would obey."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    # JSON's texts hold no line end of their own.
    return "\n".join(
        line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n")
    )


def _escaped(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


def printable(text: str) -> str:
    """``text`` without what a terminal would obey: payloads and headers are untrusted."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text
    )
