"""Django: its connections by alias, and the proxy of the default one.

On PostgreSQL statements run through a cursor of Django's, so its instrumentation sees them. On
SQLite they run on the driver's connection below. Other databases are refused by name. Connections
of plain handlers are in ``django_threads``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError

from seaway import drivers
from seaway.databases import sqlstates
from seaway.databases.engines import SQLITE, Engine, of_dialect
from seaway.databases.queries import Query, Row, Work, by_name, carried_out, named
from seaway.databases.refusals import Refusal
from seaway.drivers import protocols, sqlite_handles
from seaway.drivers.protocols import Errors, Handles, Writer
from seaway.errors import SeawayError

T = TypeVar("T")


def refusal(error: BaseException) -> Refusal | None:
    """See ``protocols.Errors``."""
    if isinstance(error, TransactionManagementError):
        return Refusal.ABORTED
    if not isinstance(error, DatabaseError | InterfaceError):
        return sqlite_handles.refusal(error)
    cause = error.__cause__
    if cause is not None and (means := drivers.means_below(type(cause))) is not None:
        return means.refusal(cause)
    code = sqlstates.code_of(cause)
    return sqlstates.refusal(code) if code else Refusal.AWAY


def translated(error: BaseException, where: str) -> SeawayError | None:
    """See ``protocols.Errors``."""
    if not isinstance(error, DatabaseError | InterfaceError):
        return sqlite_handles.translated(error, where)
    cause = error.__cause__
    if cause is not None and (means := drivers.means_below(type(cause))) is not None:
        return means.translated(cause, where)
    return sqlstates.translated(cause or error, where, away=True)


MEANS = Errors(refusal, translated, "an inner block of atomic()")


def require_transaction(handle: BaseDatabaseWrapper) -> None:
    """See ``protocols.Writer``. ``atomic()`` opens one, and so does switching autocommit off."""
    if known_engine(handle) is None:
        vendor = getattr(handle, "vendor", "handle without a database")
        raise protocols.unsupported(f"Django's {vendor}")
    if handle.needs_rollback:
        raise protocols.aborted(MEANS.undoing)
    if not handle.in_atomic_block and (handle.connection is None or handle.autocommit):
        raise protocols.outside(
            what="this connection is not inside atomic()",
            hint="make your change and add the event inside transaction.atomic()",
        )
    if handle.closed_in_transaction:
        raise protocols.closed("it was closed inside its transaction")


def known_engine(handle: BaseDatabaseWrapper) -> Engine | None:
    """Of the database below; ``ConfigError`` for one over a driver that nobody explains."""
    vendor = getattr(handle, "vendor", None)
    return None if vendor is None else _known(vendor, getattr(handle, "Database", None))


@lru_cache(maxsize=32)
def _known(vendor: str, driver: Any) -> Engine | None:
    """The engine of a backend over a driver whose errors are known."""
    engine = of_dialect(vendor)
    if engine is not None:
        drivers.require_explained(engine, driver, f"Django's {vendor}")
    return engine


def run(handle: BaseDatabaseWrapper, work: Work[T]) -> T:
    """See ``protocols.Writer``. But for SQLite one round trip a query."""
    engine = known_engine(handle)
    if engine is not None and engine is not SQLITE:
        return carried_out(work(engine), partial(rows_of_cursor, handle))
    handle.validate_thread_sharing()
    below = handle.connection
    if sqlite_handles.must_begin(below):
        below.execute("BEGIN")
    return carried_out(work(SQLITE), partial(sqlite_handles.rows, below))


def rows_of_cursor(handle: BaseDatabaseWrapper, query: Query) -> Sequence[Row]:
    """What ``query`` gives, through a cursor of Django's."""
    with handle.cursor() as cursor:
        cursor.execute(named(query.statement, "%({})s"), by_name(*query.parameters))
        found: Sequence[Row] = cursor.fetchall() if query.gives else ()
    return found


_WRITER = Writer(MEANS, require_transaction, run)

HANDLES: Handles = {
    "django.db.backends.base.base.BaseDatabaseWrapper": _WRITER,
    "django.utils.connection.ConnectionProxy": _WRITER,
}
