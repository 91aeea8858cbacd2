"""Leases on PostgreSQL: shares, what ends them, and what a claim may not overlook."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

import asyncpg
import pytest

from seaway.contracts import Lease, Sent
from seaway.errors import SchemaMismatch, StoreUnavailable
from seaway.events import RawEvent, new_event_id
from seaway.stores.postgres import PostgresStore
from seaway.stores.postgres import lease as lease_module
from seaway.stores.postgres.begins import LEASE
from seaway.stores.postgres.lease import uuids
from seaway.testing.conformance.inbox import add_in, ids
from seaway.testing.conformance.outbox import add, claim_all, fail

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SUBJECT = "sea.event.case_moved.v1"


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(postgres_url) as store:
        yield store


@pytest.fixture
async def peers(postgres_url: str) -> AsyncIterator[list[PostgresStore]]:
    stores = [await PostgresStore.open(postgres_url) for _ in range(4)]
    yield stores
    for store in stores:
        await store.close()


@pytest.fixture
async def slow(postgres_url: str) -> AsyncIterator[Connection]:
    """A service's own connection, in a transaction that takes its time."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("BEGIN")
    yield connection
    await connection.close()


async def settle(lease: Lease, limit: int = 1000) -> list[str]:
    entries = await lease.claim(limit)
    await lease.settle([Sent(entry, "SEA_EVENTS", entry.position) for entry in entries])
    return ids(entries)


async def settle_all(store: PostgresStore) -> None:
    async with store.lease() as lease:
        assert lease is not None
        while await settle(lease):
            pass


def keyed(count: int) -> list[RawEvent]:
    return [RawEvent(SUBJECT, b"{}", key=f"case-{number}") for number in range(count)]


# ------------------------------------------------------------------ shards


async def test_alone_a_relay_has_every_shard(store: PostgresStore) -> None:
    await store.reshard(4)
    added = await add(store, *keyed(40))
    async with store.lease() as lease:
        assert lease is not None
        assert sorted(lease.shards) == [f"{shard} of 4" for shard in range(4)]
        entries = await lease.claim(100)
    assert ids(entries) == added
    assert {entry.lane for entry in entries} == {0, 1, 2, 3}


async def test_shares_are_fair_and_do_not_overlap(peers: list[PostgresStore]) -> None:
    await peers[0].reshard(4)
    added = await add(peers[0], *keyed(200))
    everybody = asyncio.Barrier(len(peers))
    leading = [_lead_one_shard(peer, everybody) for peer in peers]
    parts = await asyncio.wait_for(asyncio.gather(*leading), 20)
    assert sorted(event_id for part in parts for event_id in part) == sorted(added)


async def _lead_one_shard(store: PostgresStore, everybody: asyncio.Barrier) -> list[str]:
    """Take leases in turns, as relays do, until this one is a single shard; keep that one until
    everybody has one."""

    async def claim(lease: Lease) -> list[str]:
        claimed = ids(await lease.claim(1000))
        await everybody.wait()
        return claimed

    return await _with_one_shard(store, claim)


async def test_a_loss_is_noted_for_all_shards_and_found_by_whoever_has_them(
    peers: list[PostgresStore],
) -> None:
    await peers[0].reshard(2)
    added = await add(peers[0], *keyed(40))
    await settle_all(peers[0])
    both = asyncio.Barrier(2)
    noted = asyncio.Event()

    async def lose(lease: Lease) -> list[str]:
        last = await lease.last_sent("SEA_EVENTS", of_all=True)
        assert last is not None
        assert last.event_id == added[-1]
        await both.wait()
        if not noted.is_set():
            noted.set()
            assert (await lease.lose("SEA_EVENTS", above=0)).events == 40
        await both.wait()
        lost = await lease.lost("SEA_EVENTS", limit=100)
        mine = ids([one.entry for one in lost])
        assert mine == [one for one in added if one in mine]
        found = await lease.find_lost("SEA_EVENTS", added)
        assert sorted(ids([one.entry for one in found])) == sorted(mine)
        assert (await lease.lost_since("SEA_EVENTS") is None) == (not mine)
        await lease.heal(lost)
        return mine

    one, other = await asyncio.wait_for(
        asyncio.gather(*(_with_one_shard(peer, lose) for peer in peers[:2])), 20
    )
    assert sorted([*one, *other]) == sorted(added)


async def _with_one_shard(
    store: PostgresStore, work: Callable[[Lease], Awaitable[list[str]]]
) -> list[str]:
    while True:
        async with store.lease() as lease:
            if lease is not None and len(lease.shards) == 1:
                return await work(lease)
            # Inside, so that the others see that somebody wants a share.
            await asyncio.sleep(0.02)  # polling, within the caller's deadline


async def test_one_shard_is_total_order_whatever_the_keys(store: PostgresStore) -> None:
    added = await add(store, *keyed(50))
    async with store.lease() as lease:
        assert lease is not None
        entries = await lease.claim(100)
    assert ids(entries) == added
    assert {entry.lane for entry in entries} == {0}


async def test_the_keys_are_divided_anew_between_leases(peers: list[PostgresStore]) -> None:
    async with peers[0].lease() as lease:
        assert lease is not None
        dividing = asyncio.create_task(peers[1].reshard(8))
        await _blocked(peers[2], dividing)
        async with peers[2].lease() as other:
            assert other is None
    await asyncio.wait_for(dividing, 5)
    async with peers[0].lease() as lease:
        assert lease is not None
        assert len(lease.shards) == 8


async def _blocked(store: PostgresStore, task: asyncio.Task[None]) -> None:
    """Until somebody waits for an advisory lock."""
    async with asyncio.timeout(5):
        while True:
            (count,) = await store._pool.row(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            )
            if count:
                return
            assert not task.done()
            await asyncio.sleep(0.01)  # polling until the deadline above


# ------------------------------------------------------------------ the end of a lease


async def test_a_killed_session_frees_its_shards(peers: list[PostgresStore]) -> None:
    async with peers[0].lease() as lease:
        assert lease is not None
        async with peers[1].lease() as none:
            assert none is None
        await peers[1]._pool.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
        with pytest.raises(StoreUnavailable):
            await lease.confirm()
    async with peers[1].lease() as free:
        assert free is not None
    async with asyncio.timeout(5), peers[0].lease() as again:
        assert again is None or again.shards


async def test_a_holder_that_says_nothing_loses_it(
    peers: list[PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own timer, as after SIGSTOP; here without the keep-alive and in 50 ms."""
    monkeypatch.setattr("seaway.stores.postgres.lease._KEEP_ALIVE_SECONDS", 60.0)
    monkeypatch.setattr(lease_module, "LEASE", replace(LEASE, idle=timedelta(milliseconds=50)))
    async with peers[0].lease() as lease:
        assert lease is not None
        await asyncio.wait_for(_until_free(peers[1]), 5)
        with pytest.raises(StoreUnavailable):
            await lease.claim(10)


async def _until_free(store: PostgresStore) -> None:
    while True:
        async with store.lease() as lease:
            if lease is not None:
                return
            await asyncio.sleep(0.01)  # polling, within the caller's deadline


async def test_the_keep_alive_speaks_for_a_busy_holder(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.stores.postgres.lease._KEEP_ALIVE_SECONDS", 0.02)
    monkeypatch.setattr(lease_module, "LEASE", replace(LEASE, idle=timedelta(milliseconds=300)))
    async with store.lease() as lease:
        assert lease is not None
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(1.0, done.set)
        await done.wait()  # three times the server's patience, spent on publishing
        await lease.confirm()


# ------------------------------------------------------------------ what a claim must see


async def test_a_slower_transaction_is_not_skipped(store: PostgresStore, slow: Connection) -> None:
    (late,) = await add_in(slow, RawEvent(SUBJECT, b"{}", key="a"))
    async with store.lease() as lease:
        assert lease is not None
        for _ in range(5):
            await add(store, *keyed(3))
            assert len(await settle(lease)) == 3
            assert await settle(lease) == []
        await slow.execute("COMMIT")
        (after,) = await add(store, RawEvent(SUBJECT, b"{}", key="a"))
        # A lower position than everything that was sent before it: first, and not forgotten.
        assert await settle(lease) == [late, after]


async def test_the_newest_transaction_is_not_skipped(
    store: PostgresStore, slow: Connection
) -> None:
    """No snapshot names it: its id is the next one after the newest that has ended."""
    (first,) = await add(store, key="a")
    (late,) = await add_in(slow, RawEvent(SUBJECT, b"{}", key="b"))
    async with store.lease() as lease:
        assert lease is not None
        claimed = await lease.claim(10)
        assert ids(claimed) == [first]
        for _ in range(4):
            assert await lease.claim(10) == []
        await lease.settle([Sent(entry, "SEA_EVENTS", 1) for entry in claimed])
        for _ in range(4):
            assert await lease.claim(10) == []
        await slow.execute("COMMIT")
        assert await settle(lease) == [late]


async def test_the_floor_rises_over_what_is_settled(store: PostgresStore) -> None:
    for _ in range(6):
        await add(store, *keyed(10))
        await settle_all(store)
    async with store.lease() as lease:
        assert lease is not None
        assert await lease.claim(10) == []
        assert await lease.claim(10) == []
        (last,) = await store._pool.row("SELECT last_value FROM seaway_outbox_position")
        assert 0 < lease.floor <= last
        (event_id,) = await add(store)
        assert ids(await lease.claim(10)) == [event_id]


async def test_a_report_that_only_reads_keeps_nothing_open(
    store: PostgresStore, slow: Connection
) -> None:
    await slow.execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert await slow.fetchval("SELECT count(*) FROM seaway_outbox") == 0
    for _ in range(6):
        await add(store, *keyed(10))
        await settle_all(store)
    async with store.lease() as lease:
        assert lease is not None
        assert await lease.claim(10) == []
        assert await lease.claim(10) == []
        assert lease.floor > 0


async def test_a_released_event_below_the_floor_comes_first(store: PostgresStore) -> None:
    (parked,) = await add(store, key="a")
    await fail(store, parked, park=True)
    (behind,) = await add(store, key="a")
    for _ in range(6):
        await add(store, *keyed(5))
        await settle_all(store)
    async with store.lease() as lease:
        assert lease is not None
        assert await lease.claim(10) == []
        assert await lease.claim(10) == []
        assert lease.floor > 2
    await store.unpark()
    assert ids(await claim_all(store)) == [parked, behind]


async def test_a_late_row_of_a_failing_key_is_not_lost(
    store: PostgresStore, slow: Connection
) -> None:
    (late,) = await add_in(slow, RawEvent(SUBJECT, b"{}", key="a"))
    (failing,) = await add(store, key="a")
    await fail(store, failing, park=False)
    await slow.execute("COMMIT")
    for _ in range(5):
        await store.wait(timedelta(0))
    assert ids(await claim_all(store)) == [late, failing]


async def test_waiting_is_for_shards_of_ones_own(peers: list[PostgresStore]) -> None:
    first, second = peers[:2]
    await first.reshard(2)
    async with AsyncExitStack() as stack:
        assert await stack.enter_async_context(first.lease()) is not None
        async with second.lease() as waiting:
            assert waiting is None
            await stack.aclose()
            mine = await stack.enter_async_context(first.lease())
            assert mine is not None
            assert len(mine.shards) == 1
        theirs = await stack.enter_async_context(second.lease())
        assert theirs is not None
        await mine.claim(1)
        await theirs.claim(1)
        await add(first, *keyed(20))
        own = await mine.claim(100)
        await mine.settle([Sent(entry, "SEA_EVENTS", 1) for entry in own])
        assert 0 < len(own) < 20
    began = asyncio.get_running_loop().time()
    await first.wait(timedelta(milliseconds=200))
    assert asyncio.get_running_loop().time() - began >= 0.19
    await asyncio.wait_for(second.wait(timedelta(seconds=30)), 5)


async def test_an_emptied_table_is_said(store: PostgresStore) -> None:
    async with store._pool.transaction() as connection:
        await connection.execute("DELETE FROM seaway_relay")
    with pytest.raises(SchemaMismatch, match="seaway_relay"):
        async with store.lease():
            pass


async def test_ids_that_are_no_uuids_are_nobodys(store: PostgresStore) -> None:
    await add(store)
    assert await store.entries(event_id="SEA_EVENTS:4") == []
    assert await store.sent(event_id="x") == []
    assert await store.unpark(["x", new_event_id()]) == 0


async def test_looking_up_ids_does_not_read_the_whole_outbox(store: PostgresStore) -> None:
    written = await add(store, *keyed(2000))
    async with store._pool.transaction() as connection:
        await connection.execute("ANALYZE seaway_outbox")
    async with store.lease() as lease:
        assert lease is not None
        wanted = uuids(written[-100:])
        plan = await lease._connection.fetch(f"EXPLAIN {lease._sql['find']}", wanted)
        assert "seaway_outbox_event_id_key" in plan[0][0]
        assert ids(await lease.find(written[:-6:-1])) == written[-5:]
