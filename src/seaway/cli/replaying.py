"""A replay into a handler: what is said before, meanwhile, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import typer

from seaway.app import Seaway
from seaway.cli import printing, session
from seaway.cli.printing import Column, pace, print_json, print_list, progress, say
from seaway.cli.replay import Asked
from seaway.cli.run import load_application
from seaway.cli.streams import stream_of
from seaway.contracts import RunItem
from seaway.errors import ConfigError
from seaway.history.replay.summary import Group, Summary
from seaway.replaying import Mode, Replaying
from seaway.words import counted

_SHOWN = 20
"""Events that are told one by one; ``--json`` has more."""
_IN_JSON = 10_000


def _place(one: RunItem) -> str:
    """``SEA_EVENTS:17``."""
    stream, _, stream_seq = one.item.rpartition(":")
    return f"{stream}:{int(stream_seq)}"


_GROUPS: Sequence[Column[Group]] = (
    Column("EVENTS", lambda one: str(one.events), right=True),
    Column("THEN", lambda one: one.then or "–", rank=1),
    Column("NOW", lambda one: one.now),
    Column("TYPE", lambda one: one.subject, rank=2),
    Column("LIKE", lambda one: one.samples[0], rank=4),
    Column("AT", lambda one: one.place.rpartition("/")[2], rank=3),
    Column("ERROR", lambda one: one.said or one.error or "–", words=True),
)
_AGAIN = tuple(one for one in _GROUPS if one.title != "THEN")
_EVENTS: Sequence[Column[RunItem]] = (
    Column("MESSAGE", _place),
    Column("EVENT", lambda one: one.event_id, rank=2),
    Column("ENDS", lambda one: one.state),
    Column("ERROR", lambda one: one.detail or "–", words=True),
)


async def run(
    ctx: typer.Context,
    asked: Asked,
    handler: str,
    mode: Mode,
    *,
    workers: int,
    within: timedelta | None,
    anew: bool,
    dry_run: bool,
    by: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """``seaway replay --handler``."""
    app, consumer = _application(ctx, handler)
    since, until = asked.bounds
    app.log_signals()  # A handler that blocks the event loop is told of.
    async with app:
        await stream_of(app.broker.admin, asked.stream)
        planned = await Replaying.plan(
            *(app, consumer, asked.stream, mode),
            since=since,
            until=until,
            subject=asked.subject,
            key=asked.key,
            by=session.operator(by),
            asked={
                "from": asked.since,
                "to": asked.until,
                "subject": asked.subject,
                "key": asked.key,
            },
            anew=anew,
        )
        window = planned.window
        if window.lacking:
            printing.note(f"note: {window.lacking}")
        where = f"{asked.stream}:{max(window.first, planned.after + 1)}-{window.last}"
        if planned.journal.goes_on:
            before = counted(planned.journal.summary.events, "event")
            printing.note(
                f"Run {planned.journal.run} goes on behind {asked.stream}:{planned.after}, "
                f"{before} done (--anew begins anew)."
            )
        total = await planned.total()
        if mode == "reprocess" and not await _agreed(planned, where, total, dry_run, yes):
            return
        if mode == "shadow":
            printing.note(
                f"{consumer} tries {where}; each is rolled back. What handlers do outside of their "
                "transaction is done (delivery.tried)."
            )
        done = 0
        with pace("tried" if mode == "shadow" else "handled again", str) as show:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                show(done, total)

            try:
                summary = await planned.run(workers=workers, within=within, advance=advance)
            except BaseException:
                _say_how_to_go_on(planned)
                raise
        store = await app.open_store()
        most = _IN_JSON if as_json else _SHOWN + 1
        items = await store.run_items(planned.journal.run, limit=most)
    with session.verdict(1 if summary.differing else 0):
        if as_json:
            print_json(_as_json(planned, summary, items))
        else:
            _say(planned, summary, items)


def _application(ctx: typer.Context, handler: str) -> tuple[Seaway, str]:
    flags = session.flags(ctx)
    target, _, consumer = handler.rpartition("/")
    if not target and flags.project is not None:
        target = flags.project.application
    if not target or not consumer:
        raise ConfigError(
            f"--handler {handler!r} is not MODULE:APP/CONSUMER",
            hint="like shop.events:app/billing__from_shop",
        )
    return load_application(target, flags), consumer


async def _agreed(planned: Replaying, where: str, total: int, dry_run: bool, yes: bool) -> bool:
    with progress("counted", total) as advance:
        extent = await planned.extent(advance)
    consumer = planned.consumer
    printing.note(
        f"{counted(extent.events, 'event')} of {where} would be handled again by {consumer}."
        if dry_run
        else f"{counted(extent.events, 'event')} of {where} to be handled again by {consumer}."
    )
    if extent.effects:
        printing.note(
            f"{extent.effects} of them have had their effect: its inbox row is forgotten and "
            "written anew with the new effect, one transaction an event. What the first handling "
            "wrote is still there: a handler that only adds will add it twice."
        )
    if rest := extent.events - extent.effects:
        printing.note(f"{rest} of them have had none.")
    if dry_run or not extent.events:
        return False
    if not yes:
        session.confirm(f"Handle {counted(extent.events, 'event')} again?")
    return True


def _say_how_to_go_on(planned: Replaying) -> None:
    done = planned.journal.summary.upto
    with suppress(Exception):
        printing.note(
            f"Run {planned.journal.run} ended behind {planned.window.stream}:{done}: the same "
            "command goes on there."
        )


def _say(planned: Replaying, summary: Summary, items: Sequence[RunItem]) -> None:
    shadow = planned.mode == "shadow"
    same = summary.events - summary.differing
    if shadow:
        ends = "ends as it did" if same == 1 else "end as they did"
        rest = "differs" if summary.differing == 1 else "differ"
    else:
        ends = "handled again"
        rest = "failed, and keep what they had" if summary.differing else "failed"
    say(f"{counted(summary.events, 'event')}: {same} {ends}, {summary.differing} {rest}.")
    if summary.repeated:
        say(f"{summary.repeated} had been handled again before this run was ended, and stayed so.")
    for group in summary.sorted:
        if not group.differs:
            say(f"  {group.events} {f'{group.then} as then' if group.then else group.now}")
    if not summary.differing:
        return
    print_list(_GROUPS if shadow else _AGAIN, [one for one in summary.sorted if one.differs])
    say("")
    print_list(_EVENTS, items[:_SHOWN])
    if summary.differing > _SHOWN:
        say(f"and {summary.differing - _SHOWN} more: --json has them")


def _as_json(planned: Replaying, summary: Summary, items: Sequence[RunItem]) -> dict[str, Any]:
    window = planned.window
    return {
        "run": planned.journal.run,
        "mode": planned.mode,
        "consumer": planned.consumer,
        "stream": window.stream,
        "from": window.first,
        "to": window.last,
        **summary.as_json(),
        "differ": [
            {
                "message": _place(one),
                "event_id": one.event_id,
                "ends": one.state,
                "error": one.detail or None,
            }
            for one in items
        ],
        "left_off": max(0, summary.differing - len(items)),
    }
