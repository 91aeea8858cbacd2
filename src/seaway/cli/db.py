"""``seaway db``: the library's own tables, planned, upgraded, verified, printed, pruned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import typer

from seaway.cli import printing, session
from seaway.cli.printing import Json, print_json, progress, say
from seaway.contracts import Phase, SchemaChange, Store
from seaway.databases.engines import SQLITE
from seaway.errors import ConfigError, NoDatabase, SchemaMismatch
from seaway.headers import format_time
from seaway.stores import schema_script
from seaway.stores.schema import migrations

Rows: TypeAlias = Mapping[str, int]
"""How many, by table or partition."""

_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_LOOK_SECONDS = 2.0

app = typer.Typer(no_args_is_help=True, help="Seaway's own tables in your database.")


@app.command()
def plan(ctx: typer.Context, as_json: Json = False) -> None:
    """Show which migrations the database has; exit 1 when one is missing."""

    changes = session.run(_planned(ctx))
    with session.verdict(0 if all(change.applied for change in changes) else 1):
        _show(changes, as_json)


async def _planned(ctx: typer.Context) -> Sequence[SchemaChange]:
    try:
        async with session.open_database(ctx, verify=False) as store:
            return await store.schema.plan()
    except NoDatabase as error:
        printing.note(str(error))
        return [each.change(applied=False) for each in migrations(SQLITE)]


@app.command()
@session.runs
async def upgrade(
    ctx: typer.Context,
    pre: Annotated[
        bool, typer.Option("--pre", help="Only what comes before the first new process.")
    ] = False,
    post: Annotated[
        bool, typer.Option("--post", help="Only what comes after the last old process.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Apply the missing migrations. Safe to repeat, and from several processes at once.

    Old processes can go on working over --pre, and none may be left at --post.
    """
    if pre and post:
        raise ConfigError("give --pre or --post; for both phases at once, neither")
    phase: Phase | None = "pre" if pre else "post" if post else None
    async with session.open_database(ctx, create=True, verify=False) as store:
        changes = await store.schema.upgrade(phase)
    _show(changes, as_json)
    if not changes and not as_json:
        what = f"phase {phase} is complete" if phase else "the tables are up to date"
        say(f"nothing to do: {what}")


@app.command()
@session.runs
async def verify(ctx: typer.Context, as_json: Json = False) -> None:
    """Exit 0 if the tables are exactly as this version needs them, else 1."""

    problem = None
    try:
        async with session.open_database(ctx):
            pass
    except SchemaMismatch as error:
        problem = str(error)
    if as_json:
        with session.verdict(0 if problem is None else 1):
            print_json({"ok": problem is None, "problem": problem})
    if problem is not None:
        session.fail(problem, 1)
    say("the tables are as they should be")


@app.command()
@session.runs
async def sql(ctx: typer.Context) -> None:
    """Print all migrations as one script, for whoever applies them by hand."""

    configured = session.settings(ctx)
    typer.echo(schema_script(configured.database, configured.database_schema), nl=False)


@app.command()
@session.runs
async def prune(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would go, and remove nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove sent events, inbox rows and discarded letters whose time has passed.

    Relays and applications do so by themselves; this is for whoever leaves it to cron, or to a
    user with more rights. Prints what it has removed, and what was left for the next time because
    somebody was at the table; with --dry-run what would go.
    """

    configured = session.settings(ctx)
    retention = configured.inbox.retention
    async with session.open_database(ctx) as store:
        sent = await store.before(configured.outbox.retention)
        processed = await store.before(retention) if retention else None

        async def overdue() -> Rows:
            return await store.overdue(sent, processed or _EVER)

        before = due = await overdue()
        if not dry_run:
            await _shown(_remove(store, sent, processed), before, overdue)
            due = await overdue()
    # Rows may have come of age meanwhile.
    gone = {table: count - due.get(table, 0) for table, count in before.items()}
    removed = {table: count for table, count in gone.items() if count > 0}
    if as_json:
        print_json(
            {
                "sent_before": format_time(sent),
                "processed_before": format_time(processed) if processed else None,
                "removed": removed,
                "due": due,
            }
        )
        return
    for words, counted in (("removed", removed), ("due", due)):
        for table, count in sorted(counted.items()):
            say(f"{words:<8} {table:<24}{count:>12} {'row' if count == 1 else 'rows'}")
    if not due and not removed:
        say("nothing is due")


async def _remove(store: Store, sent: datetime, processed: datetime | None) -> None:
    await store.prune(sent)
    if processed is not None:
        await store.forget(processed)
    await store.forget_discarded()


async def _shown(
    removing: Coroutine[Any, Any, None], before: Rows, due: Callable[[], Awaitable[Rows]]
) -> None:
    """Await ``removing``; where it takes long, say how far it is."""
    total, done = sum(before.values()), 0
    task = asyncio.create_task(removing)
    try:
        with progress("removed", total) as advance:
            while not (await asyncio.wait({task}, timeout=_LOOK_SECONDS))[0]:
                now = max(done, total - sum((await due()).values()))
                advance(now - done)
                done = now
    finally:
        task.cancel()  # Nothing, once it has ended.
        await asyncio.wait({task})
    await task


def _show(changes: Sequence[SchemaChange], as_json: bool) -> None:
    if as_json:
        keys = ("version", "name", "phase", "applied")
        print_json([{key: getattr(change, key) for key in keys} for change in changes])
        return
    for change in changes:
        state = "applied" if change.applied else "missing"
        say(f"{change.version:04d}  {change.name:<24}{change.phase:<6}{state}")
