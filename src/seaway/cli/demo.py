"""``seaway demo``: the main job on embedded servers, with faults, and a verdict."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from seaway.cli import session
from seaway.config import parse_duration
from seaway.demo.folder import Folder
from seaway.demo.log import XES, Columns
from seaway.demo.plan import Options, decide_plan
from seaway.demo.run import Outcome, Run
from seaway.demo.view import Progress, View, report


def demo(
    log: Annotated[
        Path | None,
        typer.Option(
            help="A real event log (CSV) in place of the simulated service.", metavar="CSV"
        ),
    ] = None,
    case: Annotated[
        str, typer.Option(help="The log's column of cases: their order is kept.", metavar="COLUMN")
    ] = XES.case,
    activity: Annotated[
        str, typer.Option(help="The log's column of what happened.", metavar="COLUMN")
    ] = XES.activity,
    time: Annotated[
        str, typer.Option(help="The log's column of times.", metavar="COLUMN")
    ] = XES.time,
    cases: Annotated[
        int | None, typer.Option(min=1, help="Simulated cases. [default: 1000]", metavar="N")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Keep everything there; run again to go on after a kill.", metavar="DIR"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides cases and faults. [default: 1]", metavar="N")
    ] = None,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="kill -9 processes, and stop the server for a while.")
    ] = False,
    outage: Annotated[
        str, typer.Option(help="How long --chaos stops the server.", metavar="DURATION")
    ] = "10s",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the temporary folder in any case.")
    ] = False,
    as_json: session.Json = False,
) -> None:
    """Run the whole way on embedded servers; exit 0 only if it was exact.

    A service writes rows and events in one transaction; a relay and two
    consuming services work in processes of their own, whose pids are shown:
    kill -9 any of them. At the end every committed event is looked for in
    every place where it must be.
    """
    try:
        columns = Columns(case, activity, time)
        options = Options(
            log=log,
            columns=columns,
            cases=cases,
            seed=seed,
            chaos=chaos,
            outage=parse_duration(outage),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--outage") from error
    outcome = session.run(_demo(options, folder.resolve() if folder else None, keep=keep))
    found = outcome.reconciliation
    if as_json:
        session.print_json(outcome.as_json())
    else:
        session.out.print(report(found, faults=outcome.faults, took_seconds=outcome.took_seconds))
    raise typer.Exit(0 if found.exact else 1)


async def _demo(options: Options, named: Path | None, *, keep: bool) -> Outcome:
    folder = Folder(named if named else Path(tempfile.mkdtemp(prefix="seaway-demo-")))
    # An interrupted demo leaves nothing; a failed one leaves what shows why.
    remove = named is None and not keep
    try:
        with folder.claim():
            outcome = await _run(options, folder)
        remove = remove and outcome.reconciliation.exact
        return outcome
    except Exception:
        remove = remove and folder.saved_plan() is None
        raise
    finally:
        if remove:
            shutil.rmtree(folder.path, ignore_errors=True)
        elif named is None:
            session.err.print(f"everything is kept in {folder.path}", markup=False)


async def _run(options: Options, folder: Folder) -> Outcome:
    plan = await asyncio.to_thread(decide_plan, options, folder.saved_plan())
    folder.keep(plan)
    about = f"log {Path(plan.log).name}" if plan.log else "simulated case management"
    title = f"{about}: {plan.cases:,} cases, {plan.events:,} events"
    progress = Progress(title, plan.events)
    with View(session.err, progress) as view:
        view.say(f"{title}, in {folder.path}")
        return await Run(folder, plan, options, progress, view).go()
