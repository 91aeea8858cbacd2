"""What the commands of ``seaway dlq`` share: which letters are meant, and where they lie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, get_args

import typer

from seaway.cli import session
from seaway.contracts import DeadLetterReason, Store
from seaway.dead_letters import DeadLetters, Letter, Selection
from seaway.errors import ConfigError, NotFound
from seaway.mending import Mending

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
Discarded = Annotated[
    bool, typer.Option("--discarded", help="Those that `restore` brings back, newest first.")
]
By = Annotated[
    str | None, typer.Option(help="Who is noted to have done it. Default: you, as USER@HOST.")
]
Why = Annotated[str, typer.Option(help="Why it is done, for whoever reads that later.")]


def selection(
    ids: Sequence[str] | None,
    consumer: str | None,
    subject: str | None,
    reason: str | None,
    error_type: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    """What these options select; ``ConfigError`` names the one that cannot be."""
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


@asynccontextmanager
async def opened(ctx: typer.Context) -> AsyncIterator[Mending]:
    """The queues of these settings; their database is opened when something asks for it."""
    configured = session.settings(ctx)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(session.open_server(configured))
        stores: list[Store] = []

        async def open_once() -> Store:
            if not stores:
                stores.append(await stack.enter_async_context(session.open_database(ctx)))
            return stores[0]

        yield Mending.configured(broker, configured, open_once)


async def chosen(letters: DeadLetters, wanted: Selection, everything: bool) -> Sequence[Letter]:
    """The letters to change, ``bare``. ``ConfigError`` where nothing is selected, ``NotFound`` for
    an id that no letter has."""
    if wanted == Selection() and not everything:
        raise ConfigError("nothing is selected", hint="give ids, a filter, or --all")
    found = await letters.list(wanted, payloads=False)
    known = {name for letter in found for name in (letter.id, letter.event_id)}
    missing = [one for one in wanted.ids if one not in known]
    if missing:
        raise NotFound(f"there is no dead letter {', '.join(missing)}")
    return found
