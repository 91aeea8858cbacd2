"""The suite of the right to publish: who has it, and what it is good for."""

from __future__ import annotations

import asyncio

import pytest

from seaway.contracts import Sent, Store
from seaway.errors import ConfigError
from seaway.events import new_event_id
from seaway.testing.conformance.inbox import Undo, ids, undone
from seaway.testing.conformance.outbox import add, claim_all, fail


class LeasesConformance:
    """Fixtures to give: ``store``."""

    async def test_one_holds_the_lease(self, store: Store) -> None:
        async with store.lease() as first:
            assert first is not None
            async with store.lease() as second:
                assert second is None
            async with store.lease() as third:
                assert third is None
        async with store.lease() as free:
            assert free is not None

    async def test_an_error_frees_the_lease(self, store: Store) -> None:
        with undone():
            async with store.lease():
                raise Undo
        async with store.lease() as lease:
            assert lease is not None

    async def test_a_cancelled_holder_frees_the_lease(self, store: Store) -> None:
        held = asyncio.Event()

        async def hold() -> None:
            async with store.lease():
                held.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await held.wait()
        task.cancel()
        await asyncio.wait([task])
        async with store.lease() as lease:
            assert lease is not None

    async def test_entries_are_found_by_their_ids(self, store: Store) -> None:
        (first,) = await add(store, key="a")
        (parked,) = await add(store, key="b")
        await fail(store, parked, park=True)
        (late,) = await add(store, key="c")
        await add(store, key="d")
        async with store.lease() as lease:
            assert lease is not None
            found = await lease.find([late, "SEA_EVENTS:7", parked, new_event_id(), first])
            assert ids(found) == [first, parked, late]
            await lease.settle([Sent(entry, "SEA_EVENTS", 1) for entry in found])
            assert await lease.find([first, parked, late]) == []
            assert len(await lease.claim(10)) == 1

    async def test_a_lease_that_is_held_can_be_confirmed(self, store: Store) -> None:
        async with store.lease() as lease:
            assert lease is not None
            assert lease.shards
            await lease.confirm()

    async def test_one_shard_is_everybodys(self, store: Store) -> None:
        await store.reshard(1)
        await add(store, key="a")
        assert len(await claim_all(store)) == 1
        if not store.capabilities.shards:
            with pytest.raises(ConfigError, match="one shard"):
                await store.reshard(2)

    async def test_writers_do_not_wait_for_a_lease(self, store: Store) -> None:
        async with store.lease() as lease:
            assert lease is not None
            await add(store)
            assert len(await lease.claim(10)) == 1
            await asyncio.wait_for(add(store), 2)
