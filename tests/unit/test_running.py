"""What is told to end ends, also where a library forgets that it was told."""

from __future__ import annotations

import asyncio

import pytest

from seaway.running import heeding


async def test_a_cancellation_that_comes_together_with_an_answer_is_heeded() -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def ask() -> int:
        return await heeding(asyncio.wait_for(answer, 5))

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    answer.set_result(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_answer_by_itself_is_given_also_to_whom_was_cancelled_before() -> None:
    async def ask() -> int:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await heeding(asyncio.sleep(0, 1))

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    asking.cancel()
    assert await asking == 1
