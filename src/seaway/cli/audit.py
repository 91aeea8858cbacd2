"""``seaway audit``: outbox, streams, inbox and letters compared by event id."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from seaway.cli import printing, session
from seaway.cli.printing import Json, json_text, print_json, progress, say
from seaway.cli.run import load_application
from seaway.cli.session import bounded, duration
from seaway.connections import database_station, server_station
from seaway.contracts import LogEntry
from seaway.errors import ConfigError
from seaway.headers import format_time
from seaway.history.audit import Audit, Handles
from seaway.history.findings import SAID, Finding, Report
from seaway.history.following import Follower
from seaway.history.mending import MENDED, Mended, Mender
from seaway.parts import stop_on_signals
from seaway.process import operator
from seaway.waiting import done_before, set_within
from seaway.words import counted

_SHOWN = 20
"""Findings of a kind that are told in words; ``--json`` has them all."""


@session.runs
async def audit(
    ctx: typer.Context,
    since: Annotated[
        str | None, typer.Option("--from", help="Events written since: a time, or an age like 2h.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Events written before: a time, or an age.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option(help="Only this context's events; can be repeated.")
    ] = None,
    application: Annotated[
        str | None,
        typer.Option(
            "--app", metavar="MODULE:APP", help="Whose handlers say which types are handled."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    every: Annotated[
        Any, typer.Option(parser=duration, metavar="DURATION", help="Between two looks.")
    ] = "10s",
    mend: Annotated[
        bool, typer.Option("--mend", help="Publish or letter what can be mended; asks first.")
    ] = False,
    yes: session.Yes = False,
    timeout: session.Timeout = "5s",
    as_json: Json = False,
) -> None:
    """Compare outbox, streams, inbox and letters by id. Exit 0 the same, 1 not, 3 unreachable."""
    begins, ends = session.moment(since, "--from"), session.moment(until, "--to")
    if follow and (mend or ends is not None):
        raise ConfigError("--follow goes with neither --mend nor --to")
    configured = session.settings(ctx)
    handles: Handles = {}
    if application is not None:
        loaded = load_application(application, session.flags(ctx))
        handles = {name: one.handles for name, one in loaded.consumers.items()}
    server, database = server_station(configured), database_station(configured)
    async with bounded(server, database):
        comparing = Audit(
            *(server, database, configured),
            contexts=context or (),
            handles=handles,
            within=timeout,
        )
        if follow:
            raise typer.Exit(await _followed(comparing, begins, every, as_json))
        report = await comparing.look(since=begins, until=ends, progress=progress)
        if mend:
            code = await _mended(comparing, report, yes=yes, as_json=as_json)
        else:
            code = report.code
            with session.unread():
                _print(report, as_json)
    raise typer.Exit(code)


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
        return
    for line in _figures(report):
        say(line)
    for line in _findings(report):
        say(line, "red")
    for note in report.notes:
        printing.note(f"note: {note}")
    for away in report.away:
        printing.complain(f"not reached: {away}")
    if not report.differs and not report.away and not report.streams:
        say("Nothing was compared.")
    elif not report.differs and not report.away:
        say("All is the same.", "green")
    elif not report.differs:
        say("Of what could be compared, all is the same.", "yellow")
    else:
        say(f"{counted(report.counts.total(), 'difference')}.", "red")


def _figures(report: Report) -> Sequence[str]:
    lines = []
    for one in report.streams:
        lines.append(
            f"{one.stream}: {counted(one.events, 'event')} since {format_time(one.since)[:16]}Z"
        )
        if one.written:
            waits = f", {one.waiting} wait in the outbox" if one.waiting else ""
            lines.append(f"  outbox: {one.committed} published{waits}{_proven(one.proven)}")
        if one.copies:
            lines.append(f"  sent again on purpose, under ids of their own: {one.copies}")
        for each in one.consumers:
            lines.append(f"  {each.durable}: {each.events} to be done{_proven(each.proven)}")
            lines += [
                f"    taken as not handled: {subject} ({count})"
                for subject, count in sorted(each.ignored.items())
            ]
    return lines


def _proven(moment: datetime | None) -> str:
    return f"; proven up to {format_time(moment)[:19]}Z" if moment else ""


def _findings(report: Report) -> Sequence[str]:
    lines = []
    found = report.findings
    for about, count in sorted(report.counts.items(), key=lambda one: [*SAID].index(one[0][0])):
        if not count:
            continue
        kind, stream, consumer = about
        of = f" ({consumer})" if consumer else ""
        lines.append(f"{SAID[kind]}: {counted(count, 'event')} of {stream}{of}")
        mine = [one for one in found if one.about == about]
        lines += [f"  {_told(one)}" for one in mine[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"  and {count - _SHOWN} more: --json has them")
    return lines


def _told(one: Finding) -> str:
    place = f" at {one.stream_seq}" if one.stream_seq else ""
    letter = f" letter {one.letter}" if one.letter else ""
    subject = f" {one.subject}" if one.subject else ""
    return f"{one.event_id}{subject}{place}{letter}: {one.note}"


# ------------------------------------------------------------------------------- going on


async def _followed(
    comparing: Audit, since: datetime | None, every: timedelta, as_json: bool
) -> int:
    """Until SIGINT or SIGTERM; the exit code is the last look's."""
    follower, said = Follower(comparing, since=since), None

    async def look() -> None:
        await follower.look()

    with stop_on_signals(insist=False) as stop:
        while await done_before(stop, look()) and (report := follower.report) is not None:
            told = [*_findings(report), *(f"not reached: {one}" for one in report.away)]
            moments = [one.proven for one in report.streams if one.proven]
            if as_json:
                typer.echo(json_text(report.as_json()))
            elif told != said:
                _print(report, as_json=False)
            else:
                printing.note(f"the same{_proven(min(moments, default=None))}")
            said = told
            if await set_within(every, stop):
                break
    return 0 if follower.report is None else follower.report.code


# ------------------------------------------------------------------------------- mending


async def _mended(comparing: Audit, report: Report, *, yes: bool, as_json: bool) -> int:
    """The exit code: 0 only where nothing is left."""
    todo = [one for one in report.findings if one.kind in MENDED]
    if not as_json:
        _print(report, as_json=False)
    broker, store = await comparing.open_server(report), await comparing.open_store(report)
    if not todo or broker is None or store is None:
        if as_json:
            print_json(report.as_json() | {"mended": [], "stays": []})
        if report.differs and not todo:
            printing.note("Nothing of this can be mended here: what is right is for you to say.")
        return report.code
    for one in todo:
        printing.note(f"would {_plan(one)}")
    if any(one.kind == "missing" for one in todo):
        printing.note(
            "What is published again goes to the stream's end: order by key is not kept for it."
        )
    if not yes:
        session.confirm(f"Mend {counted(len(todo), 'event')}?")
    results: list[Mended] = []
    try:
        with progress("mending", len(todo)) as advance:
            async for result in Mender(broker, store).mend(todo):
                results.append(result)
                advance(1)
    finally:
        done = [one for one in results if one.done]
        if done:
            await store.note(*_entries(done))
        with session.unread():
            _print_mended(report, results, as_json)
    left = report.counts.total() - len(done)
    return 1 if left else 3 if report.away else 0


def _plan(one: Finding) -> str:
    if one.kind == "missing":
        return f"publish {one.event_id} again to {one.stream}, under its id"
    return f"write a letter of {one.event_id} for {one.consumer}, to be redriven or discarded"


def _entries(done: Sequence[Mended]) -> Sequence[LogEntry]:
    by = operator()
    abouts: dict[str, list[Mended]] = {}
    for one in done:
        abouts.setdefault(one.finding.consumer or one.finding.stream, []).append(one)
    return [
        LogEntry(
            "mended",
            about,
            {
                "events": len(some),
                "ids": [one.finding.event_id for one in some],
                "done": [one.done for one in some],
            },
            by,
        )
        for about, some in abouts.items()
    ]


def _print_mended(report: Report, results: Sequence[Mended], as_json: bool) -> None:
    done = [one for one in results if one.done]
    stays = [one for one in results if not one.done]
    if as_json:
        print_json(
            report.as_json()
            | {"mended": [_shaped(one) for one in done], "stays": [_shaped(one) for one in stays]}
        )
        return
    for one in done:
        say(f"mended: {one.finding.event_id}: {one.done}", "green")
    for one in stays:
        say(f"stays: {one.finding.event_id}: {one.why}", "yellow")
    printing.note(f"{len(done)} mended; seaway audit shows what is left.")


def _shaped(one: Mended) -> dict[str, Any]:
    said = {"done": one.done} if one.done else {"why": one.why}
    return one.finding.as_json() | said
