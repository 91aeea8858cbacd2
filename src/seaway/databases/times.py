"""Times as databases hold them: aware times, or whole microseconds since 1970, UTC (SQLite, and
PostgreSQL where a driver could not read its own form). Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """An aware time as stored."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int | datetime) -> datetime:
    """A stored time; what no calendar has is the first or last day of ours."""
    if not isinstance(value, int):
        return value
    try:
        return _EPOCH + value * _MICROSECOND
    except OverflowError:
        return _LAST if value > 0 else _FIRST


def span(value: int | timedelta) -> timedelta:
    """A stored span of time."""
    return value * _MICROSECOND if isinstance(value, int) else value


def now() -> int:
    """The current time as stored."""
    return microseconds(datetime.now(UTC))
