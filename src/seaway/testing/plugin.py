"""pytest fixtures: real servers on free ports, one for a module, one for a test that breaks it.

Loaded through the ``pytest11`` entry point, so the imports are inside the fixtures. A server that
cannot be started fails the run; nothing is skipped.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from seaway.brokers.jetstream import JetStreamBroker
    from seaway.embedded.nats_server import NatsServer


pytest.register_assert_rewrite("seaway.testing.conformance")


@contextmanager
def _running() -> Iterator[NatsServer]:
    from seaway.embedded.nats_server import NatsServer

    server = NatsServer()
    try:
        server.launch()
        yield server
    finally:
        server.terminate()
        server.remove()


@pytest.fixture(scope="module")
def nats_server() -> Iterator[NatsServer]:
    """A running nats-server with JetStream that the tests of one module share."""
    with _running() as server:
        yield server


@pytest.fixture
def nats_server_own() -> Iterator[NatsServer]:
    """A running nats-server of this test alone, to be stopped, killed and started again."""
    with _running() as server:
        yield server


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
