"""The inbox's statements with their parameters, as each engine takes them. Pure.

The statements are ``stores``' own, so that a row is written alike through every handle.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from seaway.databases import sqlite_times as times
from seaway.databases import statements
from seaway.databases.steps import Engine, Query


class Queries(Protocol):
    """What an inbox asks of its engine."""

    def claim(self, consumer: str, event_id: str) -> Query:
        """Touches one row where the claim is new, else none."""
        ...

    def claim_many(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """Gives the ids that are new."""
        ...

    def trying(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """Gives ids and how often each was tried."""
        ...

    def claimed(self, consumer: str, event_ids: Collection[str]) -> Query:
        """Gives the ids that are there."""
        ...

    def processed(self, event_id: str) -> Query:
        """Gives consumers and times, for ``moments``."""
        ...

    def moments(self, rows: Iterable[tuple[Any, ...]]) -> Mapping[str, datetime]:
        """What ``processed`` gave, its times aware."""
        ...

    def parked_keys(self, consumer: str, keys: Collection[str]) -> Query:
        """Gives those of which anything is parked."""
        ...

    def standing(self, consumer: str, event_id: str, key: str) -> Query:
        """Gives rows for ``parked``."""
        ...

    def parked(self, rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        """What ``standing`` gave, for ``contracts.Standing.of``."""
        ...

    def park(self, consumer: str, event_id: str, key: str, place: int, failed: bool) -> Query: ...
    def set_letter(self, consumer: str, event_id: str, letter: int) -> Query: ...
    def release(self, consumer: str, event_id: str) -> Query: ...


class PostgresQueries:
    """``schema``: where Seaway's tables are, default the search path's."""

    def __init__(self, schema: str | None = None) -> None:
        self._sql = {
            **statements.load("postgres/inbox.sql", schema),
            **statements.load("postgres/parking.sql", schema),
        }

    def claim(self, consumer: str, event_id: str) -> Query:
        """See ``Queries``."""
        return Query(self._sql["claim"], (consumer, event_id))

    def claim_many(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """See ``Queries``."""
        # Sorted: two transactions with the same rows in hand wait for each other in one direction.
        return Query(self._sql["claim_many"], (consumer, sorted(set(event_ids))))

    def trying(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """See ``Queries``."""
        return Query(self._sql["trying"], (consumer, sorted(set(event_ids))))

    def claimed(self, consumer: str, event_ids: Collection[str]) -> Query:
        """See ``Queries``."""
        return Query(self._sql["claimed"], (consumer, list(event_ids)))

    def processed(self, event_id: str) -> Query:
        """See ``Queries``."""
        return Query(self._sql["processed"], (event_id,))

    def moments(self, rows: Iterable[tuple[Any, ...]]) -> Mapping[str, datetime]:
        """See ``Queries``."""
        return {consumer: times.moment(at) for consumer, at in rows}

    def parked_keys(self, consumer: str, keys: Collection[str]) -> Query:
        """See ``Queries``."""
        return Query(self._sql["parked_keys"], (consumer, list(keys)))

    def standing(self, consumer: str, event_id: str, key: str) -> Query:
        """See ``Queries``."""
        return Query(self._sql["standing"], (consumer, event_id, key))

    def parked(self, rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        """See ``Queries``."""
        return map(times.parked, rows)

    def park(self, consumer: str, event_id: str, key: str, place: int, failed: bool) -> Query:
        """Write a row, or make it one without a letter again."""
        return Query(self._sql["park"], (consumer, event_id, key, place, failed))

    def set_letter(self, consumer: str, event_id: str, letter: int) -> Query:
        """Write the letter of a row."""
        return Query(self._sql["set_letter"], (consumer, event_id, letter))

    def release(self, consumer: str, event_id: str) -> Query:
        """Remove a row."""
        return Query(self._sql["release"], (consumer, event_id))


class SqliteQueries:
    """An SQLite file has no schemas."""

    def __init__(self) -> None:
        self._sql = {
            **statements.load("sqlite/inbox.sql"),
            **statements.load("sqlite/parking.sql"),
        }

    def claim(self, consumer: str, event_id: str) -> Query:
        """See ``Queries``."""
        return Query(
            self._sql["claim"], {"consumer": consumer, "event_id": event_id, "now": times.now()}
        )

    def claim_many(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """See ``Queries``."""
        given = {"consumer": consumer, "event_ids": json.dumps(list(event_ids)), "now": times.now()}
        return Query(self._sql["claim_many"], given)

    def trying(self, consumer: str, event_ids: Sequence[str]) -> Query:
        """See ``Queries``."""
        ids = json.dumps(sorted(set(event_ids)))
        return Query(
            self._sql["trying"], {"consumer": consumer, "event_ids": ids, "now": times.now()}
        )

    def claimed(self, consumer: str, event_ids: Collection[str]) -> Query:
        """See ``Queries``."""
        given = {"consumer": consumer, "event_ids": json.dumps(list(event_ids))}
        return Query(self._sql["claimed"], given)

    def processed(self, event_id: str) -> Query:
        """See ``Queries``."""
        return Query(self._sql["processed"], {"event_id": event_id})

    def moments(self, rows: Iterable[tuple[Any, ...]]) -> Mapping[str, datetime]:
        """See ``Queries``."""
        return {consumer: times.moment(at) for consumer, at in rows}

    def parked_keys(self, consumer: str, keys: Collection[str]) -> Query:
        """See ``Queries``."""
        given = {"consumer": consumer, "keys": json.dumps(list(keys))}
        return Query(self._sql["parked_keys"], given)

    def standing(self, consumer: str, event_id: str, key: str) -> Query:
        """See ``Queries``."""
        given = {"consumer": consumer, "event_id": event_id, "key": key}
        return Query(self._sql["standing"], given)

    def parked(self, rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        """See ``Queries``."""
        return map(times.parked, rows)

    def park(self, consumer: str, event_id: str, key: str, place: int, failed: bool) -> Query:
        """Write a row, or make it one without a letter again."""
        own = {"consumer": consumer, "event_id": event_id, "key": key}
        given = {**own, "place": place, "failed": failed, "now": times.now()}
        return Query(self._sql["park"], given)

    def set_letter(self, consumer: str, event_id: str, letter: int) -> Query:
        """Write the letter of a row."""
        given = {"consumer": consumer, "event_id": event_id, "letter": letter}
        return Query(self._sql["set_letter"], given)

    def release(self, consumer: str, event_id: str) -> Query:
        """Remove a row."""
        return Query(self._sql["release"], {"consumer": consumer, "event_id": event_id})


def queries_of(engine: Engine, schema: str | None) -> Queries:
    """Those of ``engine``; ``schema``: where Seaway's tables are, for one that has schemas."""
    return PostgresQueries(schema) if engine.name == "postgres" else SqliteQueries()
