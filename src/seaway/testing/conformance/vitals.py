"""The suite of ``contracts.VitalStore``: what a database says of itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from seaway.contracts import Failed, Sent, Store
from seaway.events import RawEvent
from seaway.testing.conformance.inbox import add_in

EVENT = RawEvent("sea.event.case_opened.v1", b"{}")
HOUR = timedelta(hours=1)


class VitalsConformance:
    """Fixtures to give: ``store``."""

    async def test_a_look_at_a_fresh_database_finds_nothing_wrong(self, store: Store) -> None:
        long_ago = datetime.now(UTC) - 1000 * HOUR
        await store.prune(long_ago)  # Where there are days, that makes those that come.
        await store.forget(long_ago)
        seen = await store.vitals({"SEA_EVENTS": datetime.now(UTC)})
        assert abs(datetime.now(UTC) - seen.clock) < timedelta(minutes=1)
        assert not seen.without_a_day
        assert not seen.misplaced
        assert not seen.last_sent
        assert not seen.sent_before
        if seen.most_connections is not None and seen.connections is not None:
            assert 0 < seen.connections <= seen.most_connections

    async def test_it_knows_how_far_each_stream_was_filled(self, store: Store) -> None:
        async with store.transaction() as tx:
            await add_in(tx.handle, *[EVENT] * 4)
        async with store.lease() as lease:
            assert lease is not None
            one, two, three, four = await lease.claim(10)
            await lease.settle([Sent(one, "SEA_EVENTS", 7), Sent(two, "SEA_EVENTS", 9)])
            await lease.settle([Sent(three, "ORDER_EVENTS", 3)])
            await lease.settle([], [Failed(four, "no", park=True)])
        assert await store.discard([four.event_id], "by hand") == [four.event_id]
        later, earlier = datetime.now(UTC) + HOUR, datetime.now(UTC) - HOUR
        seen = await store.vitals(
            {"SEA_EVENTS": later, "ORDER_EVENTS": earlier, "NO_EVENTS": later}
        )
        assert {name: place[:2] for name, place in seen.last_sent.items()} == {
            "SEA_EVENTS": (9, two.event_id),
            "ORDER_EVENTS": (3, three.event_id),
        }
        assert set(seen.sent_before) == {"SEA_EVENTS"}
        assert seen.sent_before["SEA_EVENTS"].stream_seq in (7, 9)
        assert earlier < seen.last_sent["ORDER_EVENTS"].sent_at < later
        assert not (await store.vitals()).last_sent
