"""The broker suite on every broker that there is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.contracts import Broker
from seaway.embedded.nats_server import NatsServer
from seaway.testing.conformance.broker import BrokerConformance
from seaway.testing.memory_broker import MemoryBroker


@pytest.fixture
def context(context_name: str) -> str:
    """A context of this test alone."""
    return context_name


class TestMemoryBroker(BrokerConformance):
    @pytest.fixture
    async def broker(self) -> Broker:
        return MemoryBroker()


@pytest.mark.server
class TestJetStream(BrokerConformance):
    @pytest.fixture
    async def broker(self, broker: Broker, nats_server: NatsServer) -> AsyncIterator[Broker]:
        """A connection that a test may close; the plugin's own removes the streams."""
        connected = await connect(NatsSettings(url=nats_server.url))
        yield connected
        await connected.close()
