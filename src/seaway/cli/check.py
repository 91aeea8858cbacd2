"""``seaway check``: health and thresholds for people, Nagios, Prometheus and scripts.

The exit code is the report's state: 0 ok, 1 warning, 2 critical, 3 unknown (server away too).
It ends in time whatever hangs: what gave no answer is unknown, and the rest is shown.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from seaway.cli import session
from seaway.cli.printing import Json, print_json, say
from seaway.cli.session import bounded, duration, run
from seaway.connections import database_station, server_station
from seaway.monitor import (
    Finding,
    Report,
    Sample,
    Sampler,
    State,
    Watch,
    alert_rules,
    exposition,
    judged,
)
from seaway.words import counted

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.CRITICAL: "red"}


class Format(StrEnum):
    """What ``check`` prints."""

    TEXT = "text"
    NAGIOS = "nagios"
    JSON = "json"
    PROMETHEUS = "prometheus"


def check(
    ctx: typer.Context,
    shape: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.TEXT,
    sample: Annotated[
        Any,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="How long to watch redeliveries for their rate; 0 leaves it out.",
        ),
    ] = "2s",
    timeout: session.Timeout = "5s",
    rules: Annotated[
        bool, typer.Option("--rules", help="Print Prometheus' alert rules for the thresholds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge server, streams, consumers and outbox. Exit 0 ok, 1 warning, 2 critical, 3 unknown."""
    if rules:
        typer.echo(run(_rules(ctx)), nl=False)
        return
    report, last = run(_looked(ctx, sample, timeout))
    with session.verdict(int(report.state)):
        match Format.JSON if as_json else shape:
            case Format.NAGIOS:
                typer.echo(nagios(report))
            case Format.JSON:
                print_json(report.as_json())
            case Format.PROMETHEUS:
                typer.echo(exposition(last, report=report), nl=False)
            case Format.TEXT:
                _lines(report)


async def _rules(ctx: typer.Context) -> str:
    return alert_rules(session.settings(ctx).alerts)


async def _looked(
    ctx: typer.Context, watched_for: timedelta, timeout: timedelta
) -> tuple[Report, Sample]:
    configured = session.settings(ctx)
    server, database = server_station(configured), database_station(configured)
    async with bounded(server, database):
        sampler = Sampler(server, Watch.of(configured), database, every=timedelta(0))
        began = time.monotonic()
        last = await sampler.sample(within=timeout)
        left = timeout - timedelta(seconds=time.monotonic() - began)
        # Where one of the two hung, there is no time left to look again, and no rate.
        if watched_for and left > timeout / 5 and last.snapshot.server_error is None:
            await asyncio.sleep(watched_for.total_seconds())
            last = await sampler.sample(within=left)
    return judged(last, sampler.history, configured.alerts), last


def nagios(report: Report) -> str:
    """One line: state, what is wrong and what to do, then performance data."""
    problems = report.problems
    words = "; ".join(
        f.message + (f" (next: {f.next_move})" if f.next_move else "") for f in problems
    )
    words = words or counted(len(report.findings), "check")
    data = " ".join(
        f"'{_label(f)}'={f.value:g};{_plain(f.warning)};{_plain(f.critical)};0"
        for f in report.findings
        if f.value is not None
    )
    line = f"SEAWAY {report.state.name} - {words}".replace("|", "/").replace("\n", " ")
    return f"{line} | {data}" if data else line


def _label(finding: Finding) -> str:
    """What a plugin's reader would take for syntax is left out."""
    return f"{finding.check}:{finding.subject}".replace("'", "").replace("=", "").replace("|", "")


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _lines(report: Report) -> None:
    """Lines as long as they are: what is to be copied must not be folded."""
    for finding in report.told:
        style = _STYLES.get(finding.state, "magenta")
        say(f"{finding.state.label:<8} {finding.message}", style)
        say(f"{'':<8} next: {finding.next_move}", "dim")
    well = sum(finding.state is State.OK for finding in report.findings)
    verb = "is" if well == 1 else "are"
    summary = f"{report.state.label}: {well} of {len(report.findings)} checks {verb} ok"
    say(summary, _STYLES.get(report.state, "magenta"))
