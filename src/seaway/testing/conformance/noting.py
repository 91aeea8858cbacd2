"""The suite of ``contracts.LogStore`` and ``contracts.PlaceStore``: what is noted for later."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from seaway.contracts import KnownPlace, LogEntry, Store

HEALED = LogEntry("healed", "SEA_EVENTS", {"events": [{"id": "a", "was": 900, "is": 501}]}, "h:1")
ODD = LogEntry("set back", "süd '; -- % $1 :p", {"text": "\"'\\ \n ü", "none": None}, "")
STORED = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)


class NotingConformance:
    """Fixtures to give: ``store``."""

    async def test_what_was_done_is_read_newest_first_as_it_was_noted(self, store: Store) -> None:
        await store.note()
        assert list(await store.log()) == []
        await store.note(HEALED, ODD)
        await store.note(replace(HEALED, about="ORDER_EVENTS"))
        third, second, first = await store.log()
        for one, given in ((first, HEALED), (second, ODD)):
            assert (one.action, one.about, one.detail, one.by) == (
                *(given.action, given.about, given.detail, given.by),
            )
            assert one.noted_at is not None
            assert abs(datetime.now(UTC) - one.noted_at) < timedelta(minutes=1)
            assert one.seen_at is None
        assert first.entry < second.entry < third.entry
        assert [one.about for one in await store.log(action="healed")] == [
            *("ORDER_EVENTS", "SEA_EVENTS")
        ]
        assert await store.log(limit=1) == [third]
        assert await store.log(after=third.entry, limit=1) == [second]
        assert await store.log(action="healed", after=third.entry) == [first]
        assert list(await store.log(after=first.entry)) == []
        assert await store.log(entry=second.entry) == [second]
        assert list(await store.log(entry=third.entry + 100)) == []

    async def test_what_is_known_is_not_told_any_more(self, store: Store) -> None:
        await store.note(HEALED, ODD, HEALED)
        third, second, first = await store.log()
        assert await store.see([second.entry, third.entry + 100]) == 1
        assert await store.see([second.entry]) == 0
        assert [one.entry for one in await store.log(unseen=True)] == [third.entry, first.entry]
        for events, reason in ((40, "\x00 'older' ü"), (2, ["none"]), (None, None)):
            lost = LogEntry("not healed", ODD.about, {"events": events, "reason": reason})
            await store.note(lost, ODD)
            last = (await store.log(action="not healed"))[0].entry
            healed, not_healed, set_back = await store.unseen()
            assert healed == ("healed", "SEA_EVENTS", 2, 0, third.entry, "")
            said = reason if isinstance(reason, str) else ""
            assert not_healed[3:5] == (40 if events == 40 else 42, last)
            assert not_healed.reason.replace("\0", "\ufffd") == said.replace("\0", "\ufffd")
            assert (set_back.action, set_back.about) == ("set back", ODD.about)
        assert (not_healed.entries, set_back.entries) == (3, 3)
        assert await store.see([]) == 0
        assert await store.see() == 8
        assert list(await store.log(unseen=True)) == [] == list(await store.unseen())
        assert all(one.seen_at is not None for one in await store.log())

    async def test_what_an_operator_did_is_noted_as_seen_and_found_by_what_it_names(
        self, store: Store
    ) -> None:
        ids = {"ids": [["SEA_DLQ:17", ODD.about], ["SEA_DLQ:170", "b"]], "why": "SEA_DLQ:1"}
        await store.note(replace(ODD, action="discarded", detail=ids), HEALED, seen=True)
        await store.note(replace(ODD, action="restored", detail={"ids": ["SEA_DLQ:17"]}))
        assert [one.action for one in await store.unseen()] == ["restored"]
        assert [one.action for one in await store.log(unseen=True)] == ["restored"]
        both = await store.log(actions=["restored", "discarded", "none"])
        assert [one.action for one in both] == ["restored", "discarded"]
        assert list(await store.log(actions=[])) == []
        for name, found in (
            ("SEA_DLQ:17", ["restored", "discarded"]),
            (ODD.about, ["discarded"]),
            ("SEA_DLQ:1", ["discarded"]),
            ("SEA_DLQ", []),
        ):
            assert [one.action for one in await store.log(naming=name)] == found

    async def test_a_part_knows_one_place_of_each_stream(self, store: Store) -> None:
        assert list(await store.places("case_mgmt__from_sea")) == []
        place = KnownPlace("case_mgmt__from_sea", "SEA_EVENTS", 9, "an id", STORED)
        await store.know(place._replace(stream_seq=3))
        await store.know(place)
        await store.know(place._replace(stream="SEA_DLQ", stream_seq=2**40))
        await store.know(place._replace(part="other"))
        assert list(await store.places("case_mgmt__from_sea")) == [
            *(place._replace(stream="SEA_DLQ", stream_seq=2**40), place)
        ]
        await store.know(place._replace(stream_seq=1, event_id="after it was set back"))
        [_, lower] = await store.places("case_mgmt__from_sea")
        assert (lower.stream_seq, lower.event_id) == (1, "after it was set back")
