"""The engines: how each takes the parameters of its statements. Pure.

The statements of an engine lie in ``stores/sql`` under its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from seaway.databases import times

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]


def _in_order(statement: str, given: Mapping[str, Any]) -> Parameters:
    return tuple(given.values())


def _by_name(statement: str, given: Mapping[str, Any]) -> Parameters:
    """SQLite knows neither arrays nor a clock of ours."""
    known = {name: json.dumps(v) if isinstance(v, list) else v for name, v in given.items()}
    return {**known, "now": times.now()} if ":now" in statement else known


class Engine(NamedTuple):
    """The database below a handle. ``given``: turns named values, listed in the statement's order,
    into parameters as the engine takes them; ``schemas``: whether tables may be in one; ``binary``:
    whether the driver sends arrays in binary."""

    name: str
    given: Callable[[str, Mapping[str, Any]], Parameters]
    schemas: bool
    binary: bool = False


POSTGRES = Engine("postgres", _in_order, schemas=True)
SQLITE = Engine("sqlite", _by_name, schemas=False)
