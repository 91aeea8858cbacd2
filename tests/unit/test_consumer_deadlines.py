"""Deadlines: who is late is cancelled and told so, whatever else happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from seaway.consumer.deadlines import Deadline, Deadlines

SHORT = timedelta(milliseconds=20)


@pytest_asyncio.fixture
async def deadlines() -> AsyncIterator[Deadlines]:
    made = Deadlines()
    watching = asyncio.create_task(made.watch(lambda: SHORT))
    yield made
    watching.cancel()


def due(deadlines: Deadlines, *, within: timedelta = SHORT) -> Deadline:
    """One for this task."""
    until = asyncio.get_running_loop().time() + within.total_seconds()
    return Deadline(deadlines, task(), until)


def task() -> asyncio.Task[object]:
    found = asyncio.current_task()
    assert found is not None
    return found


async def test_who_is_late_is_cancelled_and_not_again(deadlines: Deadlines) -> None:
    with pytest.raises(TimeoutError), due(deadlines):
        await asyncio.Event().wait()
    assert task().cancelling() == 0
    assert deadlines.open == set()


async def test_who_ends_in_time_is_left_alone(deadlines: Deadlines) -> None:
    with due(deadlines, within=timedelta(seconds=60)):
        await asyncio.sleep(0)
    assert deadlines.open == set()


async def test_who_goes_on_although_cancelled_may_end(deadlines: Deadlines) -> None:
    with due(deadlines):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        again = asyncio.get_running_loop().time() + 3 * SHORT.total_seconds()
        while asyncio.get_running_loop().time() < again:
            await asyncio.sleep(0)  # A second cancellation would end this.
    assert task().cancelling() == 0


async def test_who_is_late_and_raises_has_raised_that(deadlines: Deadlines) -> None:
    async def fail_late() -> None:
        with due(deadlines):
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.create_task(fail_late())


async def test_who_is_cancelled_from_outside_as_well_stays_cancelled(deadlines: Deadlines) -> None:
    async def late() -> None:
        with due(deadlines):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                task().cancel()
                raise

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(late())
