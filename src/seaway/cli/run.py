"""``seaway run module:app``: an application's consumers, relay and sweeper in one process."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from seaway.app import Seaway, root_options
from seaway.cli import log, session
from seaway.errors import ConfigError


def load_application(target: str, flags: session.Flags) -> Seaway:
    """Import ``module:attribute``, its settings under ``flags``; ``ConfigError`` says which half is
    wrong, or that the flags do not reach it."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigError(
            f"{target!r} is not an application", hint="module:app, like shop.events:app"
        )
    sys.path.insert(0, "")
    try:
        with root_options(flags.config, flags.overrides):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name and not module_name.startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"module {module_name!r} is not found", hint="run from its folder, or install it"
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Seaway):
        raise ConfigError(f"{target!r} is {type(found).__name__}, not a Seaway application")
    if (flags.config or flags.overrides) and not found.heeds_root_options:
        raise ConfigError(
            f"the settings of {target!r} are in its own code, so root options cannot change them",
            hint="make it with Seaway.from_config(...)",
        )
    return found


def run_application(
    ctx: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="Where the Seaway object is.")
    ],
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

    async def work() -> None:
        application = load_application(target, session.flags(ctx))
        log.set_up(log_level, log_format)  # After the import: what the application set up stands.
        application.wait = True
        await application.run(relay=relay, consumers=consumers, sweeper=sweeper, metrics=metrics)

    session.run(work())
