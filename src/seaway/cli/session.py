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
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress

from seaway.app import Seaway
from seaway.config import Settings, load_settings
from seaway.contracts import Store
from seaway.errors import ConfigError, SeawayError, TransientError
from seaway.running import stop_on_signals
from seaway.stores import open_configured
from seaway.telemetry import (
    ConsumerPaused,
    ConsumerResumed,
    DeadLettered,
    Disconnected,
    Parked,
    Reconnected,
    RelayPaused,
    RelayResumed,
    Signal,
    Telemetry,
    logger,
)

__all__ = [
    "Flags",
    "Json",
    "err",
    "exit_code",
    "fail",
    "flags",
    "log_signals",
    "open_app",
    "open_database",
    "out",
    "print_json",
    "progress",
    "run",
    "settings",
    "stop_on_signals",
]

T = TypeVar("T")

# In a pipe a line is as long as it is: what reads it may be looking for an id.
_ENDLESS = 1_000_000
out = Console(highlight=False, width=None if sys.stdout.isatty() else _ENDLESS)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _ENDLESS)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


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
    """The verified database of these settings, without a server; closed at the end."""
    store = await open_configured(settings(ctx))
    try:
        await store.schema.verify()
        yield store
    finally:
        await store.close()


def exit_code(error: SeawayError) -> int:
    """What the shell is told of ``error``."""
    if isinstance(error, ConfigError):
        return 2
    return 3 if isinstance(error, TransientError) else 1


def fail(message: str, code: int) -> NoReturn:
    """Say why on stderr and leave with ``code``."""
    err.print(f"seaway: {message}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end. SIGTERM and SIGINT cancel it, so that its contexts are left."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_until_signal(work))
    except SeawayError as error:
        fail(str(error), exit_code(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # The reader of our stdout has gone (``| head``): nothing is wrong, and nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


async def _until_signal(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None and hasattr(loop, "add_signal_handler"):
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


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
            err.print(f"{what}: {done}" + ("" if total is None else f" of {total}"))

    yield advance


def print_json(value: Any) -> None:
    """``value`` as indented JSON on stdout; times as RFC 3339."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def log_signals(telemetry: Telemetry) -> None:
    """Tell the log of what an operator wants to know: pauses, parked events, dead letters."""

    def tell(signal: Signal) -> None:
        match signal:
            case RelayPaused(reason):
                logger.warning("relay paused: %s", reason)
            case RelayResumed(paused_for):
                logger.info("relay resumed after %.1f s", paused_for.total_seconds())
            case Parked(event_id, subject, error):
                logger.error("event %s (%s) is parked: %s", event_id, subject, error)
            case DeadLettered(_, consumer, event_id, reason, error_type, error):
                why = ": ".join(text for text in (error_type, error) if text)
                logger.error("%s: %s is a dead letter: %s %s", consumer, event_id, reason, why)
            case ConsumerPaused(consumer, reason):
                logger.warning("%s paused: %s", consumer, reason)
            case ConsumerResumed(consumer):
                logger.info("%s resumed", consumer)
            case Disconnected(reason):
                logger.warning("disconnected: %s", reason)
            case Reconnected(url):
                logger.info("reconnected to %s", url)
            case _:
                pass

    telemetry.subscribe(tell)
