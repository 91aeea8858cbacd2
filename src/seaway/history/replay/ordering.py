"""Work on many messages, some at a time: in order by key, told of in the order of the stream.

Owns: who may begin when, and how many are in hand. Guarantees: of one key, each is begun when the
one before it has ended, and none after one that raised; what is given comes in stream order, so
whoever notes how far he is has done all up to there; so many messages at the most are in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

_AHEAD = 16
"""How many messages are in hand for each worker: those behind a slow one are done meanwhile."""


class Keyed(Protocol):
    """What has a place in an order."""

    @property
    def key(self) -> str: ...


M = TypeVar("M", bound=Keyed)
R = TypeVar("R")


async def in_order(
    source: AsyncIterator[M], work: Callable[[M], Awaitable[R]], *, workers: int
) -> AsyncGenerator[tuple[M, R]]:
    """What ``work`` gives for each of ``source``, ``workers`` of them at a time.

    The first error of ``work`` is raised in its place, after the results of all before it. Left
    early, what runs is cancelled and has ended.
    """
    pending: deque[tuple[M, asyncio.Task[R]]] = deque()
    last: dict[str, asyncio.Task[R]] = {}
    turn = asyncio.Semaphore(workers)

    async def one(message: M, before: asyncio.Task[R] | None) -> R:
        if before is not None:
            await before
        async with turn:
            return await work(message)

    def begin(message: M) -> None:
        key = message.key
        task = asyncio.create_task(one(message, last.get(key)))
        last[key] = task

        def ended(_: object) -> None:
            if last.get(key) is task and not task.cancelled() and task.exception() is None:
                del last[key]

        task.add_done_callback(ended)
        pending.append((message, task))

    try:
        async for message in source:
            begin(message)
            while pending and (len(pending) >= _AHEAD * workers or pending[0][1].done()):
                first, task = pending[0]
                result = await task
                pending.popleft()
                yield first, result
        while pending:
            first, task = pending[0]
            result = await task
            pending.popleft()
            yield first, result
    finally:
        for _, task in pending:
            task.cancel()
        await asyncio.gather(*(task for _, task in pending), return_exceptions=True)
