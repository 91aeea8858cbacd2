"""PostgreSQL's refusals as Seaway's errors: told by SQLSTATE, never by text."""

from __future__ import annotations

from types import TracebackType

import asyncpg

from seaway.databases import sqlstates
from seaway.errors import ConfigError, SeawayError, StoreUnavailable

_LOCK_NOT_HAD = "55P03"
_READ_ONLY = "25006"
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
        return sqlstates.is_transient(code)
    return isinstance(error, _LOST) and not isinstance(error, ValueError)


def translated(error: BaseException, where: str) -> SeawayError:
    """The error that tells the caller's next move."""
    code = sqlstate(error)
    said = str(error) or type(error).__name__
    if not code and is_transient(error):
        return StoreUnavailable(f"{where}: {said}")
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigError(f"{where}: {said}", hint="check the database's URL")
    if code == _LOCK_NOT_HAD:
        said += ": somebody has the table, or waits for it (VACUUM FULL, REINDEX, ALTER TABLE, a "
        said += "transaction left open): pg_blocking_pids says who"
    if code == _READ_ONLY:
        said += ": a standby can be looked at only, so name the primary"
    return sqlstates.translated(code, said, where)


class translating:
    """Turns the driver's errors of our own statements into Seaway's."""

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, DRIVER_ERRORS):
            raise translated(error, self._where) from error
