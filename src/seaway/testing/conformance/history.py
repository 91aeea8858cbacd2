"""What was committed and what took effect, asked for by place, by id and by minute."""

from __future__ import annotations

from seaway.contracts import GIVEN_UP, Committed, Failed, Sent, SentPlace, Store
from seaway.databases.tallies import MINUTE_MS, OTHERS, Window, fingerprint, millisecond
from seaway.events import RawEvent
from seaway.testing.conformance.inbox import CONSUMER, SUBJECT, add_in

_STREAM, _CONTEXT = "SEA_EVENTS", SUBJECT.partition(".")[0]
_FOREIGN = "SEA_EVENTS:17"


class HistoryConformance:
    """A part of ``StoreConformance``."""

    async def test_what_was_committed_is_found_by_place_by_minute_and_by_id(
        self, store: Store
    ) -> None:
        assert not await store.writes(_STREAM, _CONTEXT)
        assert await store.last_place(_STREAM) == 0
        async with store.transaction() as tx:
            events = [RawEvent(SUBJECT, b"{}") for _ in range(4)]
            sent, lost, dropped, waits = await add_in(tx.handle, *events)
        assert await store.writes(_STREAM, _CONTEXT)
        assert not await store.writes(_STREAM, f"{_CONTEXT}x")
        async with store.lease() as lease:
            assert lease is not None
            found = {one.event_id: one for one in await lease.claim(10)}
            places = {sent: 5, lost: -2 - 7}
            await lease.settle(
                [Sent(found[one], _STREAM, place) for one, place in places.items()],
                [Failed(found[dropped], "no", park=True)],
            )
        await store.discard([dropped], "test")
        assert await store.last_place(_STREAM) == 7
        assert await store.sent_places(_STREAM, 1, 5) == [SentPlace(sent, 5)]
        assert list(await store.sent_places(_STREAM, 5, 9)) == [
            SentPlace(sent, 5),
            SentPlace(lost, -9),
        ]
        known = dict(await store.committed([sent, lost, dropped, waits, _FOREIGN]))
        assert known.pop(dropped).stream_seq == GIVEN_UP
        assert known == {
            sent: Committed(_STREAM, 5),
            lost: Committed(_STREAM, -9),
            waits: Committed("", 0),
        }

        at = millisecond(sent)
        assert at is not None
        every = await store.tally_sent(_STREAM, 1, 9, Window(0, 1 << 47))
        assert sum(one.events for one in every.values()) == 2
        total = sum(one.total for one in every.values())
        assert total == fingerprint(sent) + fingerprint(lost)
        only = await store.tally_sent(_STREAM, 5, 5, Window(0, 1 << 47))
        assert [*only] == [at // MINUTE_MS]
        assert only[at // MINUTE_MS] == (1, fingerprint(sent), 5, 5)
        assert [*await store.tally_sent(_STREAM, 5, 5, Window(0, at))] == [OTHERS]
        assert not await store.tally_sent(_STREAM, 5, 5, Window(0, at, beyond=False))
        assert not await store.tally_sent(_STREAM, 5, 5, Window(at + 1, 1 << 47))

        assert await store.moved(lost, _STREAM, -9, 12)
        assert not await store.moved(lost, _STREAM, -9, 13)
        assert await store.sent_places(_STREAM, 6, 99) == [SentPlace(lost, 12)]

    async def test_what_took_effect_is_counted_by_consumer_and_minute(self, store: Store) -> None:
        async with store.transaction() as tx:
            one, two = await add_in(tx.handle, *[RawEvent(SUBJECT, b"{}") for _ in range(2)])
            for event_id in (one, two, _FOREIGN):
                await tx.claim(CONSUMER, event_id)
            await tx.claim("other__from_sea", one)
            await tx.claim(f"{CONSUMER} letters", f"{one}:{_STREAM}:3")
        found = await store.tally_processed(Window(0, 1 << 47))
        assert set(found) == {CONSUMER, "other__from_sea"}
        assert sum(each.events for each in found[CONSUMER].values()) == 2
        total = sum(each.total for each in found[CONSUMER].values())
        assert total == fingerprint(one) + fingerprint(two)
        at = millisecond(one)
        assert at is not None
        assert {*found["other__from_sea"]} == {at // MINUTE_MS}
        assert not await store.tally_processed(Window(0, at - MINUTE_MS))
        assert await store.has_effects(CONSUMER)
        assert not await store.has_effects("third__from_sea")
