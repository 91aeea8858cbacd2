"""``seaway relay``: publishes the outbox, for ever or until it is empty."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Annotated

import typer

from seaway.app import Seaway
from seaway.cli import log, session
from seaway.contracts import Backlog, OutboxEntry
from seaway.errors import StoreUnavailable
from seaway.monitor.scraping import serving
from seaway.parts import run_parts
from seaway.telemetry import Relayed, Signal
from seaway.upkeep import Presence
from seaway.words import counted

NAMED = 20
"""How many parked events a drain names; ``seaway outbox list --parked`` has them all."""


@dataclass(slots=True)
class Tally:
    """What a relay did, added up from its signals, and what it left behind."""

    sent: int = 0
    duplicates: int = 0
    backlog: Backlog = field(default_factory=lambda: Backlog(0, 0, None))
    parked: Sequence[OutboxEntry] = ()

    def count(self, signal: Signal) -> int:
        """Add ``signal``; how many events it reports as sent."""
        if not isinstance(signal, Relayed):
            return 0
        self.sent += signal.sent
        self.duplicates += signal.duplicates
        return signal.sent


def relay(
    ctx: typer.Context,
    drain: Annotated[
        bool, typer.Option("--drain", help="End when the outbox is empty; 1 if some are parked.")
    ] = False,
    metrics: session.Metrics = None,
    as_json: session.Json = False,
    log_level: log.Level = None,
    log_format: log.Format = None,
) -> None:
    """Publish the outbox until SIGINT or SIGTERM; the batch in flight is finished.

    Keeps trying where the server or the database is away, saying so once; --drain does too.
    """
    log.set_up(log_level, log_format)
    tally = session.run(_relay(ctx, drain, metrics))
    left = tally.backlog.count
    if as_json:
        session.print_json(
            {
                "sent": tally.sent,
                "duplicates": tally.duplicates,
                "left": left,
                "parked": tally.backlog.parked,
            }
        )
    else:
        session.note(f"{counted(tally.sent, 'event')} relayed.")
    for entry in tally.parked:
        session.note(f"parked: {entry.event_id} {entry.message.subject}: {entry.last_error}")
    if drain and left:
        way_out = ": mend the cause, then `seaway outbox retry --all`" if tally.parked else ""
        session.fail(f"{counted(left, 'event is', 'events are')} left in the outbox{way_out}", 1)


async def _relay(ctx: typer.Context, drain: bool, metrics: str | None) -> Tally:
    with suppress(StoreUnavailable):  # It is waited for, below.
        async with session.open_database(ctx):
            pass  # A wrong database is said before anyone waits for a server.
    tally = Tally()
    app = Seaway(session.settings(ctx), wait=True)
    app.log_signals()
    async with AsyncExitStack() as stack:
        with session.stop_on_signals() as stop, session.progress("relayed", None) as advance:
            app.telemetry.subscribe(lambda signal: advance(tally.count(signal)))
            if metrics is not None:
                await stack.enter_async_context(serving(app.metrics_app(), metrics))
            if not await app.open_in(stack, stop):
                if drain:
                    raise asyncio.CancelledError  # Nobody knows what is left.
                return tally
            worker, store = await app.relay(), await app.open_store()
            with app.announced(["relay"]):
                if drain:
                    await worker.drain(stop)
                else:
                    presence = Presence(store, app.telemetry, ["relay"])
                    await run_parts([worker.run, presence.run], stop)
        tally.backlog = await store.backlog()
        if drain and tally.backlog.parked:
            tally.parked = await store.entries(parked=True, limit=NAMED)
    return tally
