"""Forgetting what consumers have handled, once it cannot come again.

Owns: when an inbox is told to drop its old rows. Must not know how it does so. Guarantees: never
stops what runs beside it; an outage, or a right that is lacking, is said once.
"""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

from seaway import logs
from seaway.contracts import Store
from seaway.errors import SeawayError
from seaway.waiting import done_before

logger = logs.logger("seaway.inbox")

EVERY = timedelta(minutes=10)
_JITTER = 0.2


class Forgetting:
    """Drops inbox rows older than ``retention``, at once and then every ten minutes or so.

    Any number of processes may: they do not do so in step, and a store lets one at a time.
    """

    def __init__(self, store: Store, retention: timedelta, *, every: timedelta = EVERY) -> None:
        self._store = store
        self._retention = retention
        self._every = every.total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set; what is under way then is rolled back."""
        await done_before(stop, self._repeat())

    async def _repeat(self) -> None:
        said = False
        while True:
            try:
                await self._store.forget(await self._store.before(self._retention))
                said = False
            except SeawayError as error:
                log = logger.debug if said else logger.warning
                log("old inbox rows stay for now: %s", error)
                said = True
            await asyncio.sleep(self._every * random.uniform(1 - _JITTER, 1 + _JITTER))
