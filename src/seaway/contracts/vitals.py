"""What a database says of itself besides its rows: for who looks why something goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol


class Acknowledged(NamedTuple):
    """Where a sent event lies on its stream, and when that was noted, by the database's clock."""

    stream_seq: int
    event_id: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that others have to wait for: nothing that was deleted since it began goes.

    ``who``: the application's name and its user. ``pid`` 0: a prepared one, which no session has.
    ``writes``: it has written, so that relays do not pass by what it may have added.
    """

    pid: int
    who: str
    state: str
    age: timedelta
    writes: bool


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one look shows. ``None`` and empty: this kind of database knows nothing of it."""

    clock: datetime
    """What the time is there."""
    connections: int | None = None
    """Of clients, by now."""
    most_connections: int | None = None
    """How many there can be, without those that are kept for superusers."""
    oldest: OpenTransaction | None = None
    """The oldest transaction that is open, of those that this user may see."""
    hidden: int = 0
    """How many others' transactions this user may not see."""
    without_a_day: Mapping[str, int] = field(default_factory=dict)
    """By table that has a partition for each day: how many of today, tomorrow and the day after
    have none."""
    misplaced: Mapping[str, int] = field(default_factory=dict)
    """By such a table: how many rows of those days lie in the default partition, up to 1000. While
    they do, the day cannot get its own."""
    last_sent: Mapping[str, Acknowledged] = field(default_factory=dict)
    """By stream: its highest place of a sent event."""
    sent_before: Mapping[str, Acknowledged] = field(default_factory=dict)
    """By stream: the place of an event that was sent before the given time, and that was not
    published again since."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """By stream: how many events are noted as lost by it, and not published again yet."""


class VitalStore(Protocol):
    """A store that says how it is."""

    async def vitals(self, streams: Mapping[str, datetime] | None = None) -> Vitals:
        """Look once; changes nothing. ``streams``: whose places to look for, by name, and before
        which time (``sent_before``). ``ConfigError`` where this user may not read that."""
        ...
