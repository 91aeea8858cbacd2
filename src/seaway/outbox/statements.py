"""How a call's rows are written, on each engine: statements, and what comes of their answers.

Owns: the statements that add. Must not know a driver, and runs nothing: it gives the steps.
Guarantees: all rows of a call are written or none, and none whose id is there already; on
PostgreSQL one statement for any number of rows.

Statements have their engine's own parameters (``$1``, ``?``); a driver or framework with names for
them gets the same text with names (``databases.statements.named``), and none has a statement of its
own.

With ``notify`` the same statement notifies the relays that listen; the server sends it once a
transaction, however many events that adds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from seaway.databases.engines import Engine
from seaway.databases.sqlite_codes import is_twice
from seaway.databases.steps import Query, Steps
from seaway.outbox.encoding import OutboxRow, duplicate, ids_of
from seaway.tables import within


@dataclass(frozen=True, slots=True)
class Place:
    """Where an outbox is, for databases that have more than one place, and how rows go into it.

    ``schema``: default the connection's search path. ``notify``: wake relays that listen.
    ``own_ids``: the caller gave ids, which must not be those of sent events either.
    """

    schema: str | None = None
    notify: bool = False
    own_ids: bool = False


def adding(rows: Sequence[OutboxRow], place: Place, engine: Engine) -> Steps[list[str]]:
    """Write ``rows``; their ids. ``ConfigError`` for an id that is there already."""
    write = _into_postgres if engine.name == "postgres" else _into_sqlite
    return write(rows, place, engine)


# ------------------------------------------------------------------- PostgreSQL

_PG_ADD, _LITE_ADD, _LITE_ADD_OWN = (
    files("seaway.outbox").joinpath(f"sql/{name}.sql").read_text("utf-8").strip()
    for name in ("postgres_add", "sqlite_add", "sqlite_add_own")
)
_NOTIFYING = (
    "WITH added AS ({add}), told AS (SELECT pg_notify('seaway_outbox', ''))\n"
    "SELECT added.event_id FROM added, told"
)
# Row by row: a join, which NOT EXISTS becomes, would not keep the rows' order.
_UNLESS_SENT = (
    "WHERE (SELECT s.event_id FROM seaway_sent s WHERE s.event_id = CAST(e.event_id AS uuid) "
    "LIMIT 1) IS NULL"
)
_TAKE_BACK = "DELETE FROM seaway_outbox WHERE event_id = ANY (CAST($1 AS uuid[]))"
_TYPES = ("text", "text", "text", "bytea", "text", "bigint")
_PAYLOAD = 3


def _into_postgres(rows: Sequence[OutboxRow], place: Place, engine: Engine) -> Steps[list[str]]:
    """One row goes as it is, any other number as an array for each column: most calls add one
    event, and arrays of one cost drivers and server more. The database's clock dates the rows:
    their age is measured by it, and the writer's clock may differ.

    With ``standard_conforming_strings`` off, a driver that sends arrays as text escapes bytes
    wrongly. Such a driver gets payloads as hex text, which the server casts to bytea.
    """
    one = len(rows) == 1
    parameters: Sequence[Any] = rows[0] if one else _columns(rows, in_binary=engine.binary)
    statement = _add_statement(place, many=not one, in_binary=engine.binary)
    found = yield Query(statement, parameters)
    if len(found) != len(rows):
        added = [event_id for (event_id,) in found]
        yield Query(within(_TAKE_BACK, place.schema), (added,), gives=False)
        new = set(added)
        raise duplicate(next(event_id for event_id in ids_of(rows) if event_id not in new))
    return ids_of(rows)


def _columns(rows: Sequence[OutboxRow], *, in_binary: bool) -> Sequence[Any]:
    columns = [list[Any](column) for column in zip(*rows, strict=True)] or [[] for _ in _TYPES]
    if not in_binary:
        columns[_PAYLOAD] = [f"\\x{payload.hex()}" for payload in columns[_PAYLOAD]]
    return columns


@lru_cache(maxsize=32)
def _add_statement(place: Place, *, many: bool, in_binary: bool) -> str:
    suffix = "[]" if many else ""
    casts = [f"CAST(${n} AS {kind}{suffix})" for n, kind in enumerate(_TYPES, 1)]
    if many and not in_binary:
        casts[_PAYLOAD] = f"CAST(CAST(${_PAYLOAD + 1} AS text[]) AS bytea[])"
    values = ", ".join(casts)
    add = _PG_ADD.format(
        rows=f"unnest({values})" if many else f"(VALUES ({values}))",
        unless_sent=_UNLESS_SENT if place.own_ids else "",
    )
    add = within(add, place.schema)
    return _NOTIFYING.format(add=add) if place.notify else add


# ------------------------------------------------------------------- SQLite

_SAVEPOINT = Query("SAVEPOINT seaway_add", gives=False)
_RELEASE = Query("RELEASE seaway_add", gives=False)
_ROLLBACK_TO = Query("ROLLBACK TO seaway_add", gives=False)
_KNOWN = """
    WITH given AS (SELECT value AS event_id FROM json_each(?))
    SELECT event_id FROM given NATURAL JOIN seaway_outbox
    UNION ALL
    SELECT event_id FROM given NATURAL JOIN seaway_sent
    LIMIT 1
"""


def _into_sqlite(rows: Sequence[OutboxRow], place: Place, engine: Engine) -> Steps[list[str]]:
    add = _LITE_ADD_OWN if place.own_ids else _LITE_ADD
    try:
        if len(rows) == 1:
            yield Query(add, rows[0], gives=False)
        else:
            yield from _all_or_none(Query(add, rows, gives=False, many=True))
    except Exception as error:
        if not is_twice(error):
            raise
        found = yield Query(_KNOWN, (json.dumps(ids_of(rows)),))
        raise duplicate(found[0][0]) from error
    return ids_of(rows)


def _all_or_none(query: Query) -> Steps[None]:
    """A savepoint keeps a failure half way from leaving some of the rows."""
    yield _SAVEPOINT
    try:
        yield query
    except Exception:
        with suppress(Exception):  # Gone with its transaction, where the failure ended that.
            yield _ROLLBACK_TO
            yield _RELEASE
        raise
    yield _RELEASE
