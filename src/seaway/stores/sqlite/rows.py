"""Rows to values and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from seaway.contracts import Message, OutboxEntry, Sent
from seaway.headers import StoredHeaders

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """An aware time as stored: microseconds since 1970, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """The inverse of ``microseconds``."""
    return _EPOCH + value * _MICROSECOND


def now() -> int:
    """The current time as stored."""
    return microseconds(datetime.now(UTC))


def entry(row: Sequence[Any]) -> OutboxEntry:
    """An outbox row in the order in which ``outbox.sql`` selects it."""
    position, event_id, subject, payload, headers, added_at, attempts, last_error, parked_at = row
    return OutboxEntry(
        position=position,
        event_id=event_id,
        message=Message(subject, payload, StoredHeaders(headers)),
        added_at=moment(added_at),
        attempts=attempts,
        last_error=last_error,
        parked_at=None if parked_at is None else moment(parked_at),
    )


def sent(row: Sequence[Any]) -> Sent:
    """A row of ``seaway_sent``: an entry, its stream and sequence."""
    *columns, stream, stream_seq = row
    return Sent(entry(columns), stream, stream_seq)


def parked(row: Sequence[Any]) -> tuple[Any, ...]:
    """A row of ``seaway_parked`` as ``stores.parking`` takes it."""
    event_id, key, place, failed, letter, parked_at, processed = row
    return event_id, key, place, bool(failed), letter, moment(parked_at), bool(processed)
