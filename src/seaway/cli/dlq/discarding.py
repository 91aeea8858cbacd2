"""``seaway dlq discard``, ``restore``, ``log``: letters are removed, and brought back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import typer

from seaway.cli import printing, session
from seaway.cli.dlq import options
from seaway.cli.dlq.reporting import report, with_behind
from seaway.cli.noted import entry_json
from seaway.cli.printing import Column, Json, print_json, print_list, printable, progress
from seaway.config import format_duration
from seaway.contracts import DiscardedLetter, LogEntry
from seaway.dead_letters import Letter, Selection
from seaway.dead_letters.letter import read
from seaway.errors import ConfigError, SeawayError
from seaway.headers import format_time
from seaway.mending import Discarded, Mending, Restored
from seaway.mending.changes import changes
from seaway.mending.discarding import why_not
from seaway.words import counted

_MOST = 10_000_000
"""More letters than anybody has."""


@session.runs
@options.selecting
async def discard(
    ctx: typer.Context,
    selected: Selection,
    everything: options.All = False,
    with_waiting: Annotated[
        bool, typer.Option("--with-waiting", help="Also those that wait behind them.")
    ] = False,
    why: options.Why = "",
    by: options.By = None,
    yes: session.Yes = False,
    as_json: Json = False,
) -> None:
    """Remove dead letters; `restore` brings them back for a time (dead_letters.restore_for).

    What waits behind them is handled, unless told otherwise. Exits 3, with what it has removed,
    where server or database go away meanwhile: the same command goes on.
    """
    done: list[Discarded] = []
    async with options.opened(ctx) as queue:
        chosen = list(await options.chosen(queue, selected, everything))
        waiting = await queue.waiting(chosen)
        if with_waiting:
            known = {letter.id for letter in chosen}
            chosen += [letter for letter in waiting if letter.id not in known]
        for_good = await _why_for_good(queue) if chosen else ""
        if chosen and not yes:
            _confirm(queue, len(chosen), for_good)
        if for_good:
            printing.note(f"For good: {for_good}.")
        # Whoever waits is free to go as soon as nothing is before it: the last ones first.
        chosen.sort(key=lambda letter: (not letter.waits, -letter.stream_seq))
        said = {"why": why, "by": session.operator(by)}
        outcomes = queue.discard_all(chosen, for_good=bool(for_good), **said)
        try:
            with progress("discarding", len(chosen)) as advance:
                async with aclosing(outcomes):
                    async for one in outcomes:
                        advance(1)
                        done.append(one)
        finally:
            with session.unread():
                _report(done, waiting, as_json)


async def _why_for_good(queue: Mending) -> str:
    """Why letters that are discarded now are not kept; empty where they are."""
    if not queue.restore_for:
        return ""  # As the settings have it; it is noted all the same.
    try:
        await queue.database()
    except SeawayError as error:
        return (
            f"without the database nothing is kept and nothing noted ({printable(str(error))}), so "
            "that a server that loses the end of the queue may bring them back"
        )
    return ""


def _confirm(queue: Mending, count: int, for_good: str) -> None:
    letters = counted(count, "dead letter")
    if for_good:
        session.confirm(f"Remove {letters} for good: {for_good}?")
    elif not queue.restore_for:
        session.confirm(f"Remove {letters} for good (dead_letters.restore_for: 0)?")
    else:
        age = format_duration(queue.restore_for)
        session.confirm(f"Remove {letters}? `seaway dlq restore` brings them back for {age}.")


def _report(outcomes: Sequence[Discarded], waiting: Sequence[Letter], as_json: bool) -> None:
    done = [one for one in outcomes if one.removed]
    gone = {one.letter.id for one in done}
    found = with_behind(
        [one.letter for one in done], [letter for letter in waiting if letter.id not in gone]
    )
    if as_json:
        print_json(
            [
                letter.summary() | {"waiting": behind, "restorable_until": _time(one.until)}
                for one, (letter, behind) in zip(done, found, strict=True)
            ]
        )
        return
    for one in outcomes:
        if not one.removed:
            printing.note(f"{one.letter.id} was not in its queue any more.")
    report(found, "discarded", as_json=False)
    if until := min((one.until for one in done if one.until is not None), default=None):
        printing.note(f"seaway dlq restore brings them back until {until:%Y-%m-%d %H:%M} UTC.")


@session.runs
async def restore(
    ctx: typer.Context,
    ids: options.Ids = None,
    consumer: options.Consumer = None,
    everything: options.All = False,
    by: options.By = None,
    as_json: Json = False,
) -> None:
    """Bring discarded letters back into their queues, as they were: those of `ls --discarded`.

    It comes too late for what had waited behind them and has been handled meanwhile. Exits 1 where
    one of them is not kept any more, or its queue does not take it.
    """

    if not ids and consumer is None and not everything:
        raise ConfigError("nothing is selected", hint="give ids, --consumer, or --all")
    done: list[Restored] = []
    async with options.opened(ctx) as queue:
        chosen = await queue.discarded(ids, consumer=consumer, limit=_MOST)
        known = {name for letter in chosen for name in (letter.id, letter.event_id)}
        missing = [one for one in dict.fromkeys(ids or ()) if one not in known]
        for name in missing:
            printing.note(await why_not(await queue.database(), name))
        outcomes = queue.restore_all(chosen, by=session.operator(by))
        try:
            with progress("restoring", len(chosen)) as advance:
                async with aclosing(outcomes):
                    async for one in outcomes:
                        advance(1)
                        done.append(one)
        finally:
            with session.unread():
                _report_restored(done, as_json)
    if missing or any(one.error is not None for one in done):
        raise typer.Exit(1)


def _report_restored(outcomes: Sequence[Restored], as_json: bool) -> None:
    back = [one for one in outcomes if one.error is None]
    if as_json:
        print_json([_restored_json(one) for one in outcomes])
        return
    for one in outcomes:
        if one.error is not None:
            printing.note(str(one.error))
            continue
        late = f"  too late for {counted(one.late, 'letter')} behind it" if one.late else ""
        letter = one.letter
        typer.echo(
            printable(f"{one.id}  {letter.event_id}  {letter.consumer}  was {letter.id}{late}")
        )
    printing.note(f"{len(back)} restored.")


def _restored_json(one: Restored) -> dict[str, Any]:
    letter = one.letter
    return {
        "id": one.id or None,
        "was": letter.id,
        "event_id": letter.event_id,
        "consumer": letter.consumer,
        "too_late_for": one.late,
        "error": None if one.error is None else str(one.error),
    }


# ------------------------------------------------------------------- looking


async def list_discarded(
    ctx: typer.Context, selection: Selection, *, limit: int, as_json: bool
) -> None:
    """The letters that can be brought back, the newest first. Asks the database alone."""
    if replace(selection, consumer=None) != Selection():
        raise ConfigError("--discarded goes with --consumer and --limit alone")
    async with session.open_database(ctx) as store:
        found = await store.discarded_letters(consumer=selection.consumer, limit=limit or _MOST)
    if as_json:
        print_json([_discarded_json(one) for one in found])
    elif found:
        print_list(_DISCARDED, found)
    else:
        printing.note("No discarded letters.")


def _discarded_json(one: DiscardedLetter) -> dict[str, Any]:
    return read(one.stored, bare=True).summary() | {
        "discarded_at": _time(one.discarded_at),
        "discarded_by": one.by,
        "why": one.why,
        "restorable_until": _time(one.until),
        "waited": one.behind,
    }


_DISCARDED: Sequence[Column[DiscardedLetter]] = (
    Column("ID", lambda one: one.id),
    Column("DISCARDED AT", lambda one: f"{one.discarded_at:%Y-%m-%d %H:%M:%S}", rank=2),
    Column("BY", lambda one: one.by, rank=3),
    Column("UNTIL", lambda one: f"{one.until:%Y-%m-%d %H:%M}", rank=1),
    Column("CONSUMER", lambda one: one.consumer, rank=4),
    Column("SUBJECT", lambda one: read(one.stored, bare=True).subject, rank=5),
    Column("WHY", lambda one: one.why, words=True),
)


@session.runs
async def log(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A letter's id, or its event's.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=_MOST)] = 100,
    as_json: Json = False,
) -> None:
    """Who changed letters, when, what and why, the newest first; kept for 400 days.

    `seaway log show ENTRY` has all ids of one entry.
    """
    async with session.open_database(ctx) as store:
        found = await changes(store, name, limit=limit)
    if as_json:
        print_json([entry_json(one) for one in found])
    elif found:
        print_list(_CHANGES, found)
    else:
        printing.note("Nothing is noted" + (f" of {name}." if name else "."))


_CHANGES: Sequence[Column[LogEntry]] = (
    Column("ENTRY", lambda one: str(one.entry), rank=2, right=True),
    Column("AT", lambda one: f"{one.noted_at:%Y-%m-%d %H:%M:%S}"),
    Column("BY", lambda one: one.by),
    Column("ACTION", lambda one: one.action),
    Column("ABOUT", lambda one: one.about, rank=3),
    Column("LETTERS", lambda one: _which(one)),
    Column("CONSUMER", lambda one: str(one.detail.get("consumer", "")), rank=1),
    Column("WHY", lambda one: str(one.detail.get("why", "")), words=True),
)


def _which(one: LogEntry) -> str:
    """The letter, where it is one; else how many."""
    ids = one.detail.get("ids")
    if isinstance(ids, list) and len(ids) == 1 and isinstance(ids[0], list):
        return str(ids[0][0])
    return str(one.detail.get("letters", ""))


def _time(at: datetime | None) -> str | None:
    return None if at is None else format_time(at)
