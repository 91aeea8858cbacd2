"""How a run is noted in the database: begun, taken over from a process that died, ended.

Owns: the run's row, and whether another process is at work on it. Guarantees: of several that go on
with the same run one does; what cannot be noted at the end is said in the log. Without a store
nothing is noted, and every question has an empty answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from seaway import logs
from seaway.contracts import Run, RunItem, RunState, Store
from seaway.dead_letters import Selection
from seaway.dead_letters.redriving import Place
from seaway.errors import SeawayError, TransientError
from seaway.mending.changes import MOST_IDS, Changed, note_changes
from seaway.mending.runs import KIND, Plan, Telling
from seaway.mending.watching import place_in
from seaway.process import has_ended, operator, this_process

logger = logs.logger("seaway.mending")

_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 15.0
"""A run that has said nothing for so long has died."""
_MOST_RUNS = 100

Progress = Callable[[], dict[str, Any]]


class AtWork(SeawayError):
    """Another process is at work on the same run."""


class Meant(NamedTuple):
    """A letter that ``run`` meant to send: what lay last in its stream before."""

    before: Place
    run: str


class RunNotes:
    """Of one run. ``progress``: what is said of how far it is."""

    def __init__(self, store: Store | None, plan: Plan, progress: Progress) -> None:
        self.store = store
        self._plan = plan
        self._progress = progress
        self._sent: list[Changed] = []
        self.by = plan.by or operator()
        self.id = ""
        self.resumed = False
        self.selection: Selection = plan.selection
        self.ends: Mapping[str, int] = {}
        """Of each queue the last letter before the run was begun."""

    async def begin(self, ends: Mapping[str, int]) -> Run | None:
        """Begin a run, or take over the one that the same plan left: that as it was. ``AtWork``
        where its process lives."""
        self.ends = ends
        if self.store is None:
            return None
        known = await self.recall()
        if known is None:
            self.id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
            plan = self._plan.noted | {"ends": dict(ends)}
            about = self._plan.selection.consumer or ", ".join(sorted(ends))
            await self.store.begin_run(
                Run(self.id, KIND, about, self.by, plan, progress=self._said())
            )
            return None
        if known.state == "running" and not has_ended(str(known.progress.get("process", ""))):
            await self._until_silent(self.store, known)
        taken = await self.store.change_run(
            self.id, state="running", unless_changed_since=known.changed_at
        )
        if not taken:
            raise _at_work(known)
        self.resumed = True
        return known

    async def recall(self) -> Run | None:
        """The run that the same plan left, whose bounds are this one's."""
        for run in () if self.store is None else await self.store.runs(KIND, limit=_MOST_RUNS):
            if run.state in ("running", "stopped") and self._plan.same(run.plan):
                self.id, self.ends = run.run, run.plan["ends"]
                self.selection = self._plan.selected(run.plan)
                return run
        return None

    async def _until_silent(self, store: Store, known: Run) -> None:
        """Return when its process has said nothing for long enough."""
        now = asyncio.get_running_loop().time
        until = now() + _SILENT_SECONDS
        while now() < until:
            await asyncio.sleep(0.5)
            found = await store.run(known.run)
            if found is None or found.changed_at != known.changed_at:
                raise _at_work(known)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Say from time to time that it is at work, within the block."""
        if (store := self.store) is None:
            yield
            return

        async def beat() -> None:
            while True:
                await asyncio.sleep(_BEAT_SECONDS)
                with contextlib.suppress(TransientError):
                    await store.change_run(self.id, progress=self._said())

        beats = asyncio.create_task(beat())
        try:
            yield
        finally:
            beats.cancel()
            await asyncio.wait([beats])

    async def sent(self, letters: Sequence[Changed]) -> None:
        """Say in the log of changes that these were sent: many at a time, the rest at the end."""
        if self.store is None:
            return
        self._sent += letters
        if len(self._sent) >= MOST_IDS:
            await self._tell(self.store)

    async def _tell(self, store: Store) -> None:
        some, self._sent = self._sent, []
        more = {"run": self.id, "to": self._plan.to}
        if (transform := self._plan.transform) is not None:
            more["transform"] = transform.name
            if isinstance(transform, Telling):
                more |= transform.told([one.id for one in some])
        await note_changes(store, "redriven", some, by=self.by, **more)

    async def end(self, state: RunState) -> None:
        """It has ended, or is stopped."""
        if self.store is None or not self.id:
            return
        try:
            await self.store.change_run(self.id, state=state, progress=self._said())
            await self._tell(self.store)
        except TransientError as error:
            logger.warning("run %s: its end is not noted: %s", self.id, error)

    def _said(self) -> dict[str, Any]:
        return {**self._progress(), "process": this_process()}

    async def note(self, items: Sequence[RunItem]) -> None:
        """Write these items, or replace what was noted of them."""
        if self.store is not None and items:
            await self.store.note_items(self.id, items)

    async def items(self, state: str, *, run: str = "") -> list[RunItem]:
        """Its items in this state, or those of another ``run``."""
        found: list[RunItem] = []
        while self.store is not None:
            after = found[-1].item if found else ""
            page = await self.store.run_items(run or self.id, state=state, after=after)
            found += page
            if not page:
                break
        return found

    async def meant_elsewhere(self) -> dict[str, Meant]:
        """What other runs meant to send, and have not noted as sent, by letter."""
        return {
            item.item: Meant(place_in(item.detail), run.run)
            for run in (() if self.store is None else await self.store.runs(KIND, limit=_MOST_RUNS))
            if run.run != self.id and run.state in ("running", "stopped")
            for item in await self.items("sending", run=run.run)
        }


def _at_work(run: Run) -> AtWork:
    return AtWork(
        f"run {run.run} of {run.by or 'somebody'} does the same and is at work: "
        f"`seaway dlq runs {run.run}` shows how far it is"
    )
