"""NATS JetStream (``contracts.Broker``), on server 2.9 and newer; exclusive durables from 2.11,
atomic batches from 2.12.

``publish``, ``pull`` and ``admin`` are the protocol's three sides, and this class joins them. Below
them, ``api`` asks JetStream and reads its answers, ``connection`` sends, hears and asks whatever it
is, ``wire`` knows the bytes, and ``client`` is nats-py's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seaway.brokers.jetstream.admin import JetStreamAdmin
from seaway.brokers.jetstream.connecting import open_connection
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.publish import Publisher
from seaway.brokers.jetstream.pull import Pull
from seaway.config import NatsSettings
from seaway.contracts import Subscription
from seaway.errors import NotFound
from seaway.telemetry import Telemetry

__all__ = ["JetStreamBroker", "connect"]


class JetStreamBroker:
    """``contracts.Broker`` over one connection. Made by ``connect``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.admin = JetStreamAdmin(connection)
        publisher = Publisher(connection)
        self.publish, self.schedule = publisher.publish, publisher.schedule

    @property
    def epoch(self) -> int:
        return self._connection.epoch

    @property
    def connected(self) -> bool:
        """Whether the connection is up now."""
        return self._connection.connected

    @asynccontextmanager
    async def subscribe(self, stream: str, durable: str) -> AsyncIterator[Subscription]:
        info = await self.admin.consumer(stream, durable)
        if info is None:
            raise NotFound(
                f"there is no consumer {durable} on {stream}: run `seaway topology apply`"
            )
        async with Pull(self._connection, info) as pull:
            yield pull

    async def close(self) -> None:
        if self._connection.opened.elsewhere:
            return  # In a fork: the socket is the parent's, too.
        await self._connection.close()


async def connect(
    settings: NatsSettings,
    *,
    telemetry: Telemetry | None = None,
    name: str = "seaway",
    wait: bool = False,
) -> JetStreamBroker:
    """Connect to the first server that answers.

    ``wait``: try for ever; otherwise ``BrokerUnavailable`` after ``connect_timeout`` a server.
    ``ConfigError`` where credentials are refused or unreadable. Cancellation leaves nothing open.
    """
    return JetStreamBroker(
        await open_connection(settings, telemetry=telemetry or Telemetry(), name=name, wait=wait)
    )
