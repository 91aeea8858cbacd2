"""``seaway db``: the library's own tables, planned, upgraded, verified, printed, pruned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer

from seaway.cli.session import Json, fail, open_database, out, print_json, run, settings
from seaway.contracts import Phase, SchemaAdmin, SchemaChange
from seaway.errors import ConfigError, SchemaMismatch
from seaway.headers import format_time
from seaway.stores import open_configured, schema_script

_EVER = datetime(1970, 1, 1, tzinfo=UTC)

app = typer.Typer(no_args_is_help=True, help="Seaway's own tables in your database.")


@app.command()
def plan(ctx: typer.Context, as_json: Json = False) -> None:
    """Show which migrations the database has; exit 1 when one is missing."""

    async def look() -> Sequence[SchemaChange]:
        async with _schema(ctx) as schema:
            return await schema.plan()

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
    user with more rights. Prints what is due: with --dry-run what would go, else what was left for
    the next time because somebody was at the table.
    """

    async def work() -> tuple[datetime, datetime, Mapping[str, int]]:
        configured = settings(ctx)
        retention = configured.inbox.retention
        async with open_database(ctx) as store:
            sent = await store.before(configured.outbox.retention)
            processed = await store.before(retention) if retention else _EVER
            if not dry_run:
                await store.prune(sent)
                if retention:
                    await store.forget(processed)
            return sent, processed, await store.overdue(sent, processed)

    sent, processed, due = run(work())
    if as_json:
        kept_for_ever = processed == _EVER
        print_json(
            {
                "sent_before": format_time(sent),
                "processed_before": None if kept_for_ever else format_time(processed),
                "due": due,
            }
        )
        return
    for table, count in sorted(due.items()):
        out.print(f"{table:<24}{count:>12} rows", markup=False)
    if not due:
        out.print("nothing is due")


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
