"""Times as SQLite holds them: whole microseconds since 1970, UTC. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """An aware time as stored."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """The inverse of ``microseconds``."""
    return _EPOCH + value * _MICROSECOND


def span(value: timedelta) -> int:
    """A span of time as stored."""
    return value // _MICROSECOND


def as_span(value: int) -> timedelta:
    """The inverse of ``span``."""
    return value * _MICROSECOND


def now() -> int:
    """The current time as stored."""
    return microseconds(datetime.now(UTC))


def parked(row: Sequence[Any]) -> tuple[Any, ...]:
    """A row of ``seaway_parked``, and whether its event is in the inbox, as values."""
    event_id, key, place, failed, letter, parked_at, processed = row
    return event_id, key, place, bool(failed), letter, moment(parked_at), bool(processed)
