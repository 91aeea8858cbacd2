"""Many answers on one subscription: a reply subject for each question.

Owns: the match of answers to questions. Guarantees: each question is answered at most once; an
answer that cannot come any more (its connection was lost) is ``None`` at once instead of running
into a timeout; no slot leaks.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import TypeAlias

from seaway.brokers.jetstream.connection import Connection, Frame

AnswerHandler: TypeAlias = Callable[[Frame | None], None]


class Replies:
    """Answers of one connection. ``open`` before use; safe for any number of concurrent users."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._prefix = connection.new_inbox()
        self._waiting: dict[str, AnswerHandler] = {}
        self._tokens = itertools.count()
        self._close: Callable[[], Awaitable[None]] | None = None
        self._forget: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Subscribe. Idempotent."""
        if self._close is None:
            self._close = await self._connection.subscribe(f"{self._prefix}.*", self._on_frame)
            self._forget = self._connection.on_reconnect(self._give_up)

    async def close(self) -> None:
        """Answer what still waits with ``None`` and unsubscribe. Idempotent."""
        self._forget()
        self._give_up()
        if self._close is not None:
            await self._close()
            self._close = None

    def expect(self, handler: AnswerHandler) -> str:
        """A fresh reply subject; ``handler`` is called with its answer, and must be quick."""
        reply = f"{self._prefix}.{next(self._tokens)}"
        self._waiting[reply] = handler
        return reply

    def ask(self) -> tuple[str, asyncio.Future[Frame | None]]:
        """A fresh reply subject, and where its answer will be."""
        future: asyncio.Future[Frame | None] = asyncio.get_running_loop().create_future()
        return self.expect(partial(_settle, future)), future

    async def gather(
        self, questions: Iterable[tuple[str, asyncio.Future[Frame | None]]], *, timeout: timedelta
    ) -> list[Frame | None]:
        """The answers in the order asked; ``None`` for each that did not come in time."""
        asked = list(questions)
        futures = [future for _, future in asked]
        try:
            if futures:
                await asyncio.wait(futures, timeout=timeout.total_seconds())
            return [future.result() if future.done() else None for future in futures]
        finally:
            for reply, _ in asked:
                self.forget(reply)

    def forget(self, reply: str) -> None:
        """Nobody waits for this one any more. Idempotent."""
        self._waiting.pop(reply, None)

    def _on_frame(self, frame: Frame) -> None:
        handler = self._waiting.pop(frame.subject, None)
        if handler is not None:
            handler(frame)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for handler in waiting.values():
            handler(None)


def _settle(future: asyncio.Future[Frame | None], answer: Frame | None) -> None:
    if not future.done():
        future.set_result(answer)
