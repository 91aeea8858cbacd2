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
    schemas: bool
    """Whether tables may be in a schema."""
    scripts: bool
    """Whether several statements may be run as one text."""
    notifies: bool
    """Whether writers can wake the relay."""
    shards: bool
    """Whether an outbox can have several."""
    timed: bool
    """Whether tables hold aware times; else microseconds since 1970."""
    sqlstates: bool = False
    """Whether its errors are told by the SQLSTATEs of ``databases.sqlstates``, by any driver."""
    article: str = "a"
    """That of ``shown``."""
    place: str = "database"
    """What an application has one of: a database, a file."""
    value: Callable[[Any], Any] | None = None
    """Turns a value into a parameter as the engine takes it; ``None``: as it is."""
    extra: str | None = None
    """The extra of the package that brings the store's driver."""
    binary: bool = False
    """Whether the driver sends arrays in binary."""

    @property
    def one(self) -> str:
        """``shown`` with its article, to begin what people are told."""
        return f"{self.article} {self.shown}"

    @property
    def without_schemas(self) -> str:
        """What is said where a schema is named and there are none."""
        return f"{self.one} {self.place} has no schemas"


def _lite(value: Any) -> Any:
    """SQLite knows neither arrays nor times."""
    if isinstance(value, list):
        return json.dumps(value)
    return times.microseconds(value) if isinstance(value, datetime) else value


POSTGRES = Engine(
    name="postgres",
    shown="PostgreSQL",
    dialect="postgresql",
    schemes=r"postgres(ql)?(\+\w+)?",
    form="postgresql://user@host/database",
    numbered=True,
    schemas=True,
    scripts=True,
    notifies=True,
    shards=True,
    timed=True,
    sqlstates=True,
    extra="postgres",
)
SQLITE = Engine(
    name="sqlite",
    shown="SQLite",
    dialect="sqlite",
    schemes="sqlite",
    form="sqlite:///relative/path.db or sqlite:////absolute/path.db",
    numbered=False,
    schemas=False,
    scripts=False,
    notifies=False,
    shards=False,
    timed=False,
    article="an",
    place="file",
    value=_lite,
)

ENGINES = (POSTGRES, SQLITE)
SHOWN = " and ".join(engine.shown for engine in ENGINES)
SHARDED = " or ".join(engine.shown for engine in ENGINES if engine.shards)


def of_dialect(dialect: str) -> Engine | None:
    """The engine that SQLAlchemy and Django call ``dialect``."""
    return next((engine for engine in ENGINES if engine.dialect == dialect), None)


def of_scheme(scheme: str) -> Engine | None:
    """The engine whose URLs begin with ``scheme``, in any of its spellings."""
    return next((each for each in ENGINES if re.fullmatch(each.schemes, scheme)), None)
