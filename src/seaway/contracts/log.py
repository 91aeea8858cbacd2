"""What is noted for later: what was done that somebody must see, and the last places known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What Seaway or an operator did, about what; ``detail`` is a JSON object, such as with ids.

    ``by``: a process (``host:pid``) or a person. What the store fills in: its number, when it was
    noted, by the database's clock, and when somebody said that it is known.
    """

    action: str
    """``healed``, ``set back``: a word or two, by which entries are found."""
    about: str
    """A stream, a consumer, a queue."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    entry: int = 0
    noted_at: datetime | None = None
    seen_at: datetime | None = None


class LogStore(Protocol):
    """A short table of what was done, kept for 400 days."""

    async def note(self, *entries: LogEntry) -> None:
        """Add them, in this order. Of each ``action``, ``about``, ``detail`` and ``by`` are
        taken."""
        ...

    async def log(
        self,
        *,
        action: str | None = None,
        unseen: bool = False,
        entry: int | None = None,
        limit: int = 100,
    ) -> Sequence[LogEntry]:
        """Entries, the newest first: of one action, those that nobody has seen, one of them."""
        ...

    async def see(self, entries: Sequence[int] | None = None) -> int:
        """Note that they (``None``: all) are known; how many were not yet. Idempotent."""
        ...


class KnownPlace(NamedTuple):
    """The last place of a stream that a part of this database's processes knows of.

    ``stored_at``: when the stream stored what lies there, by its server's clock.
    """

    part: str
    stream: str
    stream_seq: int
    event_id: str
    stored_at: datetime


class PlaceStore(Protocol):
    """A short table: a row for each part and stream."""

    async def places(self, part: str) -> Sequence[KnownPlace]:
        """What ``part`` knows, by stream."""
        ...

    async def know(self, place: KnownPlace) -> None:
        """Replace what its part knew of its stream, whether that was higher or lower."""
        ...


class Notes(PlaceStore, LogStore, Protocol):
    """Where both are: an application's own database."""
