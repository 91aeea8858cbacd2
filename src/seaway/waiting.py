"""Waits that a stop or a timeout ends.

Owns: what ends a wait early, and what becomes of the one that came too late. Knows nothing of what
is waited for. Guarantees: nothing that was begun here is still running afterwards, whatever ended
the wait: work that was given up has been cancelled and has ended, also where the caller is
cancelled, and then the caller's cancellation goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


async def done_before(stop: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Whether ``work`` ended before ``stop`` was set; it is cancelled otherwise.

    Not begun where ``stop`` is set already. What ``work`` raises is raised. Where both come
    together, and where ``work`` ends by itself although it was cancelled, it has ended, and so no
    result and no error of it is lost.
    """
    return await _ended(stop, work) is not None


async def result_before(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` gives, ``None`` where ``stop`` came first. Otherwise as ``done_before``."""
    task = await _ended(stop, work)
    return None if task is None else task.result()


async def set_within(limit: timedelta, *events: asyncio.Event) -> bool:
    """Wait until one of ``events`` is set, no longer than ``limit``; whether one is set now."""
    if len(events) == 1:
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await events[0].wait()
        except TimeoutError:
            pass
    elif not any(event.is_set() for event in events):
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(
                waits, timeout=limit.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await _cancelled(*waits)
    return any(event.is_set() for event in events)


async def _ended(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> asyncio.Task[T] | None:
    """The task of ``work``, which has given its result; ``None`` where it was given up."""
    if stop.is_set():
        work.close()
        return None
    task, given_up = asyncio.create_task(work), False
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        given_up = not task.done()
    finally:
        await _cancelled(task, stopped)
    if given_up and task.cancelled():
        return None
    task.result()
    return task


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel them, and return when all have ended; a cancellation meanwhile does not shorten it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
