"""Many answers on one subscription: a reply subject for each question.

Owns: the match of answers to questions. Guarantees: each question is answered at most once; an
answer that cannot come any more (its connection was lost) is ``None`` at once instead of running
into a timeout; no slot leaks.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeAlias

from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.frames import Frame

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

    @contextmanager
    def ask(self, count: int) -> Iterator[Questions]:
        """``count`` questions with one wait for all; nobody waits for them afterwards."""
        questions = Questions(count, self.expect)
        try:
            yield questions
        finally:
            for reply in questions.replies:
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


class Questions:
    """Asked together: one future for all. ``replies``: where each is answered, in order."""

    def __init__(self, count: int, expect: Callable[[AnswerHandler], str]) -> None:
        answered = self._answered
        self.replies: Sequence[str] = [expect(answered) for _ in range(count)]
        self._answers: dict[str, Frame] = {}
        self._open = count
        self._all = asyncio.get_running_loop().create_future()

    async def answers(self, *, timeout: timedelta, asked: int) -> list[Frame | None]:
        """In order; ``None`` for each that did not come in time, or was not ``asked``.

        ``asked``: how many of them, from the first, were sent at all.
        """
        self._open -= len(self.replies) - asked
        if self._open > 0:
            await asyncio.wait([self._all], timeout=timeout.total_seconds())
        return [self._answers.get(reply) for reply in self.replies]

    def end(self) -> None:
        """Wait no longer: no more answers will come. Idempotent."""
        self._open = 0
        if not self._all.done():
            self._all.set_result(None)

    def _answered(self, answer: Frame | None) -> None:
        if answer is not None:
            self._answers[answer.subject] = answer
        self._open -= 1
        if self._open == 0 and not self._all.done():
            self._all.set_result(None)
