"""Connections that an application's own function makes, kept for the next transaction.

Owns: them, since they were made for the inbox, and the choice of their driver: by the first one, or
by the error instead of it. Guarantees: there are at most as many as transactions were ever open at
once; once one is lost, none that stood idle beside it is used again.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from seaway import drivers
from seaway.databases.tasks import to_its_end
from seaway.drivers.protocols import SHOWN, Errors, Session, Sessions, serves_threads
from seaway.errors import ConfigError


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
        try:
            if self._orphans:
                await asyncio.wait(self._orphans)
        finally:
            await to_its_end(self._close_idle())

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    def _adopt(self, made: asyncio.Future[C]) -> None:
        self._orphans.discard(made)
        if not made.cancelled() and made.exception() is None:
            self._idle.append(made.result())


class FunctionSessions:
    """See ``protocols.Sessions``. ``connect`` gives a connection, or an awaitable of one."""

    shown = SHOWN

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connections: Connections[Any] = Connections(self._connected)
        self._sessions: Sessions | None = None

    @property
    def errors(self) -> Errors:
        """See ``protocols.Sessions``; once a session was taken."""
        assert self._sessions is not None
        return self._sessions.errors

    async def take(self) -> Session:
        if self._sessions is None:
            self._sessions = await self._decided()
        return await self._sessions.take()

    async def give_back(self, session: Session, *, failed: bool) -> None:
        assert self._sessions is not None
        await self._sessions.give_back(session, failed=failed)

    async def close(self) -> None:
        """Close every connection: they were made for the inbox. Idempotent."""
        await self._connections.close()

    async def _connected(self) -> Any:
        made = self._connect()
        return await made if inspect.isawaitable(made) else made

    async def _decided(self) -> Sessions:
        try:
            first = await self._connections.take()
        except Exception as error:
            if (found := drivers.translated(error, SHOWN)) is None:
                raise
            raise found from error
        sessions_over = drivers.driver_entry("KEPT", type(first))
        sessions = None if sessions_over is None else sessions_over(self._connections)
        if sessions is None or serves_threads(sessions):
            if sessions is not None:
                first.close()
            raise ConfigError(
                f"the function given as tx= gives a {drivers.name(type(first))}",
                hint=f"for async handlers it has to give {drivers.KEPT_TAKEN}",
            )
        await self._connections.give_back(first)
        # Another task may have come first, and has its turn with what that one made.
        return self._sessions or sessions
