"""The store suite on every store that there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from seaway.contracts import Store
from seaway.stores import open_store
from seaway.testing.conformance.store import Reopen, StoreConformance
from seaway.testing.memory_store import MemoryStore


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    async def store(self) -> Store:
        return MemoryStore()


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = await open_store(f"sqlite:///{tmp_path}/app.db")
        await store.schema.upgrade()
        yield store
        await store.close()

    @pytest.fixture
    def reopen(self, store: Store, tmp_path: Path) -> Reopen:
        async def opened() -> Store:
            return await open_store(f"sqlite:///{tmp_path}/app.db")

        return opened


class TestPostgresStore(StoreConformance):
    @pytest.fixture
    async def store(self, postgres_url: str) -> AsyncIterator[Store]:
        store = await open_store(postgres_url)
        yield store
        await store.close()

    @pytest.fixture
    def reopen(self, store: Store, postgres_url: str) -> Reopen:
        async def opened() -> Store:
            return await open_store(postgres_url)

        return opened
