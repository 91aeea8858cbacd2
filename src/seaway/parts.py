"""The parts of a process (relay, consumers, sweeper): they run together until told to stop.

Owns: the stop event, what sets it, and the end of all when one fails. Knows nothing of what runs.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

Part: TypeAlias = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until the event is set."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def run_parts(parts: Sequence[Part], stop: asyncio.Event) -> None:
    """Run every part until it ends; the first to fail stops the others, and is raised."""
    tasks = [asyncio.create_task(part(stop)) for part in parts]
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


@contextmanager
def stop_on_signals(*, insist: bool = True) -> Iterator[asyncio.Event]:
    """An event set by the first SIGINT or SIGTERM; the second one cancels the current task, unless
    nobody has to ``insist``, since the end takes little time anyhow."""
    loop = asyncio.get_running_loop()
    task, stop = asyncio.current_task(), asyncio.Event()

    def on_signal() -> None:
        if insist and stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
