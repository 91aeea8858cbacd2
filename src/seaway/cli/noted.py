"""``seaway log``: what Seaway or an operator did that somebody must know of, until it is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from seaway.cli import printing, session
from seaway.cli.printing import Column, Json, print_json, print_list, say
from seaway.contracts import LogEntry
from seaway.errors import ConfigError, NotFound
from seaway.headers import format_time
from seaway.words import counted

app = typer.Typer(
    help="What was done that somebody must know of: healed, set back, made again.",
    no_args_is_help=True,
)

_COLUMNS: Sequence[Column[LogEntry]] = (
    Column("ENTRY", lambda one: str(one.entry), right=True),
    Column("NOTED AT", lambda one: f"{one.noted_at:%Y-%m-%d %H:%M:%S}"),
    Column("ACTION", lambda one: one.action),
    Column("ABOUT", lambda one: one.about),
    Column("BY", lambda one: one.by, rank=2),
    Column("SEEN", lambda one: f"{one.seen_at:%Y-%m-%d %H:%M}" if one.seen_at else "-", rank=1),
    Column("WHAT", lambda one: _line(one), words=True),
)


@app.command("list")
@session.runs
async def list_entries(
    ctx: typer.Context,
    action: Annotated[
        str | None, typer.Option("--action", help="Only this one, such as healed.")
    ] = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Only what nobody has said to know.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    as_json: Json = False,
) -> None:
    """What was done, the newest first; kept for 400 days."""
    async with session.open_database(ctx) as store:
        found = await store.log(action=action, unseen=unseen, limit=limit)
    if as_json:
        print_json([_as_json(one) for one in found])
    else:
        print_list(_COLUMNS, found)


@app.command()
@session.runs
async def show(
    ctx: typer.Context,
    entry: Annotated[int, typer.Argument(metavar="ENTRY", help="Its number.")],
    as_json: Json = False,
) -> None:
    """All of one entry, ids included; exits 1 where there is none of that number."""
    async with session.open_database(ctx) as store:
        found = await store.log(entry=entry)
    if not found:
        raise NotFound(f"the log has no entry {entry}: seaway log list")
    [one] = found
    if as_json:
        print_json(_as_json(one))
        return
    seen = f"{one.seen_at:%Y-%m-%d %H:%M:%S}" if one.seen_at else "not yet"
    say(f"entry   {one.entry}")
    say(f"noted   {one.noted_at:%Y-%m-%d %H:%M:%S} by {one.by or '?'}")
    say(f"what    {one.action} {one.about}")
    say(f"seen    {seen}")
    for name, value in one.detail.items():
        if not isinstance(value, list):
            say(f"{name:<7} {value}")
            continue
        say(f"{name}:")
        for each in value:
            say("  " + ("  ".join(map(str, each)) if isinstance(each, list) else str(each)))


@app.command()
@session.runs
async def seen(
    ctx: typer.Context,
    entries: Annotated[
        list[int] | None, typer.Argument(metavar="[ENTRY]...", help="Their numbers.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every entry until now.")] = False,
    as_json: Json = False,
) -> None:
    """Say that entries are known: seaway check tells of them no more."""
    if bool(entries) == everything:
        raise ConfigError("give the numbers of entries, or --all")
    async with session.open_database(ctx) as store:
        count = await store.see(entries or None)
    if as_json:
        print_json({"seen": count})
    else:
        printing.note(f"{counted(count, 'entry', 'entries')} seen.")


def _line(one: LogEntry) -> str:
    """What its detail says in short: its figures and words, without its lists."""
    return ", ".join(
        f"{name} {value}" for name, value in one.detail.items() if not isinstance(value, list)
    )


def _as_json(one: LogEntry) -> dict[str, Any]:
    return {
        "entry": one.entry,
        "noted_at": format_time(one.noted_at) if one.noted_at else None,
        "by": one.by,
        "action": one.action,
        "about": one.about,
        "detail": dict(one.detail),
        "seen_at": format_time(one.seen_at) if one.seen_at else None,
    }
