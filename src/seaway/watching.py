"""The server and the database of a configuration, as those who watch them ask: in bounded time.

Owns: how they are reached for ``monitor``. A connection of the application's own is not shared:
what hangs here is left behind, and holds up nobody's work.
"""

from __future__ import annotations

from seaway.brokers import jetstream
from seaway.config import Settings
from seaway.contracts import Broker
from seaway.monitor import Database, Station
from seaway.stores import open_configured


def server_station(settings: Settings) -> Station[Broker]:
    """The NATS server; asking connects to it where need be."""

    async def connect() -> Broker:
        return await jetstream.connect(settings.nats)

    return Station(settings.nats.redacted_url, connect, lambda broker: broker.close())


def database_station(settings: Settings) -> Station[Database]:
    """The database; asking opens it where need be."""

    async def connect() -> Database:
        return Database(await open_configured(settings, create=False))

    return Station("the database", connect, lambda database: database.store.close())
