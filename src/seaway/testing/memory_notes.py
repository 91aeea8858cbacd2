"""What is noted in the store in memory: ``contracts.LogStore`` and ``contracts.PlaceStore``."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from seaway.contracts import KnownPlace, LogEntry, Unseen


class MemoryNotes:
    """What was done, and the last places that are known."""

    def __init__(self) -> None:
        self._log: list[LogEntry] = []
        self._places: dict[tuple[str, str], KnownPlace] = {}

    async def note(self, *entries: LogEntry, seen: bool = False) -> None:
        """Add entries to the log."""
        now = datetime.now(UTC)
        seen_at = now if seen else None
        for one in entries:
            entry = len(self._log) + 1
            self._log.append(replace(one, entry=entry, noted_at=now, seen_at=seen_at))

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
        """Entries of the log, the newest first."""
        named = "" if naming is None else json.dumps(naming)
        return [
            one
            for one in reversed(self._log)
            if action in (None, one.action)
            and (actions is None or one.action in actions)
            and entry in (None, one.entry)
            and (after is None or one.entry < after)
            and not (unseen and one.seen_at)
            and named in json.dumps(dict(one.detail))
        ][:limit]

    async def unseen(self) -> Sequence[Unseen]:
        """What nobody has seen, by action and what it is about."""
        found: dict[tuple[str, str], list[LogEntry]] = {}
        for one in self._log:
            if one.seen_at is None:
                found.setdefault((one.action, one.about), []).append(one)
        events = {
            key: [e for one in some if isinstance(e := one.detail.get("events"), int)]
            for key, some in found.items()
        }
        last = {key: some[-1].detail.get("reason") for key, some in found.items()}
        reasons = {key: one if isinstance(one, str) else "" for key, one in last.items()}
        return [
            Unseen(*key, len(some), sum(events[key]), some[-1].entry, reasons[key])
            for key, some in sorted(found.items())
        ]

    async def see(self, entries: Sequence[int] | None = None) -> int:
        """Note that they are known; how many were not yet."""
        now, count = datetime.now(UTC), 0
        for place, one in enumerate(self._log):
            if one.seen_at is None and (entries is None or one.entry in entries):
                self._log[place] = replace(one, seen_at=now)
                count += 1
        return count

    async def places(self, part: str) -> Sequence[KnownPlace]:
        """What ``part`` knows, by stream."""
        return sorted(one for one in self._places.values() if one.part == part)

    async def know(self, place: KnownPlace) -> None:
        """Replace what its part knew of its stream."""
        self._places[place.part, place.stream] = place
