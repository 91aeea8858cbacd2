"""The suite of ``contracts.ProcessStore``: what processes say of themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from seaway.contracts import Notice, Store

RELAY = Notice("relay", lasts=timedelta(minutes=10))
WAIT = Notice("relay", "SEA_EVENTS", "maximum messages exceeded", timedelta(minutes=5))


def said(notices: object) -> list[tuple[str, str, str, str]]:
    """What was said and by whom, without its ages."""
    assert isinstance(notices, list)
    return [(one.process, one.part, one.about, one.reason) for one in notices]


class ProcessesConformance:
    """Fixtures to give: ``store``."""

    async def test_nobody_works_on_a_fresh_database(self, store: Store) -> None:
        assert list(await store.notices()) == []

    async def test_a_process_says_what_it_does_and_waits_for(self, store: Store) -> None:
        await store.tell("b:2", [WAIT, RELAY])
        await store.tell("a:1", [Notice("consumer case_mgmt__from_sea")])
        found = await store.notices()
        assert said(list(found)) == [
            ("a:1", "consumer case_mgmt__from_sea", "", ""),
            ("b:2", "relay", "", ""),
            ("b:2", "relay", "SEA_EVENTS", "maximum messages exceeded"),
        ]
        assert [one.waits for one in found] == [False, False, True]
        for one, lasts in zip(found, (0, 10, 5), strict=True):
            spent = one.lasts - timedelta(minutes=lasts)
            assert timedelta() <= spent < timedelta(seconds=30)
            assert timedelta() <= one.silent < timedelta(seconds=30)
            assert one.live

    async def test_what_is_said_replaces_what_was_said(self, store: Store) -> None:
        await store.tell("a:1", [RELAY, WAIT])
        await store.tell("b:2", [RELAY])
        await store.tell("a:1", [RELAY, replace(WAIT, reason="no room")])
        assert [one.reason for one in await store.notices() if one.waits] == ["no room"]
        for _ in range(2):
            await store.tell("a:1", [RELAY])
        assert [one.process for one in await store.notices()] == ["a:1", "b:2"]

    async def test_a_process_that_ends_is_not_there_any_more(self, store: Store) -> None:
        await store.tell("a:1", [RELAY, WAIT])
        await store.tell("b:2", [RELAY])
        for _ in range(2):
            await store.tell("a:1", [])
        assert [one.process for one in await store.notices()] == ["b:2"]

    async def test_any_text_is_kept_as_it_is(self, store: Store) -> None:
        odd = Notice(
            "relay", "süd 'x' \"y\"", "; DROP TABLE seaway_processes -- % $1 :p \\", WAIT.lasts
        )
        await store.tell("host:1:''", [odd])
        [found] = await store.notices()
        assert (found.process, found.about, found.reason) == ("host:1:''", odd.about, odd.reason)

    async def test_an_age_is_never_negative(self, store: Store) -> None:
        await store.tell("a:1", [replace(WAIT, lasts=-timedelta(hours=1))])
        [found] = await store.notices()
        assert found.lasts >= timedelta()
