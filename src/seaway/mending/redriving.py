"""A run of redrives: many letters sent at a pace, watched, stopped and gone on with (ADR 0028).

    begin, or take over what another left
      ──> those that it meant to send: were they? ──> a batch ──> outcomes known? ──> a larger one
                                                       │            └ too many came back: failed
                                                       └ no server for a minute: stopped

Authoritative: the queue for what is still to be sent, ``seaway_runs`` for where a run was. What is
to be sent is noted before, and what was sent after; whoever comes to a letter that is noted and in
the queue still asks first whether it was sent. The ends of the queues are noted at the begin: what
comes back as a letter is not sent again by the same run.

Guarantees: killed at any point and gone on with, or at work on the same letters as another run on
this database, each letter is redriven once: within the duplicate window of its stream whatever
happens, and beyond it as far as stream, queue or inbox can tell.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any

from seaway.contracts import Broker, RunState, Store
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.redriving import BATCH, Pace
from seaway.errors import BrokerUnavailable, ConfigError, NotFound, SeawayError
from seaway.mending.noting import RunNotes
from seaway.mending.runs import FATES, GROWS, LARGEST, Outcome, Plan
from seaway.mending.sending import Pick, Sending
from seaway.mending.watching import Watch, place_in, sent_of
from seaway.retry import Backoff
from seaway.words import counted

_LOOK = Backoff(timedelta(milliseconds=100), timedelta(seconds=1))


class RedriveRun:
    """One run. ``outcomes`` does it; the rest says how far it is.

    ``store``: where it is noted, and whose inbox says what became of letters. ``None``: nothing is
    noted, and nothing can be waited for.
    """

    def __init__(
        self, broker: Broker, letters: DeadLetters, plan: Plan, store: Store | None = None
    ) -> None:
        self._broker = broker
        self._letters = letters
        self._plan = plan
        self._notes = RunNotes(store, plan, self._progress)
        self._sending = Sending(broker, letters, plan, self._notes, self._count)
        self._batch = plan.canary or LARGEST
        self._doing = ""
        self.state: RunState = "running"
        self.why = ""
        """Why it has ended, where it is not done."""
        self.total = 0
        """Letters, also those that were sent before a resumption."""
        self.counts: Counter[str] = Counter()
        """Letters by what became of them; ``sent`` counts all that were ever sent."""

    @property
    def id(self) -> str:
        """Empty where nothing is noted."""
        return self._notes.id

    @property
    def at(self) -> datetime | None:
        """When they are sent; ``None``: now."""
        return self._plan.at

    @property
    def resumed(self) -> bool:
        """Whether it goes on with what another one left."""
        return self._notes.resumed

    @property
    def doing(self) -> str:
        """What it waits for now; empty while it sends."""
        return self._sending.waits or self._doing

    async def outcomes(self) -> AsyncGenerator[Outcome]:
        """Redrive; each letter as it is sent, or with why it stays. In a watched run each that was
        sent once more, with what became of it. Close it where you leave it early: the run is
        stopped then, and can be gone on with by the same plan.

        ``ConfigError`` where the plan cannot be done here, ``NotFound`` for an id that no letter
        has, ``AtWork`` where a process is at work on the same, ``TransientError`` where the server
        stays away for a minute or the database is away: the run is stopped.
        """
        self._check()
        known = await self._notes.begin(await self._letters.ends())
        if known is not None and (store := self._notes.store) is not None:
            self._batch = int(known.progress.get("batch", self._batch))
            noted = await store.count_items(self.id)
            self.counts.update({one: noted[one] for one in FATES if one in noted})
            self.counts["sent"] = noted.get("sent", 0) + sum(self.counts.values())
        try:
            async with self._notes.beating(), aclosing(self._work()) as work:
                async for one in work:
                    yield one
            if self.state == "running":
                self.state = "done"
        except BaseException as error:
            if self.state == "running":
                self.state = "stopped"
                self.why = str(error) if isinstance(error, SeawayError) else "interrupted"
            raise
        finally:
            await self._notes.end(self.state)

    async def forecast(self) -> AsyncGenerator[Outcome]:
        """What ``outcomes`` would send (``ready``), and what would stay, and why. Nothing is
        changed or noted, but the transform is asked."""
        self._check()
        await self._notes.recall()
        picks = await self._select()
        self.total = len(picks)
        for first in range(0, len(picks), BATCH):
            for one in await self._sending.forecast(picks[first : first + BATCH]):
                self.counts[one.became] += 1
                yield one

    def _check(self) -> None:
        if self._plan.watched and self._notes.store is None:
            raise ConfigError(
                "what became of letters is in the database of their consumers, and none is at hand",
                hint="set database, and run `seaway db upgrade` there",
            )

    def _count(self, outcomes: Iterable[Outcome]) -> None:
        """Before any of them is given away: whoever takes them may leave at one."""
        for one in outcomes:
            self.counts[one.became] += 1

    def _progress(self) -> dict[str, Any]:
        why = {"why": self.why} if self.why else {}
        return {"total": self.total, **self.counts, "batch": self._batch, **why}

    async def _select(self) -> list[Pick]:
        picks: list[Pick] = []
        wanted, ends = self._notes.selection, self._notes.ends
        known: set[str] = set()
        async with aclosing(self._letters.letters(wanted, payloads=False)) as letters:
            async for one in letters:
                if wanted.ids:
                    known |= {one.id, one.event_id}
                at = one.stored
                if at.stream_seq <= ends.get(at.stream, at.stream_seq):
                    picks.append(Pick(*at.place, at.stored_at, one.event_id, one.consumer))
        missing = [one for one in wanted.ids if one not in known]
        if missing and not self.resumed:
            raise NotFound(f"there is no dead letter {', '.join(missing)}")
        return picks

    async def _work(self) -> AsyncGenerator[Outcome]:
        picks = await self._select()
        self.total = len(picks) + self.counts["sent"]
        store, watch = self._notes.store, None
        if store is not None and self._plan.watched:
            watch = Watch(self._broker, self._letters, store, self._notes.ends)
        async for one in self._left({one.id for one in picks}, watch):
            yield one
        pace, place = Pace(self._plan.rate), 0
        while place < len(picks) and self.state == "running":
            sent = 0
            while place < len(picks) and (watch is None or sent < self._batch):
                most = pace.batch if watch is None else min(pace.batch, self._batch - sent)
                some = picks[place : place + most]
                await pace.turn(len(some))
                async for one in self._sending.through(some):
                    sent += one.became == "sent"
                    _expect(watch, one)
                    yield one
                place += len(some)
            if watch is not None:
                async for one in self._watched(watch):
                    yield one
                self._batch = max(self._batch, min(self._batch * GROWS, LARGEST))

    async def _left(self, here: set[str], watch: Watch | None) -> AsyncGenerator[Outcome]:
        """Of what another process has left of this run: what it sent without a note, and what is to
        become of what it sent."""
        if not self.resumed:
            return
        meant = await self._notes.items("sending")
        self._sending.doubt(one for one in meant if one.item in here)
        for item in meant:
            if item.item not in here:  # Its letter was taken out once it was stored.
                stream = place_in(item.detail).stream
                one = Outcome(item.item, item.event_id, item.consumer, "sent", f"{stream}:0")
                await self._notes.note([one.item])
                self.total += 1
                self._count([one])
                _expect(watch, one)
                yield one
        if watch is not None:
            for item in await self._notes.items("sent"):
                watch.expect(sent_of(item))
            async for one in self._watched(watch):
                yield one

    async def _watched(self, watch: Watch) -> AsyncGenerator[Outcome]:
        """What became of those that are open, until that is known of all, or the run has ended."""
        now, patience = asyncio.get_running_loop().time, self._plan.patience.total_seconds()
        since, attempt, most = now(), 0, self._plan.max_failures or 0
        while watch.open:
            self._doing = f"waiting for {counted(len(watch.open), 'outcome')}"
            try:
                fates = await watch.look()
            except BrokerUnavailable:
                if now() - since > patience:
                    raise
                fates = ()
            found = [Outcome(*one.sent[:3], one.became, one.detail) for one in fates]
            await self._notes.note([one.item for one in found])
            self._count(found)
            for one in found:
                yield one
            if fates:
                since, attempt = now(), 0
            if not watch.open or self.counts["failed"] > most:
                break
            if now() - since > patience:
                self.state, self.why = "stopped", await self._unknown(watch)
                break
            attempt += 1
            await asyncio.sleep(_LOOK.delay(attempt).total_seconds())
        self._doing = ""
        if self.counts["failed"] > most:
            self.state = "failed"
            came = counted(self.counts["failed"], "letter")
            self.why = f"{came} of {self.counts['sent']} came back, and no more than {most} may"

    async def _unknown(self, watch: Watch) -> str:
        idle = await watch.idle()
        nobody = f": nobody takes the redrives of {', '.join(idle)}" if idle else ""
        letters = counted(len(watch.open), "letter")
        seconds = round(self._plan.patience.total_seconds())
        return f"what became of {letters} has not been known for {seconds} s{nobody}"


def _expect(watch: Watch | None, one: Outcome) -> None:
    """Have ``watch`` look for what becomes of it, unless that is known."""
    if watch is None:
        return
    if one.became == "sent":
        watch.expect(sent_of(one.item))
    elif one.became in FATES:
        watch.open.pop(one.id, None)
