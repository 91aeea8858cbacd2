"""What servers say of streams and consumers, read once: their omissions, and their nonsense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from described import MADE, a_consumer, a_stream
from seaway.brokers.jetstream.api import consumer_info, stream_info
from seaway.contracts import JSON
from seaway.errors import BrokerUnavailable

DURABLE = ("SEA_EVENTS", "case_mgmt__from_sea")


def test_what_a_server_leaves_out_is_its_default() -> None:
    info = a_stream({"name": "SEA_EVENTS"})
    assert (info.subjects, info.retention, info.storage) == ((), "limits", "file")
    assert (info.max_bytes, info.max_messages, info.max_message_bytes) == (None, None, None)
    assert (info.duplicate_window, info.first_at, info.last_at) == (timedelta(0), None, None)
    assert (info.replicas, info.leader, info.domain, info.metadata) == (1, None, None, {})
    assert (info.created, info.fill) == (MADE, None)
    durable = a_consumer(*DURABLE, {})
    assert (durable.key, durable.filters, durable.pulled) == (DURABLE, (), True)
    assert (durable.max_deliver, durable.max_ack_pending) == (None, None)
    assert (durable.ack_wait, durable.ephemeral) == (timedelta(seconds=30), True)
    assert (durable.asked_at, durable.last_active_at, durable.paused_until) == (None, None, None)
    assert durable.settled


def test_a_stream_in_full() -> None:
    info = stream_info(
        {
            "total": 1,
            "config": {
                "name": "SEA_EVENTS",
                "subjects": ["sea.event.>"],
                "retention": "workqueue",
                "max_bytes": 100,
                "max_msgs": -1,
                "max_msgs_per_subject": 2,
                "max_msg_size": 50,
                "discard": "new",
                "discard_new_per_subject": True,
                "duplicate_window": 120_000_000_000,
                "num_replicas": 3,
                "metadata": {"team": "sea"},
                "future": {"kept": True},
            },
            "created": MADE,
            "state": {
                "messages": 3,
                "bytes": 25,
                "first_seq": 4,
                "first_ts": "2026-11-02T00:00:00+01:00",
                "last_seq": 7,
                "last_ts": "2026-11-02T00:00:00.5Z",
                "num_deleted": 1,
                "num_subjects": 2,
                "subjects": {"sea.event.a.v1": 2, "sea.event.b.v1": 1},
                "consumer_count": 1,
            },
            "cluster": {"name": "hub", "leader": "n2"},
            "domain": "leaf",
        }
    )
    assert (info.retention, info.max_messages, info.max_bytes) == ("workqueue", None, 100)
    assert (info.fill, info.nearest_limit) == (0.25, "max_bytes")
    assert info.full_subjects == ("sea.event.a.v1",)
    assert info.first_at == datetime(2026, 11, 1, 23, tzinfo=UTC)
    assert info.last_at == datetime(2026, 11, 2, 0, 0, 0, 500_000, tzinfo=UTC)
    assert info.duplicate_window == timedelta(minutes=2)
    assert (info.cluster, info.leader, info.domain) == ("hub", "n2", "leaf")
    assert info.config["future"] == {"kept": True}
    assert "total" not in info.document, "of the answer, not of the stream"


def test_a_durable_in_full() -> None:
    info = a_consumer(
        *DURABLE,
        {
            "durable_name": DURABLE[1],
            "filter_subjects": ["sea.event.a.*", "sea.event.b.*"],
            "ack_wait": 1_500_000_000,
            "max_deliver": 5,
            "max_ack_pending": 50,
            "priority_policy": "pinned_client",
            "pause_until": "2026-11-03T00:00:00Z",
        },
        num_pending=1,
        num_ack_pending=2,
        delivered={"consumer_seq": 9, "stream_seq": 7, "last_active": "2026-11-02T00:00:02Z"},
        ack_floor={"consumer_seq": 4, "stream_seq": 3, "last_active": "2026-11-02T00:00:01Z"},
        paused=True,
        ts="2026-11-02T00:00:05Z",
        priority_groups=[{"group": "g", "pinned_client_id": "x", "pinned_ts": MADE}],
    )
    assert (info.consumer_seq, info.stream_seq, info.ack_floor) == (9, 7, 3)
    assert (info.ack_wait, info.max_deliver) == (timedelta(seconds=1.5), 5)
    assert (info.exclusive, info.ephemeral, info.settled) == (True, False, False)
    assert info.given_to_one_since == datetime(2026, 11, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    assert info.paused_until == datetime(2026, 11, 3, tzinfo=UTC)
    assert info.last_active_at == datetime(2026, 11, 2, 0, 0, 2, tzinfo=UTC)
    assert info.asked_at == datetime(2026, 11, 2, 0, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": {}}, "SEA_EVENTS cannot be read: state.messages is None"),
        ({"state": None}, "state is None"),
        ({"state": {"messages": "3"}}, "state.messages is '3'"),
        ({"state": {"messages": True}}, "state.messages is True"),
        ({"created": "yesterday"}, "created is 'yesterday'"),
        ({"config": {"name": None}}, "config.name is None"),
        ({"config": {"name": "SEA_EVENTS", "subjects": [1]}}, "config.subjects is 1"),
        ({"config": {"name": "SEA_EVENTS", "max_bytes": 1.5}}, "config.max_bytes is 1.5"),
        ({"config": {"name": "SEA_EVENTS", "metadata": {"a": 1}}}, "config.metadata is 1"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_it(change: JSON, said: str) -> None:
    whole: dict[str, Any] = a_stream({"name": "SEA_EVENTS"}).document
    with pytest.raises(BrokerUnavailable, match=said.replace(".", r"\.")):
        stream_info({**whole, **change})


@pytest.mark.parametrize("lost", ["num_pending", "num_ack_pending", "delivered", "ack_floor"])
def test_a_figure_that_is_not_there_is_not_zero(lost: str) -> None:
    whole = a_consumer(*DURABLE, {}).document
    with pytest.raises(BrokerUnavailable, match=lost):
        consumer_info({name: value for name, value in whole.items() if name != lost})
