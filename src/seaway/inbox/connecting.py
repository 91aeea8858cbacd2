"""Inboxes over a function that connects: what it connects to is known when it has.

Owns: the choice of the driver, by the first connection or by the error instead of one. Must not
import a driver that the function does not use.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

from seaway import drivers
from seaway.drivers.kept import Connections
from seaway.drivers.seam import SHOWN
from seaway.errors import ConfigError
from seaway.inbox.transaction import Inbox, Transaction


class ConnectingInbox:
    """``contracts.InboxStore``. ``connect`` gives a connection, or an awaitable of one."""

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        schema: str | None,
        committed: Callable[[], None] | None,
    ) -> None:
        self._connect = connect
        self._schema = schema
        self._committed = committed
        self._connections: Connections[Any] = Connections(self._connected)
        self._inbox: Inbox[Any] | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction[Any]]:
        """See ``Inbox``."""
        inbox = await self._decided()
        async with inbox.transaction() as opened:
            yield opened

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """See ``Inbox``."""
        return await (await self._decided()).claimed(consumer, event_ids)

    async def close(self) -> None:
        """Close every connection: they were made for the inbox. Idempotent."""
        await self._connections.close()

    async def _connected(self) -> Any:
        made = self._connect()
        return await made if inspect.isawaitable(made) else made

    async def _decided(self) -> Inbox[Any]:
        if self._inbox is not None:
            return self._inbox
        try:
            first = await self._connections.take()
        except Exception as error:
            found = drivers.translated(error, SHOWN)
            if found is None:
                raise
            raise found from error
        sessions_over = drivers.entry("KEPT", type(first))
        if sessions_over is None:
            raise ConfigError(
                f"the function given as tx= gives a {drivers.name(type(first))}",
                hint="it has to give a psycopg AsyncConnection or an aiosqlite Connection",
            )
        await self._connections.give_back(first)
        if self._inbox is None:
            self._inbox = Inbox(sessions_over(self._connections), self._schema, self._committed)
        return self._inbox
