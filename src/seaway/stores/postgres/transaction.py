"""One transaction of the consuming service on PostgreSQL, from BEGIN to its end.

Owns: beginning, the inbox row, the row of a parked event, savepoints and the end. Guarantees:
committed whole or not at all, whatever the body does, also when it is cancelled; a body that ends
the transaction itself is found out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import asyncpg

from seaway.databases import sqlite_times as times
from seaway.databases.causes import causes, session_lost
from seaway.databases.ending import statement_to_its_end
from seaway.databases.refusals import Refusal
from seaway.drivers.asyncpg import (
    ERRORS,
    drop,
    in_transaction,
    lost,
    refusal,
    touched,
    translated,
    translating,
)
from seaway.drivers.asyncpg import Pooled as Handle
from seaway.errors import ConfigError, SeawayError, StoreUnavailable
from seaway.parked import Standing
from seaway.stores.postgres.connection import Pool


class PostgresTransaction:
    """``contracts.InboxTransaction``; ``handle`` is the asyncpg connection.

    Its context is its time, on a connection that nobody else uses meanwhile. ``committed`` is
    called after the commit.
    """

    _connection: Handle
    _whole: asyncpg.transaction.Transaction

    def __init__(self, pool: Pool, sql: Mapping[str, str], committed: Callable[[], None]) -> None:
        self._pool = pool
        self._sql = sql
        self._shown = pool.shown
        self._committed = committed

    async def __aenter__(self) -> Self:
        try:
            self._connection, self._whole = await self._pool.begin()
        except ERRORS as error:
            raise translated(error, self._shown) or error from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self._commit()
            self._committed()
            return
        try:
            await self._undo(error)
        finally:
            await self._pool.put_away(self._connection)

    async def _commit(self) -> None:
        connection, whole = self._connection, self._whole
        if not in_transaction(connection) and not lost(connection):
            await self._pool.put_away(connection)
            raise _ended_by_body()
        try:
            await self._pool.commit(connection, whole)
        except ERRORS as error:
            if isinstance(found := translated(error, self._shown), StoreUnavailable):
                raise found from error
            # A deferred constraint: the body's own doing, and its own error.
            raise

    async def _undo(self, error: BaseException) -> None:
        connection = self._connection
        intact = lost(connection) or connection.is_in_transaction()
        if in_transaction(connection):
            await statement_to_its_end(_roll_back(self._whole, connection))
        if (refused := _refused(error, connection, self._shown)) is not None:
            raise refused from error
        if not intact and isinstance(error, Exception) and not isinstance(error, StoreUnavailable):
            raise _ended_by_body() from error

    @property
    def handle(self) -> Handle:
        """The connection, in an open transaction. Not to be committed or rolled back."""
        return self._connection

    async def claim(self, consumer: str, event_id: str) -> bool:
        """Write the inbox row. False: it was there, so the effects are too.

        Waits for another transaction that has the same row in hand, and for its verdict.
        """
        with translating(self._shown):
            tag = await self._connection.execute(self._sql["claim"], consumer, event_id)
        return touched(tag) == 1

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        """Write the inbox rows in one statement; those that were new. Waits like ``claim``."""
        if len(event_ids) == 1:
            # What most transactions ask: the plain statement costs the server half as much.
            return {event_ids[0]} if await self.claim(consumer, event_ids[0]) else set()
        # Sorted: two transactions with the same rows in hand wait for each other in one direction.
        wanted = sorted(set(event_ids))
        with translating(self._shown):
            rows = await self._connection.fetch(self._sql["claim_many"], consumer, wanted)
        return {row[0] for row in rows}

    async def trying(self, consumer: str, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Note that each of these is tried once more; how often by now. Waits like ``claim``."""
        wanted = sorted(set(event_ids))
        with translating(self._shown):
            found = await self._connection.fetch(self._sql["trying"], consumer, wanted)
        return {row[0]: row[1] for row in found}

    async def parked_keys(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` of which anything is parked."""
        with translating(self._shown):
            found = await self._connection.fetch(self._sql["parked_keys"], consumer, list(keys))
        return {row[0] for row in found}

    async def standing(self, consumer: str, event_id: str, key: str) -> Standing:
        """Where an event stands among the parked ones of its key."""
        with translating(self._shown):
            found = await self._connection.fetch(self._sql["standing"], consumer, event_id, key)
        return Standing.of(consumer, event_id, map(times.parked, found))

    async def park(
        self, consumer: str, event_id: str, key: str, *, place: int, failed: bool
    ) -> None:
        """Write its row, or make it one without a letter again."""
        await self._execute("park", consumer, event_id, key, place, failed)

    async def set_letter(self, consumer: str, event_id: str, letter: int) -> None:
        """Its letter is stored."""
        await self._execute("set_letter", consumer, event_id, letter)

    async def release(self, consumer: str, event_id: str) -> None:
        """Remove its row. Idempotent."""
        await self._execute("release", consumer, event_id)

    async def _execute(self, name: str, *parameters: object) -> None:
        with translating(self._shown):
            await self._connection.execute(self._sql[name], *parameters)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Part of the transaction that an exception undoes alone. May be nested."""
        savepoint = self._connection.transaction()
        with translating(self._shown):
            await savepoint.start()
        try:
            yield
        except BaseException:
            if in_transaction(self._connection):
                await statement_to_its_end(savepoint.rollback())
            raise
        if not in_transaction(self._connection) and not lost(self._connection):
            raise _ended_by_body()
        with translating(self._shown):
            await statement_to_its_end(savepoint.commit())


def _refused(error: BaseException, connection: Handle, shown: str) -> SeawayError | None:
    """What the database has to do with it, whatever the body made of that. The body may meet the
    network's errors elsewhere."""
    if not isinstance(error, Exception):
        return None
    if lost(connection):
        return session_lost(shown, error, lambda found: isinstance(found, ERRORS))
    for found in causes(error):
        if refusal(found) is Refusal.AWAY:
            return translated(found, shown)
    return None


async def _roll_back(whole: asyncpg.transaction.Transaction, connection: Handle) -> None:
    try:
        await whole.rollback()
    except ERRORS:
        drop(connection)


def _ended_by_body() -> ConfigError:
    return ConfigError(
        "the code inside the transaction committed it or rolled it back itself, so its effects "
        "and its inbox row may not agree",
        hint="leave commit and rollback to Seaway; use savepoint() to undo a part",
    )
