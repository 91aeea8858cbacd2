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

_MOST = 2**63 - 1
"""The largest number that a database takes."""

_COLUMNS: Sequence[Column[LogEntry]] = (
    Column("ENTRY", lambda one: str(one.entry), right=True),
    Column("NOTED AT", lambda one: _noted(one)),
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
    after: Annotated[
        int | None,
        typer.Option(help="Go on behind this entry: with older ones.", metavar="ENTRY", max=_MOST),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=_MOST - 1)] = 100,
    as_json: Json = False,
) -> None:
    """What was done, the newest first; kept for 400 days."""
    async with session.open_database(ctx) as store:
        more = await store.log(action=action, unseen=unseen, after=after, limit=limit + 1)
    found = more[:limit]
    if as_json:
        print_json([entry_json(one) for one in found])
    else:
        print_list(_COLUMNS, found)
    if len(more) > limit:
        printing.note(f"There are more: --after {found[-1].entry}")


@app.command()
@session.runs
async def show(
    ctx: typer.Context,
    entry: Annotated[int, typer.Argument(metavar="ENTRY", help="Its number.", max=_MOST)],
    as_json: Json = False,
) -> None:
    """All of one entry, ids included; exits 1 where there is none of that number."""
    async with session.open_database(ctx) as store:
        found = await store.log(entry=entry)
    if not found:
        raise NotFound(f"the log has no entry {entry}: seaway log list")
    [one] = found
    if as_json:
        print_json(entry_json(one))
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
        list[int] | None, typer.Argument(metavar="[ENTRY]...", help="Their numbers.", max=_MOST)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every entry until now.")] = False,
    as_json: Json = False,
) -> None:
    """Say that entries are known: seaway check tells of them no more. Exit 1: the log lacks one."""
    if bool(entries) == everything:
        raise ConfigError("give the numbers of entries, or --all")
    async with session.open_database(ctx) as store:
        unknown = [one for one in entries or () if not await store.log(entry=one)]
        count = await store.see(entries or None)
    with session.verdict(1 if unknown else 0):
        if as_json:
            print_json({"seen": count, "unknown": unknown})
            return
        for one in unknown:
            printing.note(f"the log has no entry {one}: seaway log list")
        printing.note(f"{counted(count, 'entry', 'entries')} seen.")


def _noted(one: LogEntry) -> str:
    """To the minute where there is little room: the order says of which year."""
    short = printing.out().is_terminal
    return f"{one.noted_at:%m-%d %H:%M}" if short else f"{one.noted_at:%Y-%m-%d %H:%M:%S}"


def _line(one: LogEntry) -> str:
    """What its detail says in short, without its lists: how many, of what, why."""
    detail, said = one.detail, list[str]()
    if (to := detail.get("to_seq")) is not None:
        said.append(f"to {detail.get('stream', '?')}:{to}")
    if events := detail.get("events"):
        said.append(counted(events, "event") if isinstance(events, int) else "")
    if isinstance(letters := detail.get("letters"), int):
        consumer = detail.get("consumer")
        said.append(f"{letters} of {consumer}" if consumer else counted(letters, "letter"))
    told = _TOLD if to is None else {*_TOLD, "stream"}
    for name, value in detail.items():
        if name not in told and not isinstance(value, list | dict) and value not in (False, None):
            shown = name.replace("_", " ")
            said.append(shown if value is True else f"{shown}: {value}")
    if to is None:
        said += [str(detail[name]) for name in ("why", "reason") if detail.get(name)]
    return ", ".join(filter(None, said))


_TOLD = frozenset(("to_seq", "events", "letters", "consumer", "first", "last", "why", "reason"))


def entry_json(one: LogEntry) -> dict[str, Any]:
    """An entry for machines."""
    return {
        "entry": one.entry,
        "noted_at": format_time(one.noted_at) if one.noted_at else None,
        "by": one.by,
        "action": one.action,
        "about": one.about,
        "detail": dict(one.detail),
        "seen_at": format_time(one.seen_at) if one.seen_at else None,
    }
