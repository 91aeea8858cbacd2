"""The engines that outbox, inbox and stores know: one line each in ``ENGINES``. Pure.

What an engine is made of lies in ``stores`` under its name: its statements, its migrations and its
store. What its error codes mean is a module beside this one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from seaway.databases import times


class Engine(NamedTuple):
    """The database below a handle."""

    name: str
    """Its folder under ``stores``."""
    shown: str
    """What people call it."""
    dialect: str
    """What SQLAlchemy and Django call it."""
    schemes: str
    """A pattern for how its URLs begin."""
    form: str
    """What they look like."""
    numbered: bool
    """Whether a statement's parameters are ``$1``, in order; else they are ``:named``."""
    value: Callable[[Any], Any]
    """Turns a value into a parameter as the engine takes it."""
    schemas: bool
    """Whether tables may be in a schema."""
    scripts: bool
    """Whether several statements may be run as one text."""
    extra: str | None = None
    """The extra of the package that brings the store's driver."""
    binary: bool = False
    """Whether the driver sends arrays in binary."""


def _as_it_is(value: Any) -> Any:
    return value


def _lite(value: Any) -> Any:
    """SQLite knows neither arrays nor times."""
    if isinstance(value, list):
        return json.dumps(value)
    return times.microseconds(value) if isinstance(value, datetime) else value


POSTGRES = Engine(
    "postgres",
    "PostgreSQL",
    "postgresql",
    r"postgres(ql)?(\+\w+)?",
    "postgresql://user@host/database",
    numbered=True,
    value=_as_it_is,
    schemas=True,
    scripts=True,
    extra="postgres",
)
SQLITE = Engine(
    "sqlite",
    "SQLite",
    "sqlite",
    "sqlite",
    "sqlite:///relative/path.db or sqlite:////absolute/path.db",
    numbered=False,
    value=_lite,
    schemas=False,
    scripts=False,
)

ENGINES = (POSTGRES, SQLITE)
SHOWN = " and ".join(engine.shown for engine in ENGINES)


def of_dialect(dialect: str) -> Engine | None:
    """The engine that SQLAlchemy and Django call ``dialect``."""
    return next((engine for engine in ENGINES if engine.dialect == dialect), None)


def of_scheme(scheme: str) -> Engine | None:
    """The engine whose URLs begin with ``scheme``, in any of its spellings."""
    return next((each for each in ENGINES if re.fullmatch(each.schemes, scheme)), None)
