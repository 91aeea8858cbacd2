"""The names, types and labels of ``/metrics``, and the pure part of the redelivery count."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seaway.config import AlertSettings
from seaway.contracts import Backlog, ConsumerInfo, Notice, ServerInfo, StreamInfo
from seaway.monitor import (
    Activity,
    Sample,
    Snapshot,
    evaluate,
    exposition,
)
from seaway.monitor.sampler import Span, redelivered, span_of, takes_all
from seaway.telemetry import (
    DeadLettered,
    Delivered,
    Disconnected,
    Parked,
    Reconnected,
    Relayed,
    RelayPaused,
    RelayResumed,
    Telemetry,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CONSUMER = ConsumerInfo(
    stream="SEA_EVENTS",
    durable="sea__default",
    created="a",
    num_pending=12,
    num_ack_pending=3,
    num_redelivered=1,
    num_waiting=1,
    consumer_seq=10,
    stream_seq=10,
    ack_floor=7,
    filters=("sea.event.>",),
)
STREAM = StreamInfo(
    name="SEA_EVENTS",
    subjects=("sea.event.>",),
    created="a",
    retention="limits",
    messages=30,
    bytes=300,
    first_seq=1,
    last_seq=30,
    num_deleted=0,
    consumer_count=1,
    max_bytes=1000,
)
SAMPLE = Sample(
    Snapshot(
        NOW,
        server=ServerInfo("2.15.1", True, 1 << 20),
        streams=(STREAM,),
        consumers=(CONSUMER,),
        outbox=Backlog(4, 1, NOW - 9 * SECOND, dead_rows=70, shards=8),
        dead_letters={"sea": 2},
        processes=(
            Notice("relay", process="a"),
            Notice("relay", "SEA_EVENTS", "no room", process="a"),
            Notice("relay", process="b"),
            Notice("sweeper", process="a", silent=60 * SECOND),
        ),
    ),
    {CONSUMER.key: 5},
)
CONTRACT = {"stream_messages_pending", "consumer_ack_pending", "consumer_redelivery_count"}


def busy() -> Activity:
    activity, telemetry = Activity(), Telemetry()
    telemetry.subscribe(activity.listen)
    telemetry.emit(Relayed("SEA_EVENTS", 10, 2, 1, SECOND))
    for outcome in ("handled", "handled", "retried"):
        telemetry.emit(Delivered("SEA_EVENTS", "sea__default", "id", "s", outcome, 1, SECOND))
    telemetry.emit(DeadLettered("SEA_EVENTS", "sea__default", "id", "exhausted", "E"))
    telemetry.emit(Parked("id", "s", "e"))
    telemetry.emit(Disconnected("r"))
    telemetry.emit(Reconnected("u"))
    telemetry.emit(RelayPaused("full"))
    return activity


def samples(text: str) -> dict[str, float]:
    """``name{labels}`` to value, as the lines say."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_the_three_names_of_the_contract_come_out_exactly() -> None:
    text = exposition(SAMPLE)
    for name, kind, value in (
        ("stream_messages_pending", "gauge", 12),
        ("consumer_ack_pending", "gauge", 3),
        ("consumer_redelivery_count", "counter", 5),
    ):
        assert f"# TYPE {name} {kind}\n" in text
        line = re.search(rf"^{name}\{{(.+)\}} (\S+)$", text, re.MULTILINE)
        assert line is not None
        assert set(line[1].split(",")) == {'stream="SEA_EVENTS"', 'consumer="sea__default"'}
        assert float(line[2]) == value
    assert "consumer_redelivery_count_total" not in text
    assert "_created" not in text


def test_all_else_begins_with_seaway_and_ends_in_a_unit() -> None:
    text = exposition(SAMPLE, busy(), evaluate(SAMPLE.snapshot, AlertSettings()))
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) - CONTRACT
    units = (
        "_total",
        "_seconds",
        "_bytes",
        "_messages",
        "_entries",
        "_events",
        "_rows",
        "_ratio",
        "_bool",
        "_code",
        "_processes",
        "_threads",
        "_waits",
    )
    assert names
    assert all(name.startswith("seaway_") and name.endswith(units) for name in names)
    labels = {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels
    }
    assert labels <= {
        "stream", "consumer", "context", "outcome", "reason", "check", "subject", "part",
    }  # fmt: skip


def test_live_processes_and_their_waits_are_counted_by_part() -> None:
    found = samples(exposition(SAMPLE))
    assert found['seaway_processes{part="relay"}'] == 2
    assert found['seaway_process_waits{part="relay"}'] == 1
    assert not any("sweeper" in name for name in found), "it has gone without a word"
    unknown = replace(SAMPLE, snapshot=replace(SAMPLE.snapshot, processes=None))
    assert "seaway_process" not in exposition(unknown)


def test_dead_rows_are_left_out_where_the_database_has_none() -> None:
    sqlite = replace(SAMPLE, snapshot=replace(SAMPLE.snapshot, outbox=Backlog(4, 1, NOW)))
    found = samples(exposition(sqlite))
    assert found["seaway_outbox_events"] == 4
    assert "seaway_outbox_dead_rows" not in found


def test_what_was_seen_and_done_is_counted() -> None:
    found = samples(exposition(SAMPLE, busy()))
    assert found["seaway_outbox_events"] == 4
    assert found["seaway_outbox_parked_events"] == 1
    assert found["seaway_outbox_oldest_age_seconds"] == 9
    assert found["seaway_outbox_dead_rows"] == 70
    assert found['seaway_dead_letter_messages{context="sea"}'] == 2
    assert found['seaway_stream_fill_ratio{stream="SEA_EVENTS"}'] == pytest.approx(0.3)
    assert found['seaway_relay_published_total{stream="SEA_EVENTS"}'] == 10
    assert found['seaway_relay_duplicates_total{stream="SEA_EVENTS"}'] == 2
    assert found["seaway_relay_paused_bool"] == 1
    assert found["seaway_reconnects_total"] == 1
    handled = 'consumer="sea__default",outcome="handled",stream="SEA_EVENTS"'
    assert found[f"seaway_deliveries_total{{{handled}}}"] == 2
    letters = 'consumer="sea__default",reason="exhausted",stream="SEA_EVENTS"'
    assert found[f"seaway_dead_letters_total{{{letters}}}"] == 1


def test_a_resumed_relay_is_not_paused() -> None:
    activity = busy()
    activity.listen(RelayResumed(SECOND))
    assert samples(exposition(SAMPLE, activity))["seaway_relay_paused_bool"] == 0


def test_what_could_not_be_asked_is_left_out() -> None:
    away = Sample(Snapshot(NOW, server_error="away", outbox_error="away"))
    found = samples(exposition(away))
    assert found == {"seaway_server_up_bool": 0, "seaway_database_up_bool": 0}


def test_label_values_are_escaped() -> None:
    odd = replace(CONSUMER, durable='a"b\\c\nd')
    text = exposition(Sample(replace(SAMPLE.snapshot, consumers=(odd,)), {odd.key: 1}))
    family = next(
        f for f in text_string_to_metric_families(text) if "redelivery" in f.name and f.samples
    )
    assert family.samples[0].labels["consumer"] == 'a"b\\c\nd'


@pytest.mark.promtool
def test_promtool_reads_it_and_objects_to_nothing_but_the_contracts_name() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "install Prometheus' promtool (Debian: apt-get install prometheus)"
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=exposition(SAMPLE, busy()),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    complaints = (done.stdout + done.stderr).strip().splitlines()
    assert complaints == [
        'consumer_redelivery_count counter metrics should have "_total" suffix',
        'consumer_redelivery_count non-histogram and non-summary metrics should not have "_count" '
        "suffix",
    ]


# ----------------------------------------------------------------------------- redeliveries


def moved(**values: int | str | tuple[str, ...]) -> ConsumerInfo:
    return replace(CONSUMER, **values)  # type: ignore[arg-type]


def test_nothing_is_said_without_deliveries_or_of_another_consumer() -> None:
    assert span_of(CONSUMER, CONSUMER, STREAM) is None
    again = moved(created="b", consumer_seq=50, stream_seq=30)
    assert span_of(CONSUMER, again, STREAM) is None


def test_what_is_given_out_again_is_no_first_delivery() -> None:
    span = span_of(CONSUMER, moved(consumer_seq=12, stream_seq=4), STREAM)
    assert span == Span(2, 10, 10, "sequences")
    assert redelivered(span, 0) == 2


def test_a_whole_stream_is_counted_by_its_sequences() -> None:
    span = span_of(CONSUMER, moved(consumer_seq=25, stream_seq=20), STREAM)
    assert span == Span(15, 10, 20, "sequences")
    assert redelivered(span, 10) == 5


def test_a_place_that_stayed_needs_no_probe_whatever_the_filter() -> None:
    narrow = ("sea.event.case_created.v1",)
    span = span_of(moved(filters=narrow), moved(filters=narrow, consumer_seq=14), STREAM)
    assert span == Span(4, 10, 10, "sequences")


@pytest.mark.parametrize(
    ("stream", "filters"),
    [
        (STREAM, ("sea.event.case_created.v1",)),
        (replace(STREAM, num_deleted=1), ("sea.event.>",)),
        (replace(STREAM, first_seq=12), ("sea.event.>",)),
    ],
)
def test_narrow_filters_and_holes_are_probed(stream: StreamInfo, filters: tuple[str, ...]) -> None:
    new = moved(filters=filters, consumer_seq=25, stream_seq=20)
    span = span_of(moved(filters=filters), new, stream)
    assert span is not None
    assert span.count == "probe"


def test_streams_that_forget_what_is_settled_are_not_probed() -> None:
    queue = replace(STREAM, retention="workqueue", first_seq=21)
    span = span_of(CONSUMER, moved(consumer_seq=25, stream_seq=20), queue)
    assert span is not None
    assert span.count == "sequences"


def test_redeliveries_are_never_negative() -> None:
    assert redelivered(Span(3, 0, 10, "sequences"), 10) == 0


@pytest.mark.parametrize(
    ("filters", "subjects", "whole"),
    [
        ((), ("sea.event.>",), True),
        (("sea.event.>",), ("sea.event.>",), True),
        (("sea.>",), ("sea.event.>", "sea.dlq.>"), True),
        (("sea.event.*",), ("sea.event.>",), False),
        (("sea.event.>",), ("sea.event.>", "other.>"), False),
        (("sea.event.>", "other.>"), ("sea.event.>", "other.>"), True),
    ],
)
def test_whether_filters_take_a_whole_stream(
    filters: tuple[str, ...], subjects: tuple[str, ...], whole: bool
) -> None:
    assert takes_all(filters, subjects) is whole
