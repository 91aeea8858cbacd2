"""A process tells the database what it waits for; nothing that goes wrong there reaches it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from consuming import until
from seaway.contracts import Notice
from seaway.errors import ConfigError, SeawayError, StoreUnavailable
from seaway.telemetry import Telemetry
from seaway.testing.memory_store import MemoryStore
from seaway.upkeep import PATIENCE, Presence

SOON = timedelta(milliseconds=5)


class Table(MemoryStore):
    """Fails and hangs at will, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Sequence[Notice]] = []
        self.failure: Exception | None = None
        self.hangs = False

    async def tell(self, process: str, notices: Sequence[Notice]) -> None:
        self.told.append(notices)
        while self.hangs:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue  # As a driver that waits for a server which says nothing.
        if self.failure is not None:
            raise self.failure
        await super().tell(process, notices)


@asynccontextmanager
async def present(
    table: Table, telemetry: Telemetry, *, renew: timedelta = timedelta(hours=1)
) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(
        Presence(table, telemetry, ["relay"], look=SOON, renew=renew).run(stop)
    )
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE.total_seconds() * 3):
            await running


async def test_it_tells_once_until_something_changes() -> None:
    table, telemetry = Table(), Telemetry()
    async with present(table, telemetry):
        await until(lambda: len(table.told) == 1)
        telemetry.waiting("relay", "SEA_EVENTS", "no room")
        await until(lambda: len(table.told) == 2)
        [there, waits] = await table.notices()
        assert (there.part, there.waits, there.live) == ("relay", False, True)
        assert (waits.part, waits.about, waits.reason) == ("relay", "SEA_EVENTS", "no room")
        assert waits.process.count(":") >= 2
        telemetry.waiting("relay", "SEA_EVENTS", "no room")
        telemetry.going_on("relay", "SEA_EVENTS")
        await until(lambda: len(table.told) == 3)
        assert [one.about for one in await table.notices()] == [""]
    assert await table.notices() == []
    assert len(table.told) == 4


async def test_it_says_again_that_it_is_there() -> None:
    table = Table()
    async with present(table, Telemetry(), renew=SOON):
        await until(lambda: len(table.told) > 3)


async def test_a_reason_is_one_printable_line_of_bounded_length() -> None:
    table, telemetry = Table(), Telemetry()
    telemetry.waiting("relay", "a\x00b\n", "x\x1b[31m\n\ty\ud800 " + "z" * 1000)
    async with present(table, telemetry):
        await until(lambda: bool(table.told))
        [_, waits] = table.told[0]
        assert waits.about == "a b"
        assert waits.reason.startswith("x [31m y z")
        assert (len(waits.reason), waits.reason[-3:]) == (500, "...")


async def test_many_waits_are_bounded() -> None:
    table, telemetry = Table(), Telemetry()
    for number in range(500):
        telemetry.waiting("relay", f"key {number}", "held")
    async with present(table, telemetry):
        await until(lambda: bool(table.told))
        assert len(table.told[0]) == 51


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (StoreUnavailable("away"), 0),
        (ConfigError("permission denied"), 1),
        (RuntimeError("a driver's own"), 1),
    ],
)
async def test_a_database_that_refuses_ends_nothing_and_is_said_once(
    failure: SeawayError, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    table.failure = failure
    with caplog.at_level(logging.WARNING, "seaway"):
        async with present(table, Telemetry(), renew=SOON):
            await until(lambda: len(table.told) > 3)
            assert len(caplog.records) == said
            table.failure = None
            told = len(table.told)
            await until(lambda: len(table.told) > told)
            assert [one.part for one in await table.notices()] == ["relay"]


async def test_a_database_that_hangs_holds_up_nothing() -> None:
    table, telemetry = Table(), Telemetry()
    table.hangs = True
    try:
        async with present(table, telemetry, renew=SOON):
            await until(lambda: len(table.told) == 1)
        assert len(table.told) == 1, "nothing more is asked of what hangs"
    finally:
        table.hangs = False


async def test_cancelled_it_ends_at_once() -> None:
    table = Table()
    table.hangs = True
    running = asyncio.create_task(Presence(table, Telemetry(), ["relay"]).run(asyncio.Event()))
    try:
        await until(lambda: bool(table.told))
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=1)
        assert done
    finally:
        table.hangs = False
