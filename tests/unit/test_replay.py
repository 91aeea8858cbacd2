"""Replays without a server: windows, order, what differs, runs that go on, and forecasts."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from consuming import EVENTS, SUBJECT, message
from seaway.cli import app
from seaway.cli.lines import parse_line
from seaway.cli.replay import bound
from seaway.config import settings_from_mapping
from seaway.consumer.trials import Tried
from seaway.contracts import Incoming, StoredMessage
from seaway.errors import ConfigError, NotFound
from seaway.events import new_event_id
from seaway.history.replay.journal import STALE, Journal, journal_of, new_journal
from seaway.history.replay.lines import line_of
from seaway.history.replay.ordering import in_order
from seaway.history.replay.shadow import Compared, Known, Then, compared
from seaway.history.replay.summary import Summary
from seaway.history.replay.window import Bound, events, window_of
from seaway.history.steering import forecast_pause, forecast_reset
from seaway.inbox.letters import to_letter
from seaway.testing.memory_broker import MemoryBroker
from seaway.testing.memory_store import MemoryStore

DURABLE = "case_mgmt__from_memo"


def stored(seq: int, key: str = "k", **more: Any) -> StoredMessage:
    made = message(new_event_id(), key, **more)
    return StoredMessage(made, EVENTS, seq, datetime.now(UTC))


async def broker_with(count: int) -> MemoryBroker:
    broker = MemoryBroker()
    config = {"name": EVENTS, "subjects": ["memo.event.>"], "max_age": 3600 * 10**9}
    await broker.admin.create_stream(config)
    await broker.admin.create_consumer(EVENTS, {"name": DURABLE, "durable_name": DURABLE})
    for n in range(count):
        one = message(new_event_id(), f"k{n % 2}", subject=SUBJECT if n % 5 else "memo.event.x.v1")
        await broker.publish(EVENTS, [one], timeout=timedelta(seconds=1))
    return broker


# ------------------------------------------------------------------------------- windows


async def test_a_window_is_two_sequences() -> None:
    broker = await broker_with(10)
    admin = broker.admin

    async def seqs(since: Bound = None, until: Bound = None, **more: Any) -> list[int]:
        window = await window_of(admin, EVENTS, since=since, until=until, **more)
        found = [one.stream_seq async for one in events(admin, window)]
        if "key" not in more:
            assert await window.count(admin) == len(found)
        return found

    assert await seqs() == list(range(1, 11))
    assert await seqs(3, 5) == [3, 4, 5]
    assert await seqs(9, 50) == [9, 10]
    assert await seqs(filters=["memo.event.x.>"]) == [1, 6]
    assert await seqs(2, key="k0") == [3, 5, 7, 9]
    fourth = broker._streams[EVENTS].messages[4].stored_at
    assert await seqs(fourth, fourth + timedelta(microseconds=1)) == [4]
    for seq in (1, 2, 3):
        await admin.delete_message(EVENTS, seq)
    window = await window_of(admin, EVENTS, since=2, until=4)
    assert (window.first, window.last) == (4, 4)
    assert "begins at 4" in window.lacking
    window = await window_of(admin, EVENTS, until=2)
    assert await window.count(admin) == 0
    assert "nothing of the window is left" in window.lacking
    for seq in range(4, 11):
        await admin.delete_message(EVENTS, seq)
    window = await window_of(admin, EVENTS)
    assert await window.count(admin) == 0
    assert "its 10 messages have expired or were purged" in window.lacking


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        (5, datetime.now(UTC), "begins with a sequence and ends with a time"),
        (datetime.now(UTC), 5, "begins with a time and ends with a sequence"),
        (5, 4, "ends before it begins"),
        (datetime.now(UTC), datetime.now(UTC) - timedelta(hours=1), "ends before it begins"),
        (11, None, "ends at 10"),
        (0, None, "0 is no sequence"),
        (datetime.now(UTC) + timedelta(days=400), None, "in the future"),
    ],
)
async def test_what_is_no_window(since: Bound, until: Bound, said: str) -> None:
    broker = await broker_with(10)
    with pytest.raises(ConfigError, match=said):
        await window_of(broker.admin, EVENTS, since=since, until=until)
    with pytest.raises(NotFound, match="NO_EVENTS"):
        await window_of(broker.admin, "NO_EVENTS")


def test_what_the_command_cannot_do_is_said_before_it_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (("SEA_EVENTS", "--shadow"), "--handler module:app/consumer"),
        (("SEA_EVENTS", "--handler", "a:b/c"), "--shadow or --reprocess"),
        (("SEA_EVENTS", "--handler", "a:b/c", "--shadow", "--reprocess"), "--shadow changes"),
        (("SEA_EVENTS", "--handler", "a:b", "--shadow"), "is not MODULE:APP/CONSUMER"),
        (("SEA_EVENTS", "--handler", "a:b/c", "--shadow", "-o", "x"), "are for lines"),
        (("SEA_EVENTS", "--from", "yesterday"), "neither a sequence, a time nor an age"),
        (("SEA_EVENTS", "--to", "3", "--to-seq", "4"), "one begin and one end"),
        (("SEA_EVENTS", "--handler", "no_such:app/c", "--shadow"), "'no_such' is not found"),
    ):
        ended = CliRunner().invoke(app, ["replay", *arguments])
        assert (ended.exit_code, said in ended.stderr) == (2, True), (arguments, ended.stderr)
    assert bound("17", "--from") == 17
    assert isinstance(bound("2h", "--from"), datetime)


def test_a_line_says_what_is_wrong_with_it() -> None:
    line = line_of(stored(1)).encode()
    assert parse_line(line).subject == SUBJECT
    for wrong, said in (
        (b'{"subject": "a"}', "'payload' is missing"),
        (b'{"subject": "a", "payload_base64": "?"}', "is no base64"),
        (b'{"subject": "a", "payload": 1, "occurred_at": "now"}', "no RFC 3339 time"),
        (b'{"subject": "a", "payload": 1, "event_id": "x"}', "unknown field 'event_id'"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_line(wrong)


# ------------------------------------------------------------------------------- order


@dataclass
class Watched:
    """Work that a test lets go on."""

    begun: list[int]
    running: int = 0
    most: int = 0

    async def __call__(self, one: StoredMessage) -> int:
        self.begun.append(one.stream_seq)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(one.stream_seq * 7 % 5):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        if one.stream_seq == 30:
            raise ValueError("30")
        return one.stream_seq


async def test_work_is_in_order_by_key_and_told_of_in_stream_order() -> None:
    read = 0

    async def source(count: int) -> AsyncIterator[StoredMessage]:
        nonlocal read
        for seq in range(1, count):
            read = seq
            yield stored(seq, f"k{seq % 4}")

    work, told = Watched([]), list[int]()
    async for one, result in in_order(source(30), work, workers=3):
        assert one.stream_seq == result
        told.append(result)
        assert read - result <= 3 * 16
    assert told == list(range(1, 30))
    assert 1 < work.most <= 3
    for key in range(4):
        mine = [seq for seq in work.begun if seq % 4 == key]
        assert mine == sorted(mine)

    work, told = Watched([]), []
    with pytest.raises(ValueError, match="30"):  # noqa: PT012
        async for _, result in in_order(source(60), work, workers=3):
            told.append(result)
    assert told == list(range(1, 30))
    assert not [seq for seq in work.begun if seq > 30 and seq % 4 == 30 % 4]
    assert work.running == 0


# ------------------------------------------------------------------------------- then and now


@pytest.mark.parametrize(
    ("known", "reason", "now", "differs"),
    [
        ("effect", None, Tried("effect"), False),
        ("effect", None, Tried("failed", reason="exhausted"), True),
        ("effect", None, Tried("nothing"), True),
        ("letter", "poison", Tried("letter", reason="poison"), False),
        ("letter", "poison", Tried("letter", reason="undecodable"), True),
        ("letter", "exhausted", Tried("failed", reason="exhausted"), False),
        ("letter", "terminated", Tried("failed", reason="exhausted"), False),
        ("letter", "exhausted", Tried("effect"), True),
        ("nothing", None, Tried("nothing"), False),
        ("nothing", None, Tried("effect"), True),
        ("pending", None, Tried("effect"), False),
        ("pending", None, Tried("letter", reason="poison"), True),
        ("unknown", None, Tried("nothing"), False),
        ("unknown", None, Tried("failed", reason="exhausted"), True),
    ],
)
def test_what_differs(known: Known, reason: Any, now: Tried, differs: bool) -> None:
    assert Compared(stored(1), Then(known, reason), now).differs is differs


async def test_what_became_of_events_is_what_the_inbox_says() -> None:
    store = MemoryStore()
    history = [stored(seq) for seq in range(1, 7)]
    history[4] = replace(history[4], stored_at=datetime.now(UTC) - timedelta(days=9))
    async with store.transaction() as tx:
        await tx.claim(DURABLE, history[0].event_id)
    for one, reason in ((history[1], "poison"), (history[2], "parked")):
        given = Incoming.read(one, DURABLE, deliveries=1)
        await to_letter(store, given, reason, parks=False)  # type: ignore[arg-type]

    async def source() -> AsyncIterator[StoredMessage]:
        for one in history:
            yield one

    async def tried(one: Incoming) -> Tried:
        return Tried("effect")

    week = timedelta(days=7)
    found = compared(source(), tried, store, DURABLE, floor=5, retention=week, workers=2)
    assert [(one.then.known, one.then.reason) async for one in found] == [
        ("effect", None),
        ("letter", "poison"),
        ("pending", None),
        ("nothing", None),
        ("unknown", None),
        ("pending", None),
    ]


# ------------------------------------------------------------------------------- runs


async def test_a_run_goes_on_where_the_same_is_asked_for() -> None:
    store, asked = MemoryStore(), {"from": "2h", "mode": "shadow"}
    first = new_journal(store, EVENTS, asked, {"first": 1, "last": 9}, by="ann")
    assert not first.goes_on
    with pytest.raises(RuntimeError):  # noqa: PT012
        await first.begin()
        async with first.kept():
            failed = Tried("failed", error=ValueError("x"), place="a.py:1")
            first.summary.add((EVENTS, 4), SUBJECT, failed, then="effect", differs=True)
            raise RuntimeError
    [run] = await store.runs("replay")
    assert (run.state, run.by) == ("failed", "ann")
    again = await journal_of(store, EVENTS, asked)
    assert again is not None
    assert (again.run, again.goes_on, again.fixed["last"]) == (first.run, True, 9)
    assert again.summary == first.summary
    assert await journal_of(store, EVENTS, {**asked, "from": "3h"}) is None
    assert await journal_of(store, "OTHER_EVENTS", asked) is None
    assert await journal_of(store, EVENTS, asked, anew=True) is None
    late = await journal_of(store, EVENTS, asked)
    await again.begin()
    assert late is not None
    with pytest.raises(ConfigError, match="of ann is at work"):
        await late.begin()
    with pytest.raises(ConfigError, match="of ann is at work"):
        await journal_of(store, EVENTS, asked)
    [run] = await store.runs("replay")
    gone = {**run.progress, "process": f"{socket.gethostname()}:{2**22 + os.getpid()}"}
    await store.change_run(run.run, progress=gone)
    left = await journal_of(store, EVENTS, asked)
    assert isinstance(left, Journal)
    await left.begin()
    async with left.kept():
        pass
    assert await journal_of(store, EVENTS, asked) is None
    assert timedelta(seconds=10) < STALE


def test_failures_of_many_kinds_are_one_group() -> None:
    summary = Summary()
    for seq in range(1, 1000):
        now = Tried("failed", error=ValueError(str(seq)), place=f"a.py:{seq}")
        summary.add((EVENTS, seq), SUBJECT, now, then="effect", differs=True)
    assert len(summary.groups) <= 201
    assert sum(one.events for one in summary.groups.values()) == 999
    assert Summary.read(summary.as_json()) == summary


# ------------------------------------------------------------------------------- steering


async def test_a_pause_is_foretold() -> None:
    broker, now = await broker_with(10), datetime.now(UTC)
    mapping = {"contexts": ["memo"], "alerts": {"stream_messages_pending": 20}}
    settings = settings_from_mapping(mapping, environ={})
    for seq, one in list(broker._streams[EVENTS].messages.items()):
        broker._streams[EVENTS].messages[seq] = replace(one, stored_at=now - timedelta(minutes=10))
    found = await forecast_pause(
        broker.admin, settings, EVENTS, DURABLE, now + timedelta(minutes=20)
    )
    assert (found.pending, found.threshold, found.held) == (10, 20, 0)
    assert 25 <= found.expected <= 31
    assert found.alarms_at is not None
    assert timedelta(minutes=9) < found.alarms_at - now < timedelta(minutes=13)
    assert found.expires_at is None
    found = await forecast_pause(broker.admin, settings, EVENTS, DURABLE, now + timedelta(hours=1))
    assert found.expires_at is not None
    assert timedelta(minutes=49) < found.expires_at - now < timedelta(minutes=51)
    with pytest.raises(ConfigError, match="in the past"):
        await forecast_pause(broker.admin, settings, EVENTS, DURABLE, now)
    with pytest.raises(NotFound, match="there is no consumer nobody"):
        await forecast_pause(broker.admin, settings, EVENTS, "nobody", now + timedelta(hours=1))


async def test_a_reset_is_foretold() -> None:
    broker, store = await broker_with(10), MemoryStore()
    settings = settings_from_mapping({"contexts": ["memo"]}, environ={})
    async with broker.subscribe(EVENTS, DURABLE) as source:
        taken = await source.next(8, timeout=timedelta(seconds=1))
        await source.ack(*taken[:6])
    async with store.transaction() as tx:
        await tx.claim_many(DURABLE, [one.event_id for one in taken[:3]])
    await to_letter(store, taken[3], "poison", parks=False)
    found = await forecast_reset(broker.admin, settings, store, EVENTS, DURABLE)
    assert (found.to, found.again, found.skipped, found.pending) == (7, 2, 0, 2)
    found = await forecast_reset(broker.admin, settings, store, EVENTS, DURABLE, 1)
    assert (found.again, found.skipped, found.handled, found.forgotten) == (8, 4, 4, 0)
    found = await forecast_reset(broker.admin, settings, None, EVENTS, DURABLE, 1)
    assert (found.skipped, found.notes[0].partition(":")[0]) == (0, "no database")
    with pytest.raises(ConfigError, match="ends at 10"):
        await forecast_reset(broker.admin, settings, store, EVENTS, DURABLE, 12)
