"""When an inbox is told to forget: at once, again and again, through outages, until stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from seaway.errors import ConfigError, SeawayError, StoreUnavailable
from seaway.testing.memory_store import MemoryStore
from seaway.upkeep import Forgetting

KEEP = timedelta(days=14)
SOON = timedelta(milliseconds=1)


class Inbox(MemoryStore):
    """Answers with what it is told, in turn; then it is at ease."""

    def __init__(self, *answers: SeawayError | None) -> None:
        super().__init__()
        self.asked: list[datetime] = []
        self.done = asyncio.Event()
        self._answers: Iterator[SeawayError | None] = iter(answers)

    async def forget(self, before: datetime) -> None:
        self.asked.append(before)
        answer = next(self._answers, self)
        if answer is self:
            self.done.set()
        elif isinstance(answer, SeawayError):
            raise answer


async def run(inbox: Inbox, every: timedelta = SOON) -> None:
    stop = asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(Forgetting(inbox, KEEP, every=every).run(stop))
        await inbox.done.wait()
        stop.set()


async def test_it_forgets_at_once_what_is_older_than_the_retention() -> None:
    inbox = Inbox()
    await run(inbox, timedelta(hours=1))
    (before,) = inbox.asked
    assert timedelta() <= datetime.now(UTC) - KEEP - before < timedelta(minutes=1)


async def test_it_does_so_again_and_outages_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away, refused = StoreUnavailable("away"), ConfigError("no right")
    inbox = Inbox(away, away, away, None, refused, refused)
    with caplog.at_level(logging.WARNING, "seaway.inbox"):
        await run(inbox)
    assert len(inbox.asked) >= 7
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"old rows stay for now: {error}" for error in (away, refused)]


async def test_a_stop_does_not_wait_for_what_is_under_way() -> None:
    class Slow(Inbox):
        async def forget(self, before: datetime) -> None:
            self.done.set()
            await asyncio.Event().wait()

    await run(Slow())


async def test_what_is_a_fault_of_ours_is_raised() -> None:
    class Broken(Inbox):
        async def forget(self, before: datetime) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Forgetting(Broken(), KEEP).run(asyncio.Event())
