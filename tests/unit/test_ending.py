"""Ends that are not interrupted: with and without a task of their own, alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from seaway.databases.tasks import statement_to_its_end, to_its_end

Ending: TypeAlias = Callable[[Coroutine[Any, Any, str]], Awaitable[str]]
endings = pytest.mark.parametrize("ending", [to_its_end, statement_to_its_end])


class Statement:
    """Sent, then answered in two parts, each when it is let."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.parts = [self.loop.create_future(), self.loop.create_future()]
        self.ended = False

    async def run(self) -> str:
        found = ""
        for part in self.parts:
            await asyncio.sleep(0)
            found += await part
        self.ended = True
        return found


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def through(ending: Ending, work: Coroutine[Any, Any, str]) -> str:
    return await ending(work)


@endings
async def test_it_gives_the_result(ending: Ending) -> None:
    statement = Statement()
    task = asyncio.create_task(through(ending, statement.run()))
    for part, said in zip(statement.parts, "ab", strict=True):
        await turns()
        part.set_result(said)
    assert await task == "ab"


@endings
async def test_it_raises_what_the_work_raises(ending: Ending) -> None:
    statement = Statement()
    task = asyncio.create_task(through(ending, statement.run()))
    await turns()
    statement.parts[0].set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await task


@endings
@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_waits_for_its_end(ending: Ending, times: int) -> None:
    statement = Statement()
    task = asyncio.create_task(through(ending, statement.run()))
    for part in statement.parts:
        await turns()
        for _ in range(times):
            task.cancel()
            await turns()
        assert not task.done()
        part.set_result("x")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert statement.ended


@endings
async def test_a_cancellation_before_it_waits_is_kept_off_as_well(ending: Ending) -> None:
    statement = Statement()

    async def cancelled_at_once() -> str:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        return await ending(statement.run())

    task = asyncio.create_task(cancelled_at_once())
    await turns()
    for part in statement.parts:
        part.set_result("x")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert statement.ended


@endings
async def test_cancelled_and_failed_it_is_cancelled(ending: Ending) -> None:
    statement = Statement()
    task = asyncio.create_task(through(ending, statement.run()))
    await turns()
    task.cancel()
    await turns()
    statement.parts[0].set_exception(ZeroDivisionError())
    with pytest.raises(asyncio.CancelledError):
        await task


@endings
async def test_what_the_work_waits_for_may_be_cancelled_by_others(ending: Ending) -> None:
    statement = Statement()
    task = asyncio.create_task(through(ending, statement.run()))
    await turns()
    statement.parts[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not statement.ended


@endings
async def test_one_that_is_done_already_is_not_waited_for(ending: Ending) -> None:
    async def at_once() -> str:
        return "done"

    assert await ending(at_once()) == "done"
