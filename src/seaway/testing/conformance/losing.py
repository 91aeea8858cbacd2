"""The suite of what a lease knows of sent events: their places, what is lost, what is healed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from seaway.contracts import GIVEN_UP, Sent, SentPlace, Store
from seaway.events import RawEvent
from seaway.testing.conformance.inbox import SUBJECT, add_in, ids

STREAM, OTHER = "SEA_EVENTS", "SEA_OTHER"


async def send(store: Store, count: int, *, first: int, stream: str = STREAM) -> list[str]:
    """Events that ``stream`` acknowledged, on the places from ``first`` on."""
    async with store.transaction() as tx:
        await add_in(tx.handle, *(RawEvent(SUBJECT, b"%d" % n, key=f"k{n}") for n in range(count)))
    async with store.lease() as lease:
        assert lease is not None
        entries = await lease.claim(count)
        await lease.settle([Sent(each, stream, first + n) for n, each in enumerate(entries)])
    return ids(entries)


class LosingConformance:
    """Fixtures to give: ``store``."""

    async def test_the_places_of_a_stream_are_known_from_both_ends(self, store: Store) -> None:
        async with store.lease() as lease:
            assert lease is not None
            assert await lease.last_sent(STREAM) is None
            assert await lease.first_sent(STREAM) is None
            assert list(await lease.sent_streams()) == []
        sent = await send(store, 5, first=10)
        [other] = await send(store, 1, first=2**40, stream=OTHER)
        async with store.lease() as lease:
            assert lease is not None
            assert await lease.last_sent(STREAM) == SentPlace(sent[4], 14)
            assert await lease.last_sent(STREAM, of_all=True) == SentPlace(sent[4], 14)
            assert await lease.last_sent(STREAM, upto=12) == SentPlace(sent[2], 12)
            assert await lease.last_sent(STREAM, upto=9) is None
            assert await lease.last_sent(OTHER) == SentPlace(other, 2**40)
            assert await lease.first_sent(STREAM) == 10
            assert list(await lease.sent_streams()) == [STREAM, OTHER]

    async def test_what_is_lost_is_found_in_outbox_order_until_it_is_healed(
        self, store: Store
    ) -> None:
        sent = await send(store, 5, first=10)
        await send(store, 1, first=50, stream=OTHER)
        async with store.lease() as lease:
            assert lease is not None
            assert await lease.lost_since(STREAM) is None
            assert await lease.lose(STREAM, above=11) == (3, 12, 14)
            assert await lease.lose(STREAM, above=11) == (0, 0, 0)
            assert await lease.last_sent(STREAM) == SentPlace(sent[1], 11)
        async with store.lease() as lease:  # Whoever has it next.
            assert lease is not None
            since = await lease.lost_since(STREAM)
            assert since is not None
            assert abs(datetime.now(UTC) - since) < timedelta(minutes=1)
            assert await lease.lost_since(OTHER) is None
            lost = await lease.lost(STREAM, limit=2)
            assert [(one.entry.event_id, one.lost) for one in lost] == [
                (sent[2], 12),
                (sent[3], 13),
            ]
            assert [one.entry.message.payload for one in lost] == [b"2", b"3"]
            found = await lease.find_lost(STREAM, [sent[4], sent[0], "not an id"])
            assert ids([one.entry for one in found]) == [sent[4]]
            first, second = lost
            await lease.heal([first._replace(stream_seq=30)])
            await lease.heal([first._replace(stream_seq=99)])  # It is not lost any more.
            await lease.heal([second._replace(stream_seq=13)], again=False)
            await lease.heal([])
            [last] = await lease.lost(STREAM, limit=10)
            await lease.heal([last._replace(stream="nowhere", stream_seq=GIVEN_UP)])
            assert await lease.lost_since(STREAM) is None
            assert await lease.last_sent(STREAM) == SentPlace(sent[2], 30)
            assert list(await lease.sent_streams()) == [STREAM, OTHER]
            # What was given up has no place, and is never lost.
            assert (await lease.lose("nowhere", above=0)).events == 0
        kept = {one.entry.event_id: one for one in await store.sent()}
        assert [kept[one].stream_seq for one in sent] == [10, 11, 30, 13, GIVEN_UP]
        assert kept[sent[4]].given_up
        assert not any(one.lost for one in kept.values())
