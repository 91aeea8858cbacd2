"""Every finding of the doctor about a PostgreSQL database: provoked, seen, and gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from patients import CALM, PROMPT, Patient, until
from seaway.brokers.jetstream import JetStreamBroker
from seaway.contracts import Notice, Store
from seaway.drivers.asyncpg import Pooled
from seaway.naming import ADVISORY_STREAM
from seaway.stores import open_store
from seaway.stores.postgres import PostgresStore
from seaway.testing.conformance.outbox import add, send

pytestmark = pytest.mark.server


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(postgres_url) as store:
        yield store


@pytest.fixture
async def patient(
    broker: JetStreamBroker, store: Store, context_name: str
) -> AsyncIterator[Patient]:
    made = Patient(broker, store, context_name, limits=CALM)
    await made.apply()
    yield made
    await broker.admin.delete_stream(ADVISORY_STREAM)


async def make_days(store: Store) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=1000)
    await store.prune(long_ago)
    await store.forget(long_ago)


async def execute(store: Store, *statements: str) -> None:
    async with store.transaction() as tx:
        handle: Pooled = tx.handle
        for one in statements:
            await handle.execute(one)


async def test_days_without_a_partition_and_rows_in_their_place(
    patient: Patient, store: Store
) -> None:
    await add(store)
    await send(store, stream=patient.stream)
    found = await patient.look()
    assert {(one.entry.code, one.subject) for one in found.ailments} >= {
        *(("SW-607", "seaway_sent"), ("SW-607", "seaway_inbox"), ("SW-608", "seaway_sent"))
    }
    await make_days(store)  # Of today there are rows already.
    found = await patient.look()
    seen = {one.entry.code: one.seen for one in found.ailments}
    assert seen["SW-607"] == "seaway_sent: 1 day of today and the next two days"
    assert seen["SW-608"].startswith("seaway_sent: 1 row of ")
    await execute(store, "DELETE FROM seaway_sent")
    await make_days(store)
    assert await patient.ill() == {}


async def test_connections(patient: Patient, store: Store) -> None:
    await make_days(store)
    await store.tell("host:1:a", [Notice("relay", reason='{"connections":20,"needs":25}')])
    assert await patient.ill() == {
        "SW-603": "host:1 needs 25 connections at the same time and has 20"
    }
    most = (await store.vitals()).most_connections
    figures = f'{{"connections":{most},"needs":{most}}}'
    await store.tell("host:1:a", [Notice("relay", reason=figures)])
    found = await patient.ill()
    assert set(found) == {"SW-604"}
    assert found["SW-604"].endswith(f"and the processes here may take {most}")
    await store.tell("host:1:a", [Notice("relay", reason='{"connections":20,"needs":5}')])
    assert await patient.ill() == {}


async def test_a_transaction_that_stays_open_and_what_it_keeps(
    patient: Patient, store: Store, postgres_url: str
) -> None:
    await make_days(store)
    other = await open_store(f"{postgres_url}?application_name=lingering")
    try:
        async with other.transaction() as tx:
            await tx.handle.execute("CREATE TABLE lingering ()")
            pid = await tx.handle.fetchval("SELECT pg_backend_pid()")

            async def seen() -> bool:
                # Other tests of this server have transactions too, for moments.
                said = (await patient.ill(limits=PROMPT)).get("SW-606", "")
                return said.startswith(f"pid {pid}, lingering (") and "has written" in said

            await until(seen)
    finally:
        await other.close()
    found = await patient.look(limits=PROMPT)
    assert f"pid {pid}" not in {one.subject for one in found.ailments}


async def test_dead_rows(patient: Patient, store: Store) -> None:
    await make_days(store)
    await execute(store, "ALTER TABLE seaway_outbox SET (autovacuum_enabled = false)")
    for _ in range(3):
        await add(store)
    await execute(store, "DELETE FROM seaway_outbox", "SELECT pg_stat_force_next_flush()")

    async def dead() -> bool:
        said = (await patient.ill(limits=PROMPT)).get("SW-605", "")
        return said.startswith("seaway_outbox has about ")

    async def vacuumed() -> bool:
        assert isinstance(store, PostgresStore)
        connection = await store._pool.take()
        await connection.execute("VACUUM seaway_outbox")
        await store._pool.keep_for_next(connection)
        return not await dead()

    await until(dead)
    await until(vacuumed)


async def test_tables_that_are_missing_or_half_upgraded(
    patient: Patient, empty_postgres_url: str
) -> None:
    async with await PostgresStore.open(empty_postgres_url) as store:
        patient.store = store
        found = await patient.look()
        [one] = found.ailments
        assert (one.entry.code, one.mend) == ("SW-601", "seaway db upgrade")
        assert {"SW-208", "SW-606"} <= {out.entry.code for out in found.unexamined}
        await store.schema.upgrade("pre")
        half = await patient.ill()
        assert half["SW-602"] == "not applied: 0006_parked.post"
        await store.schema.upgrade()
        await make_days(store)
        assert await patient.ill() == {}
