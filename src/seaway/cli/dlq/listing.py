"""``seaway dlq ls`` and ``seaway dlq show``: letters are looked at."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from seaway.cli import printing, session
from seaway.cli.dlq import later, options
from seaway.cli.dlq.discarding import list_discarded
from seaway.cli.dlq.mending import print_differences
from seaway.cli.dlq.reporting import Behind, print_summaries, with_behind
from seaway.cli.printing import Column, Json, json_value, print_json, print_list, printable
from seaway.contracts import Message
from seaway.dead_letters import Letter
from seaway.errors import ConfigError, NotFound, SeawayError
from seaway.words import counted


@session.runs
async def list_letters(
    ctx: typer.Context,
    consumer: options.Consumer = None,
    subject: options.Subject = None,
    reason: options.Reason = None,
    error_type: options.ErrorType = None,
    since: options.Since = None,
    until: options.Until = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0: all.", min=0)] = 100,
    scheduled: Annotated[
        bool, typer.Option("--scheduled", help="What is sent later, the next one first.")
    ] = False,
    discarded: options.Discarded = False,
    as_json: Json = False,
) -> None:
    """List dead letters, oldest first."""
    selection = options.selection(None, consumer, subject, reason, error_type, since, until)
    if discarded:
        await list_discarded(ctx, selection, limit=limit, as_json=as_json)
        return
    async with options.opened(ctx) as queue:
        if scheduled:
            await later.print_scheduled(queue, selection, limit, as_json)
            return
        letters = await queue.list(selection, limit=limit, payloads=False)
        found = with_behind(letters, await queue.waiting(letters))
    if as_json:
        print_summaries(found)
    elif found:
        print_list(_COLUMNS, found)
    else:
        printing.note("No dead letters.")


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


@session.runs
async def show(
    ctx: typer.Context,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Letter id or event id.")],
    consumer: options.Consumer = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: what failed, why, and its payload."""
    async with options.opened(ctx) as queue:
        letter = await queue.get(letter_id, consumer=consumer)
        event, gone = Message(letter.subject, letter.payload, letter.headers), ""
        try:
            event = await queue.event(letter)
        except (NotFound, ConfigError) as error:
            gone = str(error)
        written = None
        if letter.mended_from:
            with contextlib.suppress(SeawayError):  # Not everybody may read events.
                written = await queue.as_written(letter)
    if as_json:
        print_json(_details(letter, event, gone) | _mended_json(letter, written))
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
    if letter.mended_from:
        _show_mended(letter, event, written)


def _show_mended(letter: Letter, event: Message, written: Message | None) -> None:
    """What a redrive had changed, for as long as the event is there as it was written."""
    from seaway.mending.differences import differences

    typer.echo(printable(f"\nmended: the event lies in {_place(letter)} as it was written"))
    typer.echo(printable(f"  its payload was {letter.mended_from}"))
    if written is None:
        typer.echo("  it cannot be had: it is not there any more, or you may not read it")
        return
    was = Message(event.subject, written.payload, event.headers)
    print_differences(differences(was, event), indent="  ")


def _mended_json(letter: Letter, written: Message | None) -> dict[str, Any]:
    if not letter.mended_from:
        return {}
    was = {} if written is None else {"payload_base64": _base64(written.payload)}
    return {"mended": {"from": letter.mended_from, "event_place": _place(letter), **was}}


def _place(letter: Letter) -> str:
    return (
        "nobody knows where" if letter.event_place is None else "{}:{}".format(*letter.event_place)
    )


def _base64(payload: bytes) -> str:
    return base64.b64encode(payload).decode()


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
        "payload_base64": _base64(event.payload),
    }
    if gone:
        details["gone"] = gone
    with contextlib.suppress(ValueError):
        details["payload"] = json_value(event.payload)
    return details
