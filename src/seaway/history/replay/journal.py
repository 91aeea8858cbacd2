"""How far a replay into a handler is, in the database: so that it goes on where it was.

    the same command ──> an unfinished run of the same plan ──> on from behind its last sequence
                    └──> none: a run of its own, its window fixed now

Owns: what a plan is, which run a command means, and what is written of it while it works.
Guarantees: what is noted as done was done, all of it up to one sequence; two processes never work
on one run at a time, unless one of them stands still for longer than ``STALE``.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from seaway.contracts import Run, RunItem, RunState
from seaway.contracts.mending import RunStore
from seaway.errors import ConfigError, TransientError
from seaway.history.replay.summary import Summary
from seaway.process import has_ended, this_process

KIND = "replay"
STALE = timedelta(seconds=30)
"""A run that is said to be at work and was not heard of for so long has lost its process."""
_EVERY_SECONDS = 2.0
_ITEMS = 100_000
"""Of so many events a run notes how each ended; the groups count all."""


class Notebook(RunStore, Protocol):
    """Runs, and the clock that dates them."""

    async def now(self) -> datetime: ...


class Journal:
    """One run. ``fixed``: what was found out at its begin, such as its window."""

    def __init__(self, store: RunStore, run: Run, *, goes_on: bool) -> None:
        self._store = store
        self._run = run
        self.run = run.run
        self.by = run.by
        self.fixed: Mapping[str, Any] = run.plan["fixed"]
        self.summary = Summary.read(run.progress)
        self.goes_on = goes_on
        """Whether another process has worked on it before."""
        self._items: list[RunItem] = []
        self._noted = self.summary.differing
        self._writing = asyncio.Lock()

    async def begin(self) -> None:
        """Write that it is at work. ``ConfigError`` where another process has taken it over."""
        run = self._run
        if not self.goes_on:
            await self._store.begin_run(replace(run, progress=self._progress()))
        elif not await self._store.change_run(
            run.run,
            state="running",
            progress=self._progress(),
            unless_changed_since=run.changed_at,
        ):
            raise at_work(run)

    def note(self, item: RunItem) -> None:
        """What became of an event that is to be told of; written with the next progress."""
        if self._noted < _ITEMS:
            self._noted += 1
            self._items.append(item)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """While the block works, its progress is written every two seconds, and at its end whether
        that is done, was stopped, or failed."""
        writing = asyncio.create_task(self._keep())
        state: RunState = "done"
        try:
            yield
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            state = "stopped"
            raise
        except BaseException:
            state = "failed"
            raise
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            await asyncio.shield(self._write(state))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            with contextlib.suppress(TransientError):  # The next time, or at the end.
                await asyncio.shield(self._write(None))

    async def _write(self, state: RunState | None) -> None:
        # The items first: what is counted as done must be found there.
        async with self._writing:
            progress, items = self._progress(), self._items.copy()
            if items:
                await self._store.note_items(self.run, items)
                del self._items[: len(items)]
            await self._store.change_run(self.run, state=state, progress=progress)

    def _progress(self) -> Mapping[str, Any]:
        return {**self.summary.as_json(), "process": this_process()}


async def journal_of(
    store: Notebook, about: str, asked: Mapping[str, Any], *, anew: bool = False
) -> Journal | None:
    """That of the unfinished run of the same plan, to go on with; ``None`` where there is none, or
    another is wanted (``anew``). ``ConfigError`` where a process is at work on it."""
    for run in await store.runs(KIND):
        if run.about != about or run.plan.get("asked") != dict(asked):
            continue
        if run.state == "running" and not _is_left(run, await store.now()):
            raise at_work(run)
        return None if run.state == "done" or anew else Journal(store, run, goes_on=True)
    return None


def new_journal(
    store: RunStore, about: str, asked: Mapping[str, Any], fixed: Mapping[str, Any], *, by: str
) -> Journal:
    """That of a run which has not begun."""
    plan = {"asked": dict(asked), "fixed": dict(fixed)}
    run = Run(f"replay-{uuid.uuid4().hex[:12]}", KIND, about, by, plan)
    return Journal(store, run, goes_on=False)


def at_work(run: Run) -> ConfigError:
    """What is said to whoever asks for the same meanwhile."""
    return ConfigError(
        f"run {run.run} of {run.by or 'somebody'} is at work on the same",
        hint=f"wait for its end, or {STALE.seconds} s where its process has gone",
    )


def _is_left(run: Run, now: datetime) -> bool:
    """Whether its process has gone: nothing was heard of it, or it ran here, and is not there."""
    if run.changed_at is None or now - run.changed_at > STALE:
        return True
    return has_ended(str(run.progress.get("process", "")))
