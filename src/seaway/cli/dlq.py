"""``seaway dlq``: dead letters listed, shown, redriven, discarded."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args

import typer

from seaway.cli import printing, session
from seaway.cli.printing import (
    Column,
    Json,
    json_value,
    print_json,
    print_list,
    printable,
    progress,
)
from seaway.contracts import DeadLetterReason, Message
from seaway.dead_letters import DeadLetters, Letter, Selection
from seaway.errors import ConfigError, NotFound, SeawayError, StoreRefused
from seaway.inbox.letters import note_discarded
from seaway.words import counted

app = typer.Typer(help="Dead letters: list, show, redrive, discard.", no_args_is_help=True)

Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Letter ids (SEA_DLQ:17) or event ids.", metavar="[ID]..."),
]
Consumer = Annotated[str | None, typer.Option(help="Letters of this durable.")]
Subject = Annotated[str | None, typer.Option(help="The event's subject, wildcards allowed.")]
Reason = Annotated[
    str | None, typer.Option(help="poison, undecodable, exhausted, terminated or parked.")
]
ErrorType = Annotated[str | None, typer.Option(help="The exception's class.")]
Since = Annotated[str | None, typer.Option(help="Failed since: a time, or an age like 2h.")]
Until = Annotated[str | None, typer.Option(help="Failed before: a time, or an age.")]
All = Annotated[bool, typer.Option("--all", help="Every letter.")]

Target: TypeAlias = Literal["consumer", "all"]


def _selection(
    ids: Sequence[str] | None,
    consumer: str | None,
    subject: str | None,
    reason: str | None,
    error_type: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    reasons = get_args(DeadLetterReason)
    if reason is not None and reason not in reasons:
        raise ConfigError(f"--reason {reason!r} is none of {', '.join(reasons)}")
    return Selection(
        ids=tuple(ids or ()),
        consumer=consumer,
        subject=subject,
        reason=reason,
        error_type=error_type,
        since=session.moment(since, "--since"),
        until=session.moment(until, "--until"),
    )


@app.command("ls")
@session.runs
async def list_letters(
    ctx: typer.Context,
    consumer: Consumer = None,
    subject: Subject = None,
    reason: Reason = None,
    error_type: ErrorType = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0: all.", min=0)] = 100,
    as_json: Json = False,
) -> None:
    """List dead letters, oldest first."""
    selection = _selection(None, consumer, subject, reason, error_type, since, until)
    async with _opened(ctx) as queue:
        letters = await queue.list(selection, limit=limit, payloads=False)
        found = _with_behind(letters, await queue.waiting(letters))
    if as_json:
        _print_summaries(found)
    elif found:
        print_list(_COLUMNS, found)
    else:
        printing.note("No dead letters.")


Behind: TypeAlias = tuple[Letter, int]
"""A letter, and how many wait behind it."""


def _with_behind(letters: Sequence[Letter], waiting: Sequence[Letter]) -> list[Behind]:
    counts = Counter((one.consumer, one.key) for one in waiting)
    return [(one, 0 if one.waits else counts[one.consumer, one.key]) for one in letters]


def _print_summaries(found: Sequence[Behind]) -> None:
    print_json([letter.summary() | {"waiting": behind} for letter, behind in found])


def _error(letter: Letter) -> str:
    error = letter.problem
    if letter.error_type and not error:
        error = f"{letter.error_type.rpartition('.')[2]}: {letter.error}"
    return error[:120]


_COLUMNS: Sequence[Column[Behind]] = (
    Column("ID", lambda one: one[0].id),
    Column("FAILED AT", lambda one: f"{one[0].failed_at:%Y-%m-%d %H:%M:%S}", rank=3),
    Column("CONSUMER", lambda one: one[0].consumer, rank=1),
    Column("SUBJECT", lambda one: one[0].subject, rank=2),
    Column("KEY", lambda one: one[0].key, rank=4),
    Column("REASON", lambda one: one[0].reason),
    Column("TRIES", lambda one: str(one[0].deliveries), rank=6, right=True),
    Column("BEHIND", lambda one: str(one[1] or ""), rank=5, right=True),
    Column("ERROR", lambda one: _error(one[0]), words=True),
)


@app.command()
@session.runs
async def show(
    ctx: typer.Context,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Letter id or event id.")],
    consumer: Consumer = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: what failed, why, and its payload."""
    async with _opened(ctx) as queue:
        letter = await queue.get(letter_id, consumer=consumer)
        event, gone = Message(letter.subject, letter.payload, letter.headers), ""
        try:
            event = await queue.event(letter)
        except (NotFound, ConfigError) as error:
            gone = str(error)
    if as_json:
        print_json(_details(letter, event, gone))
        return
    for name, value in letter.summary().items():
        typer.echo(printable(f"{name + ':':<12} {value}"))
    if letter.problem:
        typer.echo("It can be shown and discarded, and nothing else.")
    typer.echo("\nheaders:")
    for name, value in event.headers.items():
        typer.echo(printable(f"  {name}: {value}"))
    if gone and letter.headers_by_reference:
        typer.echo(printable(f"  others cannot be shown: {gone}"))
    if letter.lacks_headers:
        typer.echo("  others were left out: there was no room, and nothing keeps them")
    if letter.stack:
        typer.echo("\nstack:\n" + re.sub("^", "  ", printable(letter.stack), flags=re.M))
    body, why = event.payload, gone if letter.by_reference else ""
    typer.echo(f"\npayload ({counted(len(body), 'byte')}):\n" + printable(why or _shown(body)))


def _shown(payload: bytes) -> str:
    """A payload for people: JSON set in lines, other text as it is, bytes in hex."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return payload.hex(" ")
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return text


def _details(letter: Letter, event: Message, gone: str) -> dict[str, Any]:
    details = letter.summary() | {
        "headers": {**event.headers, **letter.stored.message.headers},
        "stack": letter.stack,
        "payload_base64": base64.b64encode(event.payload).decode(),
    }
    if gone:
        details["gone"] = gone
    with contextlib.suppress(ValueError):
        details["payload"] = json_value(event.payload)
    return details


@asynccontextmanager
async def _opened(ctx: typer.Context) -> AsyncIterator[DeadLetters]:
    """The queues of these settings."""
    configured = session.settings(ctx)
    async with session.open_server(configured) as broker:
        yield DeadLetters.configured(broker, configured)


async def _chosen(letters: DeadLetters, selection: Selection, everything: bool) -> Sequence[Letter]:
    if selection == Selection() and not everything:
        raise ConfigError("nothing is selected", hint="give ids, a filter, or --all")
    found = await letters.list(selection, payloads=False)
    known = {name for letter in found for name in (letter.id, letter.event_id)}
    missing = [wanted for wanted in selection.ids if wanted not in known]
    if missing:
        raise NotFound(f"there is no dead letter {', '.join(missing)}")
    return found


@app.command()
@session.runs
async def redrive(
    ctx: typer.Context,
    ids: Ids = None,
    consumer: Consumer = None,
    subject: Subject = None,
    reason: Reason = None,
    error_type: ErrorType = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    payload: Annotated[
        Path | None, typer.Option(help="A corrected payload, for one letter.", metavar="FILE")
    ] = None,
    to: Annotated[
        str, typer.Option(help="consumer: the one that failed; all: everyone.")
    ] = "consumer",
    rate: Annotated[float | None, typer.Option(help="At most so many a second.", min=0.01)] = None,
    as_json: Json = False,
) -> None:
    """Bring events back: to the consumer that failed, and to nobody else."""

    if to not in get_args(Target):
        raise ConfigError(f"--to {to!r} is neither consumer nor all")
    target = cast(Target, to)
    body = _payload(payload)
    selection = _selection(ids, consumer, subject, reason, error_type, since, until)
    done: list[Behind] = []
    async with _opened(ctx) as queue:
        chosen = await _chosen(queue, selection, everything)
        if body is not None and len(chosen) != 1:
            raise ConfigError(f"--payload is for one letter, and {len(chosen)} are selected")
        found = _with_behind(chosen, await queue.waiting(chosen) if target == "consumer" else ())
        behind = {letter.id: count for letter, count in found}
        if dry_run:
            for letter in chosen:
                if letter.problem:
                    printing.note(f"stays: {letter.id}: {letter.problem}")
            _report([one for one in found if not one[0].problem], "would be redriven", as_json)
            return
        try:
            with progress("redriving", len(chosen)) as advance:
                redriven = queue.redrive_all(chosen, payload=body, to=target, rate=rate)
                async for letter, error in redriven:
                    advance(1)
                    if error is None:
                        done.append((letter, behind[letter.id]))
                    else:
                        printing.note(f"stays: {error}")
        finally:
            with session.unread():
                _report(done, "redriven", as_json)
    if len(done) < len(chosen):
        raise typer.Exit(1)


def _payload(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--payload {path}: {error.strerror}") from error


@app.command()
@session.runs
async def discard(
    ctx: typer.Context,
    ids: Ids = None,
    consumer: Consumer = None,
    subject: Subject = None,
    reason: Reason = None,
    error_type: ErrorType = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    with_waiting: Annotated[
        bool, typer.Option("--with-waiting", help="Also those that wait behind them.")
    ] = False,
    yes: session.Yes = False,
    as_json: Json = False,
) -> None:
    """Remove dead letters for good; what waits behind them is handled, unless told otherwise."""

    selection = _selection(ids, consumer, subject, reason, error_type, since, until)
    async with _opened(ctx) as queue:
        chosen = list(await _chosen(queue, selection, everything))
        waiting = await queue.waiting(chosen)
        if with_waiting:
            known = {letter.id for letter in chosen}
            chosen += [letter for letter in waiting if letter.id not in known]
        if chosen and not yes:
            session.confirm(f"Remove {counted(len(chosen), 'dead letter')} for good?")
        # Whoever waits is free to go as soon as nothing is before it: the last ones first.
        chosen.sort(key=lambda letter: (not letter.waits, -letter.stream_seq))
        await _note_discarded(ctx, chosen)
        done = [letter for letter in chosen if await queue.discard(letter)]
    gone = {letter.id for letter in done}
    left = [letter for letter in waiting if letter.id not in gone]
    _report(_with_behind(done, left), "discarded", as_json)


async def _note_discarded(ctx: typer.Context, letters: Sequence[Letter]) -> None:
    """In the database, if that is at hand: a queue that loses its end makes none of them again."""
    known = [letter for letter in letters if not letter.problem]
    try:
        async with session.open_database(ctx) as store:
            for letter in known:
                with contextlib.suppress(StoreRefused):
                    await note_discarded(store, letter.consumer, letter)
    except SeawayError as error:
        printing.note(
            f"Not noted in the database: {printable(str(error))}. Should the server lose what the "
            "queue holds, they may come back."
        )


def _report(found: Sequence[Behind], what: str, as_json: bool) -> None:
    if as_json:
        _print_summaries(found)
        return
    for letter, count in found:
        verb = "follows" if count == 1 else "follow"
        follow = f"  {count} behind it {verb} in order" if count else ""
        typer.echo(printable(f"{letter.id}  {letter.event_id}  {letter.consumer}{follow}"))
    printing.note(f"{len(found)} {what}.")
