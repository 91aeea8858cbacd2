"""One at a time, in the order they asked: for databases that have one writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from seaway.errors import ConfigError
from seaway.process import Opened


class Turns:
    """``async with turns.own():`` waits for those who came before; so does ``take``, before
    ``leave``."""

    def __init__(self) -> None:
        self._opened = Opened("the database")
        self._turn = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def own(self) -> AsyncIterator[None]:
        """The turn of the current task, as ``take`` gives it."""
        await self.take()
        try:
            yield
        finally:
            self.leave()

    async def take(self) -> None:
        """Wait for it; ``ConfigError`` where this task has it already, or in a fork."""
        self._opened.check()  # A turn that the parent had is held in the child for ever.
        task = asyncio.current_task()
        if self._holder is not None and self._holder is task:
            # Waiting for itself, it would wait for ever.
            raise ConfigError(
                "this task is in a transaction of the store already",
                hint="use the open transaction",
            )
        await self._turn.acquire()
        self._holder = task

    def leave(self) -> None:
        """Let the next one have it."""
        self._holder = None
        self._turn.release()
