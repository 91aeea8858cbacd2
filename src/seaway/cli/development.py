"""``seaway run --dev``: what an application needs on a developer's machine, before it runs.

Owns: which server and which database that may be, what is made there, and the folder that keeps it.
Guarantees: nothing is made on a server that neither ``seaway dev`` nor ``--dev`` started, and no
event is taken out of an outbox that may be another machine's; what is there already is changed only
as the file says, and never so that something stored is lost. What is refused has not been touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

from seaway import naming, topology
from seaway.app import Seaway
from seaway.brokers import jetstream
from seaway.cli import printing
from seaway.config import (
    DEVELOPMENT_FILE,
    Lacking,
    NatsSettings,
    ServerUrl,
    Settings,
    written,
)
from seaway.embedded.nats_server import FOR_DEVELOPMENT, development_server, greeting
from seaway.embedded.process import FolderTaken, reachable, write_private
from seaway.errors import ConfigError
from seaway.stores import open_configured
from seaway.topology import Change, Plan

FOLDER = DEVELOPMENT_FILE.parent
_PORT = 4222
_HERE = ("127.0.0.1", "localhost")
_EXPLICIT = "seaway topology apply, seaway db upgrade, then seaway run without --dev"


async def bring_up(app: Seaway, running: AsyncExitStack) -> None:
    """Have all that ``app`` names, for as long as ``running`` is open; say what was made.

    Can be repeated. ``ConfigError`` for a server or a database that it keeps its hands off, before
    anything is made; likewise where what is there would have to lose something.
    """
    port = _port_of(app.settings)
    _refuse_other_machines(app.settings)
    missing = app.complete()
    server = await _server(port, running)
    single = (stream.model_copy(update={"replicas": 1}) for stream in app.settings.streams)
    app.settings = app.settings.model_copy(
        update={
            "nats": NatsSettings(url=f"nats://127.0.0.1:{port}"),
            "streams": tuple(single),
        }
    )
    _make_folder()
    write_private(DEVELOPMENT_FILE, f"{_ABOUT}{written(app.settings)}")
    printing.note(f"server     {app.settings.nats.url}, {server}")
    for line in await _streams(app.settings, missing):
        printing.note(line)
    printing.note(f"database   {app.settings.redacted_database}, {await _tables(app.settings)}")


_ABOUT = """\
# What `seaway run --dev` brought up here last: written anew each time, and read by seaway's
# commands in this folder where there is no seaway.yaml. `seaway init` writes that.
"""


# ------------------------------------------------------------------------------- the server


def _port_of(settings: Settings) -> int:
    """Where the server is to listen."""
    servers = settings.nats.servers
    if len(servers) > 1:
        raise ConfigError(
            f"--dev is one server on this machine, and there are {len(servers)} in "
            f"{settings.nats.redacted_url}",
            hint=f"NATS_URL=nats://127.0.0.1:{_PORT}; or, for those, {_EXPLICIT}",
        )
    [one] = servers
    if one.host not in _HERE or not one.url.startswith("nats://"):
        raise _not_ours(one, "is not one that --dev starts on this machine")
    return one.port or _PORT


def _not_ours(one: ServerUrl, why: str) -> ConfigError:
    return ConfigError(
        f"the server {one.url} {why}: nothing is made there",
        hint="another port for --dev's own: NATS_URL=nats://127.0.0.1:PORT; or, for that server, "
        + _EXPLICIT,
    )


async def _server(port: int, running: AsyncExitStack) -> str:
    """Start it, or find that of another ``seaway dev`` or ``--dev``; what it is."""
    if reachable(port):
        said = greeting(port)
        name = said.get("server_name")
        if name == FOR_DEVELOPMENT:
            return "running already; it ends with who started it"
        one = ServerUrl(f"nats://127.0.0.1:{port}", "127.0.0.1", port)
        what = f"is another one, by the name of {name}" if said else "is no nats-server"
        raise _not_ours(one, f"runs already and {what}")
    streams = FOLDER / "nats"
    before = (streams / "jetstream").exists()
    _make_folder()
    try:
        await running.enter_async_context(development_server(streams, port))
    except FolderTaken as error:
        raise ConfigError(
            f"the server of another --dev runs in {FOLDER}, on another port than {port}",
            hint="give both the same NATS_URL, or stop the other",
        ) from error
    return f"started; {FOLDER} keeps its streams" + (", as they were" if before else "")


def _make_folder() -> None:
    try:
        FOLDER.mkdir(mode=0o711, exist_ok=True)
        (FOLDER / ".gitignore").write_text("*\n")
    except OSError as error:
        raise ConfigError(f"{FOLDER} cannot be made here: {error.strerror}") from error


# ------------------------------------------------------------------------------- streams


async def _streams(settings: Settings, missing: Lacking) -> Sequence[str]:
    """Make what there is not; change what the file says otherwise; what was done."""
    broker = await jetstream.connect(settings.nats)
    try:
        wanted = topology.desired(settings)
        found = topology.plan(wanted, await topology.actual(broker.admin, wanted))
        for other in found.unmanaged:
            if other.durable is None and other.note:
                raise ConfigError(
                    f"the server has the stream {other.stream}, and {other.note}: nothing is "
                    "changed",
                    hint=f"nats stream rm {other.stream}, or another server for one of the two",
                )
        found = _kept(found, missing)
        if found.losses:
            lines = "; ".join(f"{one.title}: {'; '.join(one.reasons)}" for one in found.losses)
            raise ConfigError(
                f"what is on the server would have to go: {lines}",
                hint="seaway topology apply --allow-data-loss, or leave it in the file as it was",
            )
        done = await topology.apply(found, broker.admin)
    finally:
        await broker.close()
    return list(_said(settings, done))


def _kept(found: Plan, missing: Lacking) -> Plan:
    """``found`` without changes of what only the code names: it does not say how it is to be."""
    contexts = [naming.stream_context(stream) for stream in missing.streams]
    names = (naming.events_stream, naming.dlq_stream, naming.redrive_stream)
    unsaid = {name(context) for name in names for context in contexts} | {naming.ADVISORY_STREAM}
    durables = {durable for _, durable in missing.consumers}

    def stays(change: Change) -> bool:
        unnamed = change.stream in unsaid if change.durable is None else change.durable in durables
        return change.kind != "create" and unnamed

    return replace(found, changes=tuple(one for one in found.changes if not stays(one)))


def _said(settings: Settings, done: Sequence[Change]) -> Iterator[str]:
    made = {(one.stream, one.durable) for one in done if one.kind == "create"}
    for what, all_of in (
        ("streams", {stream.name: (stream.name, None) for stream in settings.streams}),
        ("durables", {one.durable: (one.stream, one.durable) for one in settings.consumers}),
    ):
        new = [name for name, key in all_of.items() if key in made]
        old = [name for name in all_of if name not in new]
        words = [
            f"{', '.join(names)} {so}" for names, so in ((new, "made"), (old, "there")) if names
        ]
        if words:
            yield f"{what:<11}{'; '.join(words)}"
    if changed := [one.title for one in done if one.kind != "create"]:
        yield f"changed    {', '.join(changed)}: as {settings.name} says"


# ------------------------------------------------------------------------------- the database


def _refuse_other_machines(settings: Settings) -> None:
    """Its relay would publish what waits there to this machine's server, and nobody else would
    have it."""
    if settings.database.startswith("sqlite:"):
        return
    named: list[str] = []
    with suppress(ValueError):  # Who opens it says what is wrong with it.
        url = urlsplit(settings.database)
        named = [url.hostname or "", *parse_qs(url.query).get("host", ())]
    hosts = ",".join(filter(None, named)) or os.environ.get("PGHOST", "")
    if far := [host for host in hosts.split(",") if not _is_near(host)]:
        raise ConfigError(
            f"the database {settings.redacted_database} is on another machine, {far[0]}: the "
            "events of its outbox would go to --dev's server, and to no other",
            hint=f"SEAWAY_DATABASE_URL=sqlite:///seaway.db; or, for that database, {_EXPLICIT}",
        )


def _is_near(host: str) -> bool:
    """This machine, a container beside it by its name alone, or a socket's folder."""
    near = host.startswith(("/", "127.")) or host in ("::1", "host.docker.internal")
    return near or not set(host) & {".", ":"}


async def _tables(settings: Settings) -> str:
    """Make Seaway's tables where there are none; those of an older version stay what they are."""
    store = await open_configured(settings, create=True)
    try:
        if any(change.applied for change in await store.schema.plan()):
            await store.schema.verify()
            return "tables there"
        await store.schema.upgrade()
        return "tables made"
    finally:
        await store.close()
