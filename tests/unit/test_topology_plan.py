from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from described import a_consumer, a_stream
from seaway import topology
from seaway.config import settings_from_mapping
from seaway.errors import ConfigError
from seaway.topology import Change, Plan, ServerState, Topology

DAY = 24 * 3600 * 10**9
NOW = datetime(2026, 11, 24, tzinfo=UTC)
STREAM = {"name": "SEA_EVENTS", "replicas": 1}
CONSUMER = {"stream": "SEA_EVENTS", "durable": "case_mgmt__from_sea"}


def wanted(
    stream: dict[str, Any] | None = None, consumer: dict[str, Any] | None = None, **more: Any
) -> Topology:
    mapping = {
        "streams": [{**STREAM, **(stream or {})}],
        "consumers": [{**CONSUMER, **(consumer or {})}],
        **more,
    }
    return topology.desired(settings_from_mapping(mapping, environ={}))


def server(of: Topology, state: dict[str, Any] | None = None, **config: Any) -> ServerState:
    """A server that has ``of``, with ``state`` and further ``config`` in the event stream."""
    streams = {name: a_stream(one, **(state or {})) for name, one in of.streams.items()}
    events = {**streams["SEA_EVENTS"].config, **config}
    streams["SEA_EVENTS"] = a_stream(events, **(state or {}))
    consumers = {key: a_consumer(*key, one) for key, one in of.consumers.items()}
    return ServerState(streams, consumers, NOW)


def only(plan: Plan, stream: str = "SEA_EVENTS", durable: str | None = None) -> Change:
    (change,) = (one for one in plan.changes if (one.stream, one.durable) == (stream, durable))
    return change


def test_the_spec_arrives_to_the_nanosecond_and_byte() -> None:
    whole = wanted()
    events = whole.streams["SEA_EVENTS"]
    assert events["subjects"] == ["sea.event.>"]
    assert (events["max_age"], events["max_bytes"]) == (7 * DAY, 10 * 1024**3)
    assert (events["allow_atomic"], events["storage"]) == (True, "file")
    durable = whole.consumers["SEA_EVENTS", "case_mgmt__from_sea"]
    assert durable["ack_wait"] == 120 * 10**9
    assert (durable["max_deliver"], durable["max_ack_pending"]) == (20, 50)
    assert (durable["ack_policy"], durable["filter_subject"]) == ("explicit", "sea.event.>")


def test_every_event_stream_implies_its_dead_letters_and_redrives() -> None:
    whole = wanted()
    assert list(whole.streams) == ["SEA_EVENTS", "SEA_DLQ", "SEA_REDRIVE", "SEAWAY_ADVISORIES"]
    letters, redrives = whole.streams["SEA_DLQ"], whole.streams["SEA_REDRIVE"]
    assert (letters["subjects"], letters["max_age"], letters["discard"]) == (
        ["sea.dlq.>"],
        0,
        "new",
    )
    assert (redrives["subjects"], redrives["retention"]) == (["sea.redrive.>"], "workqueue")
    redrive = whole.consumers["SEA_REDRIVE", "case_mgmt__from_sea"]
    assert redrive["filter_subject"] == "sea.redrive.case_mgmt__from_sea.>"
    assert redrive["max_deliver"] == 20


def test_an_exclusive_durable_takes_turns_and_so_does_its_redrive_twin() -> None:
    whole = wanted(consumer={"exclusive": True})
    for durable in (
        whole.consumers[s, "case_mgmt__from_sea"] for s in ("SEA_EVENTS", "SEA_REDRIVE")
    ):
        assert durable["priority_policy"] == "pinned_client"
        assert len(durable["priority_groups"]) == 1
        assert durable["priority_timeout"] == 5 * 10**9
    [change, twin] = topology.plan(wanted(), server(whole)).changes
    assert (change.kind, twin.kind) == ("in_place", "in_place")
    said = {str(one) for one in change.differences}
    assert {"priority_policy: pinned_client -> none", "priority_timeout: 5s -> none"} < said


def test_nothing_configured_asks_for_nothing() -> None:
    assert topology.desired(settings_from_mapping({}, environ={})).streams == {}


def test_on_an_empty_server_all_is_created_streams_first() -> None:
    plan = topology.plan(wanted(), ServerState({}, {}, NOW))
    assert {change.kind for change in plan.changes} == {"create"}
    assert [change.durable is None for change in plan.changes] == [True] * 4 + [False] * 3


def test_a_server_that_has_it_all_differs_in_nothing() -> None:
    state = server(
        wanted(), metadata={"_nats.ver": "2.15.1"}, compression="none", deny_delete=False
    )
    durable = state.consumers["SEA_EVENTS", "case_mgmt__from_sea"].config
    for name in ("backoff", "headers_only", "inactive_threshold", "deliver_subject"):
        del durable[name]  # the server leaves out what is empty
    durable.update(deliver_policy="by_start_sequence", opt_start_seq=9)
    assert topology.plan(wanted(), state).empty


def test_an_update_keeps_what_the_file_does_not_know() -> None:
    state = server(wanted(), metadata={"team": "sea"}, future_field={"a": 1})
    change = only(topology.plan(wanted({"max_age": "8d"}), state))
    assert change.kind == "in_place"
    assert [str(one) for one in change.differences] == ["max_age: 7d -> 8d"]
    assert change.config["future_field"] == {"a": 1}
    assert change.config["metadata"] == {"team": "sea"}


@pytest.mark.parametrize(
    ("stream", "state", "kind"),
    [
        ({"max_bytes": "1KB"}, {"messages": 1, "bytes": 1024}, "in_place"),
        ({"max_bytes": "1KB"}, {"messages": 1, "bytes": 1025}, "loses_data"),
        ({"max_bytes": "unlimited"}, {"messages": 1, "bytes": 1025}, "in_place"),
        ({"max_msgs": 5}, {"messages": 5}, "in_place"),
        ({"max_msgs": 5}, {"messages": 6}, "loses_data"),
        ({"max_msgs_per_subject": 5}, {"messages": 0}, "in_place"),
        ({"max_msgs_per_subject": 5}, {"messages": 1}, "loses_data"),
        ({"max_age": "2d"}, {"messages": 1, "first_ts": "2026-11-23T00:00:00.5Z"}, "in_place"),
        ({"max_age": "2d"}, {"messages": 1, "first_ts": "2026-11-21T00:00:00Z"}, "loses_data"),
        ({"max_age": "2d"}, {"messages": 0}, "in_place"),
        ({"max_age": 0}, {"messages": 1, "first_ts": "2026-11-21T00:00:00Z"}, "in_place"),
        ({"storage": "memory"}, {}, "loses_data"),
        ({"retention": "workqueue"}, {}, "loses_data"),
        ({"retention": "interest"}, {"messages": 1}, "loses_data"),
        ({"retention": "interest"}, {"messages": 0}, "in_place"),
        ({"replicas": 3}, {"messages": 1}, "in_place"),
    ],
)
def test_what_a_change_of_a_stream_costs(
    stream: dict[str, Any], state: dict[str, Any], kind: str
) -> None:
    change = only(topology.plan(wanted(stream), server(wanted(), state)))
    assert change.kind == kind
    assert bool(change.reasons) == (kind == "loses_data")


def test_a_stream_made_anew_takes_its_consumers_along() -> None:
    plan = topology.plan(wanted({"retention": "workqueue"}), server(wanted()))
    assert only(plan).replaces
    assert only(plan, durable="case_mgmt__from_sea").kind == "create"
    assert plan.losses == (only(plan),)


@pytest.mark.parametrize(
    ("consumer", "kind"),
    [
        ({"ack_wait": "30s", "max_deliver": 5, "max_ack_pending": 7}, "in_place"),
        ({"filter_subject": "sea.event.a.*"}, "in_place"),
        ({"deliver_policy": "new"}, None),
        ({"exclusive": True}, "in_place"),
        ({"max_waiting": 100}, "recreate_consumer"),
    ],
)
def test_what_a_change_of_a_consumer_costs(consumer: dict[str, Any], kind: str | None) -> None:
    plan = topology.plan(wanted(consumer=consumer), server(wanted()))
    assert {change.kind for change in plan.changes} == ({kind} if kind else set())


def test_on_an_interest_stream_a_new_consumer_loses_what_waits() -> None:
    before, after = (wanted({"retention": "interest"}, one) for one in ({}, {"max_waiting": 100}))
    change = only(topology.plan(after, server(before)), durable="case_mgmt__from_sea")
    assert change.kind == "loses_data"


def test_thresholds_of_the_file_stand_where_the_tools_look_and_nobody_elses_go() -> None:
    alerts = {"stream_messages_pending": 0, "consumer_redelivery_count": "90/h"}
    whole, off = wanted(alerts=alerts), wanted(alerts={**alerts, "metadata": False})
    ours = whole.consumers["SEA_REDRIVE", "case_mgmt__from_sea"]["metadata"]
    assert ours == {
        "seaway.alerts": "0, 100, 90/h",
        "io.nats.monitor.enabled": "true",
        # Above 0 is from 1 on, and a tool takes 0 for a check that is off.
        "io.nats.monitor.unprocessed-critical": "1",
        "io.nats.monitor.outstanding-ack-critical": "101",
        "io.nats.monitor.redelivery-critical": "2",
    }
    assert not any("metadata" in config for config in whole.streams.values())
    assert "metadata" not in whole.consumers["SEAWAY_ADVISORIES", "seaway__sweeper"]

    theirs = {"team": "sea", "_nats.ver": "2.15.1", "io.nats.monitor.last-ack-critical": "5m"}
    by_hand = theirs | {"io.nats.monitor.unprocessed-critical": "7"}
    key = "SEA_EVENTS", "case_mgmt__from_sea"

    def after(file: Topology, held: dict[str, str], **config: Any) -> Plan:
        state = server(file)
        state.consumers[key].config.update(metadata=held, **config)
        return topology.plan(file, state)

    change = only(after(whole, by_hand), *key)
    assert change.kind == "in_place"
    assert "metadata.io.nats.monitor.unprocessed-critical: 7 -> 1" in map(str, change.differences)
    assert change.config["metadata"] == theirs | ours
    assert after(whole, theirs | ours).empty
    # A durable that is made anew keeps what others wrote, but for what the server says itself.
    anew = only(after(whole, by_hand, max_waiting=9, ack_policy="all"), *key)
    assert (anew.replaces, "_nats.ver" in anew.config["metadata"]) == (True, False)
    assert anew.config["metadata"]["team"] == "sea"
    # Switched off, what we wrote goes, and what somebody wrote by hand stays.
    assert only(after(off, theirs | ours), *key).config["metadata"] == theirs
    assert after(off, by_hand).empty

    # The way back to the file, where the durables agree.
    assert topology.exported(server(whole)).mapping["alerts"] == alerts
    other = a_consumer(key[0], "a__b", {**wanted().consumers[key], "durable_name": "a__b"})
    mixed = server(whole)
    mixed = replace(mixed, consumers={**mixed.consumers, other.key: other})
    assert topology.exported(mixed).left_out == (
        "alerts: its durables have several: 0, 100, 90/h; 1000, 100, 50/min",
    )


def test_a_backoff_set_by_hand_is_taken_off() -> None:
    state = server(wanted())
    state.consumers["SEA_EVENTS", "case_mgmt__from_sea"].config["backoff"] = [10**9]
    change = only(topology.plan(wanted(), state), durable="case_mgmt__from_sea")
    assert [one.field for one in change.differences] == ["backoff"]


def test_a_durable_lost_in_the_middle_continues_where_it_was() -> None:
    state = server(wanted(), metadata={"seaway.position.case_mgmt__from_sea": "42"})
    remaining = {key: one for key, one in state.consumers.items() if key[0] != "SEA_EVENTS"}
    plan = topology.plan(wanted(), ServerState(state.streams, remaining, NOW))
    change = only(plan, durable="case_mgmt__from_sea")
    assert change.config["opt_start_seq"] == 42
    assert change.config["deliver_policy"] == "by_start_sequence"


@pytest.mark.parametrize("mark", ["", "0", "-3", "²", "soon"])
def test_a_position_that_cannot_be_read_is_an_error_and_not_the_beginning(mark: str) -> None:
    state = server(wanted(), metadata={"seaway.position.case_mgmt__from_sea": mark})
    assert topology.plan(wanted(), state).empty, "nobody needs it"
    with pytest.raises(ConfigError, match=r"seaway\.position\.case_mgmt__from_sea is "):
        topology.plan(wanted(), ServerState(state.streams, {}, NOW))


def test_a_filter_left_out_means_all_of_the_streams_subjects() -> None:
    state = server(wanted())
    del state.consumers["SEA_EVENTS", "case_mgmt__from_sea"].config["filter_subject"]
    assert topology.plan(wanted(), state).empty


def test_what_the_file_does_not_name_is_told_and_left_alone() -> None:
    state = server(wanted())
    streams = {
        **state.streams,
        "ORDERS": a_stream({"name": "ORDERS", "subjects": ["sea.event.a.>"]}),
        "KV_settings": a_stream({"name": "KV_settings", "subjects": ["$KV.settings.>"]}),
    }
    consumers = {
        **state.consumers,
        ("SEA_EVENTS", "old__one"): a_consumer("SEA_EVENTS", "old__one", {}),
    }
    plan = topology.plan(wanted(), ServerState(streams, consumers, NOW))
    assert plan.empty
    assert [(one.stream, one.durable) for one in plan.unmanaged] == [
        ("ORDERS", None),
        ("SEA_EVENTS", "old__one"),
    ]
    assert all("nats consumer rm" in one.note for one in plan.unmanaged if one.durable)
    assert plan.unmanaged[0].note == "its subjects overlap with those of SEA_EVENTS"


def test_an_export_loads_back_to_an_empty_plan() -> None:
    of = wanted(
        {"max_age": "36h", "max_bytes": "unlimited", "max_msgs": 7, "compression": "s2"},
        {"filter_subjects": ["sea.event.a.*", "sea.event.b.*"], "max_waiting": 9},
        alerts={"consumer_redelivery_count": "7/h"},
    )
    found = topology.exported(server(of))
    assert found.left_out == ()
    assert found.mapping["streams"][0]["max_age"] == "1d12h"
    again = topology.desired(settings_from_mapping(found.mapping, environ={}))
    assert topology.plan(again, server(of)).empty


def test_an_export_names_what_the_file_cannot_hold() -> None:
    state = server(wanted())
    foreign = {**state.consumers["SEA_EVENTS", "case_mgmt__from_sea"].config}
    streams = {
        **state.streams,
        "TREE_EVENTS": a_stream({"name": "TREE_EVENTS", "mirror": {"name": "SEA_EVENTS"}}),
    }
    pushed = {**foreign, "durable_name": "a__push", "deliver_subject": "x"}
    consumers = {
        one.key: one
        for one in (
            *state.consumers.values(),
            a_consumer("SEA_EVENTS", "plain", {**foreign, "durable_name": "plain"}),
            a_consumer("SEA_EVENTS", "a__push", pushed),
        )
    }
    found = topology.exported(ServerState(streams, consumers, NOW))
    assert [one["durable"] for one in found.mapping["consumers"]] == ["case_mgmt__from_sea"]
    assert [line.split(":")[0] for line in found.left_out] == [
        "consumer SEA_EVENTS > a__push",
        "consumer SEA_EVENTS > plain",
        "stream TREE_EVENTS",
    ]
