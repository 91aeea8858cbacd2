"""Whichever comes first ends a wait, nothing is left running, and no result or error is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from seaway.waiting import done_before, result_before, set_within

LONG = timedelta(minutes=1)


class Works:
    """What a work went through."""

    def __init__(self) -> None:
        self.went_on = asyncio.Event()
        self.begun = asyncio.Event()
        self.cancelled = self.left = False

    async def run(self, then: Callable[[], int] | None = None) -> int:
        """7 once it may go on; what ``then`` gives where it is cancelled before."""
        try:
            self.begun.set()
            await self.went_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            await asyncio.sleep(0)  # An end takes its time.
            if then is None:
                raise
            return then()
        finally:
            self.left = True
        return 7


@pytest.fixture
def works() -> Works:
    return Works()


@pytest.fixture
def stop() -> asyncio.Event:
    return asyncio.Event()


def fail() -> int:
    raise ValueError("on the way out")


async def alone() -> None:
    """Nothing that a wait began is still there."""
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def begun(works: Works, waiting: Awaitable[object]) -> asyncio.Future[object]:
    task = asyncio.ensure_future(waiting)
    await works.begun.wait()
    return task


async def test_what_ends_first_gives_its_result(works: Works, stop: asyncio.Event) -> None:
    works.went_on.set()
    assert await result_before(stop, works.run()) == 7
    assert not works.cancelled
    works = Works()
    works.went_on.set()
    assert await done_before(stop, works.run())
    await alone()


async def test_a_stop_cancels_and_waits_for_the_end(works: Works, stop: asyncio.Event) -> None:
    waiting = await begun(works, done_before(stop, works.run()))
    stop.set()
    assert await waiting is False
    assert works.cancelled
    assert works.left
    await alone()


async def test_after_a_stop_nothing_is_begun(works: Works, stop: asyncio.Event) -> None:
    stop.set()
    assert not await done_before(stop, works.run())
    assert await result_before(stop, works.run()) is None
    assert not works.begun.is_set()


async def test_an_error_is_raised(works: Works, stop: asyncio.Event) -> None:
    async def failing() -> None:
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        await done_before(stop, failing())
    await alone()


async def test_both_together_is_a_result(works: Works, stop: asyncio.Event) -> None:
    waiting = await begun(works, result_before(stop, works.run()))
    works.went_on.set()
    stop.set()
    assert await waiting == 7
    assert not works.cancelled


async def test_what_is_cancelled_and_gives_a_result_all_the_same_has_ended(
    works: Works, stop: asyncio.Event
) -> None:
    waiting = await begun(works, result_before(stop, works.run(lambda: 8)))
    stop.set()
    assert await waiting == 8
    assert works.cancelled


async def test_what_fails_while_it_is_given_up_says_so(works: Works, stop: asyncio.Event) -> None:
    waiting = await begun(works, done_before(stop, works.run(fail)))
    stop.set()
    with pytest.raises(ValueError, match="on the way out"):
        await waiting
    await alone()


async def test_a_cancellation_that_the_work_raises_by_itself_is_no_stop(
    stop: asyncio.Event,
) -> None:
    async def ending_itself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await done_before(stop, ending_itself())


@pytest.mark.parametrize("then", [None, fail, lambda: 8])
async def test_a_caller_that_is_cancelled_leaves_nothing_behind(
    works: Works, stop: asyncio.Event, then: Callable[[], int] | None
) -> None:
    waiting = await begun(works, result_before(stop, works.run(then)))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert works.left
    await alone()


async def test_a_caller_that_is_cancelled_twice_leaves_nothing_behind(
    works: Works, stop: asyncio.Event
) -> None:
    waiting = await begun(works, done_before(stop, works.run(lambda: 8)))
    waiting.cancel()
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert works.left
    await alone()


async def test_an_event_ends_a_wait(stop: asyncio.Event) -> None:
    other = asyncio.Event()
    for events in ((stop,), (other, stop)):
        waiting = asyncio.create_task(set_within(LONG, *events))
        await asyncio.sleep(0)
        stop.set()
        assert await waiting
        assert await set_within(LONG, *events), "at once"
        stop.clear()
    await alone()


@pytest.mark.parametrize("count", [1, 2])
async def test_time_ends_a_wait(count: int) -> None:
    events = [asyncio.Event() for _ in range(count)]
    assert not await set_within(timedelta(milliseconds=1), *events)
    assert not await set_within(timedelta(0), *events)
    await alone()


@pytest.mark.parametrize("count", [1, 2])
async def test_a_wait_that_is_cancelled_leaves_nothing_behind(count: int) -> None:
    events = [asyncio.Event() for _ in range(count)]
    waiting = asyncio.create_task(set_within(LONG, *events))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await alone()
