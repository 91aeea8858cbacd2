"""What is noted for later: what was done that somebody must see, and the last places known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from seaway.contracts.inbox import InboxRows


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


class Unseen(NamedTuple):
    """Entries of one action about one thing that nobody has seen: how many, and of how many
    ``events`` their details say; the last of them, and its ``reason``."""

    action: str
    about: str
    entries: int
    events: int
    entry: int
    reason: str


class LogStore(Protocol):
    """A short table of what was done, kept for 400 days."""

    async def note(self, *entries: LogEntry, seen: bool = False) -> None:
        """Add them, in this order. Of each ``action``, ``about``, ``detail`` and ``by`` are
        taken. ``seen``: whoever did it knows of it, and nobody else must be told."""
        ...

    async def log(
        self,
        *,
        action: str | None = None,
        actions: Collection[str] | None = None,
        unseen: bool = False,
        entry: int | None = None,
        naming: str | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> Sequence[LogEntry]:
        """Entries, the newest first: of one action or several, those that nobody has seen, one of
        them, those in whose detail there is this text, such as an id, as one whole value, those
        that come behind the entry ``after``, which are older."""
        ...

    async def unseen(self) -> Sequence[Unseen]:
        """What nobody has seen, by action and what it is about: however many ids it has, a few
        rows."""
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


class Notes(PlaceStore, LogStore, InboxRows, Protocol):
    """Where they are, beside the inbox: an application's own database."""
