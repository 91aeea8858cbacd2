"""The one door to dead letters for whoever mends them: short methods, each of which is a module
of this package."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from seaway.dead_letters import DeadLetters, Selection
from seaway.dead_letters.later import Scheduled, now_of
from seaway.mending import later
from seaway.mending.later import Cancelled
from seaway.naming import redrive_stream, stream_context


class Mending(DeadLetters):
    """The letters of every context on this server, and what can be done to many of them."""

    async def scheduled(self, selection: Selection | None = None) -> Sequence[Scheduled]:
        """What the server is to send later, the next one first: retries that were put off, and
        letters that were redriven ``at`` a time; each as the letter that it becomes if it is
        cancelled, ``bare``. Ids are ``SEA_REDRIVE:17``, or event ids. Empty where nothing waits.
        """
        contexts = await self._contexts()
        wanted = selection or Selection()
        found = later.scheduled(self._broker, contexts, wanted, reader=self._reader)
        return sorted([one async for one in found], key=lambda one: (one.at is None, one.at))

    async def clock(self) -> datetime:
        """The time by the server's clock, which it sends by; this machine's where it does not say
        (before nats-server 2.10), or has no stream of redrives."""
        for context in await self._contexts():
            info = await self._broker.admin.stream(redrive_stream(context))
            if info is not None:
                return now_of(info)
        return now_of(None)

    async def _contexts(self) -> Sequence[str]:
        queues = sorted(await self.count()) if self._queues is None else self._queues
        return [stream_context(queue) for queue in queues]

    async def cancel(self, waiting: Scheduled) -> Cancelled:
        """Have one of ``scheduled`` not be sent: its event becomes a letter, which can be redriven
        or discarded. ``NotFound`` where it waits no more; the others as ``later.cancel``."""
        return await later.cancel(self._broker, waiting)
