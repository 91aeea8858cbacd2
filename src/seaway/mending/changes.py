"""Who changed letters, when, what and why: noted in the database's log, for whoever asks later.

Whatever changes letters for a person says so here, whether it was told to by a command, by a
program or on a page. Whoever did it knows of it: ``seaway check`` tells nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from seaway.contracts import LogEntry, LogStore

CHANGES = (
    *("redriven", "edited", "discarded", "restored", "scheduled", "cancelled", "reprocessed"),
    *("consumer reset", "consumer paused", "consumer resumed", "relettered", "letters lost"),
)
"""The actions under which changes to letters are found. The last two are Seaway's own."""

MOST_IDS = 500
"""How many letters an entry names."""


class Changed(Protocol):
    """A letter, in its queue or out of it."""

    @property
    def id(self) -> str: ...
    @property
    def event_id(self) -> str: ...
    @property
    def consumer(self) -> str: ...


class Moved(NamedTuple):
    """A letter that has another place than it had; ``was``: what it was called there."""

    id: str
    event_id: str
    consumer: str
    was: str


async def note_changes(
    notes: LogStore, action: str, letters: Iterable[Changed], *, by: str, why: str = "", **more: Any
) -> None:
    """Note that ``action`` was done to ``letters``: an entry for each queue and consumer, or
    several where they are many. ``by``: ``USER@HOST``, or who it was on a page; ``more``: what else
    is to be said of each of them, as JSON, such as ``{"run": "..."}``."""
    of: dict[tuple[str, str], list[list[str]]] = {}
    for one in letters:
        queue = one.id.rpartition(":")[0]
        was = [one.was] if isinstance(one, Moved) else []
        of.setdefault((queue, one.consumer), []).append([one.id, one.event_id, *was])
    entries = [
        LogEntry(action, queue, _detail(consumer, some, why, more), by)
        for (queue, consumer), ids in of.items()
        for some in (ids[at : at + MOST_IDS] for at in range(0, len(ids), MOST_IDS))
    ]
    await notes.note(*entries, seen=True)


async def note_change(
    notes: LogStore, action: str, about: str, *, by: str, why: str = "", **more: Any
) -> None:
    """The same for what is not about single letters: a consumer that was reset, a range that was
    handled anew."""
    detail = {**more, **({"why": why} if why else {})}
    await notes.note(LogEntry(action, about, detail, by), seen=True)


async def changes(
    notes: LogStore, name: str | None = None, *, limit: int = 100
) -> Sequence[LogEntry]:
    """What was done to letters, the newest first; ``name``: to this letter or event."""
    return await notes.log(actions=CHANGES, naming=name, limit=limit)


def _detail(
    consumer: str, ids: Sequence[Sequence[str]], why: str, more: dict[str, Any]
) -> dict[str, Any]:
    said = {"why": why} if why else {}
    return {"consumer": consumer, "letters": len(ids), **said, **more, "ids": ids}
