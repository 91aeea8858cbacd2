"""Commits, rollbacks and releases that run to their end although their task is cancelled; what is
opened in a thread, and closed where nobody waits for it any more; and ``Turns``, a lock for what
only one task may do at a time."""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, Protocol, TypeVar

from seaway.errors import ConfigError
from seaway.process import Opened


class Closable(Protocol):
    """What stays open until it is closed."""

    def close(self) -> object:
        """At once, and from any thread."""
        ...


T = TypeVar("T")
C = TypeVar("C", bound=Closable)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` to its end even when cancelled meanwhile, then let the cancellation go on.

    A commit or rollback must not be left running behind its caller's back.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:
            # The task keeps it, and it is raised below.
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


@types.coroutine
def statement_to_its_end(work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """The same without a task, whose turns of the event loop cost as much as a statement does.

    Only for ``work`` that waits for nothing but futures: an ``asyncio.timeout`` inside would take
    part in what is kept off here.
    """
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            waited = work.send(None)
        except StopIteration as end:
            if cancelled is not None:
                raise cancelled from None
            result: T = end.value
            return result
        except BaseException:
            if cancelled is not None:
                raise cancelled from None
            raise
        try:
            yield None if waited is None else _Uncancelled(waited)
        except asyncio.CancelledError as error:
            # Ours, or that of the future, which ``work`` is told of by itself.
            if waited is None or not waited.cancelled():
                cancelled = error
        except BaseException:
            # The future's own, likewise.
            pass


class _Uncancelled:
    """A future as a task waits for it, that stays when the task is cancelled.

    The task is told so when the future is done, and not before.
    """

    __slots__ = ("_asyncio_future_blocking", "_future")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        future._asyncio_future_blocking = False
        self._asyncio_future_blocking = True
        self._future = future

    def add_done_callback(
        self, callback: Callable[[asyncio.Future[Any]], object], *, context: Context | None = None
    ) -> None:
        """See ``asyncio.Future``."""
        self._future.add_done_callback(callback, context=context)

    def cancel(self, msg: object = None) -> bool:
        """Not done."""
        return False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """See ``asyncio.Future``."""
        return self._future.get_loop()


async def opened_in_thread(work: Callable[[], C]) -> C:
    """What ``work`` opens, in a thread. Cancelled, this ends at once, and what is opened all the
    same is closed: by that thread, which may come to it when the loop is closed."""
    lock, given_up, opened = threading.Lock(), False, list[C]()

    def open_and_hand_over() -> None:
        found = work()
        with lock:
            if not given_up:
                opened.append(found)
                return
        found.close()

    try:
        await asyncio.to_thread(open_and_hand_over)
        return opened[0]
    except BaseException:
        with lock:
            given_up = True
        for each in opened:
            each.close()
        raise


class Turns:
    """One at a time, in the order they asked: for databases that have one writer.

    ``async with turns.own():`` waits for those who came before; so does ``take``, before ``leave``.
    """

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
        self._opened.refuse_in_fork()  # A turn that the parent had is held in the child for ever.
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
