"""pytest fixtures: real servers on free ports, one for a module, one for a test that breaks it.

Loaded through the ``pytest11`` entry point, so the imports are inside the fixtures. A server that
cannot be started fails the run; nothing is skipped.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from seaway.brokers.jetstream import JetStreamBroker
    from seaway.embedded.nats_server import NatsServer
    from seaway.embedded.postgres import PostgresServer
    from seaway.embedded.process import ServerProcess
    from seaway.testing.databases import Databases

S = TypeVar("S", bound="ServerProcess")

pytest.register_assert_rewrite("seaway.testing.conformance")


@contextmanager
def _running(server: S) -> Iterator[S]:
    try:
        server.launch()
        yield server
    finally:
        server.terminate()
        server.remove()


@pytest.fixture(scope="module")
def nats_server() -> Iterator[NatsServer]:
    """A running nats-server with JetStream that the tests of one module share."""
    from seaway.embedded.nats_server import NatsServer

    with _running(NatsServer()) as server:
        yield server


@pytest.fixture
def nats_server_own() -> Iterator[NatsServer]:
    """A running nats-server of this test alone, to be stopped, killed and started again."""
    from seaway.embedded.nats_server import NatsServer

    with _running(NatsServer()) as server:
        yield server


@pytest.fixture
def postgres_server_own() -> Iterator[PostgresServer]:
    """A running PostgreSQL of this test alone, to be stopped, killed and started again."""
    from seaway.embedded.postgres import PostgresServer

    with _running(PostgresServer(trust_roles=True)) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_databases() -> Iterator[Databases]:
    """The PostgreSQL that the tests of a session share (``SEAWAY_TEST_POSTGRES``, or our own)."""
    from seaway.testing.databases import databases

    with databases() as opened:
        yield opened


@pytest.fixture
def postgres_url(postgres_databases: Databases) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database with Seaway's tables."""
    name = postgres_databases.create()
    yield postgres_databases.url(name)
    postgres_databases.drop(name)


@pytest.fixture
def empty_postgres_url(postgres_databases: Databases) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database with nothing in it."""
    name = postgres_databases.create(tables=False)
    yield postgres_databases.url(name)
    postgres_databases.drop(name)


@pytest.fixture
def context_name() -> str:
    """A context that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def broker(nats_server: NatsServer, context_name: str) -> AsyncIterator[JetStreamBroker]:
    """A connection to the shared server; the streams of ``context_name`` go at the end."""
    from seaway.brokers.jetstream import connect
    from seaway.config import NatsSettings

    connected = await connect(NatsSettings(url=nats_server.url))
    try:
        yield connected
        for info in await connected.admin.streams():
            name = info["config"]["name"]
            if name.startswith(context_name.upper()):
                await connected.admin.delete_stream(name)
    finally:
        await connected.close()
