"""What the PostgreSQL adapters share: the statement, its parameters, and what refusals mean.

Must not run anything. Guarantees: one statement for any number of events; an error is told by its
SQLSTATE, never by its text.

Statements have PostgreSQL's own parameters (``$1``); a driver or framework with names for them gets
the same text with names (``named``), and none has a statement of its own.

With ``notify`` the same statement notifies the relays that listen; the server sends it once a
transaction, however many events that adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from seaway.errors import ConfigError, SchemaMismatch, SeawayError, StoreUnavailable
from seaway.outbox import refusals
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, duplicate, ids_of
from seaway.tables import within

_ADD = files("seaway.outbox").joinpath("sql/postgres_add.sql").read_text("utf-8").strip()
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

_MISSING = frozenset({"42P01", "42703", "42704", "3F000", "42P10"})
_TRANSIENT = ("08", "40", "53", "57", "58", "55")
_ABORTED = "25P02"


class Add(NamedTuple):
    """A statement that adds a call's rows and gives the ids that were new, and its parameters."""

    statement: str
    parameters: Sequence[Any]


def adding(rows: Sequence[OutboxRow], place: Place, *, in_binary: bool = False) -> Add:
    """One statement for any number of rows; six parameters of plain text, bytes and integers.

    One row goes as it is, any other number as an array for each column: most calls add one event,
    and arrays of one cost drivers and server more. The server's clock dates the rows: what is old
    in the outbox is asked of that, and the writer's own may be another.

    ``in_binary``: the driver sends arrays in binary. One that sends them as text would escape bytes
    in them as in a literal where ``standard_conforming_strings`` is off, and the server would take
    the escapes for the payload; so that gets them as the text that the server reads bytes from.
    """
    if len(rows) == 1:
        return Add(_add_statement(place, many=False, in_binary=in_binary), rows[0])
    columns = [list[Any](column) for column in zip(*rows, strict=True)] or [[] for _ in _TYPES]
    if not in_binary:
        columns[_PAYLOAD] = [f"\\x{payload.hex()}" for payload in columns[_PAYLOAD]]
    return Add(_add_statement(place, many=True, in_binary=in_binary), columns)


@lru_cache(maxsize=32)
def _add_statement(place: Place, *, many: bool, in_binary: bool) -> str:
    suffix = "[]" if many else ""
    casts = [f"CAST(${n} AS {kind}{suffix})" for n, kind in enumerate(_TYPES, 1)]
    if many and not in_binary:
        casts[_PAYLOAD] = f"CAST(CAST(${_PAYLOAD + 1} AS text[]) AS bytea[])"
    values = ", ".join(casts)
    add = _ADD.format(
        rows=f"unnest({values})" if many else f"(VALUES ({values}))",
        unless_sent=_UNLESS_SENT if place.own_ids else "",
    )
    add = within(add, place.schema)
    return _NOTIFYING.format(add=add) if place.notify else add


def take_back_statement(place: Place) -> str:
    """For the rows of a call of which one was refused: all of them go or none."""
    return within(_TAKE_BACK, place.schema)


def known(rows: Sequence[OutboxRow], added: Sequence[str]) -> ConfigError | None:
    """The refusal of a call whose ids were not all new."""
    if len(added) == len(rows):
        return None
    new = set(added)
    return duplicate(next(event_id for event_id in ids_of(rows) if event_id not in new))


def explain(error: BaseException, sqlstate: str | None, handle: object) -> SeawayError:
    """The error of ours that says what the writer does next."""
    code = sqlstate or ""
    if code in _MISSING:
        return SchemaMismatch(
            f"Seaway's tables are missing or old ({error}): run seaway db upgrade"
        )
    if code == _ABORTED:
        return refusals.aborted(handle)
    if not code or code.startswith(_TRANSIENT):
        return StoreUnavailable(f"roll back and try again: {error}")
    return ConfigError(f"the database refused the outbox row: {error}")
