"""``seaway outbox``: events written from a file, and what waits to be published."""

from __future__ import annotations

import asyncio
import difflib
import getpass
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from seaway import naming
from seaway.app import Seaway
from seaway.cli import session, tables
from seaway.cli.session import printable
from seaway.cli.tables import Column
from seaway.config import StreamSettings
from seaway.contracts import Backlog, OutboxEntry, Store
from seaway.errors import ConfigError
from seaway.events import RawEvent
from seaway.headers import format_time
from seaway.monitor import Database
from seaway.monitor.snapshot import age_seconds
from seaway.monitor.standstill import why_events_wait
from seaway.outbox import Outbox
from seaway.watching import database_station

app = typer.Typer(help="The outbox: add events, see and retry what waits.", no_args_is_help=True)

_TEXT_FIELDS = ("subject", "key", "id", "correlation_id", "causation_id")
_LONGEST_LINE = 64 * 1024 * 1024
_FIELDS = frozenset((*_TEXT_FIELDS, "payload", "headers"))


def parse_line(line: bytes) -> RawEvent:
    """The event of one line; ``ValueError`` says in one sentence what is wrong with it.

    Names, id and size are the outbox's to judge.
    """
    try:
        said = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read: nested too deeply") from error
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the file's fault, not the call's
    if unknown := sorted(said.keys() - _FIELDS):
        raise ValueError(f"unknown field {unknown[0]!r} (known: {', '.join(sorted(_FIELDS))})")
    for name in ("subject", "payload"):
        if name not in said:
            raise ValueError(f"{name!r} is missing")
    for name in _TEXT_FIELDS:
        if name in said and not isinstance(said[name], str):
            raise ValueError(f"{name!r} must be text")
    headers = said.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
        raise ValueError("'headers' must be an object of texts")
    return RawEvent(
        subject=said["subject"],
        payload=_compact(said["payload"]),
        key=said.get("key"),
        event_id=said.get("id"),
        correlation_id=said.get("correlation_id"),
        causation_id=said.get("causation_id"),
        headers=headers,
    )


def _compact(payload: object) -> bytes:
    try:
        text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("'payload' holds half of a surrogate pair") from error
    except ValueError as error:
        raise ValueError("'payload' holds a number that is out of range") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not JSON: {name}")


@app.command()
def add(
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
    as_json: session.Json = False,
) -> None:
    """Write events from JSON lines; a bad line writes nothing of its transaction.

    A line: {"subject", "payload", "key"?, "id"?, "correlation_id"?, "causation_id"?, "headers"?}
    """

    async def work() -> int:
        settings = session.settings(ctx)
        application = Seaway(settings)
        streams = () if any_subject else settings.streams
        added = 0
        async with session.open_database(ctx) as store:
            with _opened(file) as source, session.progress("adding", None) as advance:
                async for chunk in _chunks(_lines(source), batch, from_line):
                    await _add_chunk(application.outbox, store, file, chunk, streams)
                    added += len(chunk)
                    advance(len(chunk))
        return added

    added = session.run(work())
    if as_json:
        session.print_json({"added": added})
    else:
        session.err.print(f"{added} events added.")


async def _add_chunk(
    outbox: Outbox,
    store: Store,
    file: Path,
    chunk: list[tuple[int, bytes]],
    streams: Sequence[StreamSettings],
) -> None:
    """Write all lines of ``chunk`` in one transaction; ``ConfigError`` names the first bad one.

    ``streams``: of which one must take each subject; empty: that is not known here.
    """
    events = []
    for number, line in chunk:
        try:
            event = parse_line(line)
            if streams:
                _refuse_untaken(event.subject, streams)
            events.append(event)
        except ValueError as error:
            raise _refusal(file, number, chunk, error) from error
    try:
        async with store.transaction() as tx:
            await outbox.add(tx.handle, *events)
        return
    except ConfigError:
        pass  # Nothing is written. Once more one by one, in order, to learn which line it was.
    async with store.transaction() as tx:
        for (number, _), event in zip(chunk, events, strict=True):
            try:
                await outbox.add(tx.handle, event)
            except ConfigError as error:
                raise _refusal(file, number, chunk, error) from error


def _refuse_untaken(subject: str, streams: Sequence[StreamSettings]) -> None:
    """``ValueError`` where no stream takes ``subject``: it would wait until it is parked."""
    if not naming.is_subject(subject):
        return  # The outbox says what is wrong with it.
    if any(naming.covers(one, subject) for stream in streams for one in stream.subjects):
        return
    context = naming.context_of(subject)
    for stream in streams:
        if stream.context == context:
            what = f"{stream.name} takes only {', '.join(stream.subjects)}"
            break
    else:
        contexts = [stream.context for stream in streams]
        near = difflib.get_close_matches(context, contexts, n=1, cutoff=0.5)
        what = (
            f"did you mean the context {near[0]}?" if near else f"contexts: {', '.join(contexts)}"
        )
    raise ValueError(
        f"no stream of the file takes {subject!r}: {what} "
        "(--any-subject adds it all the same, for a relay with another file)"
    )


def _refusal(
    file: Path, number: int, chunk: list[tuple[int, bytes]], error: Exception
) -> ConfigError:
    first = chunk[0][0]
    return ConfigError(
        str(error),
        where=f"{file}:{number}",
        hint=f"nothing from line {first} on is written: mend it, then --from-line {first}",
    )


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    with opened:
        yield opened


async def _lines(source: BinaryIO) -> AsyncIterator[bytes]:
    """The lines of ``source``. What nobody has written yet is awaited: Ctrl-C ends the wait."""
    mode = os.fstat(source.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or source.isatty()):
        for line in source:
            yield line
        return
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), source
    )
    try:
        while line := await reader.readline():
            yield line
    finally:
        transport.close()


async def _chunks(
    lines: AsyncIterator[bytes], size: int, from_line: int
) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Numbered lines, ``size`` at a time; blank ones are passed over."""
    chunk: list[tuple[int, bytes]] = []
    number = 0
    async for line in lines:
        number += 1
        if number < from_line or not line.strip():
            continue
        chunk.append((number, line))
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@app.command()
def status(
    ctx: typer.Context, timeout: session.Timeout = "5s", as_json: session.Json = False
) -> None:
    """How much waits, since when, how much is parked; on PostgreSQL also shards and dead rows."""

    async def work() -> None:
        database = database_station(session.settings(ctx))
        async with session.bounded(database):
            backlog = await database.ask(_backlog, within=timeout)
        age = age_seconds(backlog, datetime.now(UTC))
        if as_json:
            session.print_json(
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
        session.out.print(f"{backlog.count} events wait{waits}{held}; {backlog.parked} parked")
        if backlog.dead_rows is not None:
            inside = f"{backlog.shards} shards" if backlog.shards > 1 else "1 shard"
            session.out.print(
                f"{inside}; {backlog.dead_rows} dead rows not vacuumed yet, and "
                f"{backlog.sent_dead_rows} of sent events, {backlog.inbox_dead_rows} of the inbox",
                soft_wrap=True,
            )

    session.run(work())


async def _backlog(database: Database) -> Backlog:
    return await (await database.verified()).backlog()


_COLUMNS = (
    Column("POSITION", rank=3, right=True),
    Column("EVENT"),
    Column("SUBJECT", rank=2),
    Column("KEY", rank=4),
    Column("ADDED AT", rank=5),
    Column("TRIES", rank=1),
    Column("WHY", words=True),
)


@app.command("list")
def list_entries(
    ctx: typer.Context,
    parked: Annotated[bool, typer.Option("--parked", help="Only the parked ones.")] = False,
    discarded: Annotated[
        bool, typer.Option("--discarded", help="Those given up, newest first: by whom, and why.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 100,
    as_json: session.Json = False,
) -> None:
    """The events that wait, in the order in which they will be published, and what for."""

    async def work() -> None:
        if parked and discarded:
            raise ConfigError("give --parked or --discarded, not both")
        held = session.settings(ctx).outbox.on_parked == "wait"
        async with session.open_database(ctx) as store:
            if discarded:
                given_up = await store.discarded(limit=limit)
                _show([done.entry for done in given_up], [done.stream for done in given_up])
                return
            entries = await store.entries(parked=True if parked else None, limit=limit)
            _show(entries, why_events_wait(entries, await store.notices(), held=held))

    def _show(entries: Sequence[OutboxEntry], reasons: Sequence[str]) -> None:
        if as_json:
            session.print_json(
                [
                    _summary(entry) | {"discarded" if discarded else "waits_for": reason or None}
                    for entry, reason in zip(entries, reasons, strict=True)
                ]
            )
            return
        rows = (
            (
                str(entry.position),
                entry.event_id,
                entry.message.subject,
                entry.key,
                f"{entry.added_at:%Y-%m-%d %H:%M:%S}",
                f"{entry.attempts}{' parked' if entry.parked_at else ''}",
                reason,
            )
            for entry, reason in zip(entries, reasons, strict=True)
        )
        tables.show(_COLUMNS, [[printable(cell) for cell in row] for row in rows])

    session.run(work())


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
def retry(
    ctx: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Event ids of parked events.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every parked event.")] = False,
    as_json: session.Json = False,
) -> None:
    """Let parked events be tried again; exits 1 where none of those named is parked."""

    async def work() -> int:
        if bool(ids) == everything:
            raise ConfigError("give event ids, or --all")
        async with session.open_database(ctx) as store:
            return await store.unpark(None if everything else ids)

    count = session.run(work())
    if as_json:
        session.print_json({"unparked": count})
    else:
        session.err.print(f"{count} events will be tried again.")
    raise typer.Exit(0 if count or everything else 1)


@app.command()
def discard(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of parked events.")],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, to be kept.")],
    by: Annotated[
        str | None, typer.Option("--by", metavar="WHO", help="Who does so. Default: this user.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: session.Json = False,
) -> None:
    """Give parked events up for good; what waits behind them of their keys goes on.

    What they were, who gave them up and why can be looked up with `outbox list --discarded` for
    as long as outbox.retention. Exits 1 where none of those named is parked.
    """

    async def work() -> list[OutboxEntry]:
        if not why.strip():
            raise ConfigError("--why is empty", hint="say why, for whoever looks for them later")
        async with session.open_database(ctx) as store:
            chosen = [
                entry
                for event_id in dict.fromkeys(ids)
                for entry in await store.entries(parked=True, event_id=event_id)
            ]
            if not chosen:
                return []
            if not yes:
                typer.confirm(f"Give up {len(chosen)} events for good?", abort=True, err=True)
            reason = f"given up by {by or _user()}: {' '.join(why.split())}"
            gone = set(await store.discard([entry.event_id for entry in chosen], reason))
        return [entry for entry in chosen if entry.event_id in gone]

    gone = session.run(work())
    if as_json:
        session.print_json([_summary(entry) for entry in gone])
    else:
        for entry in gone:
            typer.echo(printable(f"{entry.event_id}  {entry.message.subject}"))
        session.err.print(f"{len(gone)} events given up.")
    raise typer.Exit(0 if gone else 1)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A container's user without a name.
        return f"uid {os.getuid()}"
