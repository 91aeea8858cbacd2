"""Django: its connections by alias, and the proxy of the default one.

On PostgreSQL statements run through a cursor of Django's, so its instrumentation sees them. On
SQLite they run on the driver's connection below. Other databases are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from django.db import DatabaseError, InterfaceError
from django.db.backends.base.base import BaseDatabaseWrapper

from seaway.databases import sqlstates
from seaway.databases.engines import POSTGRES, SQLITE
from seaway.databases.queries import Query, Row, Work, by_name, carried_out, named
from seaway.databases.refusals import Refusal
from seaway.drivers import seam, sqlite_handles
from seaway.drivers.seam import Errors, Handles, Writer
from seaway.errors import SeawayError

T = TypeVar("T")

_VENDORS = ("postgresql", "sqlite")


def refusal(error: BaseException) -> Refusal | None:
    """See ``seam.Errors``."""
    if not isinstance(error, DatabaseError | InterfaceError):
        return sqlite_handles.refusal(error)
    code = sqlstates.code_of(error.__cause__)
    return sqlstates.refusal(code) if code else Refusal.AWAY


def translated(error: BaseException, where: str) -> SeawayError | None:
    """See ``seam.Errors``."""
    if not isinstance(error, DatabaseError | InterfaceError):
        return sqlite_handles.translated(error, where)
    return sqlstates.translated(error.__cause__ or error, where, away=True)


MEANS = Errors(refusal, translated, "an inner block of atomic()")


def require_transaction(handle: BaseDatabaseWrapper) -> None:
    """See ``seam.Writer``. ``atomic()`` opens one, and so does switching autocommit off."""
    vendor = getattr(handle, "vendor", None)
    if vendor not in _VENDORS:
        raise seam.unsupported(f"Django's {vendor or 'handle without a database'}")
    if handle.needs_rollback:
        raise seam.aborted(MEANS.undoing)
    if not handle.in_atomic_block and (handle.connection is None or handle.autocommit):
        raise seam.outside(
            what="this connection is not inside atomic()",
            hint="make your change and add the event inside transaction.atomic()",
        )
    if handle.closed_in_transaction:
        raise seam.closed("it was closed inside its transaction")


def run(handle: BaseDatabaseWrapper, work: Work[T]) -> T:
    """See ``seam.Writer``. On PostgreSQL one round trip a query."""
    if handle.vendor != "sqlite":
        return carried_out(work(POSTGRES), partial(_rows, handle))
    handle.validate_thread_sharing()
    below = handle.connection
    if sqlite_handles.must_begin(below):
        below.execute("BEGIN")
    return carried_out(work(SQLITE), partial(sqlite_handles.rows, below))


def _rows(handle: BaseDatabaseWrapper, query: Query) -> Sequence[Row]:
    with handle.cursor() as cursor:
        cursor.execute(named(query.statement, "%({})s"), by_name(*query.parameters))
        found: Sequence[Row] = cursor.fetchall() if query.gives else ()
    return found


_WRITER = Writer(MEANS, require_transaction, run)

HANDLES: Handles = {
    "django.db.backends.base.base.BaseDatabaseWrapper": _WRITER,
    "django.utils.connection.ConnectionProxy": _WRITER,
}
