"""The store and inbox suites on PostgreSQL databases whose defaults suit somebody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

from drivers.inboxes import KINDS, Kind
from seaway.contracts import InboxStore, Store
from seaway.inbox import inbox_for
from seaway.stores import open_store
from seaway.testing.conformance.inbox import InboxConformance
from seaway.testing.conformance.parking import ParkingConformance
from seaway.testing.conformance.store import Reopen, StoreConformance
from seaway.testing.databases import Databases

Settings = Mapping[str, str]

REPEATABLE: Settings = {"default_transaction_isolation": "'repeatable read'"}
SERIALIZABLE: Settings = {
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
}
TEXTS: Settings = {
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "off",
    "bytea_output": "'escape'",
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'sql_standard'",
    "TimeZone": "'Asia/Kathmandu'",
    "client_encoding": "'LATIN1'",
    "extra_float_digits": "0",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "lc_messages": "'C'",
}
PLANS: Settings = {
    "plan_cache_mode": "'force_generic_plan'",
    "enable_indexscan": "off",
    "enable_indexonlyscan": "off",
    "enable_nestloop": "off",
    "enable_partition_pruning": "off",
    "constraint_exclusion": "off",
    "jit": "on",
    "jit_above_cost": "0",
    "work_mem": "64",
    "synchronous_commit": "off",
    "session_replication_role": "'replica'",
    "row_security": "off",
    "default_statistics_target": "1",
}
NEVER_WRITES: Settings = {"default_transaction_read_only": "on"}
# Together, since none of them undoes another: each suite on its own would take minutes more.
EVERYTHING: Settings = {**SERIALIZABLE, **TEXTS, **PLANS}
INBOXES: Mapping[str, Settings] = {"repeatable_read": REPEATABLE, "everything": EVERYTHING}
STORES: Mapping[str, Settings] = {**INBOXES, "read_only": NEVER_WRITES}


def set_defaults(databases: Databases, database: str, settings: Settings) -> None:
    """For every session to come."""
    databases.run(
        "\n".join(
            f'ALTER DATABASE "{database}" SET {name} = {value};' for name, value in settings.items()
        )
    )


@pytest.fixture
def settings() -> Settings:
    """What the database has by default."""
    raise NotImplementedError


@pytest.fixture
def hostile_url(postgres_databases: Databases, settings: Settings) -> Iterator[str]:
    """The URL of a fresh database with those defaults."""
    name = postgres_databases.create()
    set_defaults(postgres_databases, name, settings)
    yield postgres_databases.url(name)
    postgres_databases.leave(name)


class TestStores(StoreConformance):
    @pytest.fixture(params=list(STORES.values()), ids=list(STORES))
    def settings(self, request: pytest.FixtureRequest) -> Settings:
        found: Settings = request.param
        return found

    @pytest.fixture
    async def store(self, hostile_url: str) -> AsyncIterator[Store]:
        store = await open_store(hostile_url)
        yield store
        await store.close()

    @pytest.fixture
    def reopen(self, store: Store, hostile_url: str) -> Reopen:
        async def opened() -> Store:
            return await open_store(hostile_url)

        return opened


class TestInboxes(InboxConformance, ParkingConformance):
    @pytest.fixture(params=list(INBOXES.values()), ids=list(INBOXES))
    def settings(self, request: pytest.FixtureRequest) -> Settings:
        found: Settings = request.param
        return found

    @pytest.fixture(
        params=[kind for kind in KINDS if kind.engine == "postgres"], ids=lambda kind: kind.__name__
    )
    def kind(self, request: pytest.FixtureRequest, hostile_url: str) -> Kind:
        found: type[Kind] = request.param
        return found(hostile_url)

    @pytest.fixture
    async def store(self, kind: Kind) -> AsyncIterator[Store]:
        store = await open_store(kind.url)
        yield store
        await store.close()

    @pytest.fixture
    async def given(self, kind: Kind, store: Store) -> AsyncIterator[Any]:
        async with kind.given() as given:
            yield given

    @pytest.fixture
    async def inbox(self, given: Any) -> AsyncIterator[InboxStore]:
        inbox = inbox_for(given)
        yield inbox
        await inbox.close()
