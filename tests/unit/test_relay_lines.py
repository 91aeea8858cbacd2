"""Lines of ``seaway outbox add``."""

from __future__ import annotations

import json

import pytest

from seaway.cli.lines import parse_line

SUBJECT = "sea.event.case_moved.v1"


def test_a_whole_line() -> None:
    event = parse_line(
        json.dumps(
            {
                "subject": SUBJECT,
                "payload": {"name": "Ærø", "n": [1, 2.5, None]},
                "key": "case-7",
                "id": "0192f0c1-2d3e-7000-8000-000000000001",
                "correlation_id": "c",
                "causation_id": "d",
                "headers": {"X-Shard": "1"},
            }
        ).encode()
    )
    assert event.payload == '{"name":"Ærø","n":[1,2.5,null]}'.encode()
    assert (event.subject, event.key, event.correlation_id) == (SUBJECT, "case-7", "c")
    assert (event.event_id or "").endswith("01")
    assert event.causation_id == "d"
    assert event.headers == {"X-Shard": "1"}


@pytest.mark.parametrize("payload", [None, 0, "", [], {}, False, "\u2028"])
def test_any_json_value_is_a_payload(payload: object) -> None:
    event = parse_line(json.dumps({"subject": SUBJECT, "payload": payload}).encode())
    assert json.loads(event.payload) == payload


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"{", "not JSON"),
        (b"[1]", "object"),
        (b'{"subject": "s", "payload": "\xff"}', "UTF-8"),
        (b'{"payload": 1}', "'subject' is missing"),
        (b'{"subject": "s"}', "'payload' is missing"),
        (b'{"subject": 7, "payload": 1}', "'subject' must be text"),
        (b'{"subject": "s", "payload": 1, "key": 7}', "'key' must be text"),
        (b'{"subject": "s", "payload": 1, "kex": "a"}', "'kex'"),
        (b'{"subject": "s", "payload": 1, "headers": {"a": 1}}', "headers"),
        (b'{"subject": "s", "payload": 1, "headers": []}', "headers"),
        (b'{"subject": "s", "payload": NaN}', "NaN"),
        (b'{"subject": "s", "payload": 1e999}', "out of range"),
        (b'{"subject": "s", "payload": "\\ud800"}', "surrogate"),
        (b'{"subject": "s", "payload": ' + b"[" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said(line: bytes, word: str) -> None:
    with pytest.raises(ValueError, match=word.replace("'", ".")):
        parse_line(line)
