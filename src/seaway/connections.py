"""Connections to server and database: those an application keeps, and short ones that watch.

Owns: the connections of an application, which are opened once and kept (``Connected``); and those
of who watches (``server_station``, ``database_station``), which are made for ``monitor`` and asked
in bounded time: what hangs there is left behind, and holds up nobody's work. Guarantees: nothing
that was opened stays open where the rest cannot be; what a fork copied is left to the parent. The
client of the server is imported by who connects: a command about the database waits for none.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from seaway.config import Settings
from seaway.contracts import Broker, Store
from seaway.errors import ConfigError, StoreUnavailable
from seaway.process import Opened
from seaway.retry import Backoff
from seaway.stores import open_configured
from seaway.telemetry import Telemetry, logger
from seaway.waiting import done_before

if TYPE_CHECKING:
    from seaway.monitor import Database, Station

_AWAY = Backoff(timedelta(milliseconds=100), timedelta(seconds=2))


class Connected:
    """What has the server and the database of ``settings`` while it is entered (``async with``).

    ``wait``: keep trying where one of them is away at the start.
    """

    def __init__(self, settings: Settings, *, wait: bool) -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self.wait = wait
        self._opened: Opened | None = None
        self._broker: Broker | None = None
        self._store: Store | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stack: AsyncExitStack | None = None
        self._copied: tuple[AsyncExitStack | None, Store | None] = None, None

    @property
    def connected(self) -> bool:
        """Whether it is entered, in this process."""
        return self._broker is not None and self._opened is not None and not self._opened.elsewhere

    @property
    def broker(self) -> Broker:
        """The connection; ``ConfigError`` outside ``async with``, and in a fork of its process."""
        if self._broker is None or self._opened is None:
            raise ConfigError("the application is not connected", hint="use: async with app: ...")
        self._opened.refuse_in_fork()
        return self._broker

    async def open_store(self) -> Store:
        """The database, opened on first use and verified; ``SchemaMismatch`` names the mending."""
        if self._stack is None or self._opened is None:
            raise ConfigError("the application is not connected", hint="use: async with app: ...")
        self._opened.refuse_in_fork()
        if self._store is None:
            store = await self._reach_store()
            self._stack.push_async_callback(store.close)
            self._loop = asyncio.get_running_loop()
            self._store = store
        return self._store

    async def _reach_store(self) -> Store:
        attempt = 0
        while True:
            try:
                async with AsyncExitStack() as failed:
                    store = await open_configured(self.settings, create=False)
                    failed.push_async_callback(store.close)
                    await store.schema.verify()
                    failed.pop_all()
                    return store
            except StoreUnavailable as error:
                if not self.wait:
                    raise
                attempt += 1
                if attempt == 1:
                    logger.warning("waiting for the database: %s", error)
            await asyncio.sleep(_AWAY.delay(attempt).total_seconds())

    def nudge(self) -> None:
        """Tell the relay of this application that a transaction has committed: it looks at once.

        Call it after the commit, from any thread. Never fails and never waits; without it, or
        where no relay runs here, the relay finds the event by itself within ``outbox.poll``.

            sqlalchemy.event.listen(Session, "after_commit", lambda session: app.nudge())
            django.db.transaction.on_commit(app.nudge)
        """
        store, loop = self._store, self._loop
        if store is not None and loop is not None:
            with suppress(RuntimeError):  # The loop has ended between the two lines.
                loop.call_soon_threadsafe(store.nudge)

    async def open_in(self, stack: AsyncExitStack, stop: asyncio.Event) -> bool:
        """Connect to server and database, for as long as ``stack`` is open; false where ``stop``
        was set before that was done."""

        async def connect() -> None:
            if not self.connected:
                await stack.enter_async_context(self)
            await self.open_store()

        return await done_before(stop, connect())

    async def __aenter__(self) -> Self:
        from seaway.brokers import jetstream

        stack = AsyncExitStack()
        self._broker = await jetstream.connect(
            self.settings.nats, telemetry=self.telemetry, wait=self.wait
        )
        stack.push_async_callback(self._broker.close)
        # In a fork: kept as it was copied, since even forgetting it would end it for the parent.
        self._copied = self._stack, self._store
        self._stack, self._store, self._opened = stack, None, Opened("the application")
        return self

    async def __aexit__(self, *exc: object) -> None:
        stack, self._stack, self._broker, self._store = self._stack, None, None, None
        if stack is not None:
            await stack.aclose()


def server_station(settings: Settings) -> Station[Broker]:
    """The NATS server; asking connects to it where need be."""
    from seaway.brokers import jetstream
    from seaway.monitor import Station

    async def connect() -> Broker:
        return await jetstream.connect(settings.nats)

    return Station(settings.nats.redacted_url, connect, lambda broker: broker.close())


def database_station(settings: Settings) -> Station[Database]:
    """The database; asking opens it where need be."""
    from seaway.monitor import Database, Station

    async def connect() -> Database:
        return Database(await open_configured(settings, create=False))

    return Station("the database", connect, lambda database: database.store.close())
