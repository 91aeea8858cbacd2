"""Rows to values and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seaway.contracts import Message, OutboxEntry, Sent
from seaway.databases import sqlite_times as times
from seaway.headers import StoredHeaders


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
