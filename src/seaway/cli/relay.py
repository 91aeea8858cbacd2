"""``seaway relay``: publishes the outbox, for ever or until it is empty."""

from __future__ import annotations

import logging
from typing import Annotated

import typer
from rich.logging import RichHandler

from seaway.cli import session
from seaway.telemetry import Relayed, Signal


def relay(
    ctx: typer.Context,
    drain: Annotated[
        bool, typer.Option("--drain", help="End when the outbox is empty; 1 if some are parked.")
    ] = False,
    as_json: session.Json = False,
) -> None:
    """Publish the outbox until SIGINT or SIGTERM.

    Keeps trying where the server is away, saying so once.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=session.err, show_path=False)],
    )

    async def work() -> tuple[int, int, int]:
        sent = duplicates = 0
        async with session.open_database(ctx):
            pass  # A wrong database is said before anyone waits for a server.
        with session.stop_on_signals() as stop, session.progress("relayed", None) as advance:

            def count(signal: Signal) -> None:
                nonlocal sent, duplicates
                if isinstance(signal, Relayed):
                    sent += signal.sent
                    duplicates += signal.duplicates
                    advance(signal.sent)

            async with session.open_app(ctx, wait=True) as application:
                session.log_signals(application.telemetry)
                application.telemetry.subscribe(count)
                worker = await application.relay()
                if drain:
                    await worker.drain(stop)
                else:
                    await worker.run(stop)
                backlog = await (await application.open_store()).backlog()
        return sent, duplicates, backlog.count if drain else backlog.parked

    sent, duplicates, left = session.run(work())
    if as_json:
        session.print_json({"sent": sent, "duplicates": duplicates, "left": left})
    else:
        session.err.print(f"{sent} events relayed.")
    if drain and left:
        session.fail(f"{left} events are left: see `seaway outbox list`", 1)
