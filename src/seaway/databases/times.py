"""Times as whole microseconds since 1970, UTC: as SQLite holds them, and as PostgreSQL gives them
where a driver could not read its own form. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """An aware time as stored."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """The inverse of ``microseconds``; what no calendar has is the first or last day of ours."""
    try:
        return _EPOCH + value * _MICROSECOND
    except OverflowError:
        return _LAST if value > 0 else _FIRST


def span(value: timedelta) -> int:
    """A span of time as stored."""
    return value // _MICROSECOND


def as_span(value: int) -> timedelta:
    """The inverse of ``span``."""
    return value * _MICROSECOND


def now() -> int:
    """The current time as stored."""
    return microseconds(datetime.now(UTC))


def parked(row: Iterable[Any]) -> tuple[Any, ...]:
    """An event that waits, and whether its event is in the inbox, as values."""
    event_id, key, place, failed, letter, parked_at, processed = row
    return event_id, key, place, bool(failed), letter, moment(parked_at), bool(processed)
