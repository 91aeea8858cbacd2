"""The suite of an outbox: what is written, what a lease hands out, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway import headers as h
from seaway.contracts import Failed, OutboxEntry, Sent, Store
from seaway.errors import ConfigError
from seaway.events import RawEvent, new_event_id
from seaway.testing.conformance.inbox import CONSUMER, SUBJECT, add_in, ids


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


class OutboxConformance:
    """Fixtures to give: ``store``."""

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
