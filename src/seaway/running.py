"""Works that run together until they are told to stop, and who tells them.

Owns: the stop event, what sets it, and the end of all when one fails. Knows nothing of what runs.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Work: TypeAlias = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until the event is set."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def run_all(works: Sequence[Work], stop: asyncio.Event) -> None:
    """Run every work until it ends; the first to fail stops the others, and is raised."""
    tasks = [asyncio.create_task(work(stop)) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if any(task.exception() for task in done if not task.cancelled()):
            stop.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def done_before(stop: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Whether ``work`` ended, or raised, before ``stop``; it is cancelled otherwise."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        return task.done()
    finally:
        for one in (task, stopping):
            one.cancel()
        await asyncio.gather(task, stopping, return_exceptions=True)


async def heeding(work: Awaitable[T]) -> T:
    """``work``, and cancelled where it was cancelled: ``asyncio.wait_for`` of Python 3.11, in ours
    or a library's hands, gives an answer that came together with a cancellation and forgets that.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    found = await work
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return found


@contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """An event set by the first SIGINT or SIGTERM; the second one cancels the current task."""
    loop = asyncio.get_running_loop()
    task, stop = asyncio.current_task(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
