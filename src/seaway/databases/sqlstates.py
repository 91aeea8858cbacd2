"""What PostgreSQL's SQLSTATEs mean for the caller: told by code, never by text. Pure."""

from __future__ import annotations

from seaway.errors import (
    ConfigError,
    SchemaMismatch,
    SeawayError,
    StoreRefused,
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

ABORTED = "25P02"
"""A statement of this transaction had failed before."""
GONE = frozenset({"3B001", "25P01"})
"""No such savepoint, or no transaction that could have one."""


def is_transient(code: str) -> bool:
    """Whether the same transaction may succeed later."""
    return code in _TRANSIENT or code.startswith(_TRANSIENT_CLASSES)


def translated(code: str, said: str, where: str) -> SeawayError:
    """The error that tells the caller's next move, for a refusal of a statement of ours."""
    if is_transient(code):
        kind = TransactionConflict if code in _CONFLICTS else StoreUnavailable
        return kind(f"{where}: {said} ({code})")
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
    return StoreRefused(f"{where}: {said}" + (f" (SQLSTATE {code})" if code else ""))
