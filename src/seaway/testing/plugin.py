"""pytest fixtures: real servers on free ports, one for a module, one for a test that breaks it.

Loaded through the ``pytest11`` entry point, in every run of pytest beside the package: so the
imports are inside the fixtures, and all that a test could meet carries the product's name. A server
that cannot be started fails the run; nothing is skipped.
"""

from __future__ import annotations

import subprocess
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from seaway.brokers.jetstream import JetStreamBroker
    from seaway.embedded.nats_server import NatsServer
    from seaway.embedded.postgres import PostgresServer
    from seaway.embedded.process import ServerProcess
    from seaway.testing.databases import Databases

S = TypeVar("S", bound="ServerProcess")

pytest.register_assert_rewrite("seaway.testing.conformance")


_LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Tests may say which nats-server they need; an older one is not asked for what it lacks."""
    config.addinivalue_line("markers", "seaway_since(release, what): needs that nats-server for it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the server of this run is too old for; the summary says so."""
    marked = [(item, mark) for item in items for mark in item.iter_markers("seaway_since")]
    if not marked:
        return
    release = _release()
    left_out = {item: mark.args[1] for item, mark in marked if _numbers(mark.args[0]) > release}
    if left_out:
        config.stash[_LEFT_OUT] = Counter(left_out.values())
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each thing that the server lacks."""
    for what, count in terminalreporter.config.stash.get(_LEFT_OUT, Counter()).items():
        terminalreporter.write_line(f"left out, since this nats-server lacks {what}: {count}")


def _release() -> tuple[int, ...]:
    from seaway.embedded.nats_server import find_binary

    command = [str(find_binary()), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _numbers(said.rpartition("v")[2].strip())


def _numbers(release: str) -> tuple[int, ...]:
    """``(2, 15)`` of ``2.15.1``."""
    return tuple(int(part) for part in release.split(".")[:2])


@contextmanager
def _running(server: S) -> Iterator[S]:
    try:
        server.launch()
        yield server
    finally:
        server.terminate()
        server.remove()


@pytest.fixture(scope="module")
def seaway_nats_server() -> Iterator[NatsServer]:
    """A running nats-server with JetStream that the tests of one module share."""
    from seaway.embedded.nats_server import NatsServer

    with _running(NatsServer()) as server:
        yield server


@pytest.fixture
def seaway_nats_server_own() -> Iterator[NatsServer]:
    """A running nats-server of this test alone, to be stopped, killed and started again."""
    from seaway.embedded.nats_server import NatsServer

    with _running(NatsServer()) as server:
        yield server


@pytest.fixture(scope="session")
def _seaway_initdb() -> Iterator[PostgresServer]:
    """What every other one begins as: ``initdb`` takes longer than most tests."""
    from seaway.embedded.postgres import PostgresServer

    with _running(PostgresServer(trust_roles=True)) as server:
        server.terminate()
        yield server


@pytest.fixture
def seaway_postgres_server_own(
    _seaway_initdb: PostgresServer,
) -> Iterator[PostgresServer]:
    """A running PostgreSQL of this test alone, to be stopped, killed and started again."""
    from seaway.embedded.postgres import PostgresServer

    with _running(PostgresServer(trust_roles=True, like=_seaway_initdb)) as server:
        yield server


@pytest.fixture(scope="session")
def seaway_postgres_databases() -> Iterator[Databases]:
    """The PostgreSQL that the tests of a session share (``SEAWAY_TEST_POSTGRES``, or our own)."""
    from seaway.testing.databases import databases

    with databases() as opened:
        yield opened


@pytest.fixture
def seaway_postgres_url(seaway_postgres_databases: Databases) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database with Seaway's tables."""
    name = seaway_postgres_databases.create()
    yield seaway_postgres_databases.url(name)
    seaway_postgres_databases.leave(name)


@pytest.fixture
def seaway_empty_postgres_url(seaway_postgres_databases: Databases) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database with nothing in it."""
    name = seaway_postgres_databases.create(tables=False)
    yield seaway_postgres_databases.url(name)
    seaway_postgres_databases.leave(name)


@pytest.fixture
def seaway_database(tmp_path: Path) -> str:
    """The URL of the database that a dead letter's test works in: a fresh SQLite file.

    ``rehearsal`` makes Seaway's tables there. For your own, or for another database, give your
    ``conftest.py`` a fixture of this name.
    """
    return f"sqlite:///{quote(str(tmp_path / 'seaway.db'))}"


@pytest.fixture
def seaway_context_name() -> str:
    """A context that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def seaway_broker(
    seaway_nats_server: NatsServer, seaway_context_name: str
) -> AsyncIterator[JetStreamBroker]:
    """A connection to the shared server; the streams of ``seaway_context_name`` go at the end."""
    from seaway.brokers.jetstream import connect
    from seaway.config import NatsSettings

    connected = await connect(NatsSettings(url=seaway_nats_server.url))
    try:
        yield connected
        for info in await connected.admin.streams():
            if info.name.startswith(seaway_context_name.upper()):
                await connected.admin.delete_stream(info.name)
    finally:
        await connected.close()
