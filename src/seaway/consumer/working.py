"""From the lanes through a transaction to its settlement: what each worker does.

Owns: when work begins, and what becomes of it while something is away. Guarantees: a consumer whose
handlers never wait leaves the event loop to others between two transactions.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta

from seaway.consumer.calls import Failure
from seaway.consumer.lanes import Work
from seaway.consumer.outcomes import is_downstream
from seaway.consumer.overdue import look_after
from seaway.consumer.probing import away
from seaway.consumer.run import Run
from seaway.consumer.settling import Settler
from seaway.consumer.transacting import Results, Transactor
from seaway.consumer.trying import given_up, must_be_alone, note
from seaway.waiting import set_within

_SLICE_SECONDS = 0.0005
_MOMENT_SECONDS = 0.25
_POLL_SECONDS = 5.0


class Workers:
    """The workers of one consumer."""

    def __init__(self, run: Run, transactor: Transactor, settler: Settler) -> None:
        self._run = run
        self._transactor = transactor
        self._settler = settler
        self._slice_ends = math.inf
        self._noting = asyncio.Lock()

    async def work(self) -> None:
        """One worker, until the run stops and nothing is left to start, or something is away."""
        run = self._run
        while not (run.stop.is_set() and run.breaker.troubled):
            run.wake.clear()
            if run.lanes.waits and not run.stop.is_set():
                await look_after(run, run.now())
            works = run.lanes.take(run.breaker.allowance(run.options.batch, now=run.now()))
            if works:
                self._begin_slice()
                await self._process(works)
                if run.now() > self._slice_ends:
                    await asyncio.sleep(0)
                continue
            if run.last:
                return
            await set_within(timedelta(seconds=self._patience()), run.wake)

    def _begin_slice(self) -> None:
        """Of the event loop's present turn, unless another worker has begun one; over with it."""
        if self._slice_ends == math.inf:
            self._slice_ends = self._run.now() + _SLICE_SECONDS
            asyncio.get_running_loop().call_soon(self._end_slice)

    def _end_slice(self) -> None:
        self._slice_ends = math.inf

    def _patience(self) -> float:
        """Seconds until there may be something to start that nobody wakes a worker for."""
        run = self._run
        if run.breaker.open and (left := run.breaker.pause_left(now=run.now())):
            return min(left, _MOMENT_SECONDS)
        return _MOMENT_SECONDS if run.breaker.open or run.lanes.waits else _POLL_SECONDS

    async def _process(self, works: list[Work]) -> None:
        """One transaction for all of them; afterwards each is settled, held, or put back."""
        run, began = self._run, self._run.now()
        probe = run.breaker.begin()
        try:
            if run.breaker.database_away and not await self._database_is_back():
                run.lanes.put_back(works)
                return
            results = await self._try(works)
            self._note(results)
        except BaseException:
            run.lanes.put_back(works)
            raise
        finally:
            if probe:
                run.breaker.probed()
        run.pace.note(run.now() - began, len(works))
        run.lanes.put_back(results.kept)
        await self._settler.acknowledge(results.done)
        for failure in results.failed:
            await self._settler.failed(failure)
        run.go_on()

    async def _try(self, works: list[Work]) -> Results:
        run, work = self._run, works[0]
        if work.suspect and not work.noted and run.handlers.handles(work.subject):
            # One at a time: a try that is noted while another delivery runs alone would be counted
            # if that one ended the process.
            async with self._noting:
                if run.lanes.isolating:
                    return Results(kept=works)
                work.tries, work.noted = await note(run, work), True
                if (error := await given_up(run, work)) is not None:
                    return Results(failed=[Failure(work, error)], reached=True)
                if must_be_alone(run, work):
                    run.lanes.isolate(work)
                    return Results()
        return await self._transactor.transact(works)

    async def _database_is_back(self) -> bool:
        """Found out by a transaction of our own: no delivery is spent on it."""
        breaker, found = self._run.breaker, await away(self._run)
        if found is None:
            breaker.resume("database")
            return True
        breaker.trip("database", str(found), now=self._run.now())
        return False

    def _note(self, results: Results) -> None:
        """Tell the breaker what was found."""
        breaker, error = self._run.breaker, results.outage
        if error is None and not breaker.troubled:
            return
        if error is None:
            if results.reached:
                breaker.resume("database")
            if any(outcome == "handled" for _, outcome, _ in results.done):
                breaker.resume("downstream")
        elif is_downstream(error, self._run.options.retry):
            if results.reached:
                breaker.resume("database")
            after = getattr(error, "after", None)
            breaker.trip("downstream", str(error), now=self._run.now(), after=after)
        else:
            breaker.trip("database", str(error), now=self._run.now())
