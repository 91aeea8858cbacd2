"""``seaway consumer reset``, ``pause`` and ``resume``: what it will cause, then it is done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from seaway.cli import printing, session
from seaway.cli.printing import Json, print_json, progress
from seaway.cli.replay import bound
from seaway.cli.streams import checked, consumers, not_found, stream_of
from seaway.config import Settings
from seaway.contracts import BrokerAdmin, Store
from seaway.errors import ConfigError, SeawayError
from seaway.headers import parse_time
from seaway.history.steering import (
    PauseForecast,
    ResetForecast,
    forecast_pause,
    forecast_reset,
    pause,
    reset,
    resume,
)
from seaway.stores import open_configured
from seaway.words import counted, human_duration

app = consumers

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="[STREAM] DURABLE",
        help="Like SEA_EVENTS case_mgmt__from_sea; the file knows STREAM.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would cause.")]


@app.command("reset")
@session.runs
async def reset_consumer(
    ctx: typer.Context,
    names: Names,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="TO",
            help="Give out again from this sequence, time or age on; 1: everything. Default: what "
            "is not acknowledged.",
        ),
    ] = None,
    dry_run: DryRun = False,
    by: session.By = None,
    yes: session.Yes = False,
    as_json: Json = False,
) -> None:
    """Have a durable give out again what it had given out; says what that causes, and asks.

    The inbox skips what had its effect. It takes nats-server 2.14 or newer.
    """
    settings = session.settings(ctx, required=False)
    stream, durable = _named(settings, names)
    place = bound(to, "--to")
    async with _desk(settings, stream, durable) as (admin, store):
        with progress("counted", None) as advance:
            forecast = await forecast_reset(
                admin, settings, store, stream, durable, place, advance=advance
            )
        said = () if as_json else _reset_said(forecast)
        if _agreed(said, f"Reset {durable}?", dry_run=dry_run, yes=yes):
            await reset(admin, store, forecast, by=session.operator(by))
    _done(forecast.as_json(), as_json, dry_run, f"{durable} was set back to {forecast.to}.")


@app.command("pause")
@session.runs
async def pause_consumer(
    ctx: typer.Context,
    names: Names,
    length: Annotated[
        Any,
        typer.Option("--for", parser=session.duration, metavar="DURATION", help="Like 2h."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Or until then, like 2026-11-24T08:00:00Z.")
    ] = None,
    dry_run: DryRun = False,
    by: session.By = None,
    yes: session.Yes = False,
    as_json: Json = False,
) -> None:
    """Have a durable and its redrives give nothing out for a time; says what that causes, and asks.

    It goes on by itself then. It takes nats-server 2.11 or newer.
    """
    settings = session.settings(ctx, required=False)
    stream, durable = _named(settings, names)
    if (length is None) == (until is None):
        raise ConfigError("for how long?", hint="give --for 2h, or --until with a time")
    ends = datetime.now(UTC) + length if length is not None else _time(str(until))
    async with _desk(settings, stream, durable) as (admin, store):
        forecast = await forecast_pause(admin, settings, stream, durable, ends)
        said = () if as_json else _pause_said(forecast)
        if _agreed(said, f"Pause {durable}?", dry_run=dry_run, yes=yes):
            await pause(admin, store, forecast, by=session.operator(by))
    _done(forecast.as_json(), as_json, dry_run, f"{durable} is paused until {_minute(ends)}.")


@app.command("resume")
@session.runs
async def resume_consumer(
    ctx: typer.Context, names: Names, by: session.By = None, as_json: Json = False
) -> None:
    """Have a paused durable and its redrives go on now."""
    settings = session.settings(ctx, required=False)
    stream, durable = _named(settings, names)
    async with _desk(settings, stream, durable) as (admin, store):
        was_paused = await resume(admin, store, stream, durable, by=session.operator(by))
        info = await admin.consumer(stream, durable)
    pending = 0 if info is None else info.num_pending
    waits = counted(pending, "message waits", "messages wait")
    said = f"{durable} goes on; {waits}." if was_paused else f"{durable} was not paused; {waits}."
    found = {"stream": stream, "durable": durable, "was_paused": was_paused, "pending": pending}
    _done(found, as_json, False, said)


# ------------------------------------------------------------------------------- what is said


def _agreed(said: Sequence[str], question: str, *, dry_run: bool, yes: bool) -> bool:
    """Say what it will cause; whether it is to be done. A no ends the command."""
    for line in said:
        printing.note(line)
    if not (dry_run or yes):
        session.confirm(question)
    return not dry_run


def _reset_said(one: ResetForecast) -> Sequence[str]:
    again = counted(one.again, "message is", "messages are")
    end = ":" if one.again else "."
    lines = [f"From {one.stream}:{one.to} on {again} given out again to {one.durable}{end}"]
    if one.again:
        lines.append(f"  {one.skipped} the inbox skips: their effect is there, or their letter")
        lines.append(f"  {one.handled} the handlers are called with")
    if one.forgotten:
        lines.append(
            f"  {one.forgotten} of these are so old that the inbox has forgotten them: an effect "
            "that they had is repeated"
        )
    if one.pending:
        wait = counted(one.pending, "message that waits comes", "messages that wait come")
        lines.append(f"  {wait} after them")
    if one.processes:
        lines.append("Whoever runs it now gets them at once, and deliveries are counted from 1.")
    return [*lines, *(f"note: {note}" for note in one.notes)]


def _pause_said(one: PauseForecast) -> Sequence[str]:
    length = human_duration(one.until - datetime.now(UTC))
    lines = [
        f"Until {_minute(one.until)} ({length}) {one.durable} gives nothing out, nor redrives:"
    ]
    lines.append(
        f"  {one.pending} wait now, about {one.expected} will at its end "
        f"({_rate(one.rate)} in the last hour)"
    )
    if one.alarms_at is not None:
        lines.append(
            f"  from {_minute(one.alarms_at)} on more than stream_messages_pending "
            f"({one.threshold}) wait: seaway check and the alerts tell of it"
        )
    else:
        lines.append(
            f"  no more than stream_messages_pending ({one.threshold}) wait by then; seaway check "
            "says that it is paused"
        )
    if one.expires_at is not None:
        lines.append(
            f"  from {_minute(one.expires_at)} on messages are older than their stream's max_age: "
            "they are dropped, and never handled"
        )
    if one.held:
        held = counted(one.held, "message", "messages")
        lines.append(f"  {held} that were given out can still be settled")
    return lines


def _rate(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


def _done(found: dict[str, Any], as_json: bool, dry_run: bool, said: str) -> None:
    if as_json:
        print_json(found | {"done": not dry_run})
    elif not dry_run:
        printing.note(said)


# ------------------------------------------------------------------------------- what is meant


def _named(settings: Settings, names: Sequence[str]) -> tuple[str, str]:
    """Stream and durable."""
    if len(names) == 2:
        return checked(names[0], "stream"), checked(names[1], "consumer")
    if len(names) > 2:
        raise ConfigError("give one durable", hint="[STREAM] DURABLE")
    durable = checked(names[0], "consumer")
    known = [one.stream for one in settings.consumers if one.durable == durable]
    if len(known) != 1:
        there = ", ".join(sorted(one.durable for one in settings.consumers)) or "none"
        raise ConfigError(
            f"on which stream is {durable}?", hint=f"STREAM DURABLE; the file has {there}"
        )
    return known[0], durable


@asynccontextmanager
async def _desk(
    settings: Settings, stream: str, durable: str
) -> AsyncIterator[tuple[BrokerAdmin, Store | None]]:
    """The server, and the database where it can be had."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(session.open_server(settings))
        if await broker.admin.consumer(stream, durable) is None:
            await stream_of(broker.admin, stream)
            there = [info.durable for info in await broker.admin.consumers(stream)]
            raise not_found("consumer", durable, there, f"on {stream}")
        store: Store | None = None
        try:
            store = await open_configured(settings, create=False)
            stack.push_async_callback(store.close)
            await store.schema.verify()
        except SeawayError as error:
            printing.note(f"note: without the database nothing is noted in its log: {error}")
            store = None
        yield broker.admin, store


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError:
        raise ConfigError(
            f"--until {text!r} is no time", hint="like 2026-11-24T08:00:00Z, or --for 2h"
        ) from None
