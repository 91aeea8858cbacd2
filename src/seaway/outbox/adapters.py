"""Chooses how rows are written through a connection or session, and words the error if that fails.

Owns: the two adapters, for a driver of ``seaway.drivers`` and for a fake that has none. Must not
know a driver. Guarantees: an unknown handle is refused by name, never guessed at; an error says
what the writer does next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from seaway import drivers
from seaway.databases.engines import Engine
from seaway.databases.refusals import Refusal
from seaway.databases.steps import Steps
from seaway.drivers import refusals
from seaway.drivers.seam import Errors, Writer
from seaway.errors import ConfigError, SeawayError, StoreRefused, StoreUnavailable
from seaway.outbox.encoding import OutboxRow
from seaway.outbox.statements import Place, adding

_SUPPORTED = (
    "connections of sqlite3, aiosqlite, asyncpg, psycopg, SQLAlchemy and Django, and sessions of "
    "SQLAlchemy"
)


class Adapter(Protocol):
    """One type of handle's way to write rows."""

    def require_transaction(self, handle: Any) -> None:
        """``OutsideTransaction`` unless one is open, ``ConfigError`` for a closed handle."""
        ...

    def insert(
        self, handle: Any, rows: Sequence[OutboxRow], place: Place
    ) -> list[str] | Awaitable[list[str]]:
        """Write all rows or none; their ids, awaitable where the handle is asynchronous."""
        ...


class _Driven:
    """Through a driver's handle."""

    def __init__(self, writer: Writer) -> None:
        self._errors = writer.errors
        self._run = writer.run
        self.require_transaction = writer.require_transaction

    def insert(
        self, handle: Any, rows: Sequence[OutboxRow], place: Place
    ) -> list[str] | Awaitable[list[str]]:
        """See ``Adapter``."""

        def work(engine: Engine) -> Steps[list[str]]:
            try:
                return (yield from adding(rows, place, engine))
            except SeawayError:
                raise
            except Exception as error:
                raise _explained(self._errors, error) from error

        written: list[str] | Awaitable[list[str]] = self._run(handle, work)
        return written


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
    writer = drivers.entry("HANDLES", handle_type)
    if writer is None:
        raise ConfigError(
            f"the outbox cannot write through a {drivers.name(handle_type)}",
            hint=f"it takes {_SUPPORTED}",
        )
    return _Driven(writer)


def _explained(errors: Errors, error: Exception) -> Exception:
    if errors.refusal(error) is Refusal.ABORTED:
        return refusals.aborted(errors.undoing)
    found = errors.translated(error, "the outbox")
    if isinstance(found, StoreRefused):
        return ConfigError(f"the database refused the outbox row: {error}")
    if isinstance(found, StoreUnavailable):
        return type(found)(f"roll back and try again: {found}")
    return found or error
