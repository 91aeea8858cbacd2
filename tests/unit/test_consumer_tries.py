"""How often an event was tried is over when it has taken effect, or has become a letter."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from consuming import DURABLE, Bench, consumer, message, note, until
from seaway.consumer import Delivery
from seaway.errors import Poison
from seaway.events import RawEvent


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench.open()
    yield made
    await made.close()


async def refuse(event: RawEvent, delivery: Delivery) -> None:
    raise Poison("never")


@pytest.mark.parametrize("ordering", ["key", "none"])
async def test_with_its_effect(bench: Bench, ordering: str) -> None:
    await tried_twice(bench, "e1", "e2")
    await bench.events.publish(message("e1"))
    await bench.events.deliver_to_another(1)
    bench.start(consumer(note, ordering=ordering))
    bench.events.again(1)
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert set(bench.store.effects) == {"e1"}
    assert await tried(bench, "e1", "e2") == {"e1": 1, "e2": 3}


@pytest.mark.parametrize("on_failure", ["continue", "park"])
async def test_with_its_letter(bench: Bench, on_failure: str) -> None:
    await tried_twice(bench, "e1")
    await bench.events.publish(message("e1"))
    bench.start(consumer(refuse, on_failure=on_failure))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == [("e1", "poison")]
    assert await tried(bench, "e1") == {"e1": 1}


async def tried_twice(bench: Bench, *event_ids: str) -> None:
    """By a process that died."""
    for _ in range(2):
        await tried(bench, *event_ids)


async def tried(bench: Bench, *event_ids: str) -> dict[str, int]:
    async with bench.store.transaction() as tx:
        return dict(await tx.trying(DURABLE, event_ids))
