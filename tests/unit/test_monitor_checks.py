"""What is ok, a warning, critical or unknown, and what the operator is told to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from seaway.config import AlertSettings, settings_from_mapping
from seaway.contracts import Backlog, ConsumerInfo, LogEntry, ServerInfo, StreamInfo
from seaway.monitor import (
    Finding,
    Sample,
    Snapshot,
    State,
    Watch,
    evaluate,
)
from seaway.monitor.sampler import rates
from seaway.naming import ADVISORY_STREAM

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ALERTS = AlertSettings()
KEY = ("SEA_EVENTS", "case_mgmt__from_sea")

CONSUMER = ConsumerInfo(
    stream=KEY[0],
    durable=KEY[1],
    created="2026-01-01T00:00:00Z",
    num_pending=0,
    num_ack_pending=0,
    num_redelivered=0,
    num_waiting=1,
    consumer_seq=0,
    stream_seq=0,
    ack_floor=0,
)
STREAM = StreamInfo(
    name="SEA_EVENTS",
    subjects=("sea.event.>",),
    created="a",
    retention="limits",
    messages=0,
    bytes=0,
    first_seq=1,
    last_seq=0,
    num_deleted=0,
    consumer_count=1,
)
WELL = Snapshot(
    taken_at=NOW,
    server=ServerInfo("2.15.1", True, 1 << 20),
    streams=(STREAM,),
    consumers=(CONSUMER,),
    outbox=Backlog(0, 0, None),
    dead_letters={"sea": 0},
)


def finding(snapshot: Snapshot, check: str, rate: float | None = None) -> Finding:
    report = evaluate(snapshot, ALERTS, None if rate is None else {KEY: rate})
    return next(found for found in report.findings if found.check == check)


def with_consumer(**values: int) -> Snapshot:
    return replace(WELL, consumers=(replace(CONSUMER, **values),))  # type: ignore[arg-type]


def test_all_is_well() -> None:
    report = evaluate(WELL, ALERTS, {KEY: 0.0})
    assert report.state is State.OK
    assert report.problems == ()
    assert all(found.next_move == "" for found in report.findings)


@pytest.mark.parametrize(
    ("field", "check", "limit"),
    [
        ("num_pending", "stream_messages_pending", 1000),
        ("num_ack_pending", "consumer_ack_pending", 100),
    ],
)
def test_thresholds_are_exceeded_strictly(field: str, check: str, limit: int) -> None:
    assert finding(with_consumer(**{field: limit}), check).state is State.OK
    over = finding(with_consumer(**{field: limit + 1}), check)
    assert (over.state, over.value, over.warning) == (State.WARNING, limit + 1, limit)
    assert "seaway consumer info SEA_EVENTS case_mgmt__from_sea" in over.next_move
    assert finding(with_consumer(**{field: limit * 10}), check).state is State.WARNING
    assert finding(with_consumer(**{field: limit * 10 + 1}), check).state is State.CRITICAL


def test_the_redelivery_rate_is_judged_by_the_minute() -> None:
    check = "consumer_redelivery_count"
    assert finding(WELL, check, 50.0).state is State.OK
    assert finding(WELL, check, 50.5).state is State.WARNING
    assert finding(WELL, check, 500.5).state is State.CRITICAL
    without = {found.check for found in evaluate(WELL, ALERTS).findings}
    assert check not in without


def test_a_rate_comes_from_two_samples_scaled_to_a_minute() -> None:
    earlier = Sample(WELL, {KEY: 10}, read_at=100.0)
    assert rates(earlier, Sample(WELL, {KEY: 13}, read_at=102.0)) == {KEY: pytest.approx(90.0)}
    assert rates(earlier, Sample(WELL, {KEY: 13}, read_at=100.0)) == {}
    new = ("SEA_EVENTS", "new__one")
    assert rates(earlier, Sample(WELL, {new: 13}, read_at=102.0)) == {}


def test_a_server_that_is_away_is_unknown_and_nothing_below_it_is_judged() -> None:
    away = Snapshot(NOW, server_error="no answer", outbox=Backlog(3, 0, NOW))
    report = evaluate(away, ALERTS)
    assert report.state is State.UNKNOWN
    assert {found.check for found in report.findings} == {"server", "outbox_age", "outbox_parked"}


def test_a_server_that_cannot_rewind_is_told_of() -> None:
    old = ServerInfo("2.12.8", True, 1 << 20)
    found = finding(replace(WELL, server=old), "server")
    assert (found.state, found.next_move) == (State.OK, "upgrade to 2.14 or newer")
    assert "order by key over a crash" in found.message
    assert not finding(replace(WELL, server=replace(old, elsewhere=True)), "server").next_move


def test_a_server_without_jetstream_is_critical() -> None:
    found = finding(replace(WELL, server=ServerInfo("2.15.1", False, 1 << 20)), "server")
    assert (found.state, found.next_move) == (State.CRITICAL, "start nats-server with -js")


def test_what_the_file_names_must_be_there() -> None:
    gone = replace(WELL, missing_streams=("SEA_EVENTS",), missing_consumers=(KEY,))
    report = evaluate(gone, ALERTS)
    assert [f.state for f in report.problems] == [State.CRITICAL, State.CRITICAL]
    assert {f.next_move for f in report.problems} == {"seaway topology apply"}
    advisories = replace(WELL, missing_streams=(ADVISORY_STREAM,))
    assert evaluate(advisories, ALERTS).state is State.WARNING


@pytest.mark.parametrize(
    ("age", "state"), [(60, State.OK), (61, State.WARNING), (601, State.CRITICAL)]
)
def test_the_oldest_event_of_the_outbox(age: int, state: State) -> None:
    waiting = replace(WELL, outbox=Backlog(5, 0, NOW - timedelta(seconds=age)))
    found = finding(waiting, "outbox_age")
    assert (found.state, found.value) == (state, age)


def test_parked_events_and_dead_letters_warn() -> None:
    found = finding(replace(WELL, outbox=Backlog(5, 2, None)), "outbox_parked")
    assert (found.state, found.value) == (State.WARNING, 2)
    assert "seaway outbox retry" in found.next_move
    found = finding(replace(WELL, dead_letters={"sea": 4}), "dead_letters")
    assert (found.state, found.value, found.subject) == (State.WARNING, 4, "sea")


def test_a_database_that_is_away_is_unknown() -> None:
    report = evaluate(replace(WELL, outbox=None, outbox_error="locked"), ALERTS)
    assert report.state is State.UNKNOWN
    assert [f.message for f in report.problems] == ["locked"]


def test_only_a_stream_that_refuses_is_judged_by_its_fill() -> None:
    full = replace(STREAM, bytes=96, max_bytes=100)
    checks = {f.check for f in evaluate(replace(WELL, streams=(full,)), ALERTS).findings}
    assert "stream_full" not in checks
    for size, state in ((80, State.OK), (81, State.WARNING), (96, State.CRITICAL)):
        refusing = replace(STREAM, bytes=size, max_bytes=100, refuses_when_full=True)
        assert finding(replace(WELL, streams=(refusing,)), "stream_full").state is state


def test_critical_is_worse_than_unknown_and_unknown_worse_than_a_warning() -> None:
    mixed = replace(WELL, outbox=None, outbox_error="away", dead_letters={"sea": 1})
    assert evaluate(mixed, ALERTS).state is State.UNKNOWN
    assert evaluate(replace(mixed, missing_consumers=(KEY,)), ALERTS).state is State.CRITICAL


def test_the_watch_holds_the_implied_streams() -> None:
    watch = Watch.of(settings_from_mapping({"contexts": ["sea"]}, environ={}))
    assert watch.streams == ("SEA_EVENTS", "SEA_DLQ", "SEA_REDRIVE", ADVISORY_STREAM)
    assert all(stream == "SEA_EVENTS" for stream, _ in watch.consumers)


def test_what_nobody_has_seen_is_told_by_kind() -> None:
    unseen = (
        LogEntry("not healed", "SEA_EVENTS", {"events": 0, "reason": "older"}, entry=9),
        LogEntry("healed", "SEA_EVENTS", {"events": 2}, entry=8),
        LogEntry("healed", "SEA_EVENTS", {"events": 40}, entry=7),
    )
    report = evaluate(replace(WELL, unseen=unseen), ALERTS)
    assert [(one.subject, one.message, one.next_move) for one in report.problems] == [
        (
            "SEA_EVENTS/healed",
            "SEA_EVENTS: healed 42 events",
            "seaway log show 8; once it is known: seaway log seen --all",
        ),
        (
            "SEA_EVENTS/not healed",
            "SEA_EVENTS: not healed: older",
            "seaway log show 9; once it is known: seaway log seen --all",
        ),
    ]
    assert report.state is State.WARNING
