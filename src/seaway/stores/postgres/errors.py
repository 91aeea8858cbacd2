"""PostgreSQL's refusals as Seaway's errors: told by SQLSTATE, never by text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from seaway.errors import (
    ConfigError,
    SchemaMismatch,
    SeawayError,
    StoreUnavailable,
    TransactionConflict,
)

_TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
"""Connection, rollback for another transaction's sake, resources, intervention, system."""
_TRANSIENT = frozenset({"55P03", "25006", "25P03", "25P04"})
"""A lock not had in time, a server that became a standby, a transaction ended for its idleness."""
_CONFLICTS = frozenset({"40001", "40P01"})
"""A serialization failure, a deadlock."""
_SCHEMA = frozenset({"42P01", "42703", "42883", "42704", "3F000", "42P10", "23502"})
_NAME_TAKEN = frozenset({"42P07", "42P06", "42710"})
_ACCESS_CLASSES = ("28", "3D")
_NO_RIGHT = "42501"
_LOST = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The last is what asyncpg says of a session that was ended while it was idle."""

DRIVER_ERRORS = (asyncpg.PostgresError, *_LOST)
"""All that the driver raises, and the network below it."""


def sqlstate(error: BaseException) -> str:
    """The error's SQLSTATE; empty where the driver itself refused."""
    return str(getattr(error, "sqlstate", None) or "")


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed later."""
    code = sqlstate(error)
    if code:
        return code in _TRANSIENT or code.startswith(_TRANSIENT_CLASSES)
    return isinstance(error, _LOST) and not isinstance(error, ValueError)


def translated(error: BaseException, where: str) -> SeawayError:
    """The error that tells the caller's next move."""
    code = sqlstate(error)
    said = str(error) or type(error).__name__
    if is_transient(error):
        kind = TransactionConflict if code in _CONFLICTS else StoreUnavailable
        return kind(f"{where}: {said}" + (f" ({code})" if code else ""))
    if code in _SCHEMA:
        return SchemaMismatch(
            f"{where}: Seaway's tables are missing or old ({said}): run seaway db upgrade"
        )
    if code in _NAME_TAKEN:
        return ConfigError(
            f"{where}: {said}", hint="Seaway did not make it: rename it, or set database_schema"
        )
    if code.startswith(_ACCESS_CLASSES):
        return ConfigError(f"{where} does not let us in: {said}", hint="check user and database")
    if code == _NO_RIGHT:
        return ConfigError(f"{where}: {said}", hint="grant the right to this user")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigError(f"{where}: {said}", hint="check the database's URL")
    return SeawayError(f"{where}: {said}" + (f" (SQLSTATE {code})" if code else ""))


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Turns the driver's errors of our own statements into Seaway's."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translated(error, where) from error
