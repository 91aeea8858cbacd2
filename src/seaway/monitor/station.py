"""A server or a database that is looked at, and may hang: what is asked of it is asked in bounds.

Owns: how long an answer is waited for, and what becomes of a connection that gives none.
Guarantees: ``ask`` returns or raises in time, whatever hangs in a driver; one question at a time
hangs, however many are asked after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Generic, TypeVar

from seaway.errors import TransientError

P = TypeVar("P")
T = TypeVar("T")

_GRACE_SECONDS = 0.25
"""For a question that can be taken back, such as a statement that waits for a lock."""
_ANEW_SECONDS = 30.0
"""A connection may be lost without a word: after that long another one is tried."""


class Station(Generic[P]):
    """Opened when it is first asked. ``what`` names it for people. ``close`` it."""

    def __init__(
        self,
        what: str,
        open: Callable[[], Awaitable[P]],
        close: Callable[[P], Awaitable[None]] | None = None,
    ) -> None:
        self.what = what
        self._open = open
        self._close = close
        self._opened: P | None = None
        self._hanging: asyncio.Task[object] | None = None
        self._hangs_since = 0.0
        self._timed_out = False
        self._left: set[asyncio.Task[object]] = set()

    @property
    def left_behind(self) -> bool:
        """Whether something gave no answer in time: a thread of a driver may hang in it, and no
        orderly end is to be had."""
        return self._timed_out or bool(self._left)

    async def ask(self, question: Callable[[P], Awaitable[T]], *, within: timedelta) -> T:
        """What ``question`` answers or raises; ``TransientError`` where it does not in time."""
        if self._hanging is not None and not self._hanging.done():
            hangs_for = time.monotonic() - self._hangs_since
            if hangs_for < _ANEW_SECONDS:
                raise TransientError(f"{self.what} has not answered for {hangs_for:.0f} s")
            self._give_up()
        asking = asyncio.create_task(self._ask(question))
        if not await self._ends(asking, within):
            if not asking.done():
                self._hanging, self._hangs_since = asking, time.monotonic() - _seconds(within)
            self._timed_out = True
            raise TransientError(f"{self.what} did not answer within {_seconds(within):.3g} s")
        return asking.result()

    async def close(self, *, within: timedelta = timedelta(seconds=1)) -> None:
        """Close it if that can be done in time, and not at all where it has hung. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is not None and self._close is not None and not self.left_behind:
            closing = asyncio.create_task(_awaited(self._close(opened)))
            await self._ends(closing, within)

    async def _ask(self, question: Callable[[P], Awaitable[T]]) -> T:
        opened = self._opened
        if opened is None:
            opened = self._opened = await self._open()
        return await question(opened)

    async def _ends(self, task: asyncio.Task[T], within: timedelta) -> bool:
        """Whether it ended by itself in time; else it is cancelled, and left behind if need be."""
        try:
            await asyncio.wait({task}, timeout=_seconds(within))
            if task.done():
                return True
        finally:
            if not task.done():
                task.cancel()
                self._left.add(task)
                task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=_GRACE_SECONDS)
        return False

    def _give_up(self) -> None:
        """What hangs is left to itself, and closed when it comes back."""
        opened, hanging, self._opened, self._hanging = self._opened, self._hanging, None, None
        if opened is None or self._close is None or hanging is None:
            return
        closing = asyncio.ensure_future(_after(hanging, self._close, opened))
        self._left.add(closing)
        closing.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # Nobody waits for it any more.


async def _after(
    hanging: asyncio.Task[object], close: Callable[[P], Awaitable[None]], opened: P
) -> None:
    await asyncio.wait({hanging})
    await close(opened)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _seconds(span: timedelta) -> float:
    return max(0.0, span.total_seconds())
