"""The inbox's statements with their parameters, as each engine takes them. Pure.

The statements are ``stores``' own, so that a row is written alike through every handle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from seaway.databases import sqlite_times as times
from seaway.databases import statements
from seaway.databases.steps import Engine, Query


class Queries:
    """The statements of ``engine``; ``schema``: where Seaway's tables are, default where the
    connection looks."""

    def __init__(self, engine: Engine, schema: str | None) -> None:
        self._in_order = engine.name == "postgres"
        # An SQLite file has no schemas.
        place = schema if engine.name == "postgres" else None
        self._sql = {
            **statements.load(f"{engine.name}/inbox.sql", place),
            **statements.load(f"{engine.name}/parking.sql", place),
        }

    def of(self, name: str, **given: Any) -> Query:
        """The statement of that name. ``given``: its parameters in their order; many ids or keys as
        a list."""
        statement = self._sql[name]
        if self._in_order:
            return Query(statement, tuple(given.values()))
        return Query(statement, _named(statement, given))


def _named(statement: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """SQLite knows neither arrays nor a clock of ours."""
    known = {name: json.dumps(v) if isinstance(v, list) else v for name, v in given.items()}
    return {**known, "now": times.now()} if ":now" in statement else known
