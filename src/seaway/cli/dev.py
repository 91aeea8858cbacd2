"""``seaway dev``: servers for a developer's afternoon, gone without a trace at Ctrl-C."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from seaway.cli import session
from seaway.embedded.nats_server import NatsCluster, NatsServer
from seaway.embedded.postgres import PostgresServer
from seaway.embedded.process import PortTaken
from seaway.errors import ConfigError

POSTGRES_FOLDER = "postgres"
"""Where --dir keeps the database, beside the streams."""


def dev(
    ctx: typer.Context,
    port: Annotated[
        int, typer.Option(help="Port of the NATS server; 0 takes a free one.", min=0, max=65535)
    ] = 4222,
    cluster: Annotated[
        int, typer.Option(help="How many servers, each on a free port.", min=1, max=5)
    ] = 1,
    postgres: Annotated[bool, typer.Option("--postgres", help="Start PostgreSQL, too.")] = False,
    postgres_port: Annotated[
        int, typer.Option(help="Port of PostgreSQL; 0 takes a free one.", min=0, max=65535)
    ] = 5432,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Keep the data here; default: folders that are removed."),
    ] = None,
    as_json: session.Json = False,
) -> None:
    """Start nats-server with JetStream (three with --cluster 3) until Ctrl-C, and print its URL."""
    if cluster > 1 and directory is not None:
        raise typer.BadParameter("--dir keeps one server's streams, not a cluster's")

    async def work() -> None:
        async with AsyncExitStack() as servers:
            stop = servers.enter_context(session.stop_on_signals())
            nats: NatsServer | NatsCluster = (
                NatsCluster(cluster)
                if cluster > 1
                else NatsServer(store_dir=directory, port=port or None)
            )
            try:
                await servers.enter_async_context(nats)
            except PortTaken as error:
                error.hint = "choose another with --port, or 0 for a free one"
                raise
            database = None
            if postgres:
                kept = directory / POSTGRES_FOLDER if directory else None
                server = PostgresServer(store_dir=kept, port=postgres_port or None)
                try:
                    await servers.enter_async_context(server)
                except PortTaken as error:
                    error.hint = "choose another with --postgres-port, or 0 for a free one"
                    raise
                database = server.url()
            announce(ctx, nats.url, database, as_json=as_json)
            await stop.wait()

    session.run(work())


def announce(ctx: typer.Context, url: str, database: str | None, *, as_json: bool) -> None:
    """Say where the servers are, and what to type next. ``database``: the one that runs here; what
    the file says need not be exported, and would then win over the file."""
    if as_json:
        session.print_json({"nats": url, "database": database or _configured(ctx)})
        return
    session.out.print(f"export NATS_URL={url}", markup=False, soft_wrap=True)
    if database is not None:
        session.out.print(f"export SEAWAY_DATABASE_URL={database}", markup=False, soft_wrap=True)
    session.err.print(
        "Ready. Next, in another terminal: seaway topology apply, seaway db upgrade. Ctrl-C stops."
    )


def _configured(ctx: typer.Context) -> str:
    try:
        return session.settings(ctx).database
    except ConfigError:
        # Servers can be had before there is a configuration to talk about.
        return "sqlite:///seaway.db"
