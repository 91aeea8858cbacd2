"""Database drivers: one module per driver, named like the driver's package.

    outbox ─┐
    inbox  ─┼──> drivers.asyncpg, psycopg, sqlite3, aiosqlite, sqlalchemy, django
    stores ─┘

Owns: which transaction a handle is in, how a statement runs on it, what the driver's errors mean,
and sessions for the inbox (``protocols`` says what a module gives). Must not know any table, nor
one driver another. A module is found by the name of the package that a handle's type comes from,
and is imported when such a handle first comes: an application pays only for the driver that it has.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from seaway.databases.engines import Engine
from seaway.errors import ConfigError, SeawayError

if TYPE_CHECKING:
    from seaway.drivers.protocols import Errors

_PART_OF = {"psycopg_pool": "psycopg"}


class _Taken(NamedTuple):
    """What hints say of a driver: of its connections ``Outbox.add`` takes any."""

    shown: str
    source: str = ""
    """What ``tx=`` takes of it."""
    kept: str = ""
    """The connection that a function given as ``tx=`` may make."""
    plain_source: str = ""
    plain_kept: str = ""
    """The same for plain handlers."""


_TAKEN = (
    _Taken("sqlite3", plain_kept="a sqlite3.Connection"),
    _Taken("asyncpg", "an asyncpg Pool"),
    _Taken(
        "psycopg",
        *("a psycopg AsyncConnectionPool", "a psycopg AsyncConnection"),
        *("a psycopg ConnectionPool", "a psycopg Connection"),
    ),
    _Taken("aiosqlite", kept="an aiosqlite Connection"),
    _Taken(
        "SQLAlchemy",
        "a SQLAlchemy async_sessionmaker or AsyncEngine",
        plain_source="a SQLAlchemy sessionmaker or Engine",
    ),
    _Taken("Django", plain_source="Django(using=...)"),
)
_DRIVERS = [each.shown for each in _TAKEN]
HANDLES_TAKEN = (
    f"connections of {', '.join(_DRIVERS[:-1])} and {_DRIVERS[-1]}, and sessions of SQLAlchemy"
)
"""What ``Outbox.add`` takes."""
SOURCES_TAKEN = ", ".join(each.source for each in _TAKEN if each.source)
"""What ``tx=`` takes, but for functions and paths."""
KEPT_TAKEN = " or ".join(each.kept for each in _TAKEN if each.kept)
"""What a function given as ``tx=`` may give."""
PLAIN_SOURCES_TAKEN = ", ".join(each.plain_source for each in _TAKEN if each.plain_source)
PLAIN_KEPT_TAKEN = " or ".join(each.plain_kept for each in _TAKEN if each.plain_kept)
"""The same for plain handlers."""


def driver_entry(table: str, found: type) -> Any:
    """What ``table`` (``HANDLES``, ``SOURCES``, ``KEPT``) of a driver has for ``found`` or its
    nearest base class that is there; ``None``: no driver has anything."""
    for base in found.__mro__:
        known = getattr(_of(base), table, {}).get(name(base))
        if known is not None:
            return known
    return None


def translated(error: BaseException, where: str) -> SeawayError | None:
    """The error of ours for a driver's, whichever driver's; ``None`` for any other."""
    means = _means(type(error))
    return None if means is None else means.translated(error, where)


def means_below(found: type) -> Errors | None:
    """What errors of that type mean, for a framework over their driver; ``None`` where SQLSTATEs
    tell, or nobody does."""
    means = _means(found)
    return means if means is not None and means.for_frameworks else None


def require_explained(engine: Engine, module: Any, through: str) -> None:
    """``ConfigError`` where nobody knows what errors of the driver ``module`` mean, which is below
    ``through``: they would be taken for others."""
    if engine.sqlstates or means_below(getattr(module, "Error", object)) is not None:
        return
    raise ConfigError(
        f"{through} is over a driver whose errors Seaway cannot tell apart: "
        f"{getattr(module, '__name__', type(module).__name__)}",
        hint=f"give it another driver of {engine.shown}: Seaway knows {', '.join(_DRIVERS)}",
    )


def name(found: type) -> str:
    """As tables of drivers name a type."""
    return f"{found.__module__}.{found.__qualname__}"


def _means(found: type) -> Errors | None:
    drivers = filter(None, map(_of, found.__mro__))
    return next((cast("Errors", driver.MEANS) for driver in drivers), None)


def _of(base: type) -> Any:
    package = base.__module__.partition(".")[0]
    return _driver(_PART_OF.get(package, package))


@cache
def _driver(package: str) -> Any:
    if find_spec(f"{__name__}.{package}") is None:
        return None
    module = import_module(f"{__name__}.{package}")
    return module if hasattr(module, "MEANS") else None
