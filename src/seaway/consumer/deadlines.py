"""Handlers past their deadline are cancelled: one watcher for all that run, no timer for each.

Owns: which tasks run a handler, and until when each may. Knows nothing of what they do. Guarantees:
a handler is cancelled no later than a quarter of its deadline, and a second, past it; what is
cancelled has not ended by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

_LOOK_SECONDS = 1.0


class Deadlines:
    """The deadlines of one consumer's handlers. ``now``: the event loop's clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.length = timedelta(seconds=300)
        """How long a handler may run that begins now."""
        self.open: set[Deadline] = set()

    async def watch(self) -> None:
        """Cancel whoever is late, until cancelled."""
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self.length.total_seconds() / 4))
            now = self.now()
            for deadline in self.open:
                deadline.look(now)


class Deadline:
    """Entered by the task that runs a handler; left with ``TimeoutError`` where it was late."""

    __slots__ = ("_cancelling", "_deadlines", "_passed", "_task", "_until")

    def __init__(self, deadlines: Deadlines, task: asyncio.Task[object]) -> None:
        self._deadlines = deadlines
        self._task = task
        self._passed = False

    def __enter__(self) -> None:
        self._cancelling = self._task.cancelling()
        self._until = self._deadlines.now() + self._deadlines.length.total_seconds()
        self._deadlines.open.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._deadlines.open.remove(self)
        if not self._passed:
            return
        # Cancelled from outside as well, it stays cancelled.
        ours_alone = self._task.uncancel() <= self._cancelling
        if ours_alone and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def look(self, now: float) -> None:
        """Cancel its task, once, where it is late."""
        if now >= self._until and not self._passed:
            self._passed = True
            self._task.cancel()
