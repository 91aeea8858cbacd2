"""The store suite on every store that there is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest

from seaway.contracts import Store
from seaway.databases import queries
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


TRIED = """
-- name: tried
SELECT event_id, tries FROM seaway_unhandled
WHERE consumer = :consumer AND event_id IN (SELECT value FROM json_each(:event_ids))

-- name: to_discard
SELECT event_id FROM seaway_outbox
WHERE parked_at IS NOT NULL AND event_id IN (SELECT value FROM json_each(:event_ids))
"""


class TestStoreWithoutReturning(TestSqliteStore):
    """On an engine whose INSERT and DELETE give no rows, such as MySQL."""

    @pytest.fixture(autouse=True)
    def statements(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = files("seaway").joinpath("stores/sqlite/statements.sql").read_text("utf-8")
        blocks = [one for one in re.split(r"(?m)^(?=-- name: )", text) if one]
        kept = [one for one in blocks if not one.startswith("-- name: claim_many\n")]
        for place, block in enumerate(kept):
            if block.startswith(("-- name: trying\n", "-- name: discard\n")):
                kept[place], returning, _ = block.partition("RETURNING ")
                assert returning
        file = tmp_path / "stores" / "sqlite" / "statements.sql"
        file.parent.mkdir(parents=True)
        file.write_text("\n".join([*kept, TRIED]))
        monkeypatch.setattr(queries, "files", lambda _: tmp_path)


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
