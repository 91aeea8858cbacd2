"""``seaway outbox``: events written from a file, and what waits to be published."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from seaway import process
from seaway.cli import printing, session
from seaway.cli.lines import add_chunk, chunks, opened
from seaway.cli.printing import Column, Json, print_json, print_list, printable, progress, say
from seaway.config import OutboxSettings, format_duration
from seaway.connections import database_station
from seaway.contracts import Backlog, OutboxEntry, Store
from seaway.errors import ConfigError
from seaway.headers import format_time
from seaway.monitor import Database, age_seconds, why_events_wait
from seaway.outbox import Outbox
from seaway.words import counted

app = typer.Typer(help="The outbox: add events, see and retry what waits.", no_args_is_help=True)


@app.command()
@session.runs
async def add(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="JSON lines; - reads stdin.")],
    batch: Annotated[int, typer.Option(help="Lines in one transaction.", min=1)] = 1000,
    from_line: Annotated[int, typer.Option(help="Begin here, after a mended line.", min=1)] = 1,
    any_subject: Annotated[
        bool,
        typer.Option(
            "--any-subject",
            help="Also what no stream of the file takes, for a relay with another file.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write events from JSON lines; a bad line writes nothing of its transaction.

    A line: {"subject", "payload", "key"?, "id"?, "correlation_id"?, "causation_id"?, "headers"?}
    """

    settings = session.settings(ctx)
    outbox = Outbox(**settings.for_writers)
    streams = () if any_subject else settings.streams
    added = 0
    async with session.open_database(ctx) as store:
        with opened(file) as source, progress("adding", None) as advance:
            async for chunk in chunks(source, batch, from_line):
                await add_chunk(outbox, store, file, chunk, streams)
                added += len(chunk)
                advance(len(chunk))
    if as_json:
        print_json({"added": added})
    else:
        printing.note(f"{counted(added, 'event')} added.")


@app.command()
@session.runs
async def status(
    ctx: typer.Context, timeout: session.Timeout = "5s", as_json: Json = False
) -> None:
    """How much waits, since when, how much is parked; on PostgreSQL also shards and dead rows."""
    database = database_station(session.settings(ctx))
    async with session.bounded(database):
        backlog = await database.ask(_backlog, within=timeout)
    age = age_seconds(backlog, datetime.now(UTC))
    if as_json:
        print_json(
            {
                "count": backlog.count,
                "parked": backlog.parked,
                "oldest_at": format_time(backlog.oldest_at) if backlog.oldest_at else None,
                "oldest_age_seconds": age,
                "dead_rows": backlog.dead_rows,
                "shards": backlog.shards,
                "sent_dead_rows": backlog.sent_dead_rows,
                "inbox_rows": backlog.inbox_rows,
                "inbox_dead_rows": backlog.inbox_dead_rows,
            }
        )
        return
    waits = "" if age is None else f", the oldest for {age:.1f} s"
    held = ", behind a parked one of its key" if backlog.oldest_held else ""
    say(
        f"{counted(backlog.count, 'event waits', 'events wait')}{waits}{held}; "
        f"{backlog.parked} parked"
    )
    if backlog.dead_rows is not None:
        inside = counted(backlog.shards, "shard")
        say(
            f"{inside}; {counted(backlog.dead_rows, 'dead row')} not vacuumed yet, and "
            f"{backlog.sent_dead_rows} of sent events, {backlog.inbox_dead_rows} of the inbox"
        )


async def _backlog(database: Database) -> Backlog:
    return await (await database.verified()).backlog()


Reasoned: TypeAlias = tuple[OutboxEntry, str]
"""An event of the outbox, and what it waits for; or why it was given up."""

_COLUMNS: Sequence[Column[Reasoned]] = (
    Column("POSITION", lambda one: str(one[0].position), rank=3, right=True),
    Column("EVENT", lambda one: one[0].event_id),
    Column("SUBJECT", lambda one: one[0].message.subject, rank=2),
    Column("KEY", lambda one: one[0].key, rank=4),
    Column("ADDED AT", lambda one: f"{one[0].added_at:%Y-%m-%d %H:%M:%S}", rank=5),
    Column(
        "TRIES",
        lambda one: f"{one[0].attempts}{' parked' if one[0].parked_at else ''}",
        rank=1,
    ),
    Column("WHY", lambda one: one[1], words=True),
)


@app.command("list")
@session.runs
async def list_entries(
    ctx: typer.Context,
    parked: Annotated[bool, typer.Option("--parked", help="Only the parked ones.")] = False,
    discarded: Annotated[
        bool, typer.Option("--discarded", help="Those given up, newest first: by whom, and why.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    as_json: Json = False,
) -> None:
    """The events that wait, in the order in which they will be published, and what for."""
    if parked and discarded:
        raise ConfigError("give --parked or --discarded, not both")
    held = session.settings(ctx).outbox.on_parked == "wait"
    async with session.open_database(ctx) as store:
        if discarded:
            found = [(one.entry, one.stream) for one in await store.discarded(limit=limit)]
        else:
            entries = await store.entries(parked=True if parked else None, limit=limit)
            reasons = why_events_wait(entries, await store.notices(), held=held)
            found = list(zip(entries, reasons, strict=True))
    if as_json:
        reason = "discarded" if discarded else "waits_for"
        print_json([_summary(entry) | {reason: why or None} for entry, why in found])
    else:
        print_list(_COLUMNS, found)


def _summary(entry: OutboxEntry) -> dict[str, Any]:
    return {
        "position": entry.position,
        "event_id": entry.event_id,
        "subject": entry.message.subject,
        "key": entry.key,
        "added_at": format_time(entry.added_at),
        "attempts": entry.attempts,
        "last_error": entry.last_error,
        "parked_at": format_time(entry.parked_at) if entry.parked_at else None,
    }


@app.command()
@session.runs
async def retry(
    ctx: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Event ids of parked events.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every parked event.")] = False,
    as_json: Json = False,
) -> None:
    """Let parked events be tried again; exits 1 where none of those named is parked."""

    if bool(ids) == everything:
        raise ConfigError("give event ids, or --all")
    async with session.open_database(ctx) as store:
        for event_id in dict.fromkeys(ids or ()):
            await _say_why_not_parked(store, event_id, session.settings(ctx).outbox)
        count = await store.unpark(None if everything else ids)
    with session.verdict(0 if count or everything else 1):
        if as_json:
            print_json({"unparked": count})
        else:
            printing.note(f"{counted(count, 'event')} will be tried again.")


@app.command()
@session.runs
async def discard(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of parked events.")],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, to be kept.")],
    by: session.By = None,
    yes: session.Yes = False,
    as_json: Json = False,
) -> None:
    """Give parked events up for good; what waits behind them of their keys goes on.

    What they were, who gave them up and why can be looked up with `outbox list --discarded` for
    as long as outbox.retention. Exits 1 where none of those named is parked.
    """

    if not why.strip():
        raise ConfigError("--why is empty", hint="say why, for whoever looks for them later")
    chosen: list[OutboxEntry] = []
    gone: set[str] = set()
    async with session.open_database(ctx) as store:
        for event_id in dict.fromkeys(ids):
            await _say_why_not_parked(store, event_id, session.settings(ctx).outbox)
            chosen += await store.entries(parked=True, event_id=event_id)
        if chosen:
            if not yes:
                session.confirm(f"Give up {counted(len(chosen), 'event')} for good?")
            reason = f"given up by {by or process.user()}: {' '.join(why.split())}"
            gone = set(await store.discard([entry.event_id for entry in chosen], reason))
    given_up = [entry for entry in chosen if entry.event_id in gone]
    with session.verdict(0 if given_up else 1):
        if as_json:
            print_json([_summary(entry) for entry in given_up])
        else:
            for entry in given_up:
                typer.echo(printable(f"{entry.event_id}  {entry.message.subject}"))
            printing.note(f"{counted(len(given_up), 'event')} given up.")


async def _say_why_not_parked(store: Store, event_id: str, known: OutboxSettings) -> None:
    if not (found := await store.entries(event_id=event_id)):
        printing.note(f"{event_id} is not in the outbox")
    elif found[0].parked_at is None:
        printing.note(
            f"{event_id} is not parked yet: it is after {known.max_attempts} refusals "
            "(max_attempts), or where its stream stays missing after "
            f"{format_duration(known.stream_grace)} (stream_grace)"
        )
