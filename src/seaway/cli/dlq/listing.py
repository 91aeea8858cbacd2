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
from seaway.cli.dlq import causes, later, options
from seaway.cli.dlq.discarding import list_discarded
from seaway.cli.dlq.mending import print_differences
from seaway.cli.dlq.reporting import event_name
from seaway.cli.printing import (
    Column,
    Json,
    json_value,
    print_json,
    print_list,
    printable,
    progress,
)
from seaway.contracts import Message
from seaway.dead_letters import Letter, Selection
from seaway.errors import ConfigError, NotFound, SeawayError
from seaway.mending import Page
from seaway.words import counted

OLDEST, NEWEST = "oldest", "newest"
_SHOWN = 120
"""How much of an error a list shows."""


@session.runs
@options.selecting
async def list_letters(
    ctx: typer.Context,
    selected: Selection,
    group: Annotated[
        bool, typer.Option("--group", help="Their causes: error, place in your code, event.")
    ] = False,
    sort: Annotated[str, typer.Option(help="oldest or newest first.")] = OLDEST,
    after: Annotated[
        str | None, typer.Option(help="The next page: what comes after this letter.", metavar="ID")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0: all.", min=0)] = 100,
    wide: Annotated[
        bool, typer.Option("--wide", help="All columns, however wide; counts who waits behind.")
    ] = False,
    scheduled: Annotated[
        bool, typer.Option("--scheduled", help="What is sent later, the next one first.")
    ] = False,
    discarded: options.Discarded = False,
    as_json: Json = False,
) -> None:
    """List dead letters page by page, or by their cause."""
    if sort not in (OLDEST, NEWEST):
        raise ConfigError(f"--sort {sort!r} is neither {OLDEST} nor {NEWEST}")
    if group and after is not None:
        raise ConfigError("--after is for a list of letters", hint="leave out --group")
    if discarded:
        await list_discarded(ctx, selected, limit=limit, as_json=as_json)
        return
    async with options.opened(ctx) as queue:
        if scheduled:
            await later.print_scheduled(queue, selected, limit, wide=wide, as_json=as_json)
            return
        if group:
            with progress("grouping", await queue.held()) as advance:
                groups = await queue.causes(selected, advance=advance)
        else:
            with progress("reading", None) as advance:
                page = await queue.page(
                    selected,
                    limit=limit,
                    after=after,
                    newest=sort == NEWEST,
                    count_behind=wide,
                    advance=advance,
                )
    if group:
        causes.show(groups, limit=limit, wide=wide, as_json=as_json)
    elif as_json:
        behind = page.behind or {}
        print_json([one.summary() | {"waiting": behind.get(one.id)} for one in page.letters])
    elif page.letters:
        print_list(_columns(page, wide), page.letters, wide=wide)
    else:
        printing.note("No dead letters.")
    if not group and page.more:
        printing.note(f"More: --after {page.letters[-1].id} ({page.held:,} letters in all).")


def _columns(page: Page, wide: bool) -> Sequence[Column[Letter]]:
    """What matters most first. Who waits is left out where nobody has counted them."""
    waiting: list[Column[Letter]] = []
    if (behind := page.behind) is not None:
        waiting = [Column("BEHIND", lambda one: str(behind[one.id] or ""), rank=4, right=True)]
    return (
        Column("ID", lambda one: one.id),
        Column("CONSUMER", lambda one: one.consumer, rank=1),
        Column("EVENT", lambda one: event_name(one.subject), rank=2),
        Column("FAILED AT", lambda one: f"{one.failed_at:%Y-%m-%d %H:%M:%S}", rank=3),
        *waiting,
        Column("REASON", lambda one: one.reason, rank=5),
        Column("KEY", lambda one: one.key, rank=6),
        Column("TRIES", lambda one: str(one.deliveries or ""), rank=7, right=True),
        Column("REDRIVES", lambda one: str(one.redrives or ""), rank=8, right=True),
        Column("ERROR", lambda one: _error(one, None if wide else _SHOWN), words=True, lines=2),
    )


def _error(letter: Letter, most: int | None) -> str:
    error = letter.problem or letter.reason
    if letter.error_type and not letter.problem:
        error = f"{letter.error_type.rpartition('.')[2]}: {letter.error}"
    return error[:most]


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
        typer.echo(f"{letter.remedy[0].upper()}{letter.remedy[1:]}.")
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
