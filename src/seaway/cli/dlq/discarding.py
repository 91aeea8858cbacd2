"""``seaway dlq discard``: letters are removed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Annotated

import typer

from seaway.cli import printing, session
from seaway.cli.dlq import options
from seaway.cli.dlq.reporting import report, with_behind
from seaway.cli.printing import Json, printable
from seaway.dead_letters import Letter, Selection
from seaway.errors import SeawayError, StoreRefused
from seaway.inbox.letters import note_discarded
from seaway.words import counted


@session.runs
@options.selecting
async def discard(
    ctx: typer.Context,
    selected: Selection,
    everything: options.All = False,
    with_waiting: Annotated[
        bool, typer.Option("--with-waiting", help="Also those that wait behind them.")
    ] = False,
    yes: session.Yes = False,
    as_json: Json = False,
) -> None:
    """Remove dead letters for good; what waits behind them is handled, unless told otherwise."""
    async with options.opened(ctx) as queue:
        chosen = list(await options.chosen(queue, selected, everything))
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
    report(with_behind(done, left), "discarded", as_json)


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
