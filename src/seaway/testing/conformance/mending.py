"""The suite of ``contracts.MendingStore``: runs, their items, and letters that were discarded."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from seaway.contracts import DiscardedLetter, Message, Run, RunItem, Store, StoredMessage
from seaway.events import RawEvent
from seaway.testing.conformance.inbox import CONSUMER, SUBJECT, add_in

ODD = "süd '; -- % $1 :p\n\"\\ü"
RUN = Run("0197-a", "redrive", "SEA_DLQ", "ann@host", {"to": ["all", None, ODD]})
STORED = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
WEEK = timedelta(days=7)
HEADERS = {"X-Event-Id": "an id", "X-Odd": f"{ODD}\0\udcff\U0001f4a9", "Nats-Msg-Id": "dlq:1"}
LETTER = DiscardedLetter(
    StoredMessage(
        Message("sea.dlq.sea.event.moved.v1", b"\x00\xff{}", HEADERS), "SEA_DLQ", 17, STORED
    ),
    "an id",
    CONSUMER,
    holds=True,
    behind=3,
    by="ann@host",
    why=ODD,
)


def another(stream_seq: int, **changed: str) -> DiscardedLetter:
    """One like ``LETTER`` in another place."""
    return replace(LETTER, stored=replace(LETTER.stored, stream_seq=stream_seq), **changed)  # type: ignore[arg-type]


class MendingConformance:
    """Fixtures to give: ``store``."""

    async def test_a_run_is_begun_once_and_says_how_far_it_is(self, store: Store) -> None:
        assert list(await store.runs()) == []
        assert await store.run(RUN.run) is None
        assert not await store.change_run(RUN.run, state="done")
        assert await store.begin_run(RUN)
        assert not await store.begin_run(replace(RUN, kind="other", by="bob"))
        begun = await store.run(RUN.run)
        assert begun is not None
        assert begun.begun_at is not None
        assert begun.changed_at is not None
        assert abs(datetime.now(UTC) - begun.begun_at) < timedelta(minutes=1)
        assert begun == replace(RUN, begun_at=begun.begun_at, changed_at=begun.changed_at)
        assert await store.begin_run(Run("0197-b", "discard", state="failed"))
        newest, oldest = await store.runs()
        assert (newest.run, newest.state, newest.ended_at) == ("0197-b", "failed", newest.begun_at)
        assert oldest == begun
        assert [one.run for one in await store.runs("redrive")] == [RUN.run]
        assert await store.runs(limit=1) == [newest]

        assert await store.change_run(RUN.run, progress={"sent": 3, "odd": ODD})
        assert await store.change_run(RUN.run, state="stopped")
        stopped = await store.run(RUN.run)
        assert stopped is not None
        assert (stopped.state, stopped.progress) == ("stopped", {"sent": 3, "odd": ODD})
        assert stopped.ended_at is not None
        # Of two that have seen it stop, one takes it over.
        seen = stopped.changed_at
        taken = [
            await store.change_run(RUN.run, state="running", unless_changed_since=seen)
            for _ in range(2)
        ]
        assert taken == [True, False]
        running = await store.run(RUN.run)
        assert running is not None
        assert (running.state, running.ended_at) == ("running", None)
        assert await store.change_run(RUN.run, progress={})
        last = await store.run(RUN.run)
        assert last is not None
        assert (last.state, last.ended_at, last.progress) == ("running", None, {})

    async def test_a_runs_items_are_read_in_pages_with_what_became_of_them_last(
        self, store: Store
    ) -> None:
        await store.begin_run(RUN)
        await store.note_items(RUN.run, [])
        assert await store.count_items(RUN.run) == {}
        names = [f"SEA_DLQ:{n}" for n in range(1, 6)]
        await store.note_items(RUN.run, [RunItem(one, "sent", "e", CONSUMER) for one in names])
        failed = RunItem(names[1], "failed", "e", CONSUMER, f"{ODD}\0\udcff")
        await store.note_items(RUN.run, [RunItem(names[1], "sent"), failed, RunItem("a", "sent")])
        await store.note_items("another", [RunItem(names[0], "failed")])
        assert await store.count_items(RUN.run) == {"sent": 5, "failed": 1}
        first = await store.run_items(RUN.run, limit=2)
        assert [one.item for one in first] == names[:2]
        [changed] = await store.run_items(RUN.run, state="failed")
        assert changed.changed_at is not None
        assert changed._replace(changed_at=None, detail="") == failed._replace(detail="")
        assert changed.detail.startswith(ODD)
        rest = await store.run_items(RUN.run, after=first[-1].item)
        assert [one.item for one in rest] == [*names[2:], "a"]

    async def test_a_discarded_letter_is_kept_whole_until_it_is_taken(self, store: Store) -> None:
        assert list(await store.discarded_letters()) == []
        await store.keep_discarded([], WEEK)
        await store.keep_discarded([LETTER, another(9, event_id="x"), another(18)], WEEK)
        await store.keep_discarded([another(20, consumer="other", why="\0\udcff ")], WEEK)
        other, *rest = await store.discarded_letters()
        assert {one.id for one in rest} == {"SEA_DLQ:9", "SEA_DLQ:17", "SEA_DLQ:18"}
        assert other.id == "SEA_DLQ:20"
        assert all(one.bare and not one.stored.message.payload for one in rest)
        assert await store.discarded_letters(limit=1) == [other]
        assert await store.discarded_letters(consumer="other") == [other]
        [kept] = await store.discarded_letters([LETTER.id], payloads=True)
        assert kept.discarded_at is not None
        assert abs(datetime.now(UTC) - kept.discarded_at) < timedelta(minutes=1)
        assert kept.until == kept.discarded_at + WEEK
        assert kept == replace(LETTER, discarded_at=kept.discarded_at, until=kept.until)
        by_event = await store.discarded_letters(["x", "SEA_DLQ:99", "no\0ne"], payloads=True)
        assert [one.id for one in by_event] == ["SEA_DLQ:9"]

        # In the same place of a queue that was made anew.
        anew = replace(LETTER, stored=replace(LETTER.stored, stored_at=STORED + WEEK))
        await store.keep_discarded([anew], WEEK)
        await store.keep_discarded([replace(LETTER, by="bob", why="again", behind=0)], WEEK)
        newest, before = await store.discarded_letters(["SEA_DLQ:17"])
        assert (newest.by, newest.why, newest.behind) == ("bob", "again", 3)
        assert before.stored.stored_at == STORED + WEEK
        assert await store.take_discarded([newest, another(999), other]) == 2
        assert await store.take_discarded([LETTER]) == await store.take_discarded([]) == 0
        assert await store.discarded_letters(["SEA_DLQ:17"]) == [before]

    async def test_a_discarded_letter_is_forgotten_when_its_time_has_passed(
        self, store: Store
    ) -> None:
        await store.keep_discarded([LETTER, another(18)], -WEEK)
        assert list(await store.discarded_letters()) == []
        now = datetime.now(UTC) - WEEK
        assert await store.overdue(now, now) == {"seaway_discarded": 2}
        await store.keep_discarded([another(19)], WEEK)
        assert await store.overdue(now, now) == {}
        await store.keep_discarded([LETTER, another(18)], timedelta())
        assert await store.forget_discarded() == 2
        assert await store.forget_discarded() == 0
        assert [one.id for one in await store.discarded_letters()] == ["SEA_DLQ:19"]

    async def test_rows_of_an_inbox_are_taken_back(self, store: Store) -> None:
        async with store.transaction() as tx:
            [event_id] = await add_in(tx.handle, RawEvent(SUBJECT, b"{}"))
            for one in (event_id, "SEA_EVENTS:7", "other"):
                await tx.claim(CONSUMER, one)
            await tx.claim("other__from_sea", event_id)
        assert await store.unclaim(CONSUMER, [event_id, "SEA_EVENTS:7", "none"]) == 2
        assert await store.unclaim(CONSUMER, [event_id]) == 0
        assert await store.unclaim(CONSUMER, []) == 0
        assert set(await store.processed(event_id)) == {"other__from_sea"}
        assert await store.claimed(CONSUMER, [event_id, "SEA_EVENTS:7", "other"]) == {"other"}
