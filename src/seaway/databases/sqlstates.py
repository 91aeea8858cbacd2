"""What PostgreSQL's SQLSTATEs mean, whoever asks and through whichever driver: the one table.

| SQLSTATE                      | means                              | error                   |
| ----------------------------- | ---------------------------------- | ----------------------- |
| 40001, 40P01                  | another transaction was in the way | ``TransactionConflict`` |
| 23514, by no constraint       | a day's table was made meanwhile   | ``TransactionConflict`` |
| 08, 40, 53, 57, 58            | away, or not now                   | ``StoreUnavailable``    |
| 55P03, 25006, 25P03, 25P04    | the same                           | ``StoreUnavailable``    |
| 42P01, 42703, 42883, 42704    | not the tables of this version     | ``SchemaMismatch``      |
| 3F000, 42P10, 23502           | the same                           | ``SchemaMismatch``      |
| 42P07, 42P06, 42710           | a name that is taken               | ``ConfigError``         |
| 28, 3D; 42501                 | no way in; no right                | ``ConfigError``         |
| any other                     | the statement's own fault          | ``StoreRefused``        |

25P02 says too that the transaction is aborted, 3B001 and 25P01 that it was ended. 23514 without a
constraint's name, of a table of ours, is the bound of a partition: a row on its way into the
default one waited there until its day had a partition. Pure: told by code, never by text.
"""

from __future__ import annotations

from typing import Any

from seaway.databases.refusals import Refusal
from seaway.errors import (
    ConfigError,
    SchemaMismatch,
    SeawayError,
    StoreRefused,
    StoreUnavailable,
    TransactionConflict,
)

_CONFLICTS = frozenset({"40001", "40P01"})
_TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
"""Connection, rollback for another transaction's sake, resources, intervention, system."""
_TRANSIENT = frozenset({"55P03", "25006", "25P03", "25P04"})
"""A lock not had in time, a server that became a standby, a transaction ended for its idleness."""
_SCHEMA = frozenset({"42P01", "42703", "42883", "42704", "3F000", "42P10", "23502"})
_NAME_TAKEN = frozenset({"42P07", "42P06", "42710"})
_ACCESS_CLASSES = ("28", "3D")
_NO_RIGHT = "42501"
_CHECK = "23514"
_ABORTED = "25P02"
_GONE = frozenset({"3B001", "25P01"})
"""No such savepoint, or no transaction that could have one."""
_BESIDE = {
    "55P03": ": somebody has the table, or waits for it (VACUUM FULL, REINDEX, ALTER TABLE, a "
    "transaction left open): pg_blocking_pids says who",
    "25006": ": a standby can be looked at only, so name the primary; nor does a transaction that "
    "was begun READ ONLY take what is written",
}


def code_of(error: object) -> str:
    """The SQLSTATE, whichever driver brings it; empty where the driver itself refused."""
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _came_with_its_day(error: BaseException | None) -> bool:
    """Whether the row belongs to a partition that was made while it waited."""
    if error is None:
        return False
    told: Any = getattr(error, "diag", error)
    if not hasattr(told, "table_name"):
        return _came_with_its_day(error.__cause__)  # Of which SQLAlchemy's adapter was made.
    return str(told.table_name or "").startswith("seaway_") and not told.constraint_name


def is_transient(code: str) -> bool:
    """Whether the same transaction may succeed later."""
    return code in _TRANSIENT or code.startswith(_TRANSIENT_CLASSES)


def refusal(code: str) -> Refusal:
    """What it says of the transaction that met it."""
    if is_transient(code):
        return Refusal.AWAY
    if code in _GONE:
        return Refusal.ENDED
    return Refusal.ABORTED if code == _ABORTED else Refusal.OTHER


def translated(error: BaseException, where: str, *, away: bool = False) -> SeawayError:
    """The error that tells the caller's next move, for a refusal of a statement of ours.

    ``away``: what is meant where there is no SQLSTATE.
    """
    code, said = code_of(error), str(error) or type(error).__name__
    if away and not code:
        return StoreUnavailable(f"{where}: {said}")
    if is_transient(code):
        kind = TransactionConflict if code in _CONFLICTS else StoreUnavailable
        return kind(f"{where}: {said}{_BESIDE.get(code, '')} ({code})")
    if code == _CHECK and _came_with_its_day(error):
        return TransactionConflict(f"{where}: {said} ({code})")
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
