"""Synchronous connections that are made for plain handlers: each stays with its thread.

Owns: them, and the choice of their driver where an application's own function makes them. A
connection is used and closed by the thread that made it, as sqlite3 asks for. Guarantees: no more
of them than threads; once one is lost, none that is as old is used again.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from seaway import drivers
from seaway.databases.tasks import Turns
from seaway.drivers.protocols import (
    SHOWN,
    Errors,
    ThreadSession,
    ThreadSessions,
    serves_threads,
)
from seaway.errors import ConfigError


class Closable(Protocol):
    """Of psycopg and sqlite3."""

    def close(self) -> None:
        """The driver's own."""
        ...


C = TypeVar("C", bound=Closable)


class Kept(Generic[C]):
    """See ``protocols.Keeper``. ``connect`` makes a connection."""

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._own = threading.local()
        self._lock = threading.Lock()
        self._out: dict[int, C] = {}
        """Those of all threads."""
        self._losses = 0

    def take(self) -> C:
        """The calling thread's own, made where it has none that can be trusted."""
        if getattr(self._own, "since", -1) < self._losses:
            self.close()
        known: C | None = getattr(self._own, "connection", None)
        if known is None:
            self._own.since = self._losses
            known = self._own.connection = self._made()
        return known

    def _made(self) -> C:
        made = self._connect()
        with self._lock:
            if id(made) not in self._out:
                self._out[id(made)] = made
                return made
        raise ConfigError(
            "the function given as tx= gives one connection to two threads, whose transactions "
            "would be one",
            hint="have it make a connection each time that it is called",
        )

    def give_back(self, connection: C, *, lost: bool = False) -> None:
        """Nothing is open on it any more. ``lost``: it is of no more use, nor are those of other
        threads, made as long ago."""
        if lost:
            self._losses = max(self._losses, self._own.since + 1)
            self.close()

    def close(self) -> None:
        """Close the calling thread's. Idempotent."""
        connection: C | None = self._own.__dict__.pop("connection", None)
        if connection is not None:
            with self._lock:
                self._out.pop(id(connection), None)
            connection.close()


class ThreadFunctionSessions:
    """See ``protocols.ThreadSessions``. ``connect`` gives a connection."""

    plain = True
    shown = SHOWN

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._kept: Kept[Any] = Kept(self._connected)
        self._deciding = threading.Lock()
        self._sessions: ThreadSessions | None = None

    @property
    def turns(self) -> Turns | None:
        """See ``protocols.ThreadSessions``."""
        return None if self._sessions is None else self._sessions.turns

    @property
    def errors(self) -> Errors:
        """See ``protocols.Sessions``; once a session was taken."""
        assert self._sessions is not None
        return self._sessions.errors

    async def take(self) -> ThreadSession:
        if self._sessions is None:
            with self._deciding:
                self._sessions = self._sessions or self._decided()
        return await self._sessions.take()

    async def give_back(self, session: ThreadSession, *, failed: bool) -> None:
        assert self._sessions is not None
        await self._sessions.give_back(session, failed=failed)

    async def close(self) -> None:
        """Close the calling thread's connection: it was made for the inbox. Idempotent."""
        self._kept.close()

    def _connected(self) -> Any:
        made = self._connect()
        if inspect.isawaitable(made):
            if inspect.iscoroutine(made):
                made.close()
            raise _unfit("something to be awaited")
        return made

    def _decided(self) -> ThreadSessions:
        try:
            first = self._kept.take()
        except Exception as error:
            if (found := drivers.translated(error, SHOWN)) is None:
                raise
            raise found from error
        sessions_over = drivers.driver_entry("KEPT", type(first))
        sessions = None if sessions_over is None else sessions_over(self._kept)
        if not serves_threads(sessions):
            raise _unfit(f"a {drivers.name(type(first))}")
        return sessions


def _unfit(given: str) -> ConfigError:
    return ConfigError(
        f"the function given as tx= gives {given}",
        hint=f"for plain handlers it has to give {drivers.PLAIN_KEPT_TAKEN}",
    )
