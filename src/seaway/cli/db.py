"""``seaway db``: the library's own tables, planned, upgraded, verified, printed, pruned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import typer

from seaway.cli.session import (
    Json,
    err,
    fail,
    open_database,
    out,
    print_json,
    printable,
    progress,
    run,
    settings,
)
from seaway.contracts import Phase, SchemaAdmin, SchemaChange, Store
from seaway.databases.engines import SQLITE
from seaway.errors import ConfigError, NoDatabase, SchemaMismatch
from seaway.headers import format_time
from seaway.stores import open_configured, schema_script
from seaway.stores.schema import migrations

Rows: TypeAlias = Mapping[str, int]
"""How many, by table or partition."""

_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_LOOK_SECONDS = 2.0

app = typer.Typer(no_args_is_help=True, help="Seaway's own tables in your database.")


@app.command()
def plan(ctx: typer.Context, as_json: Json = False) -> None:
    """Show which migrations the database has; exit 1 when one is missing."""

    async def look() -> Sequence[SchemaChange]:
        try:
            async with _schema(ctx) as schema:
                return await schema.plan()
        except NoDatabase as error:
            err.print(printable(str(error)), markup=False, soft_wrap=True)
            return [each.change(applied=False) for each in migrations(SQLITE)]

    changes = run(look())
    _show(changes, as_json)
    if not all(change.applied for change in changes):
        raise typer.Exit(1)


@app.command()
def upgrade(
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
    phase: Phase | None = "pre" if pre else "post" if post else None

    async def apply() -> Sequence[SchemaChange]:
        if pre and post:
            raise ConfigError("give --pre or --post; for both phases at once, neither")
        async with _schema(ctx, create=True) as schema:
            return await schema.upgrade(phase)

    changes = run(apply())
    _show(changes, as_json)
    if not changes and not as_json:
        what = f"phase {phase} is complete" if phase else "the tables are up to date"
        out.print(f"nothing to do: {what}")


@app.command()
def verify(ctx: typer.Context, as_json: Json = False) -> None:
    """Exit 0 if the tables are exactly as this version needs them, else 1."""

    async def check() -> str | None:
        try:
            async with _schema(ctx) as schema:
                await schema.verify()
        except SchemaMismatch as error:
            return str(error)
        return None

    problem = run(check())
    if as_json:
        print_json({"ok": problem is None, "problem": problem})
    if problem is None:
        if not as_json:
            out.print("the tables are as they should be")
    elif as_json:
        raise typer.Exit(1)
    else:
        fail(problem, 1)


@app.command()
def sql(ctx: typer.Context) -> None:
    """Print all migrations as one script, for whoever applies them by hand."""

    async def script() -> str:
        configured = settings(ctx)
        return schema_script(configured.database, configured.database_schema)

    typer.echo(run(script()), nl=False)


@app.command()
def prune(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would go, and remove nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove sent events and inbox rows that are older than their retention.

    Relays and applications do so by themselves; this is for whoever leaves it to cron, or to a
    user with more rights. Prints what it has removed, and what was left for the next time because
    somebody was at the table; with --dry-run what would go.
    """

    async def work() -> tuple[datetime, datetime, Rows, Rows]:
        configured = settings(ctx)
        retention = configured.inbox.retention
        async with open_database(ctx) as store:
            sent = await store.before(configured.outbox.retention)
            processed = await store.before(retention) if retention else _EVER

            async def due() -> Rows:
                return await store.overdue(sent, processed)

            before = await due()
            if dry_run:
                return sent, processed, {}, before
            await _shown(_remove(store, sent, processed if retention else None), before, due)
            left = await due()
        # Rows may have come of age meanwhile.
        gone = {table: count - left.get(table, 0) for table, count in before.items()}
        return sent, processed, {t: count for t, count in gone.items() if count > 0}, left

    sent, processed, removed, due = run(work())
    if as_json:
        kept_for_ever = processed == _EVER
        print_json(
            {
                "sent_before": format_time(sent),
                "processed_before": None if kept_for_ever else format_time(processed),
                "removed": removed,
                "due": due,
            }
        )
        return
    for words, counted in (("removed", removed), ("due", due)):
        for table, count in sorted(counted.items()):
            rows = "row" if count == 1 else "rows"
            out.print(f"{words:<8} {table:<24}{count:>12} {rows}", markup=False)
    if not due and not removed:
        out.print("nothing is due")


async def _remove(store: Store, sent: datetime, processed: datetime | None) -> None:
    await store.prune(sent)
    if processed is not None:
        await store.forget(processed)


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


@asynccontextmanager
async def _schema(ctx: typer.Context, *, create: bool = False) -> AsyncIterator[SchemaAdmin]:
    store = await open_configured(settings(ctx), create=create)
    try:
        yield store.schema
    finally:
        await store.close()


def _show(changes: Sequence[SchemaChange], as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "version": change.version,
                    "name": change.name,
                    "phase": change.phase,
                    "applied": change.applied,
                }
                for change in changes
            ]
        )
        return
    for change in changes:
        state = "applied" if change.applied else "missing"
        line = f"{change.version:04d}  {change.name:<24}{change.phase:<6}{state}"
        out.print(line, markup=False)
