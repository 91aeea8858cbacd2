"""Inbox sessions on the store's own pool: the transaction is begun ahead of use, and ends without
giving the connection back to asyncpg's pool.

Owns: nothing but that; what a transaction guarantees, ``inbox.transaction`` says.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from seaway.databases.ending import statement_to_its_end
from seaway.drivers.asyncpg import ERRORS, MEANS, AsyncpgSession, drop
from seaway.stores.postgres.connection import Pool


class PooledSession(AsyncpgSession):
    """See ``seam.Session``. On this pool's connections a COMMIT that the server answers with
    ROLLBACK raises."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.taken = False

    async def begin(self) -> None:
        """See ``seam.Session``."""
        self.handle, self._whole = await self._pool.begin()
        self.taken = True

    def commit(self) -> Coroutine[Any, Any, None]:
        """See ``seam.Session``. The pool has the connection back, whatever happens."""
        self._require_open()
        self.taken = False
        return self._pool.commit(self.handle, self._whole)

    async def roll_back(self) -> None:
        """See ``seam.Session``."""
        self._require_open()
        if not self.lost:
            await statement_to_its_end(self._undone())

    async def _undone(self) -> None:
        try:
            await self._whole.rollback()
        except ERRORS:
            drop(self.handle)


class PooledSessions:
    """See ``seam.Sessions``."""

    errors = MEANS

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.shown = pool.shown

    async def take(self) -> PooledSession:
        """See ``seam.Sessions``. Its connection is taken when it begins."""
        return PooledSession(self._pool)

    async def give_back(self, session: PooledSession, *, failed: bool) -> None:
        """See ``seam.Sessions``."""
        if session.taken:
            await self._pool.put_away(session.handle)

    async def close(self) -> None:
        """The pool is the store's."""
