"""Connections that an application's own function makes, kept for the next transaction.

Owns: them, since they were made for the inbox. Guarantees: there are at most as many as
transactions were ever open at once; once one is lost, none that stood idle beside it is used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from seaway.databases.ending import to_its_end


class Closable(Protocol):
    """Of psycopg and aiosqlite."""

    async def close(self) -> None:
        """The driver's own."""
        ...


C = TypeVar("C", bound=Closable)


class Connections(Generic[C]):
    """``take`` one, ``give_back`` it; ``close`` the idle."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, C]]) -> None:
        self._connect = connect
        self._idle: list[C] = []
        self._orphans: set[asyncio.Future[C]] = set()
        self._closed = False

    async def take(self) -> C:
        """One that nobody else has."""
        if self._idle:
            return self._idle.pop()
        made = asyncio.ensure_future(self._connect())
        try:
            return await asyncio.shield(made)
        except asyncio.CancelledError:
            # What is under way cannot be called back, and unowned it would stay open.
            self._orphans.add(made)
            made.add_done_callback(self._adopt)
            raise

    async def give_back(self, connection: C, *, lost: bool = False) -> None:
        """Nothing is open on it any more. ``lost``: it is of no more use."""
        if not lost and not self._closed:
            self._idle.append(connection)
            return
        idle, self._idle = self._idle, []
        for useless in (connection, *idle):
            await useless.close()

    async def close(self) -> None:
        """Close the idle now, and the others when they come back. Idempotent."""
        self._closed = True
        if self._orphans:
            await asyncio.wait(self._orphans)
        idle, self._idle = self._idle, []
        for connection in idle:
            await to_its_end(connection.close())

    def _adopt(self, made: asyncio.Future[C]) -> None:
        self._orphans.discard(made)
        if not made.cancelled() and made.exception() is None:
            self._idle.append(made.result())
