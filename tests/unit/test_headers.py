from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway import headers as h
from seaway.brokers.jetstream import wire
from seaway.contracts import Message
from seaway.errors import DecodeError, InvalidName
from seaway.headers import Metadata

values = st.text(
    alphabet=st.characters(exclude_characters="\ufffd", exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=40,
).filter(lambda text: text == text.strip())
zones = st.integers(min_value=-23, max_value=23).map(lambda n: timezone(timedelta(hours=n)))
JSON = "application/json"
_epoch = datetime(1970, 1, 1, tzinfo=UTC)
times = st.builds(
    lambda offset, zone: (_epoch + offset).astimezone(zone),
    st.timedeltas(min_value=timedelta(days=-719_000), max_value=timedelta(days=2_932_000)),
    zones,
)
metadata = st.builds(
    Metadata,
    event_id=values,
    correlation_id=values,
    causation_id=st.none() | values,
    version=st.none() | st.integers(min_value=1, max_value=10**9),
    key=st.none() | values,
    occurred_at=st.none() | times,
    content_type=values,
    traceparent=st.none() | values,
    tracestate=st.none() | values,
)


@given(metadata)
def test_metadata_round_trips(value: Metadata) -> None:
    assert Metadata.decode(value.encode(), fallback_id="S:1") == value


@given(times)
def test_times_round_trip(moment: datetime) -> None:
    assert h.parse_time(h.format_time(moment)) == moment


@given(values, st.sampled_from(["\r", "\n", "\x00", "\r\nNats-Rollup: all"]), values)
def test_no_value_adds_a_header(before: str, injected: str, after: str) -> None:
    text = before + injected + after
    with pytest.raises(InvalidName):
        Metadata(event_id="a", correlation_id="b", key=text).encode()
    with pytest.raises(InvalidName):
        h.check_header("X-Own", text)


@given(st.text())
def test_a_name_is_a_token_or_refused(name: str) -> None:
    try:
        h.check_header(name, "value")
    except InvalidName:
        return
    assert name
    assert name.isascii()
    assert not set(name) & set(": \t\r\n\x00")


@given(st.dictionaries(st.sampled_from([h.EVENT_VERSION, h.OCCURRED_AT, h.EVENT_ID]), st.text()))
def test_foreign_headers_decode_or_name_the_header(found: dict[str, str]) -> None:
    try:
        value = Metadata.decode(found, fallback_id="S:7")
    except DecodeError as error:
        named = error.field
    else:
        said = found.get(h.EVENT_ID, "")
        assert value.event_id == (said if h.usable(said) else "S:7")
        assert value.correlation_id == value.event_id
        return
    assert named in found


@pytest.mark.parametrize(
    "version", ["", "0", "01", "-1", "1.0", "one", " 1", "1\n", "\u0661", "9" * 5000]
)
def test_a_malformed_version_never_becomes_a_default(version: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Metadata.decode({h.EVENT_VERSION: version}, fallback_id="S:1")
    assert caught.value.field == h.EVENT_VERSION


@pytest.mark.parametrize(
    "moment",
    [
        "",
        "now",
        "2026-11-24",
        "2026-11-24T08:00:00",
        "2026-13-24T08:00:00Z",
        "0001-01-01T00:00:00+10:00",
        "2026-11-24T08:00:00+24:00",
    ],
)
def test_a_malformed_time_never_becomes_a_default(moment: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Metadata.decode({h.OCCURRED_AT: moment}, fallback_id="S:1")
    assert caught.value.field == h.OCCURRED_AT


def test_identity() -> None:
    assert h.identity({h.EVENT_ID: "e", h.MSG_ID: "m"}, fallback_id="f") == "e"
    assert h.identity({h.MSG_ID: "m"}, fallback_id="f") == "m"
    assert h.identity({}, fallback_id="f") == "f"


def test_times() -> None:
    moment = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
    assert h.format_time(moment) == "2026-11-24T08:00:00.000000Z"
    assert h.parse_time("2026-11-24T10:00:00.123456789+02:00") == moment.replace(microsecond=123456)
    with pytest.raises(ValueError, match="no time zone"):
        h.format_time(moment.replace(tzinfo=None))


texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    st.text(":,{} ", max_size=4),
)


@given(st.dictionaries(st.text("abcXYZ-_09", min_size=1, max_size=12), texts, min_size=1))
def test_stored_headers_reach_the_wire_as_they_were_written(written: dict[str, str]) -> None:
    text = json.dumps(written, ensure_ascii=False, separators=(",", ":"))
    stored = h.StoredHeaders(text)
    assert stored == written
    escaped = "\\" in text
    expected = "".join(f"{name}: {value}\r\n" for name, value in written.items()).encode()
    assert stored.lines == (None if escaped else expected)


@pytest.mark.parametrize(
    "text",
    ["{}", '{"a": "b"}', '{"a":1}', '{"a":"b\\r\\nc: d"}', '{"a":["b"]}', "[]", '{ "a":"b"}'],
)
def test_other_forms_have_to_be_parsed(text: str) -> None:
    assert h.StoredHeaders(text).lines is None


UNUSABLE = [
    "a\x00b",
    "tab\there",
    "\x1b[31m",
    "\x7f",
    "\x85next",
    "\ud800",
    "broken \ufffd",
    " outer",
    "\u3000outer",
    "x" * (h.TEXT_BYTES + 1),
    "ü" * (h.TEXT_BYTES // 2 + 1),
]


@pytest.mark.parametrize("text", UNUSABLE)
def test_what_no_index_or_log_line_may_hold_has_something_in_its_place(text: str) -> None:
    named = {
        h.EVENT_ID: text,
        h.CORRELATION_ID: text,
        h.CAUSATION_ID: text,
        h.ORDERING_KEY: text,
        h.TRACEPARENT: text,
        h.TRACESTATE: text,
    }
    found = Metadata.decode(named, fallback_id="S:7")
    assert found == Metadata(
        event_id="S:7", correlation_id="S:7", key=h.ordering_key("a.b", named), content_type=JSON
    )
    assert h.identity({h.MSG_ID: text}, fallback_id="S:7") == "S:7"
    assert h.ordering_key(text, {}) == found.key
    fine = Metadata(event_id="a", correlation_id="b")
    for name in ("event_id", "correlation_id", "causation_id", "key", "content_type"):
        changed: dict[str, Any] = {name: text}
        with pytest.raises(InvalidName):
            replace(fine, **changed).encode()
    with pytest.raises(DecodeError) as caught:
        Metadata.decode({h.CONTENT_TYPE: text}, fallback_id="S:7")
    assert caught.value.field == h.CONTENT_TYPE


@given(st.text(), st.text())
def test_every_key_is_usable_and_the_same_for_the_same_text(one: str, other: str) -> None:
    keys = [h.usable_key(one), h.usable_key(other)]
    assert all(map(h.usable, keys))
    assert (keys[0] == keys[1]) is (one == other)
    assert h.usable_key(keys[0]) == keys[0]


@pytest.mark.parametrize(
    "text", ["a", "ä", "0", "'", "%s", "日本", "\U0001f4a5", "x" * h.TEXT_BYTES]
)
def test_what_is_usable_stays_as_it_is(text: str) -> None:
    found = Metadata.decode({h.EVENT_ID: text, h.ORDERING_KEY: text}, fallback_id="S:7")
    assert (found.event_id, found.correlation_id, found.key) == (text, text, text)


EVENT = "0199a0a0-1111-7222-8333-444455556666"
OF_EVENT = f'{{"Nats-Msg-Id":"{EVENT}"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        '"x"',
        "null",
        "NaN",
        "[" * 100_000,
        '{"a":"b"',
        '["a","b"]',
        '{"a":1}',
        f'{OF_EVENT},"a":{{"b":"c"}},"d":"e"}}',
        f'{OF_EVENT},"a":"b\r\nc: d"}}',
    ],
    ids=range(11),
)
def test_what_is_no_object_of_texts_is_empty_and_says_so(text: str) -> None:
    stored = h.StoredHeaders(text)
    assert (dict(stored), stored.lines) == ({}, None)
    assert "not a JSON object of texts" in (stored.fault or "")
    with pytest.raises(InvalidName, match="not a JSON object of texts"):
        wire.prepare(Message("sea.event.a.v1", b"", stored))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (f'{OF_EVENT},"X-A":"b"}}', None),
        (f'{{"X-A":"b","Nats-Msg-Id":"{EVENT}"}}', None),
        (f'{OF_EVENT},"X-Event-Id":"{EVENT}"}}', None),
        (f'{OF_EVENT},"X-A":"Nats-Rollup"}}', None),
        ('{"X-A":"b"}', "Nats-Msg-Id is ''"),
        (f'{OF_EVENT},"Nats-Msg-Id":"other"}}', "Nats-Msg-Id is 'other'"),
        (f'{{"Nats-Msg-Id":"{EVENT}x"}}', "Nats-Msg-Id"),
        (f'{OF_EVENT},"X-Event-Id":"other"}}', "X-Event-Id is 'other'"),
        (f'{OF_EVENT},"X-Event\\u002dId":"other"}}', "X-Event-Id is 'other'"),
    ],
)
def test_headers_publish_their_own_event_and_no_other(text: str, wrong: str | None) -> None:
    headers = h.StoredHeaders(text)
    if wrong is None:
        h.check_headers(headers, EVENT)
        wire.prepare(Message("sea.event.a.v1", b"", headers))
    else:
        with pytest.raises(InvalidName, match=wrong):
            h.check_headers(headers, EVENT)


@pytest.mark.parametrize("order", ["Nats-Rollup", "Nats-TTL", "Nats-Expected-Stream"])
@pytest.mark.parametrize("form", ["{%s}", "{ %s}", "{%s }"])
def test_an_order_to_the_server_never_reaches_the_wire(order: str, form: str) -> None:
    for pairs in (f'"X-A":"b","{order}":"all"', f'"{order}":"all","X-A":"b"'):
        headers = h.StoredHeaders(form % pairs)
        with pytest.raises(InvalidName, match=order):
            wire.prepare(Message("sea.event.a.v1", b"", headers))
