"""LISTEN on a connection of its own: a relay that is told of commits instead of asking.

Owns: that connection, made again whenever it is lost. Must not know who writes. A notification is
a hint and nothing more: polling finds the same, and behind PgBouncer only that does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import asyncpg

from seaway.drivers.asyncpg import ERRORS
from seaway.retry import Backoff
from seaway.stores.postgres.address import Address
from seaway.stores.postgres.pool import listening_options
from seaway.waiting import set_within

CHANNEL = "seaway_outbox"
_BACKOFF = Backoff(timedelta(milliseconds=200), timedelta(seconds=10))
_CHECK = timedelta(seconds=30)
_HAS_IDLE_SESSION_TIMEOUT = 14


class Listener:
    """Calls ``heard`` for each notification, and once whenever it begins to listen (again)."""

    def __init__(self, address: Address, heard: Callable[[], None]) -> None:
        self._address = address
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self.listening = False
        """Whether notifications come through at the moment."""

    def start(self) -> None:
        """Begin. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="seaway listener")

    async def close(self) -> None:
        """Stop. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._listen()
                attempt = 0
            except ERRORS:
                attempt += 1  # The store's own work says what is wrong with the database.
            self.listening = False
            await asyncio.sleep(_BACKOFF.delay(attempt).total_seconds())

    async def _listen(self) -> None:
        connection = await asyncpg.connect(**listening_options(self._address))
        lost = asyncio.Event()
        try:
            if connection.get_server_version().major >= _HAS_IDLE_SESSION_TIMEOUT:
                # Listening is all that it does.
                await connection.execute("SET idle_session_timeout = 0")
            connection.add_termination_listener(lambda *_: lost.set())
            await connection.add_listener(CHANNEL, lambda *_: self._heard())
            self.listening = True
            self._heard()  # What was committed while nobody listened.
            while not await set_within(_CHECK, lost):
                await connection.execute("SELECT 1")  # A silent network ends here.
        finally:
            self.listening = False
            connection.terminate()
