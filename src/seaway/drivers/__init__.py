"""Database drivers: one module a driver, called as its package is.

    outbox ─┐
    inbox  ─┼──> drivers.asyncpg, psycopg, sqlite3, aiosqlite, sqlalchemy, django
    stores ─┘

Owns: which transaction a handle is in, how a statement runs on it, what the driver's errors mean,
and sessions for the inbox (``seam`` says what a module gives). Must not know any table, nor one
driver another. A module is found by the name of the package that a handle's type comes from, and is
imported when such a handle first comes: an application pays only for the driver that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from seaway.errors import SeawayError

_PART_OF = {"psycopg_pool": "psycopg"}


def entry(table: str, found: type) -> Any:
    """What ``table`` (``HANDLES``, ``SOURCES``, ``KEPT``) of a driver has for ``found`` or its
    nearest base class that is there; ``None``: no driver has anything."""
    for base in found.__mro__:
        for module in _modules(base):
            known = getattr(module, table, {}).get(name(base))
            if known is not None:
                return known
    return None


def translated(error: BaseException, where: str) -> SeawayError | None:
    """The error of ours for a driver's, whichever driver's; ``None`` for any other."""
    for base in type(error).__mro__:
        for module in _modules(base):
            if (said := module.MEANS.translated(error, where)) is not None:
                return cast(SeawayError, said)
    return None


def name(found: type) -> str:
    """As tables of drivers name a type."""
    return f"{found.__module__}.{found.__qualname__}"


def _modules(base: type) -> Iterator[Any]:
    package = base.__module__.partition(".")[0]
    module = _module(_PART_OF.get(package, package))
    if module is not None:
        yield module


@cache
def _module(package: str) -> Any:
    there = find_spec(f"{__name__}.{package}") is not None
    return import_module(f"{__name__}.{package}") if there else None
