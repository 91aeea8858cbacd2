"""``seaway dlq``: dead letters, seen and mended."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from seaway.cli import session, tables
from seaway.cli.session import printable
from seaway.cli.tables import Column
from seaway.config import parse_duration
from seaway.contracts import DeadLetterReason, Message
from seaway.dead_letters import DeadLetters, Letter, Selection
from seaway.errors import ConfigError, NotFound
from seaway.headers import parse_time
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


def moment(text: str | None, option: str) -> datetime | None:
    """An RFC 3339 time, or an age counted back from now."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return parse_time(text)
    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        raise ConfigError(
            f"{option} {text!r} is neither a time nor an age",
            hint="like 2026-11-24T08:00:00Z, or 2h",
        ) from None


def shown(payload: bytes) -> str:
    """A payload for people: JSON set in lines, other text as it is, bytes in hex."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return payload.hex(" ")
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return text


def json_value(payload: bytes) -> Any:
    """The payload's JSON value; ``ValueError`` where it has none, or one that JSON cannot say again
    (NaN, half a surrogate pair, nested beyond measure)."""
    try:
        value = json.loads(payload.decode())
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


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
        since=moment(since, "--since"),
        until=moment(until, "--until"),
    )


@app.command("ls")
def list_letters(
    ctx: typer.Context,
    consumer: Consumer = None,
    subject: Subject = None,
    reason: Reason = None,
    error_type: ErrorType = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0: all.", min=0)] = 100,
    as_json: session.Json = False,
) -> None:
    """List dead letters, oldest first."""

    async def work() -> None:
        selection = _selection(None, consumer, subject, reason, error_type, since, until)
        async with session.open_app(ctx) as application:
            queue = application.dead_letters
            letters = await queue.list(selection, limit=limit, payloads=False)
            behind = _behind(letters, await queue.waiting(letters))
        if as_json:
            session.print_json(
                [letter.summary() | {"waiting": behind[letter.id]} for letter in letters]
            )
        elif not letters:
            session.err.print("No dead letters.")
        else:
            tables.show(_COLUMNS, [_cells(one, behind[one.id]) for one in letters])

    session.run(work())


def _behind(letters: Sequence[Letter], waiting: Sequence[Letter]) -> dict[str, int]:
    """How many wait behind each of ``letters``, by its id."""
    counts = Counter((one.consumer, one.key) for one in waiting)
    return {one.id: 0 if one.waits else counts[one.consumer, one.key] for one in letters}


_COLUMNS = (
    Column("ID"),
    Column("FAILED AT", rank=3),
    Column("CONSUMER", rank=1),
    Column("SUBJECT", rank=2),
    Column("KEY", rank=4),
    Column("REASON"),
    Column("TRIES", rank=6, right=True),
    Column("BEHIND", rank=5, right=True),
    Column("ERROR", words=True),
)


def _cells(letter: Letter, behind: int) -> Sequence[str]:
    error = letter.problem
    if letter.error_type and not error:
        error = f"{letter.error_type.rpartition('.')[2]}: {letter.error}"
    cells = (
        letter.id,
        f"{letter.failed_at:%Y-%m-%d %H:%M:%S}",
        letter.consumer,
        letter.subject,
        letter.key,
        letter.reason,
        str(letter.deliveries),
        str(behind or ""),
        error[:120],
    )
    return [printable(cell) for cell in cells]


@app.command()
def show(
    ctx: typer.Context,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Letter id or event id.")],
    consumer: Consumer = None,
    as_json: session.Json = False,
) -> None:
    """Show one dead letter: what failed, why, and its payload."""

    async def work() -> None:
        async with session.open_app(ctx) as application:
            queue = application.dead_letters
            letter = await queue.get(letter_id, consumer=consumer)
            event, gone = Message(letter.subject, letter.payload, letter.headers), ""
            try:
                event = await queue.event(letter)
            except (NotFound, ConfigError) as error:
                gone = str(error)
        if as_json:
            session.print_json(_details(letter, event, gone))
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
        typer.echo(f"\npayload ({counted(len(body), 'byte')}):\n" + printable(why or shown(body)))

    session.run(work())


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
def redrive(
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
    as_json: session.Json = False,
) -> None:
    """Bring events back: to the consumer that failed, and to nobody else."""

    async def work() -> None:
        target = _target(to)
        body = _payload(payload)
        selection = _selection(ids, consumer, subject, reason, error_type, since, until)
        async with session.open_app(ctx) as application:
            queue = application.dead_letters
            chosen = await _chosen(queue, selection, everything)
            if body is not None and len(chosen) != 1:
                raise ConfigError(f"--payload is for one letter, and {len(chosen)} are selected")
            behind = _behind(chosen, await queue.waiting(chosen) if target == "consumer" else ())
            if dry_run:
                for letter in chosen:
                    if letter.problem:
                        _stays(f"{letter.id}: {letter.problem}")
                sendable = [letter for letter in chosen if not letter.problem]
                _report(sendable, "would be redriven", as_json, behind)
                return
            done: list[Letter] = []
            try:
                with session.progress("redriving", len(chosen)) as advance:
                    async for letter, error in queue.redrive_all(
                        chosen, payload=body, to=target, rate=rate
                    ):
                        advance(1)
                        if error is None:
                            done.append(letter)
                        else:
                            _stays(str(error))
            finally:
                _report(done, "redriven", as_json, behind)
        if len(done) < len(chosen):
            raise typer.Exit(1)

    session.run(work())


def _stays(why: str) -> None:
    session.err.print(f"stays: {printable(why)}", markup=False, soft_wrap=True)


def _target(text: str) -> Literal["consumer", "all"]:
    if text == "consumer":
        return "consumer"
    if text == "all":
        return "all"
    raise ConfigError(f"--to {text!r} is neither consumer nor all")


def _payload(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--payload {path}: {error.strerror}") from error


@app.command()
def discard(
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: session.Json = False,
) -> None:
    """Remove dead letters for good; what waits behind them is handled, unless told otherwise."""

    async def work() -> None:
        selection = _selection(ids, consumer, subject, reason, error_type, since, until)
        async with session.open_app(ctx) as application:
            queue = application.dead_letters
            chosen = list(await _chosen(queue, selection, everything))
            waiting = await queue.waiting(chosen)
            if with_waiting:
                known = {letter.id for letter in chosen}
                chosen += [letter for letter in waiting if letter.id not in known]
            if chosen and not yes:
                session.confirm(f"Remove {counted(len(chosen), 'dead letter')} for good?")
            # Whoever waits is free to go as soon as nothing is before it: the last ones first.
            chosen.sort(key=lambda letter: (not letter.waits, -letter.stream_seq))
            done = [letter for letter in chosen if await queue.discard(letter)]
        gone = {letter.id for letter in done}
        left = [letter for letter in waiting if letter.id not in gone]
        _report(done, "discarded", as_json, _behind(done, left))

    session.run(work())


def _report(letters: Sequence[Letter], what: str, as_json: bool, behind: Mapping[str, int]) -> None:
    if as_json:
        session.print_json(
            [letter.summary() | {"waiting": behind[letter.id]} for letter in letters]
        )
        return
    for letter in letters:
        count = behind[letter.id]
        verb = "follows" if count == 1 else "follow"
        follow = f"  {count} behind it {verb} in order" if count else ""
        typer.echo(printable(f"{letter.id}  {letter.event_id}  {letter.consumer}{follow}"))
    session.err.print(f"{len(letters)} {what}.")
