"""``seaway check``: health and thresholds for people, Nagios, Prometheus and scripts.

The exit code is the report's state: 0 ok, 1 warning, 2 critical, 3 unknown (server away too).
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from seaway.app import Seaway
from seaway.cli import tables
from seaway.cli.session import Json, out, print_json, run, settings
from seaway.cli.tables import Column
from seaway.config import Settings, parse_duration
from seaway.errors import BrokerUnavailable
from seaway.monitor import (
    Report,
    Sample,
    Sampler,
    Snapshot,
    State,
    Watch,
    alert_rules,
    evaluate,
    exposition,
    rates,
)

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.CRITICAL: "red"}


class Format(StrEnum):
    """What ``check`` prints."""

    TEXT = "text"
    NAGIOS = "nagios"
    JSON = "json"
    PROMETHEUS = "prometheus"


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def check(
    ctx: typer.Context,
    shape: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.TEXT,
    sample: Annotated[
        Any,
        typer.Option(
            parser=_duration,
            metavar="DURATION",
            help="How long to watch redeliveries for their rate; 0 leaves it out.",
        ),
    ] = "2s",
    rules: Annotated[
        bool, typer.Option("--rules", help="Print Prometheus' alert rules for the thresholds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge server, streams, consumers and outbox. Exit 0 ok, 1 warning, 2 critical, 3 unknown."""

    async def load() -> Settings:
        return settings(ctx)

    configured = run(load())
    if rules:
        typer.echo(alert_rules(configured.alerts), nl=False)
        return
    report, last = run(_check(configured, sample))
    match Format.JSON if as_json else shape:
        case Format.NAGIOS:
            typer.echo(nagios(report))
        case Format.JSON:
            print_json(as_mapping(report))
        case Format.PROMETHEUS:
            typer.echo(exposition(last, report=report), nl=False)
        case Format.TEXT:
            _table(report)
    raise typer.Exit(int(report.state))


async def _check(configured: Settings, watched_for: timedelta) -> tuple[Report, Sample]:
    app = Seaway(configured)
    try:
        async with app:
            sampler = Sampler(
                app.broker.admin, Watch.of(configured), app.open_store, every=timedelta(0)
            )
            first = last = await sampler.sample()
            if watched_for > timedelta(0) and first.snapshot.server_error is None:
                await asyncio.sleep(watched_for.total_seconds())
                last = await sampler.sample()
    except BrokerUnavailable as error:
        away = Sample(Snapshot(datetime.now(UTC), server_error=str(error)))
        return evaluate(away.snapshot, configured.alerts), away
    seen = rates(first, last) if last is not first else None
    return evaluate(last.snapshot, configured.alerts, seen), last


def nagios(report: Report) -> str:
    """One line: state, what is wrong and what to do, then performance data."""
    problems = report.problems
    words = "; ".join(
        f.message + (f" (next: {f.next_move})" if f.next_move else "") for f in problems
    )
    words = words or f"{len(report.findings)} checks"
    data = " ".join(
        f"'{f.check}:{f.subject}'={f.value:g};{_plain(f.warning)};{_plain(f.critical)};0"
        for f in report.findings
        if f.value is not None
    )
    line = f"SEAWAY {report.state.name} - {words}".replace("|", "/").replace("\n", " ")
    return f"{line} | {data}" if data else line


def as_mapping(report: Report) -> dict[str, Any]:
    """The report for JSON; states as words."""
    return {
        "state": report.state.label,
        "findings": [asdict(f) | {"state": f.state.label} for f in report.findings],
    }


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _table(report: Report) -> None:
    columns = (Column("STATE"), Column("WHAT", words=True), Column("NEXT", words=True))
    rows = [(one.state.label, one.message, one.next_move) for one in report.problems]
    if rows:
        styles = [_STYLES.get(one.state, "magenta") for one in report.problems]
        tables.show(columns, rows, styles)
    well = len(report.findings) - len(report.problems)
    summary = f"{report.state.label}: {well} of {len(report.findings)} checks are ok"
    out.print(summary, style=_STYLES.get(report.state, "magenta"))
