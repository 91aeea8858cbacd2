"""Which adapter writes through which database handle.

Owns: the dispatch by the handle's type. Must not import a driver: adapters are found by the
type's own name and imported when such a handle first comes, so an application pays only for the
driver that it has. Guarantees: an unknown handle is refused by name, never guessed at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from seaway.errors import ConfigError
from seaway.outbox.encoding import OutboxRow


@dataclass(frozen=True, slots=True)
class Place:
    """Where an outbox is, for databases that have more than one place, and how rows go into it.

    ``schema``: default the connection's search path. ``notify``: wake relays that listen.
    ``own_ids``: the caller gave ids, which must not be those of sent events either.
    """

    schema: str | None = None
    notify: bool = False
    own_ids: bool = False


class Adapter(Protocol):
    """One driver's way to write rows; modules and objects serve alike."""

    def require_transaction(self, handle: Any) -> None:
        """``OutsideTransaction`` unless one is open, ``ConfigError`` for a closed handle."""
        ...

    def insert(
        self, handle: Any, rows: Sequence[OutboxRow], place: Place
    ) -> list[str] | Awaitable[list[str]]:
        """Write all rows or none; their ids, awaitable where the handle is asynchronous."""
        ...


_MODULES = {
    "sqlite3.Connection": "seaway.outbox.sqlite3_adapter",
    "sqlite3.Cursor": "seaway.outbox.sqlite3_adapter",
    "aiosqlite.core.Connection": "seaway.outbox.aiosqlite_adapter",
    "asyncpg.connection.Connection": "seaway.outbox.asyncpg_adapter",
    "asyncpg.pool.PoolConnectionProxy": "seaway.outbox.asyncpg_adapter",
    "psycopg.Connection": "seaway.outbox.psycopg_adapter",
    "psycopg.Cursor": "seaway.outbox.psycopg_adapter",
    "psycopg.AsyncConnection": "seaway.outbox.psycopg_async_adapter",
    "psycopg.AsyncCursor": "seaway.outbox.psycopg_async_adapter",
    "sqlalchemy.engine.base.Connection": "seaway.outbox.sqlalchemy_adapter",
    "sqlalchemy.orm.session.Session": "seaway.outbox.sqlalchemy_adapter",
    "sqlalchemy.orm.scoping.scoped_session": "seaway.outbox.sqlalchemy_adapter",
    "sqlalchemy.ext.asyncio.engine.AsyncConnection": "seaway.outbox.sqlalchemy_async_adapter",
    "sqlalchemy.ext.asyncio.session.AsyncSession": "seaway.outbox.sqlalchemy_async_adapter",
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session": "seaway.outbox.sqlalchemy_async_adapter",
    "django.db.backends.base.base.BaseDatabaseWrapper": "seaway.outbox.django_adapter",
    "django.utils.connection.ConnectionProxy": "seaway.outbox.django_adapter",
}
_SUPPORTED = (
    "connections of sqlite3, aiosqlite, asyncpg, psycopg, SQLAlchemy and Django, and sessions of "
    "SQLAlchemy"
)

_adapters: dict[type, Adapter] = {}


def register(handle_type: type, adapter: Adapter) -> None:
    """Let ``Outbox.add`` take handles of ``handle_type``. Doing it again replaces."""
    _adapters[handle_type] = adapter


def adapter_for(handle: object) -> Adapter:
    """The adapter of the handle's type or of the nearest base class that has one."""
    handle_type = type(handle)
    found = _adapters.get(handle_type)
    if found is None:
        found = _adapters[handle_type] = _find(handle_type)
    return found


def _find(handle_type: type) -> Adapter:
    for base in handle_type.__mro__:
        if base in _adapters:
            return _adapters[base]
        module = _MODULES.get(f"{base.__module__}.{base.__qualname__}")
        if module is not None:
            return cast(Adapter, import_module(module))
    raise ConfigError(
        f"the outbox cannot write through a {handle_type.__module__}.{handle_type.__qualname__}",
        hint=f"it takes {_SUPPORTED}",
    )
