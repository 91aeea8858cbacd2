"""How long handlers may run: one watcher for all that do, no timer for each.

Owns: what happens to one that is late. The task of an ``async`` handler is cancelled. A plain
handler's thread cannot be: its transaction is revoked, and whatever it made of it, it has failed.
Guarantees: that comes at most a second, and at most a quarter of the deadline, late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any

from seaway.inbox.threads import Carried

_LOOK_SECONDS = 1.0


class Deadlines:
    """The deadlines of one consumer's handlers: one watcher for all that run, no timer for each."""

    def __init__(self) -> None:
        self.open: set[Deadline | ThreadDeadline] = set()

    async def watch(self, length: Callable[[], timedelta]) -> None:
        """Cancel whoever is late, until cancelled. ``length``: how long a handler may run now."""
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, length().total_seconds() / 4))
            for deadline in tuple(self.open):  # Threads come and go meanwhile.
                deadline.look(now())


class Deadline:
    """Entered by ``task``, which runs a handler; left with ``TimeoutError`` where it was late:
    after ``until``, by the event loop's clock."""

    __slots__ = ("_cancelling", "_deadlines", "_passed", "_until", "task")

    def __init__(self, deadlines: Deadlines, task: asyncio.Task[Any], until: float) -> None:
        self._deadlines = deadlines
        self._until = until
        self._passed = False
        self.task = task

    def __enter__(self) -> None:
        self._cancelling = self.task.cancelling()
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
        ours_alone = self.task.uncancel() <= self._cancelling
        if ours_alone and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def look(self, now: float) -> None:
        """Cancel its task, once, where it is late."""
        if now >= self._until and not self._passed:
            self._passed = True
            self.task.cancel()


class ThreadDeadline:
    """The same for a plain handler, entered by its thread: what was late cannot commit, whatever
    the handler made of it."""

    __slots__ = ("_carried", "_deadlines", "_over", "_passed", "_until")

    def __init__(self, deadlines: Deadlines, until: float, carried: Carried[None]) -> None:
        self._deadlines = deadlines
        self._until = until
        self._carried = carried
        self._passed = self._over = False

    def __enter__(self) -> None:
        self._deadlines.open.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._deadlines.open.discard(self)
        with self._carried.lock:
            self._over = True
        if self._passed:
            raise TimeoutError from error

    def look(self, now: float) -> None:
        """Revoke its transaction, once, where it is late."""
        if now < self._until:
            return
        with self._carried.lock:
            if self._over or self._passed:
                return
            self._passed = self._carried.revoke_locked()
        self._carried.expire()
