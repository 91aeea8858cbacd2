"""Many answers on one subscription: a reply subject and a future for each question.

Owns: the match of answers to questions. Guarantees: an answer that cannot come any more (its
connection was lost) resolves to ``None`` at once instead of running into a timeout; no slot leaks.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from seaway.brokers.jetstream.connection import Connection, Frame


class Replies:
    """Answers of one connection. ``open`` before use; safe for any number of concurrent users."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._prefix = connection.new_inbox()
        self._waiting: dict[str, asyncio.Future[Frame | None]] = {}
        self._tokens = itertools.count()
        self._close: Callable[[], Awaitable[None]] | None = None
        self._forget: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Subscribe. Idempotent."""
        if self._close is None:
            self._close = await self._connection.subscribe(f"{self._prefix}.*", self._on_frame)
            self._forget = self._connection.on_reconnect(self._give_up)

    async def close(self) -> None:
        """Resolve what still waits to ``None`` and unsubscribe. Idempotent."""
        self._forget()
        self._give_up()
        if self._close is not None:
            await self._close()
            self._close = None

    def expect(self) -> tuple[str, asyncio.Future[Frame | None]]:
        """A fresh reply subject, and where its answer will be."""
        reply = f"{self._prefix}.{next(self._tokens)}"
        future: asyncio.Future[Frame | None] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = future
        return reply, future

    async def gather(self, replies: Iterable[str], *, timeout: timedelta) -> list[Frame | None]:
        """The answers in the order of ``replies``; ``None`` for each that did not come in time."""
        pairs = [(reply, self._waiting.get(reply)) for reply in replies]
        futures = [future for _, future in pairs if future is not None]
        try:
            if futures:
                await asyncio.wait(futures, timeout=timeout.total_seconds())
            return [
                future.result() if future is not None and future.done() else None
                for _, future in pairs
            ]
        finally:
            for reply, _ in pairs:
                self.forget(reply)

    def forget(self, reply: str) -> None:
        """Nobody waits for this one any more. Idempotent."""
        future = self._waiting.pop(reply, None)
        if future is not None and not future.done():
            future.cancel()

    def _on_frame(self, frame: Frame) -> None:
        future = self._waiting.get(frame.subject)
        if future is not None and not future.done():
            future.set_result(frame)

    def _give_up(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
