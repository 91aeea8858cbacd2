"""``seaway dlq redrive``: events are brought back; ``seaway dlq runs``: how that went."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from seaway.cli import printing, session
from seaway.cli.dlq import later, mending, options
from seaway.cli.dlq.telling import Redriven, print_forecast, print_run, print_runs
from seaway.cli.printing import Json, print_json, printable
from seaway.contracts import Broker
from seaway.dead_letters import Selection
from seaway.dead_letters.redriving import Target
from seaway.errors import ConfigError, SeawayError
from seaway.mending import Mending, Plan, RedriveRun, past_run
from seaway.mending.past import run_json
from seaway.mending.runs import KIND

_HOW = frozenset(
    ("dry_run", "payload", "to", "transform", "rate", "canary", "max_failures", "wait", "by")
) | {"as_json", "application", "preview", "tried", "within", "no_check"}
"""Parameters that do not say which letters."""


@session.runs
@options.selecting
async def redrive(
    ctx: typer.Context,
    selected: Selection,
    everything: options.All = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, by cause.")
    ] = False,
    payload: Annotated[
        Path | None, typer.Option(help="A corrected payload, for one letter.", metavar="FILE")
    ] = None,
    to: Annotated[
        str, typer.Option(help="consumer: the one that failed; all: everyone.")
    ] = "consumer",
    rate: Annotated[float | None, typer.Option(help="At most so many a second.", min=0.01)] = None,
    at: Annotated[
        str | None,
        typer.Option(help='Send them then: "tomorrow 06:00", a time, or 6h.', metavar="TIME"),
    ] = None,
    canary: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Send N, wait for what becomes of them, go on in growing batches.",
        ),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option(min=0, metavar="K", help="End once more than K of them come back."),
    ] = None,
    wait: Annotated[
        Any,
        typer.Option(
            parser=session.duration,
            metavar="DURATION",
            help="How long to wait for the next outcome, with --canary or --max-failures.",
        ),
    ] = "5m",
    transform: mending.TransformOption = None,
    application: mending.Application = None,
    preview: mending.PreviewOption = False,
    tried: mending.TryOption = False,
    within: mending.Within = mending.WITHIN,
    no_check: mending.NoCheck = False,
    by: options.By = None,
    as_json: Json = False,
) -> None:
    """Bring events back: to the consumer that failed, and to nobody else. Stopped or killed, the
    same command goes on where it was."""

    if to not in get_args(Target):
        raise ConfigError(f"--to {to!r} is neither consumer nor all")
    if at is not None:
        later.check(at)
    plan = Plan(
        selection=selected,
        to=cast(Target, to),
        payload=_payload(payload),
        rate=rate,
        canary=canary,
        max_failures=max_failures,
        patience=wait,
        command=_command(ctx),
        by=session.operator(by),
    )
    if plan.selection == Selection() and not everything:
        raise ConfigError("nothing is selected", hint="give ids, a filter, or --all")
    mending.refuse(transform, payload=payload is not None, preview=preview)
    app = mending.application_of(ctx, application) if transform or tried else None
    async with (
        options.opened(ctx) as queue,
        mending.transforming(transform, app, within=within, check=not no_check) as changing,
    ):
        plan = replace(plan, transform=changing)
        if at is not None:
            plan = replace(plan, at=await later.due(queue, at))
        if tried or preview or (dry_run and changing):
            letters = await options.chosen(queue, plan.selection, everything)
            if tried:
                well = await mending.trial(
                    queue, letters, app, changing, within=within, as_json=as_json
                )
            else:
                well = await mending.preview(queue, letters, changing, to=plan.to, as_json=as_json)
            raise typer.Exit(0 if well else 1)
        if plan.payload is not None:
            count = len(await queue.list(plan.selection, payloads=False))
            if count > 1:
                raise ConfigError(f"--payload is for one letter, and {count} are selected")
        run, not_noted = await _run(queue, plan)
        waiting = await queue.waiting() if plan.to == "consumer" else ()
        behind = Counter((one.consumer, one.key) for one in waiting)
        if dry_run:
            await _forecast(run, behind, as_json)
            return
        await _redrive(run, behind, as_json, not_noted)
    if run.state != "done" or run.counts["stays"]:
        raise typer.Exit(1)


def _command(ctx: typer.Context) -> str:
    """The options that say which letters, as they were given."""
    said: list[str] = []
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if parameter.name in _HOW or value in (None, False, (), []):
            continue
        values = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
        if parameter.param_type_name == "argument":
            said = [*values, *said]
        elif value is True:
            said.append(parameter.opts[0])
        else:
            said += [word for one in values for word in (parameter.opts[0], one)]
    return shlex.join(said)


def _payload(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--payload {path}: {error.strerror}") from error


async def _run(queue: Mending, plan: Plan) -> tuple[RedriveRun, str]:
    """Noted in the database, if that is at hand; else why not. Where outcomes are waited for, it
    must be."""
    try:
        return await queue.run(plan), ""
    except SeawayError as error:
        if plan.watched:
            raise
        why = (
            f"Not noted in the database: {printable(str(error))}. Killed in the middle, what was "
            "sent is recognized within the stream's duplicate window only."
        )
        return await queue.run(plan, noted=False), why


async def _redrive(
    run: RedriveRun, behind: Counter[tuple[str, str]], as_json: bool, not_noted: str
) -> None:
    done, ended = Redriven(behind, as_json), False
    try:
        with printing.pace("redriving", lambda: run.doing) as show:
            async with aclosing(run.outcomes()) as outcomes:
                async for one in outcomes:
                    if not_noted:
                        printing.note(not_noted)
                        not_noted = ""
                    done.take(one)
                    show(run.counts["sent"] + run.counts["stays"] + run.counts["gone"], run.total)
        ended = True
    finally:
        if ended or run.counts:
            with session.unread():
                done.report(run)


async def _forecast(run: RedriveRun, behind: Counter[tuple[str, str]], as_json: bool) -> None:
    found = Redriven(behind, as_json)
    with printing.pace("looking", lambda: "") as show:
        async with aclosing(run.forecast()) as outcomes:
            async for one in outcomes:
                found.take(one)
                show(run.counts.total(), run.total)
    with session.unread():
        print_forecast(found, run)


@session.runs
async def runs(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="[ID]", help="One run.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """Runs of redrives, the newest first; one of them with what became of its letters by now."""
    async with session.open_database(ctx) as store:
        if run is None:
            found = await store.runs(KIND, limit=limit)
            print_json([run_json(one) for one in found]) if as_json else print_runs(found)
            return
        async with _server(ctx) as (broker, letters):
            past = await past_run(store, run, broker, letters)
    print_json(past.as_json()) if as_json else print_run(past)


@asynccontextmanager
async def _server(ctx: typer.Context) -> AsyncIterator[tuple[Broker | None, Mending | None]]:
    configured = session.settings(ctx)
    async with AsyncExitStack() as stack:
        try:
            broker = await stack.enter_async_context(session.open_server(configured))
        except SeawayError as error:
            printing.note(f"The server is not reached: {printable(str(error))}")
            yield None, None
        else:
            yield broker, Mending.configured(broker, configured)
