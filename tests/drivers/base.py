"""What the suite asks of a driver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Literal


class Driver(ABC):
    """One kind of handle, on the database at ``url``."""

    engine: ClassVar[Literal["postgres", "sqlite"]] = "postgres"
    undoing: ClassVar[str] = "connection.transaction()"
    """What the user of such a handle knows as a savepoint."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def connected(self, *, autocommit: bool = False) -> AbstractAsyncContextManager[Any]:
        """A handle on which nothing has begun yet."""

    @abstractmethod
    def begun(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        """A transaction: committed at the end, rolled back by an exception."""

    @abstractmethod
    def savepoint(self, handle: Any) -> AbstractAsyncContextManager[Any]:
        """A savepoint in it: released at the end, rolled back to by an exception."""

    @abstractmethod
    async def execute(self, handle: Any, sql: str) -> None:
        """A change of the application's own."""

    @abstractmethod
    async def close(self, handle: Any) -> None:
        """As far as the driver lets a handle be closed."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A handle in a transaction of its own connection."""
        async with self.connected() as handle, self.begun(handle):
            yield handle

    @asynccontextmanager
    async def committing_each(self) -> AsyncIterator[Any]:
        """A handle in autocommit mode, in what its driver may take for a transaction."""
        async with self.connected(autocommit=True) as handle:
            yield handle
