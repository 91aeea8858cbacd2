"""The suite of looking at an outbox: its backlog, single events, and waiting for the next."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from seaway import headers as h
from seaway.contracts import Sent, Store
from seaway.events import RawEvent, new_event_id
from seaway.testing.conformance.inbox import SUBJECT, ids
from seaway.testing.conformance.outbox import add, claim_all, fail, later, send


class LookingConformance:
    """Fixtures to give: ``store``."""

    async def test_the_backlog_counts_what_waits(self, store: Store) -> None:
        empty = await store.backlog()
        assert (empty.count, empty.parked, empty.oldest_at) == (0, 0, None)
        (parked,) = await add(store, key="a")
        await add(store, key="b")
        await fail(store, parked, park=True)
        second = (await store.entries(parked=False))[0]
        backlog = await store.backlog()
        assert (backlog.count, backlog.parked) == (2, 1)
        assert backlog.oldest_at is not None
        assert abs(backlog.oldest_at - second.added_at) < timedelta(seconds=5)

    async def test_what_is_old_is_asked_of_the_clock_that_dates_the_rows(
        self, store: Store
    ) -> None:
        await add(store)
        (entry,) = await store.entries()
        assert timedelta() <= await store.now() - entry.added_at < timedelta(minutes=1)

    async def test_the_backlog_says_whether_the_oldest_is_held_behind_a_parked_one(
        self, store: Store
    ) -> None:
        assert not (await store.backlog()).oldest_held
        (before, parked) = await add(store, *[RawEvent(SUBJECT, b"{}")] * 2, key="a")
        await fail(store, parked, park=True)
        assert not (await store.backlog()).oldest_held, "it comes before the parked one"
        async with store.lease() as lease:
            assert lease is not None
            (entry,) = await lease.claim(100)
            assert entry.event_id == before
            await lease.settle([Sent(entry, "SEA_EVENTS", 1)])
        await add(store, key="a")
        await add(store, key="b")
        assert (await store.backlog()).oldest_held
        await store.unpark()
        assert not (await store.backlog()).oldest_held

    async def test_entries_are_selected(self, store: Store) -> None:
        added = await add(store, *[RawEvent(SUBJECT, b"%d" % n) for n in range(3)])
        assert ids(await store.entries(limit=2)) == added[:2]
        assert ids(await store.entries(event_id=added[1])) == [added[1]]
        assert await store.entries(event_id=new_event_id()) == []
        assert await store.entries(parked=True) == []

    async def test_sent_entries_are_found_newest_first(self, store: Store) -> None:
        await add(store, correlation_id="one")
        await add(store, correlation_id="two")
        await send(store)
        await add(store, correlation_id="one")
        await send(store)
        by_request = await store.sent(correlation_id="one")
        assert [sent.entry.message.headers[h.CORRELATION_ID] for sent in by_request] == ["one"] * 2
        assert by_request[0].entry.position > by_request[1].entry.position
        newest = (await store.sent(limit=1))[0]
        assert newest == by_request[0]
        assert await store.sent(event_id=new_event_id()) == []
        assert await store.sent(event_id=newest.entry.event_id, correlation_id="two") == []

    async def test_a_chain_is_found_with_the_event_that_started_it(self, store: Store) -> None:
        (first,) = await add(store)
        (second,) = await add(store, correlation_id=first, causation_id=first)
        await add(store)
        await send(store)
        chain = await store.sent(correlation_id=first)
        assert sorted(sent.entry.event_id for sent in chain) == sorted([first, second])

    async def test_what_became_of_an_event_is_found_by_its_id_and_chain(self, store: Store) -> None:
        (first,) = await add(store)
        (second,) = await add(store, correlation_id=first, causation_id=first)
        await send(store)
        (third,) = await add(store, correlation_id=first)
        chain = await store.history_of(first)
        assert [one.event_id for one in chain] == [first, second, third]
        assert [one.stream is None for one in chain] == [False, False, True]
        assert chain[0].sent_at is not None
        assert chain[0].healed_at is None
        assert chain[1].headers[h.CAUSATION_ID] == first
        pages = await store.history_of(first, after=chain[0].position, limit=1)
        assert [one.event_id for one in pages] == [second]
        assert [one.event_id for one in await store.history([third, "no uuid"])] == [third]
        async with store.transaction() as tx:
            await tx.claim("case_mgmt__from_sea", first)
            await tx.claim("case_mgmt__from_sea letters", f"{second}:SEA_EVENTS:2")
            await tx.claim("case_mgmt__from_sea", f"{second}0")
            await tx.trying("analytics__from_sea", [first])
            for place, one in enumerate([second, third]):
                await tx.park("case_mgmt__from_sea", one, "case-1", place=place, failed=not place)
        rows = await store.rows_of([first, second])
        assert sorted((one.consumer, one.event_id) for one in rows) == [
            ("case_mgmt__from_sea", first),
            ("case_mgmt__from_sea letters", f"{second}:SEA_EVENTS:2"),
        ]
        noted = {one.event_id: one for one in await store.unhandled([first, second, third])}
        assert (noted[first].waiting, noted[first].tries) == (False, 1)
        assert (noted[second].waiting, noted[second].behind) == (True, None)
        assert (noted[third].waiting, noted[third].behind) == (True, second)
        assert not await store.unhandled([])
        assert not await store.rows_of([])

    async def test_sent_entries_are_pruned(self, store: Store) -> None:
        await add(store)
        before = datetime.now(UTC)
        await send(store)
        await store.prune(before)
        assert len(await store.sent()) == 1
        await store.prune(later() + store.capabilities.pruned_by)
        assert await store.sent() == []
        (event_id,) = await add(store)
        await send(store)
        assert [sent.entry.event_id for sent in await store.sent()] == [event_id]

    async def test_waiting_ends_with_a_commit(self, store: Store) -> None:
        await claim_all(store)
        waiting = asyncio.create_task(store.wait(timedelta(seconds=30)))
        await asyncio.sleep(0)
        await add(store)
        await asyncio.wait_for(waiting, 5)

    async def test_waiting_misses_nothing_that_came_before_it(self, store: Store) -> None:
        await claim_all(store)
        await add(store)
        await asyncio.wait_for(store.wait(timedelta(seconds=30)), 5)

    async def test_a_nudge_ends_waiting(self, store: Store) -> None:
        await claim_all(store)
        waiting = asyncio.create_task(store.wait(timedelta(seconds=30)))
        await asyncio.sleep(0)
        await add(store)
        store.nudge()
        await asyncio.wait_for(waiting, 5)

    async def test_waiting_ends_in_time(self, store: Store) -> None:
        await claim_all(store)
        await asyncio.wait_for(store.wait(timedelta(milliseconds=20)), 5)
