"""What the commands of ``seaway dlq`` share: which letters are meant, and where they lie.

Owns: the one list of options that say which letters (``selection``); ``selecting`` gives it to a
command.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, TypeVar, get_args

import typer

from seaway.cli import session
from seaway.contracts import DeadLetterReason, Store
from seaway.dead_letters import DeadLetters, Letter, Selection
from seaway.dead_letters.letter import FOREIGN
from seaway.errors import ConfigError, NotFound
from seaway.mending import Mending

T = TypeVar("T")

Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Letter ids (SEA_DLQ:17) or event ids.", metavar="[ID]..."),
]
Consumer = Annotated[str | None, typer.Option(help="Letters of this durable.")]
Subject = Annotated[str | None, typer.Option(help="The event's subject, wildcards allowed.")]
Key = Annotated[str | None, typer.Option(help="The event's ordering key.")]
Reason = Annotated[
    str | None,
    typer.Option(help="poison, undecodable, exhausted, terminated, parked or foreign."),
]
Cause = Annotated[
    str | None, typer.Option(help="Letters of this cause: an id of ls --group.", metavar="ID")
]
ErrorType = Annotated[str | None, typer.Option(help="The exception's class.")]
Error = Annotated[str | None, typer.Option(help="A text in the error.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="payload.amount>100, headers.x-tenant=shop; = != < <= > >= ~; may be repeated.",
    ),
]
Since = Annotated[str | None, typer.Option(help="Failed since: a time, or an age like 2h.")]
Until = Annotated[str | None, typer.Option(help="Failed before: a time, or an age.")]
All = Annotated[bool, typer.Option("--all", help="Every letter.")]
Discarded = Annotated[
    bool, typer.Option("--discarded", help="Those that `restore` brings back, newest first.")
]
By = session.By
Why = Annotated[str, typer.Option(help="Why it is done, for whoever reads that later.")]


def selection(
    ids: Ids = None,
    consumer: Consumer = None,
    subject: Subject = None,
    key: Key = None,
    reason: Reason = None,
    cause: Cause = None,
    error_type: ErrorType = None,
    error: Error = None,
    where: Where = None,
    since: Since = None,
    until: Until = None,
) -> Selection:
    """What these options select; ``ConfigError`` names the one that cannot be."""
    reasons = (*get_args(DeadLetterReason), FOREIGN)
    if reason is not None and reason not in reasons:
        raise ConfigError(f"--reason {reason!r} is none of {', '.join(reasons)}")
    return Selection(
        ids=tuple(ids or ()),
        consumer=consumer,
        subject=subject,
        key=key,
        reason=reason,
        cause=cause,
        error_type=error_type,
        error=error,
        where=tuple(where or ()),
        since=session.moment(since, "--since"),
        until=session.moment(until, "--until"),
    )


def selecting(
    work: Callable[..., Coroutine[Any, Any, T]],
) -> Callable[..., Coroutine[Any, Any, T]]:
    """A command with the options of ``selection`` behind its context: it is given what they
    select as ``selected``. Without ids where it takes none itself: it has no ``everything``."""
    own = dict(inspect.signature(work, eval_str=True).parameters)
    shared = dict(inspect.signature(selection, eval_str=True).parameters)
    if "everything" not in own:
        del shared["ids"]
    context = own.pop("ctx")
    del own["selected"]

    @functools.wraps(work)
    async def command(ctx: typer.Context, **given: Any) -> T:
        selected = selection(**{name: given.pop(name) for name in shared})
        return await work(ctx, selected=selected, **given)

    parameters = [context, *shared.values(), *own.values()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


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
