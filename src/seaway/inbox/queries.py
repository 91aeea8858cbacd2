"""The inbox's statements with their parameters, as each engine takes them. Pure.

The statements are ``stores``' own, so that a row is written alike through every handle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from seaway.databases import sqlite_times as times
from seaway.databases import statements


@dataclass(frozen=True, slots=True)
class Query:
    """A statement and its parameters: in order (``$1``), or by name (``:consumer``)."""

    statement: str
    parameters: Sequence[Any] | Mapping[str, Any]


class Queries(Protocol):
    """What an inbox asks of its engine."""

    def claim(self, consumer: str, event_id: str) -> Query:
        """Touches one row where the claim is new, else none."""
        ...

    def claim_many(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """Gives the ids that are new."""
        ...

    def processed(self, event_id: str) -> Query:
        """Gives consumers and times, for ``moments``."""
        ...

    def moments(self, rows: Iterable[tuple[Any, ...]]) -> Mapping[str, datetime]:
        """What ``processed`` gave, its times aware."""
        ...


class PostgresQueries:
    """``schema``: where Seaway's tables are, default the search path's."""

    def __init__(self, schema: str | None = None) -> None:
        self._sql = statements.load("postgres/inbox.sql", schema)

    def claim(self, consumer: str, event_id: str) -> Query:
        """See ``Queries``."""
        return Query(self._sql["claim"], (consumer, event_id))

    def claim_many(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """See ``Queries``."""
        # Sorted: two transactions with the same rows in hand wait for each other in one direction.
        return Query(self._sql["claim_many"], (consumer, sorted(set(event_ids))))

    def processed(self, event_id: str) -> Query:
        """See ``Queries``."""
        return Query(self._sql["processed"], (event_id,))

    def moments(self, rows: Iterable[tuple[Any, ...]]) -> Mapping[str, datetime]:
        """See ``Queries``."""
        return dict(rows)


class SqliteQueries:
    """An SQLite file has no schemas."""

    def __init__(self) -> None:
        self._sql = statements.load("sqlite/inbox.sql")

    def claim(self, consumer: str, event_id: str) -> Query:
        """See ``Queries``."""
        return Query(
            self._sql["claim"], {"consumer": consumer, "event_id": event_id, "now": times.now()}
        )

    def claim_many(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """See ``Queries``."""
        given = {"consumer": consumer, "event_ids": json.dumps(list(event_ids)), "now": times.now()}
        return Query(self._sql["claim_many"], given)

    def processed(self, event_id: str) -> Query:
        """See ``Queries``."""
        return Query(self._sql["processed"], {"event_id": event_id})

    def moments(self, rows: Iterable[tuple[Any, ...]]) -> Mapping[str, datetime]:
        """See ``Queries``."""
        return {consumer: times.moment(at) for consumer, at in rows}
