"""Whoever looks after dead letters stops at once, however much there is to look after."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

import pytest

from described import ASweptConsumer
from seaway.dead_letters.releaser import Releaser
from seaway.dead_letters.sweeper import Sweeper
from seaway.telemetry import Telemetry
from seaway.testing.memory_broker import MemoryAdmin, MemoryBroker
from seaway.testing.memory_store import MemoryStore
from seaway.waiting_events import WaitingEvent


class Endless(MemoryStore):
    """Its answer never comes."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def parked_heads(self, consumer: str) -> Sequence[WaitingEvent]:
        await self.never()

    async def never(self) -> NoReturn:
        self.asked.set()
        while True:
            await asyncio.Event().wait()


async def test_a_releaser_that_is_at_work_stops() -> None:
    store, stop = Endless(), asyncio.Event()
    releaser = Releaser(
        MemoryBroker(), store, consumer="a__from_memo", stream="MEMO_EVENTS", telemetry=Telemetry()
    )
    running = asyncio.create_task(releaser.run(stop))
    await store.asked.wait()
    stop.set()
    async with asyncio.timeout(2):
        await running


async def test_a_sweeper_that_looks_through_streams_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    store, stop = Endless(), asyncio.Event()

    async def stream(self: MemoryAdmin, name: str) -> NoReturn:
        await store.never()

    monkeypatch.setattr(MemoryAdmin, "stream", stream)
    sweeper = Sweeper(
        MemoryBroker(), store=store, consumers={"a__from_memo": ASweptConsumer("MEMO_EVENTS")}
    )
    running = asyncio.create_task(sweeper.run(stop))
    await store.asked.wait()
    stop.set()
    async with asyncio.timeout(2):
        await running
