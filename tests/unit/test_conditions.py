"""``--where``: what a condition says, and for which events it holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.dead_letters.conditions import condition, document_of
from seaway.errors import ConfigError

PAYLOAD = b"""{
  "amount": 120, "rate": 0.1, "price": "12.50", "open": true, "owner": null, "number": "7",
  "at": "2026-11-24T08:00:00Z", "note": "Two Cases", "big": 12345678901234567890123,
  "lines": [{"sku": "A-7"}, {"sku": "B-1"}], "tags": ["a", "b"], "a.b": {"": 1}
}"""
HEADERS = {"X-Tenant": "shop", "X-Dlq-Deliveries": "20"}


@pytest.mark.parametrize(
    "text",
    [
        *("payload.amount=120", "payload.amount>100", "payload.amount<=120", "payload.amount!=7"),
        *("payload.amount == 120", "payload.amount=120.0", "payload.amount<1e3"),
        *("payload.rate=0.1", "payload.rate>0.09", "payload.big=12345678901234567890123"),
        *("payload.price>9", "payload.price=12.5", 'payload.price="12.50"', "payload.price<100"),
        *("payload.open=true", "payload.open!=false", "payload.owner=null", "payload.owner!=1"),
        *("payload.number=7", 'payload.number="7"', "payload.number!=8"),
        *("payload.at>2026-11-24", "payload.at<2026-11-25", "payload.at~11-24"),
        *("payload.note~cases", "payload.note=Two Cases", "payload.amount~12"),
        *("payload.lines.0.sku=A-7", "payload.lines.1.sku!=A-7", "payload.lines~b-1"),
        *('payload.tags=["a", "b"]', "payload.tags.1=b", 'payload."a.b"~1', 'payload."a.b".""=1'),
        *("payload~two", "headers.x-tenant=shop", "headers.X-Tenant~SH", "headers.X-Tenant!=other"),
        *("headers.X-Dlq-Deliveries>3", "headers.X-Dlq-Deliveries=20"),
    ],
)
def test_what_holds(text: str) -> None:
    assert condition(text).holds(HEADERS, document_of(PAYLOAD))


@pytest.mark.parametrize(
    "text",
    [
        *("payload.amount>120", "payload.amount=121", "payload.amount!=120", "payload.rate=0.11"),
        *("payload.big=12345678901234567890124", "payload.open=1", "payload.amount=true"),
        *("payload.number!=7", "payload.note>5", "payload.open>0", "payload.owner<1"),
        *("payload.tags>1", "payload.amount>abc", "payload.note~three"),
        *("payload.missing=1", "payload.missing!=1", "payload.amount.deeper=1"),
        *("payload.lines.2.sku!=x", "payload.lines.sku!=x", "payload.lines.-1.sku!=x"),
        *("headers.X-Other!=1", "headers.X-Tenant>5"),
    ],
)
def test_what_does_not(text: str) -> None:
    assert not condition(text).holds(HEADERS, document_of(PAYLOAD))


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{", b"[" * 100_000, b"1" * 5000])
@pytest.mark.parametrize("text", ["payload!=1", "payload.a!=1", "payload~1", "payload<1"])
def test_a_payload_that_is_no_json_fits_nothing(payload: bytes, text: str) -> None:
    assert not condition(text).holds({}, document_of(payload))


@pytest.mark.parametrize(
    "text",
    [
        *("", "amount>1", "payload", "payload.amount", "payload.amount>", "payload.=1"),
        *("payload.a b=1", "payload..a=1", "headers=1", "headers.=1", 'payload."a=1'),
        *("Payload.a=1", "payload.a\x1b[2J", 'payload."\\x"=1'),
    ],
)
def test_what_is_no_condition_is_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        condition(text)
    said = str(caught.value)
    assert repr(text) in said
    assert "payload.amount>100" in said
    assert said.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    value=JSON,
    wanted=JSON | st.text(),
    compare=st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "~"]),
)
def test_any_value_is_compared_with_any_other(value: object, wanted: object, compare: str) -> None:
    said = wanted if isinstance(wanted, str) else json.dumps(wanted)
    document = document_of(json.dumps({"a": value}).encode())
    try:
        one = condition(f"payload.a{compare}{said}")
    except ConfigError:
        return  # Blank, or a part of another operator.
    assert one.holds({"a": "b"}, document) in (True, False)
