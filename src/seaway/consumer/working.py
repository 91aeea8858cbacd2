"""From the lanes through a transaction to its settlement: what each worker does.

Owns: when work begins, and what becomes of it while the database is away.
"""

from __future__ import annotations

import asyncio
import contextlib

from seaway.consumer.lanes import Work
from seaway.consumer.recovery import read_overdue
from seaway.consumer.run import OUTAGE, Run
from seaway.consumer.settling import Settler
from seaway.consumer.transacting import Transactor
from seaway.errors import StoreUnavailable


class Workers:
    """The workers of one consumer."""

    def __init__(self, run: Run, transactor: Transactor, settler: Settler) -> None:
        self._run = run
        self._transactor = transactor
        self._settler = settler
        self._outages = 0

    async def work(self) -> None:
        """One worker, until the run stops."""
        run = self._run
        while not run.stop.is_set():
            run.wake.clear()
            if run.lanes.held:
                await read_overdue(run, run.now())
            works = run.lanes.take(run.options.batch)
            if works:
                await self._process(works)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25 if run.lanes.held else 5):
                    await run.wake.wait()

    async def _process(self, works: list[Work]) -> None:
        """One transaction for all of them; afterwards each is settled, held, or put back."""
        run = self._run
        try:
            results = await self._transactor.transact(works)
        except StoreUnavailable as error:
            run.lanes.put_back(works)
            self._outages += 1
            run.pause("database", str(error))
            await run.stopped_within(OUTAGE.delay(self._outages))
            return
        except BaseException:
            run.lanes.put_back(works)
            raise
        self._outages = 0
        run.resume("database")
        run.lanes.put_back(results.skipped)
        await self._settler.acknowledge(results.done)
        for work, failure, took in results.failed:
            await self._settler.failed(work, failure, took)
        run.wake.set()
        run.room.set()
