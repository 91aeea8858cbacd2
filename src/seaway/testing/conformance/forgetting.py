"""The suite of forgetting: what is old goes, and nothing else."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from seaway.contracts import Store
from seaway.events import new_event_id
from seaway.testing.conformance.inbox import CONSUMER
from seaway.testing.conformance.outbox import add, later, send


class ForgettingConformance:
    """Fixtures to give: ``store``."""

    async def test_old_claims_are_forgotten(self, store: Store) -> None:
        before = datetime.now(UTC)
        await store.forget(before)
        claimed = [new_event_id(), str(uuid.uuid4()), "SEA_EVENTS:17", "01", ""]
        for _ in range(2):  # An event that is forgotten can be claimed again.
            async with store.transaction() as tx:
                assert all([await tx.claim(CONSUMER, event_id) for event_id in claimed])
            await store.forget(before)
            async with store.transaction() as tx:
                assert not any([await tx.claim(CONSUMER, event_id) for event_id in claimed])
            await store.forget(later() + store.capabilities.pruned_by)
            for event_id in claimed:
                assert await store.processed(event_id) == {}

    async def test_the_claim_of_an_old_event_is_as_young_as_its_handling(
        self, store: Store
    ) -> None:
        old = "0197b3c2-5f00-7000-8000-000000000001"  # Of June 2025.
        before = datetime.now(UTC)
        await store.forget(before)
        async with store.transaction() as tx:
            assert await tx.claim(CONSUMER, old)
        await store.forget(before)
        assert set(await store.processed(old)) == {CONSUMER}
        await store.forget(later())
        assert await store.processed(old) == {}

    async def test_what_was_tried_long_ago_is_counted_anew(self, store: Store) -> None:
        before = datetime.now(UTC)
        async with store.transaction() as tx:
            await tx.trying(CONSUMER, ["e1"])
        await store.forget(before)
        assert await store.overdue(before, before) == {}
        assert await store.overdue(before, later()) == {"seaway_unhandled": 1}
        async with store.transaction() as tx:
            assert await tx.trying(CONSUMER, ["e1"]) == {"e1": 2}
        await store.forget(later())
        async with store.transaction() as tx:
            assert await tx.trying(CONSUMER, ["e1"]) == {"e1": 1}

    async def test_many_old_claims_are_forgotten(self, store: Store) -> None:
        async with store.transaction() as tx:
            for number in range(2500):
                await tx.claim(CONSUMER, f"SEA_EVENTS:{number}")
        await store.forget(later())
        assert await store.overdue(later(), later()) == {}

    async def test_what_would_be_forgotten_is_counted(self, store: Store) -> None:
        before = datetime.now(UTC)
        await add(store)
        await send(store)
        async with store.transaction() as tx:
            for event_id in ("SEA_EVENTS:1", new_event_id()):
                await tx.claim(CONSUMER, event_id)
        assert await store.overdue(before, before) == {}
        after = later() + store.capabilities.pruned_by
        found = await store.overdue(after, after)
        assert sum(n for table, n in found.items() if table.startswith("seaway_sent")) == 1
        assert sum(n for table, n in found.items() if table.startswith("seaway_inbox")) == 2
        await store.prune(after)
        await store.forget(after)
        assert await store.overdue(after, after) == {}
