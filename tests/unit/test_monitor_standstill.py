"""What stands still: durables that get on with nothing, old events, and what processes say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway.config import AlertSettings
from seaway.contracts import Backlog, ConsumerInfo, Notice, ServerInfo, StreamInfo
from seaway.monitor import Finding, Snapshot, State, evaluate

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = ("SEA_EVENTS", "case_mgmt__from_sea")
PART = "consumer case_mgmt__from_sea"


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


IDLE = ConsumerInfo(
    stream=KEY[0],
    durable=KEY[1],
    created="2026-01-01T00:00:00Z",
    num_pending=7,
    num_ack_pending=0,
    num_redelivered=0,
    num_waiting=0,
    consumer_seq=12,
    stream_seq=12,
    ack_floor=12,
    max_ack_pending=50,
    ack_wait=timedelta(seconds=120),
    asked_at=NOW,
    last_active_at=ago(61),
)
STREAM = StreamInfo(
    name="SEA_EVENTS",
    subjects=("sea.event.>",),
    created="a",
    retention="limits",
    messages=19,
    bytes=0,
    first_seq=1,
    last_seq=19,
    num_deleted=0,
    consumer_count=1,
    last_at=ago(1),
)
SEEN = Snapshot(
    taken_at=NOW,
    server=ServerInfo("2.15.1", True, 1 << 20),
    streams=(STREAM,),
    consumers=(IDLE,),
    outbox=Backlog(0, 0, None),
    processes=(),
)


def notice(part: str, about: str = "", reason: str = "", **ages: float) -> Notice:
    spans = {name: timedelta(seconds=value) for name, value in ages.items()}
    return Notice(part, about, reason, process="web-1:4711:beef", **spans)


def found(snapshot: Snapshot, check: str, unmoved: float | None = None) -> Finding | None:
    report = evaluate(
        snapshot, AlertSettings(), unmoved=None if unmoved is None else {KEY: unmoved}
    )
    return next((one for one in report.findings if one.check == check), None)


def standstill(unmoved: float | None = None, **values: Any) -> Finding | None:
    view = replace(IDLE, **values)
    return found(replace(SEEN, consumers=(view,)), "consumer_standstill", unmoved)


# ------------------------------------------------------------------ durables


def test_a_durable_from_which_nobody_takes_warns_after_a_minute() -> None:
    stands = standstill()
    assert stands is not None
    assert (stands.state, stands.value) == (State.WARNING, 61)
    assert stands.message == f"nobody takes from {'/'.join(KEY)}, 7 messages pending"
    assert "start it" in stands.next_move
    moves = standstill(last_active_at=ago(60))
    assert moves is not None
    assert (moves.state, moves.next_move) == (State.OK, "")


@pytest.mark.parametrize(
    "values",
    [
        {"num_pending": 0},
        {"num_pending": 0, "num_ack_pending": 49},
        {"pulled": False},
    ],
)
def test_a_durable_without_anything_to_do_is_not_judged(values: dict[str, Any]) -> None:
    assert standstill(**values) is None


def test_it_is_critical_only_where_it_surely_lasts_ten_minutes() -> None:
    old: dict[str, Any] = {"last_active_at": ago(3600)}
    stands = standstill(**old)
    assert stands is not None
    assert stands.state is State.WARNING, "its messages may have come just now"
    quiet = replace(SEEN, streams=(replace(STREAM, last_at=ago(601)),))
    lasts = found(replace(quiet, consumers=(replace(IDLE, **old),)), "consumer_standstill")
    watched = standstill(unmoved=601, **old)
    assert lasts is not None
    assert watched is not None
    assert lasts.state is watched.state is State.CRITICAL


def test_messages_in_hand_have_their_ack_wait() -> None:
    held = standstill(num_ack_pending=3, last_active_at=ago(120))
    late = standstill(num_ack_pending=3, last_active_at=ago(121))
    full = standstill(num_pending=0, num_ack_pending=50, last_active_at=ago(5000))
    assert held is not None
    assert late is not None
    assert full is not None
    assert (held.state, late.state, full.state) == (State.OK, State.WARNING, State.WARNING)
    assert "holds 3 messages and gets on with none" in late.message


def test_one_that_pulls_and_is_given_nothing_needs_a_watcher_to_be_seen() -> None:
    for unmoved, state in ((None, State.OK), (60, State.OK), (61, State.WARNING)):
        stands = standstill(unmoved=unmoved, num_waiting=1, last_active_at=ago(5000))
        assert stands is not None
        assert stands.state is state


def test_a_server_that_was_restarted_has_forgotten_since_when() -> None:
    for unmoved, state in ((None, State.OK), (0.5, State.OK), (2.0, State.WARNING)):
        stands = standstill(unmoved=unmoved, last_active_at=None)
        assert stands is not None
        assert stands.state is state


def test_paused_and_never_used_durables_are_told_and_no_alarm() -> None:
    told_of: list[tuple[dict[str, Any], str]] = [
        (
            {"paused_until": datetime(2026, 1, 3, tzinfo=UTC)},
            "paused until 2026-01-03T00:00:00Z",
        ),
        ({"consumer_seq": 0, "last_active_at": None}, "nobody has ever taken from"),
    ]
    for values, words in told_of:
        many = replace(IDLE, num_pending=100_000, **values)
        report = evaluate(replace(SEEN, consumers=(many,)), AlertSettings())
        [told] = [one for one in report.told if one.check == "consumer_standstill"]
        assert (told.state, bool(told.next_move)) == (State.OK, True)
        assert words in told.message
        assert "100000 messages pending" in told.message
    assert report.state is State.OK, "nobody waits for what nobody takes"


@pytest.mark.parametrize(
    ("notices", "words"),
    [
        (
            [notice(PART), notice(PART, "database", "it is away")],
            f"{PART} waits for database: it is away",
        ),
        ([notice(PART)], f"{PART} runs on web-1:4711 and says of nothing that it waits for"),
        ([notice(PART, silent=90)], "has not been heard of for 1m 30s, last on web-1:4711"),
        ([notice("relay")], "no process here says that it runs this consumer"),
    ],
)
def test_the_next_move_is_what_its_processes_say(notices: list[Notice], words: str) -> None:
    stands = found(replace(SEEN, processes=tuple(notices)), "consumer_standstill")
    assert stands is not None
    assert words in stands.next_move


# ------------------------------------------------------------------ what processes say


def test_a_wait_warns_at_once_and_is_critical_after_ten_minutes() -> None:
    for lasts, state in ((0, State.WARNING), (600, State.WARNING), (601, State.CRITICAL)):
        waits = notice("relay", "SEA_EVENTS", "no room", lasts=lasts)
        told = found(replace(SEEN, processes=(waits,)), "waiting")
        assert told is not None
        assert (told.state, told.subject) == (state, "relay/SEA_EVENTS")
    assert told is not None
    assert told.message == "relay waits for SEA_EVENTS, for 10m 1s: no room"
    assert "web-1:4711" in told.next_move
    assert "beef" not in told.next_move


def test_processes_that_wait_for_the_same_are_one_finding() -> None:
    waits = [
        replace(notice("relay", "SEA_EVENTS", "no room", lasts=n), process=f"web-{n}:1:x")
        for n in range(3)
    ]
    report = evaluate(replace(SEEN, processes=tuple(waits)), AlertSettings())
    [told] = [one for one in report.findings if one.check == "waiting"]
    assert told.next_move.endswith("web-2:1 and 2 more")


def test_who_works_or_has_gone_without_a_word_waits_for_nothing() -> None:
    gone = notice("relay", "SEA_EVENTS", "no room", lasts=5000, silent=31)
    assert found(replace(SEEN, processes=(gone, notice("relay"))), "waiting") is None


# ------------------------------------------------------------------ the outbox


@pytest.mark.parametrize(
    ("notices", "words"),
    [
        (None, "is a relay running?"),
        ([], "no relay says that it runs: seaway relay"),
        ([notice("relay"), notice("relay", "SEA_EVENTS", "no room")], "SEA_EVENTS: no room"),
        ([notice("relay")], "relay runs on web-1:4711 and says of nothing that it waits for"),
        ([notice("relay", silent=180)], "relay has not been heard of for 3m, last on web-1:4711"),
    ],
)
def test_old_events_say_what_their_relay_does(notices: list[Notice] | None, words: str) -> None:
    processes = None if notices is None else tuple(notices)
    old = replace(SEEN, outbox=Backlog(5, 0, ago(61)), processes=processes)
    told = found(old, "outbox_age")
    assert told is not None
    assert told.state is State.WARNING
    assert words in told.next_move


def test_old_events_that_are_held_behind_a_parked_one_say_that() -> None:
    held = Backlog(5, 1, ago(61), oldest_held=True)
    told = found(replace(SEEN, outbox=held, processes=(notice("relay"),)), "outbox_age")
    assert told is not None
    assert told.message == "5 events wait, the oldest for 61 s, behind a parked event of its key"
    assert told.next_move == "seaway outbox list --parked; seaway outbox retry"


def test_a_clock_that_is_ahead_makes_no_negative_age() -> None:
    told = found(replace(SEEN, outbox=Backlog(5, 0, ago(-3600))), "outbox_age")
    assert told is not None
    assert (told.state, told.value) == (State.OK, 0)


# ------------------------------------------------------------------ streams


def test_the_limit_that_is_nearest_is_named() -> None:
    full = replace(
        STREAM, messages=100, max_messages=100, bytes=1, max_bytes=100, refuses_when_full=True
    )
    told = found(replace(SEEN, streams=(full,)), "stream_full")
    assert told is not None
    assert (told.state, told.value) == (State.CRITICAL, 1)
    assert "100% full of its max_msgs" in told.message
    assert told.next_move.startswith("raise max_msgs,")


def test_full_subjects_are_told() -> None:
    full = replace(
        STREAM,
        refuses_when_full=True,
        refuses_per_subject=True,
        max_messages_per_subject=3,
        subject_messages={"sea.event.a.v1": 3, "sea.event.b.v1": 2},
    )
    told = found(replace(SEEN, streams=(full,)), "stream_subjects_full")
    assert told is not None
    assert (told.state, told.value) == (State.WARNING, 1)
    assert "sea.event.a.v1" in told.message
