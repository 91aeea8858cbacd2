"""What mending leaves in the store in memory: ``contracts.MendingStore``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from seaway.contracts import DiscardedLetter, Run, RunItem, RunState
from seaway.databases.tasks import Turns

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MemoryMending:
    """Runs, their items, and discarded letters."""

    _tables: Any
    _turns: Turns

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._items: dict[tuple[str, str], RunItem] = {}
        self._discarded: dict[tuple[str, datetime], DiscardedLetter] = {}

    async def begin_run(self, run: Run) -> bool:
        """Write it, unless there is one of that id."""
        if run.run in self._runs:
            return False
        now = datetime.now(UTC)
        ended_at = None if run.state == "running" else now
        self._runs[run.run] = replace(run, begun_at=now, changed_at=now, ended_at=ended_at)
        return True

    async def change_run(
        self,
        run: str,
        *,
        state: RunState | None = None,
        progress: Mapping[str, Any] | None = None,
        unless_changed_since: datetime | None = None,
    ) -> bool:
        """Set what is given; whether that was done."""
        known = self._runs.get(run)
        if known is None or known.changed_at is None:
            return False
        if unless_changed_since is not None and known.changed_at > unless_changed_since:
            return False
        now = max(datetime.now(UTC), known.changed_at + timedelta(microseconds=1))
        ended_at = known.ended_at
        if state is not None:
            ended_at = None if state == "running" else now
        self._runs[run] = replace(
            known,
            state=state or known.state,
            progress=known.progress if progress is None else progress,
            changed_at=now,
            ended_at=ended_at,
        )
        return True

    async def runs(self, kind: str | None = None, *, limit: int = 100) -> Sequence[Run]:
        """The newest first."""
        found = [one for one in reversed(self._runs.values()) if kind in (None, one.kind)]
        return found[:limit]

    async def run(self, run: str) -> Run | None:
        """That run."""
        return self._runs.get(run)

    async def note_items(self, run: str, items: Sequence[RunItem]) -> None:
        """Write these items, or replace what was noted of them."""
        now = datetime.now(UTC)
        for one in items:
            self._items[run, one.item] = one._replace(changed_at=now)

    async def run_items(
        self, run: str, *, state: str | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[RunItem]:
        """Its items behind ``after``."""
        found = (one for (of, _), one in self._items.items() if of == run)
        wanted = [one for one in found if state in (None, one.state) and one.item > after]
        return sorted(wanted)[:limit]

    async def count_items(self, run: str) -> Mapping[str, int]:
        """How many items it has, by state."""
        return Counter(one.state for (of, _), one in self._items.items() if of == run)

    # ------------------------------------------------------------------- what was discarded

    async def keep_discarded(
        self, letters: Sequence[DiscardedLetter], restore_for: timedelta
    ) -> None:
        """Keep them so long from now on."""
        await self.forget_discarded()
        now = datetime.now(UTC)
        for one in letters:
            known = self._discarded.pop(_place(one), one)
            self._discarded[_place(one)] = replace(
                known, by=one.by, why=one.why, discarded_at=now, until=now + restore_for, bare=False
            )

    async def discarded_letters(
        self,
        names: Collection[str] | None = None,
        *,
        consumer: str | None = None,
        payloads: bool = False,
        limit: int = 100,
    ) -> Sequence[DiscardedLetter]:
        """Those whose time has not passed, the newest first."""
        found = [
            one if payloads else _bare(one)
            for one in self._discarded.values()
            if not passed(one)
            and consumer in (None, one.consumer)
            and (names is None or one.id in names or one.event_id in names)
        ]
        found.sort(key=lambda one: one.id)
        found.sort(key=lambda one: one.discarded_at or _EPOCH, reverse=True)
        return found[:limit]

    async def take_discarded(self, letters: Sequence[DiscardedLetter]) -> int:
        """Keep them no more; how many there were."""
        return sum(self._discarded.pop(_place(one), None) is not None for one in letters)

    async def forget_discarded(self) -> int:
        """Drop those whose time has passed; how many."""
        gone = [place for place, one in self._discarded.items() if passed(one)]
        for place in gone:
            del self._discarded[place]
        return len(gone)

    async def unclaim(self, consumer: str, event_ids: Collection[str]) -> int:
        """Remove these rows of the consumer's inbox."""
        async with self._turns.own():
            rows = {(consumer, one) for one in event_ids} & self._tables.inbox.keys()
            for row in rows:
                del self._tables.inbox[row]
        return len(rows)


def _place(one: DiscardedLetter) -> tuple[str, datetime]:
    return one.id, one.stored.stored_at


def passed(one: DiscardedLetter) -> bool:
    """Whether its time has."""
    return one.until is not None and one.until <= datetime.now(UTC)


def _bare(one: DiscardedLetter) -> DiscardedLetter:
    message = replace(one.stored.message, payload=b"")
    return replace(one, stored=replace(one.stored, message=message), bare=True)
