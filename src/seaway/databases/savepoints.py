"""Savepoints in plain SQL: the one that spans a transaction of ours, and those inside it.

Guarantees: the first dies with any COMMIT or ROLLBACK, so a body that ends the transaction itself
is found out. Must not know a driver: whoever has savepoints of its own uses those.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seaway.databases.ending import to_its_end

GUARD = "seaway_transaction"
SAVE = f"SAVEPOINT {GUARD}"
RELEASE = f"RELEASE SAVEPOINT {GUARD}"
UNDO = f"ROLLBACK TO SAVEPOINT {GUARD}"


class Savepoints(ABC):
    """Part of a ``drivers.seam.Session``, for drivers that leave savepoints to their user."""

    def __init__(self) -> None:
        self._names = (f"seaway_savepoint_{number}" for number in itertools.count(1))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See ``Session``."""
        name = next(self._names)
        await self._run(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            await to_its_end(self._undo_to(name))
            raise
        await to_its_end(self._run(f"RELEASE SAVEPOINT {name}"))

    @abstractmethod
    async def _run(self, statement: str) -> None: ...

    @abstractmethod
    async def _undo_to(self, name: str) -> None:
        """Roll back to it and release it. Where it went with its transaction, the end says so."""
