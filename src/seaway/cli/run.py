"""``seaway run`` and ``seaway relay``: what works until a signal ends it.

``run`` has an application's consumers, relay and sweeper in one process, ``relay`` the relay alone,
for ever or until the outbox is empty.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext, suppress
from typing import Annotated

import typer

from seaway.app import Seaway
from seaway.cli import log, printing, session
from seaway.cli.printing import Json, print_json, progress
from seaway.config import root_options
from seaway.contracts import Backlog, OutboxEntry
from seaway.errors import ConfigError, NoDatabase, NotFound, StoreUnavailable
from seaway.monitor import Activity, serving
from seaway.parts import run_parts, stop_on_signals
from seaway.upkeep import Presence
from seaway.waiting import done_before
from seaway.words import counted


def load_application(
    target: str, flags: session.Flags, *, required: bool = True, heeds: bool = True
) -> Seaway:
    """Import ``module:attribute``, its settings under ``flags``; ``ConfigError`` says which half is
    wrong, or, unless it need not heed them, that the flags do not reach it. Not ``required``: it
    needs no file."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigError(
            f"{target!r} is not an application", hint="module:app, like shop.events:app"
        )
    sys.path.insert(0, "")
    try:
        with root_options(flags.config, flags.overrides, required=required):
            found = getattr(importlib.import_module(module_name), attribute, None)
    except ModuleNotFoundError as error:
        if error.name != module_name and not module_name.startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"module {module_name!r} is not found", hint="run from its folder, or install it"
        ) from error
    if not isinstance(found, Seaway):
        raise ConfigError(f"{target!r} is {type(found).__name__}, not a Seaway application")
    if heeds and (flags.config or flags.overrides) and not found.heeds_root_options:
        if flags.project is not None and target == flags.project.application:
            raise ConfigError(
                "the application was made before the command's root options were read",
                hint="let nothing import a module of handlers when Django starts (models, ready)",
            )
        raise ConfigError(
            f"the settings of {target!r} are in its own code, so root options cannot change them",
            hint="make it with Seaway.from_config(...)",
        )
    return found


@session.runs
async def run_application(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE:APP", help="Where the Seaway object is; a Django project has one."
        ),
    ] = None,
    dev: Annotated[
        bool,
        typer.Option(
            "--dev",
            help="First bring up, on this machine, what it needs: a server, streams, durables, "
            "tables.",
        ),
    ] = False,
    relay: Annotated[bool, typer.Option(help="Run the relay too.")] = True,
    consumers: Annotated[bool, typer.Option(help="Run the consumers.")] = True,
    sweeper: Annotated[bool, typer.Option(help="Sweep exhausted messages into the DLQ.")] = True,
    log_level: log.Level = None,
    log_format: log.Format = None,
    metrics: session.Metrics = None,
) -> None:
    """Run an application until SIGINT or SIGTERM, then drain; a second signal ends it at once.

    Waits for a server or a database that is away, saying so once. Logs to stderr; logging that
    the application sets up when it is imported is left as it is.
    """

    flags = session.flags(ctx)
    if target is None:
        if flags.project is None:
            raise ConfigError(
                "MODULE:APP is missing", hint="name the application, like shop.events:app"
            )
        target = flags.project.application
    application = load_application(target, flags, required=not dev)
    log.set_up(log_level, log_format)  # After the import: what the application set up stands.
    application.wait = True
    async with AsyncExitStack() as running:
        stop = running.enter_context(stop_on_signals())
        if dev and not await done_before(stop, _bring_up(application, running)):
            return
        with nullcontext() if dev else _way_in():
            await application.run(
                stop, relay=relay, consumers=consumers, sweeper=sweeper, metrics=metrics
            )


async def _bring_up(application: Seaway, running: AsyncExitStack) -> None:
    from seaway.cli.development import bring_up  # Production does without embedded servers.

    await bring_up(application, running)


@contextmanager
def _way_in() -> Iterator[None]:
    """What is not there at all may be a first day's."""
    way = "in development, seaway run --dev makes it"
    try:
        yield
    except NoDatabase as error:
        error.hint = error.hint or way
        raise
    except NotFound as error:
        raise NotFound(f"{error} ({way})") from error


# ------------------------------------------------------------------------------- relay

NAMED = 20
"""How many parked events a drain names; ``seaway outbox list --parked`` has them all."""


@session.runs
async def relay(
    ctx: typer.Context,
    drain: Annotated[
        bool, typer.Option("--drain", help="End when the outbox is empty; 1 if some are parked.")
    ] = False,
    metrics: session.Metrics = None,
    as_json: Json = False,
    log_level: log.Level = None,
    log_format: log.Format = None,
) -> None:
    """Publish the outbox until SIGINT or SIGTERM; the batch in flight is finished.

    Keeps trying where the server or the database is away, saying so once; --drain does too.
    """
    log.set_up(log_level, log_format)
    with suppress(StoreUnavailable):  # It is waited for, below.
        async with session.open_database(ctx):
            pass  # A wrong database is said before anyone waits for a server.
    done, backlog = Activity(), Backlog(0, 0, None)
    parked: Sequence[OutboxEntry] = ()
    app = Seaway(session.settings(ctx), wait=True)
    app.log_signals()
    app.telemetry.subscribe(done.listen)
    async with AsyncExitStack() as stack:
        with stop_on_signals() as stop, progress("relayed", None) as advance:
            app.telemetry.subscribe(lambda signal: advance(getattr(signal, "sent", 0)))
            if metrics is not None:
                await stack.enter_async_context(serving(app.metrics_app(), metrics))
            connected = await app.open_in(stack, stop)
            if drain and not connected:
                raise asyncio.CancelledError  # Nobody knows what is left.
            if connected:
                worker, store = await app.relay(), await app.open_store()
                with app.announced(["relay"]):
                    if drain:
                        await worker.drain(stop)
                    else:
                        presence = Presence(store, app.telemetry, ["relay"])
                        await run_parts([worker.run, presence.run], stop)
        if connected:
            backlog = await store.backlog()
            if drain and backlog.parked:
                parked = await store.entries(parked=True, limit=NAMED)
    sent, left = done.published.total(), backlog.count
    if as_json:
        duplicates = done.duplicates.total()
        print_json({"sent": sent, "duplicates": duplicates, "left": left, "parked": backlog.parked})
    else:
        printing.note(f"{counted(sent, 'event')} relayed.")
    for entry in parked:
        printing.note(f"parked: {entry.event_id} {entry.message.subject}: {entry.last_error}")
    if drain and left:
        way_out = ": mend the cause, then `seaway outbox retry --all`" if parked else ""
        session.fail(f"{counted(left, 'event is', 'events are')} left in the outbox{way_out}", 1)
