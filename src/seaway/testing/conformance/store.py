"""The one suite that every ``contracts.Store`` passes.

Derive from ``StoreConformance`` in a test module and give it the fixture ``store`` (a fresh store
with its tables) and, where stores can share a database, ``reopen``. What a store honestly cannot
do, its ``capabilities`` say, and the suite asks for the opposite then. Tests are public: a new
engine is done when they pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from seaway.contracts import InboxStore, Store
from seaway.testing.conformance.forgetting import ForgettingConformance
from seaway.testing.conformance.history import HistoryConformance
from seaway.testing.conformance.inbox import InboxConformance, ids
from seaway.testing.conformance.leases import LeasesConformance
from seaway.testing.conformance.looking import LookingConformance
from seaway.testing.conformance.losing import LosingConformance
from seaway.testing.conformance.mending import MendingConformance
from seaway.testing.conformance.noting import NotingConformance
from seaway.testing.conformance.outbox import OutboxConformance, add, claim_all
from seaway.testing.conformance.parking import ParkingConformance
from seaway.testing.conformance.processes import ProcessesConformance
from seaway.testing.conformance.vitals import VitalsConformance

Reopen = Callable[[], Awaitable[Store]]


class StoreConformance(
    OutboxConformance,
    LeasesConformance,
    LookingConformance,
    ForgettingConformance,
    InboxConformance,
    ParkingConformance,
    ProcessesConformance,
    NotingConformance,
    HistoryConformance,
    VitalsConformance,
    LosingConformance,
    MendingConformance,
):
    """Fixtures to give: ``store``; and ``reopen`` where ``capabilities.shared``."""

    @pytest.fixture
    def inbox(self, store: Store) -> InboxStore:
        """The store itself."""
        return store

    @pytest.fixture
    def reopen(self, store: Store) -> Reopen | None:
        """Opens another store on the same database; ``None`` where there is no such thing."""
        return None

    async def test_another_store_sees_what_was_committed(
        self, store: Store, reopen: Reopen | None
    ) -> None:
        assert (reopen is not None) == store.capabilities.shared
        if reopen is None:
            return
        other = await reopen()
        try:
            (event_id,) = await add(store)
            assert ids(await other.entries()) == [event_id]
            async with store.lease() as mine, other.lease() as theirs:
                assert mine is not None
                assert theirs is None
            async with other.lease() as theirs, store.lease() as mine:
                assert theirs is not None
                assert mine is None
            await claim_all(other)
            waiting = asyncio.create_task(other.wait(timedelta(seconds=30)))
            await add(store)
            await asyncio.wait_for(waiting, 5)
        finally:
            await other.close()

    async def test_what_was_committed_survives_closing(
        self, store: Store, reopen: Reopen | None
    ) -> None:
        (event_id,) = await add(store)
        await store.close()
        await store.close()
        if reopen is None:
            assert not store.capabilities.durable
            return
        other = await reopen()
        try:
            assert ids(await other.entries()) == [event_id]
        finally:
            await other.close()

    async def test_upgrading_again_changes_nothing(self, store: Store) -> None:
        await add(store)
        assert list(await store.schema.upgrade()) == []
        assert all(change.applied for change in await store.schema.plan())
        await store.schema.verify()
        assert (await store.backlog()).count == 1
