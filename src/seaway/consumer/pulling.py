"""From the server into the lanes: no more than can be started, and what was lost on the way first.

Owns: the subscription of each stream, and how much is in hand. Knows nothing of handlers.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from seaway.consumer.recovery import recover
from seaway.consumer.run import OUTAGE, Run
from seaway.contracts import Subscription
from seaway.errors import BrokerUnavailable
from seaway.telemetry import Reconnected, Signal

_POLL = timedelta(seconds=5)


class Puller:
    """Pulls one consumer's streams."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._epoch = 0

    def on_signal(self, signal: Signal) -> None:
        """A telemetry listener."""
        if isinstance(signal, Reconnected):
            # What the server had sent may have been lost on the way.
            self._epoch += 1

    @property
    def _capacity(self) -> int:
        """Enough to fill the next transactions while these commit, and no more."""
        wanted = 2 * self._run.options.batch * self._run.options.workers
        return max(1, min(self._run.limits.max_ack_pending, max(wanted, 2)))

    async def pull(self, stream: str) -> None:
        """Until the run stops; the subscription stays open until all is drained."""
        run, attempt = self._run, 0
        while not run.stop.is_set():
            try:
                async with run.ports.broker.subscribe(stream, run.durable) as source:
                    attempt = 0
                    await self._pull_from(stream, source)
                    await run.drained.wait()
            except BrokerUnavailable as error:
                attempt += 1
                run.pause("server", str(error))
                await run.stopped_within(OUTAGE.delay(attempt))

    async def _pull_from(self, stream: str, source: Subscription) -> None:
        run = self._run
        stopping = asyncio.create_task(run.stop.wait())
        epoch = -1
        try:
            while not run.stop.is_set():
                if epoch != self._epoch:
                    epoch = self._epoch
                    await recover(run, stream, capacity=self._capacity)
                # What waits behind a held delivery does not count: that one must be able to come.
                free = self._capacity - run.lanes.moving(source)
                if free < 1 or run.troubles - {"server"}:
                    await run.room_or_stop()
                    continue
                pull = asyncio.create_task(source.next(free, timeout=_POLL))
                try:
                    await asyncio.wait({pull, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not pull.done():
                        pull.cancel()
                        await asyncio.wait({pull})
                if pull.cancelled():
                    continue
                run.resume("server")
                if epoch != self._epoch:
                    epoch = self._epoch
                    await recover(run, stream, capacity=self._capacity)
                run.take_in(pull.result(), source)
        finally:
            stopping.cancel()
