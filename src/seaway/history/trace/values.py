"""A trace as values: members, and the steps that each took. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from seaway import headers as h

BAD = frozenset({"dead letter", "parked", "given up", "discarded", "lost"})
"""Steps that somebody has to look at."""
OPEN = frozenset({"waits", "tried", "on its way", "redriven", "scheduled", "in the outbox"})
"""Steps after which something is still to come."""
WAS_LETTER = "was a letter"
"""And is none any more: redriven, discarded or made again, as the steps after it say."""
PUBLISHED = frozenset({"published", "published again", "healed"})
"""Steps by which an event came onto a stream."""


@dataclass(slots=True)
class Step:
    """A station of an event. ``clock``: whose time ``at`` is."""

    what: str
    at: datetime | None = None
    clock: str = ""
    where: str = ""
    """A stream and sequence, or a consumer."""
    detail: str = ""
    took: timedelta | None = None
    """Since the step before it; negative: two clocks differ."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "what": self.what,
            "at": h.format_time(self.at) if self.at else None,
            "clock": self.clock,
            "where": self.where,
            "detail": self.detail,
            "seconds": None if self.took is None else self.took.total_seconds(),
            "clocks_differ": self.took is not None and self.took < timedelta(),
        }


@dataclass(slots=True)
class Member:
    """An event of a trace. ``parent``: the member that caused it, as far as there is one."""

    event_id: str
    subject: str = ""
    correlation_id: str = ""
    causation_id: str | None = None
    key: str = ""
    steps: list[Step] = field(default_factory=list)
    parent: str | None = None
    flaw: str = ""
    places: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, event_id: str, subject: str, headers: Mapping[str, str]) -> Member:
        """What headers say, however broken they are."""
        cause = headers.get(h.CAUSATION_ID)
        return cls(
            event_id,
            subject,
            h.correlation(headers) or event_id,
            cause if cause and h.usable(cause) else None,
            h.ordering_key(subject, headers),
        )

    @property
    def context(self) -> str:
        """Whose event it is."""
        return self.subject.partition(".")[0] or "?"

    @property
    def name(self) -> str:
        """``case_created v1`` of its subject."""
        return self.subject.partition(".event.")[2].replace(".v", " v") or self.subject or "?"

    @property
    def at(self) -> datetime | None:
        """When it came to be, as far as is known."""
        found = next((one.at for one in self.steps if one.at), None)
        return found or time_of(self.event_id)

    @property
    def state(self) -> str:
        """In a word: what it came to."""
        whats = [one.what for one in self.steps]
        for some in (BAD, OPEN):
            if found := [what for what in whats if what in some]:
                return found[0]
        consumed = [one.what for one in self.steps if "__" in one.where]
        return (consumed or whats or ["unknown"])[-1]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "event_id": self.event_id,
            "subject": self.subject,
            "key": self.key,
            "correlation_id": self.correlation_id,
            "causation_id": self.causation_id,
            "parent": self.parent,
            "flaw": self.flaw,
            "state": self.state,
            "steps": [one.as_json() for one in self.steps],
        }


@dataclass(slots=True)
class Search:
    """How far a stream was searched: so many headers, of what was stored ``since`` and ``until``
    then; ``None``: from its beginning, to its end."""

    headers: int = 0
    since: datetime | None = None
    until: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "headers": self.headers,
            "since": h.format_time(self.since) if self.since else None,
            "until": h.format_time(self.until) if self.until else None,
        }


@dataclass(slots=True)
class Trace:
    """What was found of ``wanted``, what was asked, and what could not be."""

    wanted: str
    correlation_id: str = ""
    members: dict[str, Member] = field(default_factory=dict)
    searched: list[str] = field(default_factory=list)
    """Stations that answered."""
    away: dict[str, str] = field(default_factory=dict)
    """Stations that could not be asked, and why."""
    streams: dict[str, Search] = field(default_factory=dict)
    """How far each was searched."""
    unsearched: dict[str, str] = field(default_factory=dict)
    """Streams that were not, and why."""
    notes: list[str] = field(default_factory=list)

    @property
    def times(self) -> tuple[datetime, datetime] | None:
        """When the first and the last of all steps were, as far as is known."""
        at = [one.at for member in self.members.values() for one in member.steps if one.at]
        return (min(at), max(at)) if at else None

    def as_json(self) -> dict[str, Any]:
        """All but the members."""
        return {
            "id": self.wanted,
            "correlation_id": self.correlation_id,
            "searched": self.searched,
            "away": self.away,
            "streams": {name: one.as_json() for name, one in self.streams.items()},
            "unsearched": self.unsearched,
            "notes": self.notes,
        }


def time_of(event_id: str) -> datetime | None:
    """When a UUIDv7 was made; ``None`` for any other text."""
    try:
        found = UUID(event_id)
        if found.version != 7:
            return None
        return datetime.fromtimestamp((found.int >> 80) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
