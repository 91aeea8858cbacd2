"""What the server's advisories say, and which of them are a sweeper's business."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seaway.dead_letters.sweeper import Advisory
from seaway.errors import DecodeError
from seaway.naming import MAX_DELIVERIES_PREFIX, MSG_TERMINATED_PREFIX

SAID: dict[str, Any] = {
    "type": "io.nats.jetstream.advisory.v1.max_deliver",
    "stream": "SEA_EVENTS",
    "consumer": "case_mgmt__from_sea",
    "stream_seq": 7,
    "deliveries": 20,
}


def parse(said: object, prefix: str = MAX_DELIVERIES_PREFIX) -> Advisory:
    return Advisory.parse(f"{prefix}.SEA_EVENTS.case_mgmt__from_sea", json.dumps(said).encode())


def test_the_subject_gives_the_reason() -> None:
    assert parse(SAID) == Advisory("exhausted", "SEA_EVENTS", "case_mgmt__from_sea", 7, 20)
    assert parse(SAID, MSG_TERMINATED_PREFIX).reason == "terminated"


@pytest.mark.parametrize(
    "said",
    [
        [],
        5,
        None,
        {},
        SAID | {"stream": 5},
        SAID | {"consumer": None},
        SAID | {"stream_seq": "7"},
        SAID | {"stream_seq": True},
        SAID | {"stream_seq": -1},
        SAID | {"stream_seq": 2**63},
        SAID | {"deliveries": 1.5},
    ],
)
def test_anything_else_is_refused(said: object) -> None:
    with pytest.raises(DecodeError):
        parse(said)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff\xfe", b"[" * 200_000])
def test_what_is_no_json_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        Advisory.parse(f"{MAX_DELIVERIES_PREFIX}.A.b", payload)


@pytest.mark.parametrize(
    ("stream", "consumer", "ours"),
    [
        ("SEA_EVENTS", "case_mgmt__from_sea", True),
        ("SEA_REDRIVE", "case_mgmt__from_sea", True),
        ("SEA_DLQ", "case_mgmt__from_sea", False),
        ("ORDERS", "case_mgmt__from_sea", False),
        ("SEA_EVENTS", "bob", False),
        ("SEA_EVENTS", "a.b__c", False),
    ],
)
def test_only_durables_of_our_streams_are_swept(stream: str, consumer: str, ours: bool) -> None:
    assert parse(SAID | {"stream": stream, "consumer": consumer}).ours is ours
