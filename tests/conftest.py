"""What holds for all tests: none of them fails because the machine is slow; and short names for the
plugin's fixtures, which carry the product's name for whoever else has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from seaway.brokers.jetstream import JetStreamBroker
    from seaway.embedded.nats_server import NatsServer
    from seaway.embedded.postgres import PostgresServer
    from seaway.testing.databases import Databases

settings.register_profile("seaway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seaway")


@pytest.fixture(scope="module")
def nats_server(seaway_nats_server: NatsServer) -> NatsServer:
    return seaway_nats_server


@pytest.fixture
def nats_server_own(seaway_nats_server_own: NatsServer) -> NatsServer:
    return seaway_nats_server_own


@pytest.fixture
def postgres_server_own(seaway_postgres_server_own: PostgresServer) -> PostgresServer:
    return seaway_postgres_server_own


@pytest.fixture(scope="session")
def postgres_databases(seaway_postgres_databases: Databases) -> Databases:
    return seaway_postgres_databases


@pytest.fixture
def postgres_url(seaway_postgres_url: str) -> str:
    return seaway_postgres_url


@pytest.fixture
def empty_postgres_url(seaway_empty_postgres_url: str) -> str:
    return seaway_empty_postgres_url


@pytest.fixture
def context_name(seaway_context_name: str) -> str:
    return seaway_context_name


@pytest.fixture
def broker(seaway_broker: JetStreamBroker) -> JetStreamBroker:
    return seaway_broker
