"""``seaway init``, ``seaway dev`` and ``seaway demo``: how a developer begins.

A first ``seaway.yaml``, servers for an afternoon that are gone without a trace at Ctrl-C, and the
main job on embedded servers, with faults and a verdict.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from seaway import naming
from seaway.cli import printing, session
from seaway.cli.printing import Json, print_json, say
from seaway.config import DEFAULT_FILE, parse_duration
from seaway.demo.folder import Folder
from seaway.demo.log import XES, Columns
from seaway.demo.plan import Options, decide_plan
from seaway.demo.run import Outcome, Run
from seaway.demo.view import Progress, View, report
from seaway.embedded.nats_server import NatsCluster, NatsServer, development_server
from seaway.embedded.postgres import PostgresServer
from seaway.embedded.process import PortTaken
from seaway.errors import ConfigError
from seaway.parts import stop_on_signals

TEMPLATE = """\
# What Seaway needs to know. Values may hold ${VARIABLE} and ${VARIABLE:-default}; what the
# environment says (NATS_URL, SEAWAY_DATABASE_URL, SEAWAY_PROFILE, ...) wins over this file.
# Every key: docs/reference/configuration.md. What is commented out shows the default.

# One event stream, its dead letters and its redrives for each context, and one durable, which is
# app.consumer("@CONTEXT@", purpose="default"). To be without it, list the stream below instead.
contexts: [@CONTEXT@]

# Outbox and inbox. postgresql://user@host/database on PostgreSQL.
database: "sqlite:///seaway.db"

# The server. Credentials as the nats CLI has them: user and password, token, nkey, creds, tls_*.
# nats: {url: "nats://127.0.0.1:4222"}

# How many servers keep each stream: three in production, one on a developer's machine.
profile: development
profiles:
  development: {replicas: 1}
  production: {replicas: 3}

# One durable for each service that handles a context's events: {service}__from_{context}.
# consumers:
#   - stream: @STREAM@
#     durable: billing__from_@CONTEXT@
#     ack_wait: 120s
#     max_deliver: 20
#     max_ack_pending: 50

# Where a stream is not to be as contexts: makes it, or to be without @CONTEXT@__default: then
# take @CONTEXT@ out of contexts: above.
# streams:
#   - name: @STREAM@
#     retention: limits
#     max_age: 7d
#     max_bytes: 10GB

# outbox: {retention: 7d, max_message_bytes: 1MB, max_attempts: 10}

# alerts:
#   stream_messages_pending: 1000
#   consumer_ack_pending: 100
#   consumer_redelivery_count: 50/min
#   metadata: true  # also written where the nats CLI's checks look for thresholds
"""


def text_for(context: str) -> str:
    """The file's text for one context; ``InvalidName`` where that is none."""
    return TEMPLATE.replace("@STREAM@", naming.events_stream(context)).replace("@CONTEXT@", context)


@session.runs
async def init(
    ctx: typer.Context,
    context: Annotated[str, typer.Argument(help="The first context: a word like shop.")] = "shop",
) -> None:
    """Write a commented seaway.yaml (or the file that --config names)."""
    path = session.flags(ctx).config or Path(DEFAULT_FILE)
    text = text_for(context)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already", hint="another name: seaway --config FILE init"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    printing.note(
        f"{path} is written. Next: seaway topology plan --app MODULE:APP shows what your code "
        "names besides; seaway run MODULE:APP --dev runs it."
    )


# ------------------------------------------------------------------------------- dev

POSTGRES_FOLDER = "postgres"
"""Where --dir keeps the database, beside the streams."""


@session.runs
async def dev(
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
    as_json: Json = False,
) -> None:
    """Start nats-server with JetStream (three with --cluster 3) until Ctrl-C, and print its URL."""
    if cluster > 1 and directory is not None:
        raise typer.BadParameter("--dir keeps one server's streams, not a cluster's")

    async with AsyncExitStack() as servers:
        stop = servers.enter_context(stop_on_signals())

        async def start(server: NatsServer | NatsCluster | PostgresServer, option: str) -> None:
            try:
                await servers.enter_async_context(server)
            except PortTaken as error:
                error.hint = f"choose another with {option}, or 0 for a free one"
                raise

        nats: NatsServer | NatsCluster = (
            NatsCluster(cluster) if cluster > 1 else development_server(directory, port or None)
        )
        await start(nats, "--port")
        database = None
        if postgres:
            kept = directory / POSTGRES_FOLDER if directory else None
            server = PostgresServer(store_dir=kept, port=postgres_port or None)
            await start(server, "--postgres-port")
            database = server.url()
        if as_json:
            print_json({"nats": nats.url, "database": database or _configured(ctx)})
        else:
            say(f"export NATS_URL={nats.url}")
            if database is not None:  # What the file says need not win over the file.
                say(f"export SEAWAY_DATABASE_URL={database}")
            printing.note(
                "Ready. Next, in another terminal: seaway run MODULE:APP --dev; or seaway topology "
                "apply, seaway db upgrade. Ctrl-C stops."
            )
        await stop.wait()


def _configured(ctx: typer.Context) -> str:
    try:
        return session.settings(ctx).database
    except ConfigError:
        # Servers can be had before there is a configuration to talk about.
        return "sqlite:///seaway.db"


# ------------------------------------------------------------------------------- demo


@session.runs
async def demo(
    log: Annotated[
        Path | None,
        typer.Option(
            help="A real event log (CSV) in place of the simulated service.", metavar="CSV"
        ),
    ] = None,
    case: Annotated[
        str, typer.Option(help="The log's column of cases: their order is kept.", metavar="COLUMN")
    ] = XES.case,
    activity: Annotated[
        str, typer.Option(help="The log's column of what happened.", metavar="COLUMN")
    ] = XES.activity,
    time: Annotated[
        str, typer.Option(help="The log's column of times.", metavar="COLUMN")
    ] = XES.time,
    cases: Annotated[
        int | None, typer.Option(min=1, help="Simulated cases. [default: 1000]", metavar="N")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Keep everything there; run again to go on after a kill.", metavar="DIR"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides cases and faults. [default: 1]", metavar="N")
    ] = None,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="kill -9 processes, and stop the server for a while.")
    ] = False,
    outage: Annotated[
        str, typer.Option(help="How long --chaos stops the server.", metavar="DURATION")
    ] = "10s",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the temporary folder in any case.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the whole way on embedded servers; exit 0 only if it was exact.

    A service writes rows and events in one transaction; a relay and two
    consuming services work in processes of their own, whose pids are shown:
    kill -9 any of them. At the end every committed event is looked for in
    every place where it must be.
    """
    try:
        options = Options(
            log=log,
            columns=Columns(case, activity, time),
            cases=cases,
            seed=seed,
            chaos=chaos,
            outage=parse_duration(outage),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--outage") from error
    outcome = await _demo(options, folder.resolve() if folder else None, keep=keep)
    found = outcome.reconciliation
    with session.verdict(0 if found.exact else 1):
        if as_json:
            print_json(outcome.as_json())
        else:
            took = outcome.took_seconds
            printing.out().print(report(found, faults=outcome.faults, took_seconds=took))


async def _demo(options: Options, named: Path | None, *, keep: bool) -> Outcome:
    folder = Folder(named if named else Path(tempfile.mkdtemp(prefix="seaway-demo-")))
    # An interrupted demo leaves nothing; a failed one leaves what shows why.
    remove = named is None and not keep
    try:
        with folder.claim():
            outcome = await _run(options, folder)
        remove = remove and outcome.reconciliation.exact
        return outcome
    except Exception:
        remove = remove and folder.saved_plan() is None
        raise
    finally:
        if remove:
            shutil.rmtree(folder.path, ignore_errors=True)
        elif named is None:
            printing.note(f"everything is kept in {folder.path}")


async def _run(options: Options, folder: Folder) -> Outcome:
    plan = await asyncio.to_thread(decide_plan, options, folder.saved_plan())
    folder.keep(plan)
    about = f"log {Path(plan.log).name}" if plan.log else "simulated case management"
    title = f"{about}: {plan.cases:,} cases, {plan.events:,} events"
    progress = Progress(title, plan.events)
    with View(printing.err(), progress) as view:
        view.say(f"{title}, in {folder.path}")
        return await Run(folder, plan, options, progress, view).go()
