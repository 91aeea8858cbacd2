"""Inserts the rows of a call: picks the driver, builds the statement, translates its errors.

    Outbox.add ──> adapter_for(handle).insert ──> steps of the rows ──> the driver

Owns: the statements that add, and the two adapters, for a driver of ``seaway.drivers`` and for a
fake that has none. Must not know a driver, and runs nothing itself: it gives the steps. Guarantees:
all rows of a call are written or none, and none whose id is there already; on PostgreSQL one
statement for any number of rows; an unknown handle is refused by name, never guessed at; an error
says what the writer does next.

With ``notify`` the same statement notifies the relays that listen; the server sends it once a
transaction, however many events that adds.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

from seaway import drivers
from seaway.databases.engines import POSTGRES, SQLITE, Engine
from seaway.databases.queries import Query, Statements, Steps
from seaway.databases.refusals import Refusal
from seaway.databases.sqlite_codes import is_twice
from seaway.drivers import protocols
from seaway.drivers.protocols import Errors, Writer
from seaway.errors import ConfigError, SeawayError, StoreRefused, StoreUnavailable
from seaway.outbox.encoding import OutboxRow, duplicate, ids_of
from seaway.tables import within


class Destination(NamedTuple):
    """Where an outbox is, where its engine knows schemas, and how rows go into it.

    ``schema``: default the connection's search path. ``notify``: wake relays that listen.
    ``own_ids``: the caller gave ids, which must not be those of sent events either.
    """

    schema: str | None = None
    notify: bool = False
    own_ids: bool = False


# ------------------------------------------------------------------- through which handle


class Adapter(Protocol):
    """One type of handle's way to write rows."""

    def require_transaction(self, handle: Any) -> None:
        """``OutsideTransaction`` unless one is open, ``ConfigError`` for a closed handle."""
        ...

    def insert(
        self, handle: Any, rows: Sequence[OutboxRow], destination: Destination
    ) -> list[str] | Awaitable[list[str]]:
        """Write all rows or none; their ids, awaitable where the handle is asynchronous."""
        ...


class DriverAdapter:
    """Through a driver's handle."""

    def __init__(self, writer: Writer) -> None:
        self._errors = writer.errors
        self._run = writer.run
        self.require_transaction = writer.require_transaction

    def insert(
        self, handle: Any, rows: Sequence[OutboxRow], destination: Destination
    ) -> list[str] | Awaitable[list[str]]:
        """See ``Adapter``."""

        def work(engine: Engine) -> Steps[list[str]]:
            try:
                return (yield from _WAYS[engine.name](rows, destination, engine))
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
    writer = drivers.driver_entry("HANDLES", handle_type)
    if writer is None:
        raise ConfigError(
            f"the outbox cannot write through a {drivers.name(handle_type)}",
            hint=f"it takes {drivers.HANDLES_TAKEN}",
        )
    return DriverAdapter(writer)


def _explained(errors: Errors, error: Exception) -> Exception:
    if errors.refusal(error) is Refusal.ABORTED:
        return protocols.aborted(errors.undoing)
    found = errors.translated(error, "the outbox")
    if isinstance(found, StoreRefused):
        return ConfigError(f"the database refused the outbox row: {error}")
    if isinstance(found, StoreUnavailable):
        return type(found)(f"roll back and try again: {found}")
    return found or error


# ------------------------------------------------------------------- by which statements
#
# One way an engine: it writes ``rows`` and gives their ids. ``ConfigError`` for an id that is there
# already.

_PG, _LITE = Statements(POSTGRES), Statements(SQLITE)
_TYPES = ("text", "text", "text", "bytea", "text", "bigint")
_PAYLOAD = 3


def _into_postgres(
    rows: Sequence[OutboxRow], destination: Destination, engine: Engine
) -> Steps[list[str]]:
    """One row goes as it is, any other number as an array for each column: most calls add one
    event, and arrays of one cost drivers and server more. The database's clock dates the rows:
    their age is measured by it, and the writer's clock may differ.

    With ``standard_conforming_strings`` off, a driver that sends arrays as text escapes bytes
    wrongly. Such a driver gets payloads as hex text, which the server casts to bytea.
    """
    one = len(rows) == 1
    parameters: Sequence[Any] = rows[0] if one else _columns(rows, in_binary=engine.binary)
    statement = _add_statement(destination, not one, engine.binary)
    found = yield Query(statement, parameters)
    if len(found) != len(rows):
        added = [event_id for (event_id,) in found]
        yield Query(within(_PG["take_back"], destination.schema), (added,), gives=False)
        new = set(added)
        raise duplicate(next(event_id for event_id in ids_of(rows) if event_id not in new))
    return ids_of(rows)


def _columns(rows: Sequence[OutboxRow], *, in_binary: bool) -> Sequence[Any]:
    columns = [list[Any](column) for column in zip(*rows, strict=True)] or [[] for _ in _TYPES]
    if not in_binary:
        columns[_PAYLOAD] = [f"\\x{payload.hex()}" for payload in columns[_PAYLOAD]]
    return columns


@lru_cache(maxsize=32)
def _add_statement(destination: Destination, many: bool, in_binary: bool) -> str:
    suffix = "[]" if many else ""
    casts = [f"CAST(${n} AS {kind}{suffix})" for n, kind in enumerate(_TYPES, 1)]
    if many and not in_binary:
        casts[_PAYLOAD] = f"CAST(CAST(${_PAYLOAD + 1} AS text[]) AS bytea[])"
    values = ", ".join(casts)
    add = _PG["add"].format(
        rows=f"unnest({values})" if many else f"(VALUES ({values}))",
        unless_sent=_PG["unless_sent"] if destination.own_ids else "",
    )
    add = within(add, destination.schema)
    return _PG["notifying"].format(add=add) if destination.notify else add


# ------------------------------------------------------------------- SQLite

_SAVEPOINT = Query("SAVEPOINT seaway_add", gives=False)
_RELEASE = Query("RELEASE seaway_add", gives=False)
_ROLLBACK_TO = Query("ROLLBACK TO seaway_add", gives=False)


def _into_sqlite(
    rows: Sequence[OutboxRow], destination: Destination, engine: Engine
) -> Steps[list[str]]:
    add = _LITE["add_own" if destination.own_ids else "add"]
    try:
        if len(rows) == 1:
            yield Query(add, rows[0], gives=False)
        else:
            yield from _all_or_none(Query(add, rows, gives=False, many=True))
    except Exception as error:
        if not is_twice(error):
            raise
        found = yield Query(_LITE["known"], (json.dumps(ids_of(rows)),))
        raise duplicate(found[0][0]) from error
    return ids_of(rows)


def _all_or_none(query: Query) -> Steps[None]:
    """A savepoint keeps a failure half way from leaving some of the rows."""
    yield _SAVEPOINT
    try:
        yield query
    except Exception:
        with suppress(Exception):  # Gone with its transaction, where the failure ended that.
            yield _ROLLBACK_TO
            yield _RELEASE
        raise
    yield _RELEASE


_WAYS = {POSTGRES.name: _into_postgres, SQLITE.name: _into_sqlite}


# ------------------------------------------------------------------- for type checkers
#
# By shape and not by class: an application has one of the drivers, and a class of a driver that is
# not installed would be ``Any`` to its type checker, which fits everything. At run time ``drivers``
# tells them by name.


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
