"""The inbox's statements with their parameters, as each engine takes them. Pure.

The statements are ``stores``' own, so that a row is written alike through every handle.
"""

from __future__ import annotations

from typing import Any

from seaway.databases import statements
from seaway.databases.engines import Engine
from seaway.databases.steps import Query


class Queries:
    """The statements of ``engine``; ``schema``: where Seaway's tables are, default where the
    connection looks."""

    def __init__(self, engine: Engine, schema: str | None) -> None:
        self._given = engine.given
        place = schema if engine.schemas else None
        self._sql = {
            **statements.load(f"{engine.name}/inbox.sql", place),
            **statements.load(f"{engine.name}/parking.sql", place),
        }

    def of(self, name: str, **given: Any) -> Query:
        """The statement of that name. ``given``: its parameters in their order; many ids or keys as
        a list."""
        statement = self._sql[name]
        return Query(statement, self._given(statement, given))
