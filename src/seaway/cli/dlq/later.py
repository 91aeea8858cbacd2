"""What is sent later: ``seaway dlq ls --scheduled``, ``cancel``, the time of ``redrive --at``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta

import typer

from seaway.cli import printing, session
from seaway.cli.dlq import options
from seaway.cli.printing import Column, Json, print_json, print_list, printable
from seaway.config import parse_duration
from seaway.dead_letters import Selection
from seaway.dead_letters.later import Scheduled
from seaway.errors import ConfigError, NotFound, SeawayError, TransientError
from seaway.headers import format_time, parse_time
from seaway.mending import Mending

_CLOCK = re.compile(r"(?:(today|tomorrow|\d{4}-\d\d-\d\d)[ T]?)?(\d{1,2}:\d\d(?::\d\d)?)?")
_FORMS = 'like "tomorrow 06:00", "06:00", "2026-11-30 06:00", 2026-11-30T06:00:00Z or 6h'


def check(text: str) -> None:
    """``ConfigError`` where nobody can read a time in it."""
    if _read(text.strip(), datetime.now(UTC)) is None:
        raise ConfigError(f"--at {text!r} is no time", hint=_FORMS)


async def due(queue: Mending, text: str) -> datetime:
    """The time that ``--at`` names: RFC 3339; a day and a clock of this machine's zone, the next
    such one where no day is named; or how long from now. The server sends by its own clock, so that
    says what is past, and how far this machine's is off. ``ConfigError`` for what is past."""
    now = await queue.clock()
    at = _read(text.strip(), now)
    if at is None or at <= now:
        raise ConfigError(
            f"--at {text!r} is past: by the server's clock it is {format_time(now)}", hint=_FORMS
        )
    if said := _apart(at, now):
        printing.note(said)
    return at


def _read(text: str, now: datetime) -> datetime | None:
    with suppress(ValueError):
        return parse_time(text)
    with suppress(ValueError, OverflowError):
        return now + parse_duration(text.removeprefix("in ").removeprefix("+"))
    said = _CLOCK.fullmatch(text.lower())
    if said is None or not text:
        return None
    day, clock = said.groups()
    today = now.astimezone().date()
    with suppress(ValueError, OverflowError):
        hour = time.fromisoformat(clock.zfill(len(clock) + (clock[1] == ":"))) if clock else time()
        if day is None:
            at = _local(today, hour)
            return at if at > now else _local(today + timedelta(days=1), hour)
        named = {"today": today, "tomorrow": today + timedelta(days=1)}.get(day)
        return _local(named or date.fromisoformat(day), hour)
    return None


def _local(day: date, hour: time) -> datetime:
    return datetime.combine(day, hour).astimezone().astimezone(UTC)


def _apart(at: datetime, server: datetime) -> str:
    """What to say where the server's clock is not near this machine's; empty where it is."""
    apart = server - datetime.now(UTC)
    if abs(apart) < timedelta(minutes=1):
        return ""
    minutes = round(abs(apart) / timedelta(minutes=1))
    where = f"{minutes} min " + ("ahead of" if apart > timedelta() else "behind")
    return (
        f"The server's clock is {where} this machine's: they are sent at {format_time(at)} by it."
    )


def _when(one: Scheduled) -> str:
    return "?" if one.at is None else f"{one.at.astimezone():%Y-%m-%d %H:%M:%S}"


def _error(one: Scheduled) -> str:
    letter = one.letter
    if letter.problem:
        return letter.problem[:120]
    kind = letter.error_type.rpartition(".")[2]
    return f"{kind}: {letter.error}"[:120] if kind else ""


_COLUMNS: Sequence[Column[Scheduled]] = (
    Column("ID", lambda one: one.id),
    Column("DUE", _when),
    Column("CONSUMER", lambda one: one.letter.consumer, rank=1),
    Column("SUBJECT", lambda one: one.letter.subject, rank=2),
    Column("KEY", lambda one: one.letter.key, rank=4),
    Column("TRIES", lambda one: str(one.letter.deliveries), rank=5, right=True),
    Column("ERROR", _error, words=True),
)


def _as_json(one: Scheduled) -> dict[str, object]:
    return one.letter.summary() | {"at": None if one.at is None else format_time(one.at)}


async def print_scheduled(
    queue: Mending, wanted: Selection, limit: int, *, wide: bool, as_json: bool
) -> None:
    """What waits, the next one first."""
    found = await queue.scheduled(wanted)
    found = found[:limit] if limit else found
    if as_json:
        print_json([_as_json(one) for one in found])
    elif found:
        print_list(_COLUMNS, found, wide=wide)
    else:
        printing.note("Nothing is scheduled.")


@session.runs
@options.selecting
async def cancel(
    ctx: typer.Context,
    selected: Selection,
    everything: options.All = False,
    why: options.Why = "",
    by: options.By = None,
    as_json: Json = False,
) -> None:
    """Have what waits for its time not be sent: its event becomes a letter in the queue."""
    if selected == Selection() and not everything:
        raise ConfigError("nothing is selected", hint="give ids, a filter, or --all")
    done: list[dict[str, object]] = []
    async with options.opened(ctx) as queue:
        found = await queue.scheduled(selected)
        known = {name for one in found for name in (one.id, one.letter.event_id)}
        missing = [one for one in selected.ids if one not in known]
        noted = bool(found) and await _can_note(queue)
        try:
            for one in found:
                try:
                    cancelled = await queue.cancel(
                        one, by=session.operator(by), why=why, noted=noted
                    )
                except TransientError:
                    raise
                except SeawayError as error:
                    printing.note(f"not cancelled: {error}")
                    continue
                done.append(_as_json(one) | {"letter": cancelled.letter, "late": cancelled.late})
                if cancelled.late:
                    printing.note(
                        f"{one.id} was sent, or cancelled by somebody else, in that moment. "
                        f"{cancelled.letter} is its letter: redriving it changes nothing that was "
                        "done."
                    )
        finally:
            if found:
                with session.unread():
                    _report(done, as_json)
    if missing:
        raise NotFound(
            f"nothing is scheduled as {', '.join(missing)}: it was sent, or cancelled before"
        )
    if len(done) < len(found):
        raise typer.Exit(1)


async def _can_note(queue: Mending) -> bool:
    """Whether the database is at hand, to note there who did it."""
    try:
        await queue.database()
    except SeawayError as error:
        printing.note(f"Not noted in the database: {printable(str(error))}")
        return False
    return True


def _report(done: Sequence[dict[str, object]], as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    for one in done:
        typer.echo(printable(f"{one['letter']}  {one['event_id']}  {one['consumer']}"))
    printing.note(f"{len(done)} cancelled, and letters now.")
