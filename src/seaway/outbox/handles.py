"""The shapes by which a type checker tells handles apart.

By shape and not by class: an application has one of the drivers, and a class of a driver that is
not installed would be ``Any`` to its type checker, which fits everything. At run time
``drivers`` tells them by name.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, TypeAlias


class AsyncHandle(Protocol):
    """Of asyncpg, aiosqlite, asynchronous psycopg and SQLAlchemy: ``execute`` is awaited."""

    def execute(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """The driver's own."""
        ...


class Rows(Protocol):
    """What a synchronous ``execute`` gives, and nothing that is awaited has."""

    def fetchall(self) -> Any:
        """The driver's own."""
        ...


class SyncHandle(Protocol):
    """Of sqlite3, psycopg and SQLAlchemy."""

    def execute(self, *args: Any, **kwargs: Any) -> Rows:
        """The driver's own."""
        ...


class DjangoHandle(Protocol):
    """Of Django."""

    in_atomic_block: bool


class MemoryHandle(Protocol):
    """Of ``seaway.testing``."""

    @property
    def effects(self) -> dict[Any, Any]:
        """The test's own data."""
        ...


Handle: TypeAlias = SyncHandle | DjangoHandle | MemoryHandle
