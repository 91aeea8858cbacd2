"""The suite of parked events, of every ``contracts.InboxStore``: see ``inbox``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from seaway.contracts import InboxStore, Store
from seaway.testing.conformance.inbox import CONSUMER, Undo, undone
from seaway.waiting_events import Standing


class ParkingConformance:
    """Fixtures to give: ``store``, and ``inbox`` on its database."""

    async def test_where_nothing_is_parked_nobody_waits(
        self, inbox: InboxStore, store: Store
    ) -> None:
        async with inbox.transaction() as tx:
            assert await tx.standing(CONSUMER, "e1", "case-1") == Standing()
        assert list(await store.parked_heads(CONSUMER)) == []

    async def test_an_event_stands_behind_the_first_of_its_key(
        self, inbox: InboxStore, store: Store
    ) -> None:
        async with inbox.transaction() as tx:
            await tx.park(CONSUMER, "e9", "case-1", place=9, failed=False)
            await tx.park(CONSUMER, "e5", "case-1", place=5, failed=True)
            await tx.park(CONSUMER, "other", "case-2", place=1, failed=True)
            await tx.park("analytics__from_sea", "e1", "case-1", place=1, failed=True)
        async with inbox.transaction() as tx:
            stranger = await tx.standing(CONSUMER, "e7", "case-1")
            last = await tx.standing(CONSUMER, "e9", "case-1")
            first = await tx.standing(CONSUMER, "e5", "case-1")
            assert (await tx.standing(CONSUMER, "e7", "case-3")) == Standing()
            assert await tx.parked_keys(CONSUMER, ["case-1", "case-2", "'3"]) == {
                "case-1",
                "case-2",
            }
            assert await tx.parked_keys(CONSUMER, []) == set()
            assert await tx.parked_keys("analytics__from_sea", {"case-2"}) == set()
        assert stranger.own is None
        assert stranger.first is not None
        assert (stranger.first.event_id, stranger.first.place) == ("e5", 5)
        assert (stranger.first.failed, stranger.first.letter) == (True, None)
        assert abs(datetime.now(UTC) - stranger.first.parked_at) < timedelta(minutes=1)
        assert last.own is not None
        assert (last.own.event_id, last.own.failed, last.first) == ("e9", False, stranger.first)
        assert first.own == first.first == stranger.first

    async def test_a_parked_event_that_took_effect_is_nobodys_first(
        self, inbox: InboxStore, store: Store
    ) -> None:
        async with inbox.transaction() as tx:
            await tx.park(CONSUMER, "e1", "case-1", place=1, failed=True)
            await tx.park(CONSUMER, "e2", "case-1", place=2, failed=False)
            await tx.claim(CONSUMER, "e1")
            behind = await tx.standing(CONSUMER, "e3", "case-1")
            itself = await tx.standing(CONSUMER, "e1", "case-1")
        assert behind.first is not None
        assert (behind.first.event_id, behind.processed) == ("e2", False)
        assert itself.own is not None
        assert (itself.own.processed, itself.processed) == (True, True)
        assert itself.first == behind.first
        [head] = await store.parked_heads(CONSUMER)
        assert (head.event_id, head.processed) == ("e1", True)
        assert await store.drop_parked(head)
        [head] = await store.parked_heads(CONSUMER)
        assert (head.event_id, head.processed) == ("e2", False)

    async def test_a_rolled_back_parking_is_none(self, inbox: InboxStore, store: Store) -> None:
        async with inbox.transaction() as tx:
            await tx.park(CONSUMER, "e1", "case-1", place=1, failed=True)
        with undone():
            async with inbox.transaction() as tx:
                await tx.release(CONSUMER, ["e1"])
                await tx.park(CONSUMER, "e2", "case-2", place=2, failed=True)
                raise Undo
        assert [one.event_id for one in await store.parked_heads(CONSUMER)] == ["e1"]
        for _ in range(2):
            async with inbox.transaction() as tx:
                await tx.release(CONSUMER, ["e1"])
        assert list(await store.parked_heads(CONSUMER)) == []

    async def test_parked_again_it_keeps_its_place_and_has_no_letter(
        self, inbox: InboxStore, store: Store
    ) -> None:
        async with inbox.transaction() as tx:
            await tx.park(CONSUMER, "e1", "case-1", place=7, failed=False)
        async with inbox.transaction() as tx:
            await tx.set_letter(CONSUMER, "e1", 17)
            await tx.set_letter(CONSUMER, "unknown", 18)
        [head] = await store.parked_heads(CONSUMER)
        assert (head.place, head.failed, head.letter) == (7, False, 17)
        async with inbox.transaction() as tx:
            await tx.park(CONSUMER, "e1", "case-1", place=99, failed=True)
        [again] = await store.parked_heads(CONSUMER)
        assert (again.place, again.failed, again.letter) == (7, True, None)
        assert not await store.drop_parked(head), "it has another letter by now"
        assert await store.drop_parked(again)
        assert not await store.drop_parked(again)

    async def test_what_waits_or_is_settled_is_tried_anew(
        self, inbox: InboxStore, store: Store
    ) -> None:
        async with inbox.transaction() as tx:
            assert await tx.trying(CONSUMER, ["e1", "e2"]) == {"e1": 1, "e2": 1}
            assert await tx.parked_keys(CONSUMER, ["case-1", ""]) == set()
            assert await tx.standing(CONSUMER, "e1", "case-1") == Standing()
            await tx.set_letter(CONSUMER, "e1", 17)
        assert list(await store.parked_heads(CONSUMER)) == []
        async with inbox.transaction() as tx:
            await tx.park(CONSUMER, "e1", "case-1", place=7, failed=True)
            await tx.set_letter(CONSUMER, "e1", 17)
            await tx.release(CONSUMER, ["e2", "unknown"])
            await tx.release(CONSUMER, [])
        async with inbox.transaction() as tx:
            assert await tx.trying(CONSUMER, ["e1", "e2"]) == {"e1": 1, "e2": 1}
            assert await tx.trying(CONSUMER, ["e1"]) == {"e1": 2}
        [head] = await store.parked_heads(CONSUMER)
        assert (head.event_id, head.key, head.place, head.letter) == ("e1", "case-1", 7, 17)

    async def test_the_heads_are_the_first_of_each_key(
        self, inbox: InboxStore, store: Store
    ) -> None:
        async with inbox.transaction() as tx:
            for number in range(20):
                key, event_id = f"case-{number % 3}", f"e{number:02}"
                await tx.park(CONSUMER, event_id, key, place=100 - number, failed=False)
            await tx.park("analytics__from_sea", "e1", "case-9", place=1, failed=True)
        heads = [(one.key, one.event_id) for one in await store.parked_heads(CONSUMER)]
        assert heads == [("case-0", "e18"), ("case-1", "e19"), ("case-2", "e17")]
