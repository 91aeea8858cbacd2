"""PostgreSQL's refusals as Seaway's errors: told by SQLSTATE, never by text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from seaway.databases import sqlstates
from seaway.errors import ConfigError, SeawayError, StoreUnavailable

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
    return sqlstates.translated(code, said, where)


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Turns the driver's errors of our own statements into Seaway's."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translated(error, where) from error
