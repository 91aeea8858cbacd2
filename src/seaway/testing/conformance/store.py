"""The one suite that every ``contracts.Store`` passes.

Derive from ``StoreConformance`` in a test module and give it the fixture ``store`` (a fresh store
with its tables) and, where stores can share a database, ``reopen``. What a store honestly cannot
do, its ``capabilities`` say, and the suite asks for the opposite then. Tests are public: a new
engine is done when they pass.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway import headers as h
from seaway.contracts import Failed, InboxStore, OutboxEntry, Sent, Store
from seaway.errors import ConfigError
from seaway.events import RawEvent, new_event_id
from seaway.testing.conformance.history import HistoryConformance
from seaway.testing.conformance.inbox import (
    CONSUMER,
    SUBJECT,
    InboxConformance,
    Undo,
    add_in,
    ids,
    undone,
)
from seaway.testing.conformance.losing import LosingConformance
from seaway.testing.conformance.mending import MendingConformance
from seaway.testing.conformance.noting import NotingConformance
from seaway.testing.conformance.parking import ParkingConformance
from seaway.testing.conformance.processes import ProcessesConformance
from seaway.testing.conformance.vitals import VitalsConformance

Reopen = Callable[[], Awaitable[Store]]


async def add(store: Store, *events: RawEvent, key: str | None = None, **more: Any) -> list[str]:
    """Commit ``events`` (default: one) through a transaction of the store's own."""
    async with store.transaction() as tx:
        return await add_in(tx.handle, *(events or (RawEvent(SUBJECT, b"{}"),)), key=key, **more)


async def claim_all(store: Store, limit: int = 100) -> list[OutboxEntry]:
    """What one lease hands out."""
    claimed: list[OutboxEntry] = []
    async with store.lease() as lease:
        assert lease is not None
        while entries := await lease.claim(limit):
            claimed += entries
    return claimed


async def fail(store: Store, event_id: str, *, park: bool) -> None:
    """Record a failure of one entry under a lease of its own."""
    async with store.lease() as lease:
        assert lease is not None
        (entry,) = [e for e in await lease.claim(1000) if e.event_id == event_id]
        await lease.settle([], [Failed(entry, "no stream takes it", park=park)])


async def send(store: Store, *, stream: str = "SEA_EVENTS") -> Sequence[Sent]:
    """Settle everything there is as sent."""
    async with store.lease() as lease:
        assert lease is not None
        entries = await lease.claim(1000)
        sent = [Sent(entry, stream, number) for number, entry in enumerate(entries, start=1)]
        await lease.settle(sent)
    return sent


def later() -> datetime:
    """After everything that this test does."""
    return datetime.now(UTC) + timedelta(hours=1)


class StoreConformance(
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

    # ----------------------------------------------------------------- writing

    async def test_committed_events_are_in_the_outbox_in_order(self, store: Store) -> None:
        first = await add(store, key="a")
        more = await add(store, *[RawEvent(SUBJECT, b"%d" % n) for n in range(3)], key="b")
        entries = await store.entries()
        assert ids(entries) == first + more
        assert [entry.message.payload for entry in entries] == [b"{}", b"0", b"1", b"2"]
        assert [entry.key for entry in entries] == ["a", "b", "b", "b"]
        positions = [entry.position for entry in entries]
        assert positions == sorted(set(positions))

    async def test_an_entry_is_the_message_to_publish(self, store: Store) -> None:
        (event_id,) = await add(
            store, RawEvent(SUBJECT, b"\x00\xff"), key="k", headers={"X-Tenant": "süd"}
        )
        (entry,) = await store.entries()
        assert entry.message.subject == SUBJECT
        assert entry.message.payload == b"\x00\xff"
        assert entry.message.headers[h.MSG_ID] == event_id
        assert entry.message.headers[h.CORRELATION_ID] == event_id
        assert entry.message.headers["X-Tenant"] == "süd"
        assert (entry.attempts, entry.last_error, entry.parked_at) == (0, None, None)
        assert abs(datetime.now(UTC) - entry.added_at) < timedelta(minutes=1)

    async def test_an_event_id_is_used_once(self, store: Store) -> None:
        event = RawEvent(SUBJECT, b"{}", event_id=new_event_id())
        await add(store, event)
        with pytest.raises(ConfigError, match=event.event_id):
            await add(store, RawEvent(SUBJECT, b"1"), event, RawEvent(SUBJECT, b"2"))
        assert ids(await store.entries()) == [event.event_id]

    async def test_the_id_of_a_sent_event_is_not_used_again(self, store: Store) -> None:
        event = RawEvent(SUBJECT, b"{}", event_id=new_event_id())
        await add(store, event)
        await send(store)
        again = replace(event, payload=b"another")
        for events in ([again], [RawEvent(SUBJECT, b"1"), again]):
            async with store.transaction() as tx:
                with pytest.raises(ConfigError, match=rf"{event.event_id} .* was sent"):
                    await add_in(tx.handle, *events)
                await tx.claim(CONSUMER, "e1")
            assert await store.entries() == []
            assert set(await store.processed("e1")) == {CONSUMER}
        fresh = [RawEvent(SUBJECT, b"{}", event_id=new_event_id()) for _ in range(3)]
        added = [*await add(store, fresh[0]), *await add(store, *fresh[1:])]
        assert ids(await store.entries()) == added == [one.event_id for one in fresh]

    async def test_a_refused_call_leaves_none_of_its_events(self, store: Store) -> None:
        known = RawEvent(SUBJECT, b"{}", event_id=new_event_id())
        await add(store, known)
        async with store.transaction() as tx:
            with pytest.raises(ConfigError):
                await add_in(tx.handle, RawEvent(SUBJECT, b"1"), known)
            await tx.claim(CONSUMER, "e1")
        assert ids(await store.entries()) == [known.event_id]
        assert set(await store.processed("e1")) == {CONSUMER}

    # ----------------------------------------------------------------- claiming and settling

    async def test_a_lease_hands_out_each_entry_once_in_order(self, store: Store) -> None:
        added = await add(store, *[RawEvent(SUBJECT, b"%d" % n) for n in range(7)])
        async with store.lease() as lease:
            assert lease is not None
            batches = [ids(await lease.claim(3)) for _ in range(4)]
            assert batches == [added[:3], added[3:6], added[6:], []]
            late = await add(store)
            assert ids(await lease.claim(3)) == late

    async def test_what_was_not_settled_is_handed_out_by_the_next_lease(self, store: Store) -> None:
        added = await add(store, RawEvent(SUBJECT, b"1"), RawEvent(SUBJECT, b"2"))
        assert ids(await claim_all(store)) == added
        assert ids(await claim_all(store)) == added

    async def test_sent_entries_leave_the_outbox(self, store: Store) -> None:
        (event_id,) = await add(store, correlation_id="request-1")
        await send(store)
        assert await store.entries() == []
        (sent,) = await store.sent(event_id=event_id)
        assert (sent.stream, sent.stream_seq) == ("SEA_EVENTS", 1)
        assert sent.entry.event_id == event_id
        assert sent.entry.message.headers[h.CORRELATION_ID] == "request-1"

    async def test_settling_twice_changes_nothing(self, store: Store) -> None:
        await add(store, RawEvent(SUBJECT, b"1"), key="a")
        await add(store, RawEvent(SUBJECT, b"2"), key="b")
        async with store.lease() as lease:
            assert lease is not None
            first, second = await lease.claim(10)
            for _ in range(2):
                await lease.settle([Sent(first, "SEA_EVENTS", 1)], [Failed(second, "no", False)])
        assert len(await store.sent()) == 1
        (left,) = await store.entries()
        assert (left.attempts, left.last_error, left.parked_at) == (1, "no", None)

    async def test_a_thousand_entries_settle_at_once(self, store: Store) -> None:
        await add(store, *[RawEvent(SUBJECT, b"{}") for _ in range(1000)])
        await send(store)
        assert (await store.backlog()).count == 0
        assert len(await store.sent(limit=2000)) == 1000

    async def test_a_failure_holds_back_its_key_for_this_lease(self, store: Store) -> None:
        (failing,) = await add(store, key="a")
        async with store.lease() as lease:
            assert lease is not None
            (entry,) = await lease.claim(10)
            await lease.settle([], [Failed(entry, "not now", park=False)])
            await add(store, key="a")
            (other,) = await add(store, key="b")
            assert ids(await lease.claim(10)) == [other]
        assert ids(await claim_all(store))[0] == failing

    async def test_a_parked_entry_holds_back_its_key_alone(self, store: Store) -> None:
        (before,) = await add(store, key="a")
        (parked,) = await add(store, key="a")
        (behind,) = await add(store, key="a")
        (other,) = await add(store, key="b")
        await fail(store, parked, park=True)
        for limit in (1, 100):
            assert ids(await claim_all(store, limit)) == [before, other]
        assert await store.unpark([parked]) == 1
        assert ids(await claim_all(store)) == [before, parked, behind, other]

    async def test_told_so_a_lease_passes_parked_entries(self, store: Store) -> None:
        (parked,) = await add(store, key="a")
        (behind,) = await add(store, key="a")
        await fail(store, parked, park=True)
        async with store.lease(hold=False) as lease:
            assert lease is not None
            assert ids(await lease.claim(10)) == [behind]
        assert await claim_all(store) == []
        await store.unpark()
        assert ids(await claim_all(store)) == [parked, behind]

    async def test_also_then_a_failure_holds_back_its_key_until_it_is_parked(
        self, store: Store
    ) -> None:
        (failing,) = await add(store, key="a")
        async with store.lease(hold=False) as lease:
            assert lease is not None
            (entry,) = await lease.claim(10)
            await lease.settle([], [Failed(entry, "not now", park=False)])
            await add(store, key="a")
            assert await lease.claim(10) == []
        assert ids(await claim_all(store))[0] == failing

    async def test_the_default_key_is_the_subject(self, store: Store) -> None:
        (parked,) = await add(store)
        await add(store)
        (other,) = await add(store, RawEvent("sea.event.task_done.v1", b"{}"))
        await fail(store, parked, park=True)
        assert ids(await claim_all(store)) == [other]

    async def test_unparked_under_a_lease_no_later_event_overtakes(self, store: Store) -> None:
        (parked,) = await add(store, key="a")
        await fail(store, parked, park=True)
        async with store.lease() as lease:
            assert lease is not None
            assert await lease.claim(10) == []
            await store.unpark()
            (behind,) = await add(store, key="a")
            assert await lease.claim(10) == []
        assert ids(await claim_all(store)) == [parked, behind]

    async def test_unparking_counts_anew(self, store: Store) -> None:
        (event_id,) = await add(store, key="a")
        await fail(store, event_id, park=True)
        (entry,) = await store.entries(parked=True)
        assert (entry.attempts, entry.last_error) == (1, "no stream takes it")
        assert entry.parked_at is not None
        assert await store.unpark([new_event_id()]) == 0
        assert await store.unpark() == 1
        assert await store.unpark() == 0
        (entry,) = await store.entries(parked=False)
        assert (entry.attempts, entry.parked_at) == (0, None)

    async def test_what_is_given_up_lets_its_key_go_on_and_says_why(self, store: Store) -> None:
        (wrong,) = await add(store, key="a")
        (behind,) = await add(store, key="a")
        (other,) = await add(store, key="b")
        await fail(store, wrong, park=True)
        assert ids(await claim_all(store)) == [other]
        given_up = await store.discard([wrong, other, new_event_id(), "no id"], "a typo, by ann")
        assert given_up == [wrong]
        assert ids(await claim_all(store)) == [behind, other]
        [kept] = await store.discarded()
        assert kept.given_up
        assert kept.entry.event_id == wrong
        assert kept.stream == "a typo, by ann (its error: no stream takes it)"
        assert await store.discard([wrong], "again") == []
        await send(store)
        assert [done.given_up for done in await store.sent(event_id=wrong)] == [True]
        assert len(await store.discarded()) == 1
        assert await store.unpark() == 0

    async def test_given_up_under_a_lease_no_later_event_is_lost(self, store: Store) -> None:
        (wrong,) = await add(store, key="a")
        (behind,) = await add(store, key="a")
        await fail(store, wrong, park=True)
        async with store.lease() as lease:
            assert lease is not None
            assert await lease.claim(10) == []
            assert await store.discard([wrong], "a typo") == [wrong]
        assert ids(await claim_all(store)) == [behind]

    # ----------------------------------------------------------------- leases

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

    # ----------------------------------------------------------------- looking at it

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

    # ----------------------------------------------------------------- forgetting

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

    # ----------------------------------------------------------------- several on one database

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

    # ----------------------------------------------------------------- the schema

    async def test_upgrading_again_changes_nothing(self, store: Store) -> None:
        await add(store)
        assert list(await store.schema.upgrade()) == []
        assert all(change.applied for change in await store.schema.plan())
        await store.schema.verify()
        assert (await store.backlog()).count == 1
