"""Outbox rows as values, whatever another program wrote into them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from seaway.contracts import Message, OutboxEntry, Sent
from seaway.databases import times
from seaway.headers import StoredHeaders


def read(db: sqlite3.Connection, statement: str, given: Mapping[str, object]) -> list[sqlite3.Row]:
    """All rows of a statement. Bytes that are no text are shown as escapes, so that one such row
    holds up no other: the module's own reading refuses the whole page."""
    try:
        return db.execute(statement, given).fetchall()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) is not None:
            raise  # The database's own word, not that of the reading.
    db.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
    try:
        return db.execute(statement, given).fetchall()
    finally:
        db.text_factory = str


def entry(row: Sequence[Any]) -> OutboxEntry:
    """An outbox row in the order in which ``outbox.sql`` selects it."""
    position, event_id, subject, payload, headers, added_at, attempts, last_error, parked_at = row
    return OutboxEntry(
        position=position,
        event_id=event_id,
        message=Message(subject, payload, StoredHeaders(headers)),
        added_at=times.moment(added_at),
        attempts=attempts,
        last_error=last_error,
        parked_at=None if parked_at is None else times.moment(parked_at),
    )


def sent(row: Sequence[Any]) -> Sent:
    """A row of ``seaway_sent``: an entry, its stream and sequence."""
    *columns, stream, stream_seq = row
    return Sent(entry(columns), stream, stream_seq)
