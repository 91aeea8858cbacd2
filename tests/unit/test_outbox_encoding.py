"""What an event has to keep before it may become a row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway import headers as h
from seaway.errors import ConfigError, EventTooLarge, InvalidName
from seaway.events import RawEvent, Registry, chained, event, new_event_id
from seaway.outbox.encoding import Limits, OutboxRow, Wishes, encode

LIMITS = Limits(1024 * 1024)
SUBJECT = "sea.event.case_created.v1"


@event(context="sea", version=3, registry=Registry())
@dataclass
class TaskOpened:
    task_id: Any


def one(what: object, **wishes: Any) -> OutboxRow:
    (row,) = encode([what], Wishes(**wishes), LIMITS)
    return row


def headers_of(row: OutboxRow) -> dict[str, str]:
    headers: dict[str, str] = json.loads(row.headers)
    return headers


def test_a_row_of_a_typed_event() -> None:
    row = one(TaskOpened("t1"), key="case-7")
    assert row.subject == "sea.event.task_opened.v3"
    assert row.payload == b'{"task_id":"t1"}'
    assert row.ordering_key == "case-7"
    metadata = h.Metadata.decode(headers_of(row), fallback_id="")
    assert metadata.event_id == metadata.correlation_id == row.event_id
    assert metadata.causation_id is None
    assert (metadata.version, metadata.key) == (3, "case-7")
    assert metadata.content_type == "application/json"
    assert metadata.occurred_at is not None
    assert row.added_at == round(metadata.occurred_at.timestamp() * 1_000_000)


def test_without_a_key_the_subject_orders_and_no_header_says_so() -> None:
    row = one(TaskOpened("t1"))
    assert row.ordering_key == row.subject
    assert h.ORDERING_KEY not in headers_of(row)


def test_a_raw_event_brings_its_own() -> None:
    own = new_event_id()
    at = datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    row = one(
        RawEvent(
            SUBJECT,
            b"\x00",
            key="k",
            event_id=own,
            correlation_id="c",
            causation_id="d",
            occurred_at=at,
            content_type="application/octet-stream",
            headers={"X-A": "1"},
        ),
        headers={"X-B": "2"},
    )
    headers = headers_of(row)
    assert row.event_id == own
    assert (headers["X-A"], headers["X-B"]) == ("1", "2")
    assert h.Metadata.decode(headers, fallback_id="") == h.Metadata(
        event_id=own,
        correlation_id="c",
        causation_id="d",
        version=1,
        key="k",
        occurred_at=at,
        content_type="application/octet-stream",
    )


def test_argument_before_own_before_chain_before_the_id() -> None:
    bare, own = RawEvent(SUBJECT, b""), RawEvent(SUBJECT, b"", None, None, "own", "own-cause")
    with chained("chain", "chain-cause", traceparent="00-1-2-01", tracestate="a=b"):
        for what, wishes, expected in (
            (own, {"correlation_id": "arg", "causation_id": "arg-cause"}, ("arg", "arg-cause")),
            (own, {}, ("own", "own-cause")),
            (bare, {}, ("chain", "chain-cause")),
        ):
            headers = headers_of(one(what, **wishes))
            assert (headers[h.CORRELATION_ID], headers[h.CAUSATION_ID]) == expected
            assert (headers["traceparent"], headers["tracestate"]) == ("00-1-2-01", "a=b")
    row = one(bare)
    assert headers_of(row)[h.CORRELATION_ID] == row.event_id
    assert h.CAUSATION_ID not in headers_of(row)
    assert "traceparent" not in headers_of(row)


def test_an_events_own_trace_stands_instead_of_the_running_one() -> None:
    with chained(traceparent="00-1-2-01"):
        headers = headers_of(one(RawEvent(SUBJECT, b"", headers={"Traceparent": "00-3-4-01"})))
    assert [v for k, v in headers.items() if k.lower() == "traceparent"] == ["00-3-4-01"]


@pytest.mark.parametrize("name", ["Nats-Msg-Id", "nats-expected-stream", "X-Dlq-Reason"])
@pytest.mark.parametrize("raw", [True, False])
def test_headers_that_steer_the_server_are_refused(name: str, raw: bool) -> None:
    extra = {name: "1"}
    what = RawEvent(SUBJECT, b"", headers=extra if raw else {})
    with pytest.raises(ConfigError, match="header"):
        one(what, headers={} if raw else extra)


@pytest.mark.parametrize("name", sorted(h.RESERVED))
def test_reserved_headers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is set by Seaway"):
        one(RawEvent(SUBJECT, b""), headers={name.title(): "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-A", "1\r\nNats-Msg-Id: 2"), ("X A", "1"), ("", "1"), ("X-A", " 1"), ("X-A", "\ud800")],
)
def test_headers_that_would_break_the_block_are_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidName):
        one(RawEvent(SUBJECT, b""), headers={name: value})


def test_a_header_that_is_not_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not text"):
        one(RawEvent(SUBJECT, b""), headers={"X-A": 5})


@pytest.mark.parametrize(
    "subject",
    ["", "sea", "sea.dlq.x", "sea.event.a", "sea.event.A.v1", "a..b", "sea.event.a.v1.b", "sea.*"],
)
def test_only_event_subjects_are_written(subject: str) -> None:
    with pytest.raises(InvalidName):
        one(RawEvent(subject, b"{}"))


@pytest.mark.parametrize("wish", ["key", "correlation_id", "causation_id"])
@pytest.mark.parametrize("value", ["", 5, b"x"])
def test_ids_and_keys_are_non_empty_text(wish: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=wish):
        one(RawEvent(SUBJECT, b"{}"), **{wish: value})


@pytest.mark.parametrize("own", ["", "x", "7", "0198C6A4-5B7E-7C3D-9F00-00000000000A"])
def test_an_own_id_is_a_uuid_in_canonical_text(own: str) -> None:
    with pytest.raises(ConfigError, match="UUID"):
        one(RawEvent(SUBJECT, b"{}", event_id=own))


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ConfigError, match="time zone"):
        one(RawEvent(SUBJECT, b"{}", occurred_at=datetime(2020, 1, 1)))  # noqa: DTZ001


def test_a_payload_of_text_is_refused() -> None:
    text: Any = "{}"
    with pytest.raises(ConfigError, match="not bytes"):
        one(RawEvent(SUBJECT, text))


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sea\.event\.task_opened\.v3.*JSON"):
        one(TaskOpened(object()))


def test_a_class_is_not_an_event() -> None:
    with pytest.raises(ConfigError, match="instance"):
        one(TaskOpened)


def test_one_id_twice_in_a_call_is_refused() -> None:
    twin = RawEvent(SUBJECT, b"{}", event_id=new_event_id())
    with pytest.raises(ConfigError, match=str(twin.event_id)):
        encode([twin, twin], Wishes(), LIMITS)


@given(st.integers(0, 3000))
def test_the_limit_holds_to_the_byte(length: int) -> None:
    what = RawEvent(SUBJECT, b"x" * length, event_id=new_event_id())
    size = h.wire_bytes(headers_of(one(what)), what.payload)
    encode([what], Wishes(), Limits(size))
    encode([what], Wishes(), Limits(1, {"SEA_EVENTS": size}))
    for limits in (Limits(size - 1), Limits(size, {"SEA_EVENTS": size - 1})):
        with pytest.raises(EventTooLarge, match=rf"case_created.*{size} bytes.*{size - 1}"):
            encode([what], Wishes(), limits)


def test_the_size_is_the_servers() -> None:
    block = b"NATS/1.0\r\nA: 1\r\nX-B: s\xc3\xbcd\r\n\r\n"
    assert h.wire_bytes({"A": "1", "X-B": "süd"}, b"12345") == len(block) + 5


@pytest.mark.parametrize("char", ["v", "ü", "€"])
@pytest.mark.parametrize("raw", [True, False])
def test_headers_that_no_stream_stores_are_refused(char: str, raw: bool) -> None:
    def write(text: str) -> OutboxRow:
        extra = {"X-Note": text}
        what = RawEvent(SUBJECT, b"{}", event_id=own_id, headers=extra if raw else {})
        return one(what, headers={} if raw else extra)

    own_id = new_event_id()
    room = h.EVENT_HEADER_BYTES - h.header_bytes(headers_of(write("")))
    fits = char * (room // len(char.encode()))
    assert h.header_bytes(headers_of(write(fits))) <= h.EVENT_HEADER_BYTES
    with pytest.raises(EventTooLarge, match=rf"headers are \d+ bytes, {h.EVENT_HEADER_BYTES}"):
        write(fits + char)


@pytest.mark.parametrize("wish", ["key", "correlation_id", "causation_id"])
@pytest.mark.parametrize("char", ["v", "ü", "€"])
def test_ids_and_keys_that_no_index_takes_are_refused(wish: str, char: str) -> None:
    fits = char * (h.TEXT_BYTES // len(char.encode()))
    one(RawEvent(SUBJECT, b"{}"), **{wish: fits})
    with pytest.raises(EventTooLarge, match=rf"{wish}.*{h.TEXT_BYTES} are allowed"):
        one(RawEvent(SUBJECT, b"{}"), **{wish: fits + char})
