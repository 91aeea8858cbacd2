"""A letter's test as text: it means what the letter held, whatever that is; and what is hidden is
hidden."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from seaway.codec import Codec
from seaway.contracts import Message, StoredMessage
from seaway.dead_letters.letter import Letter, read
from seaway.errors import ConfigError, DecodeError
from seaway.mending.letter_test import PACKED_BYTES, Given, Runs, written
from seaway.mending.redacting import redact

SUBJECT = "sea.event.case_opened.v1"
HOSTILE = '\\", """); import os; os._exit(1) #\u202e\x07\ud800\r\n\x1b[2J\\'
TEXTS = st.text() | st.sampled_from(
    [HOSTILE, '"' * 5, "'" * 3 + '"', "\\" * 3, "x y " * 99, "\n" * 40]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(TEXTS, some, max_size=3),
    max_leaves=8,
)
PAYLOADS = st.binary(max_size=200) | VALUES.map(
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )
)


def a_letter(payload: bytes, *, error: str = "", deliveries: int = 3, **more: str) -> Letter:
    headers = {
        "X-Event-Id": "e-1",
        "X-Dlq-Stream": "SEA_EVENTS",
        "X-Dlq-Stream-Sequence": "5",
        "X-Dlq-Consumer": "case_mgmt__from_sea",
        "X-Dlq-Reason": "exhausted",
        "X-Dlq-Deliveries": str(deliveries),
        "X-Dlq-Error-Type": "ValueError",
        "X-Dlq-Error": error,
        "X-Dlq-Failed-At": "2026-11-24T08:00:00.000000Z",
        **more,
    }
    message = Message(f"sea.dlq.{SUBJECT}", payload, headers)
    return read(StoredMessage(message, "SEA_DLQ", 17, datetime.now(UTC)))


def source_of(payload: bytes, headers: dict[str, str], error: str, runs: Runs) -> str:
    letter = a_letter(payload, error=error)
    event = Message(SUBJECT, payload, {**headers, "X-Event-Id": "e-1"})
    given = [Given(letter=letter, event=event)]
    app = "shop.events:app"
    return written(letter, given, app=app, runs=runs, place=error, state=[error])


def meant(source: str) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """What its calls of ``deliver`` or ``redeliver`` are given, without running it."""
    tree = ast.parse(source)
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)  # type: ignore[attr-defined]
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("deliver"):
            names = {"CONSUMER": constants["CONSUMER"]}
            values = []
            for one in node.args[1:]:
                if isinstance(one, ast.Call):  # zlib.decompress(base64.b64decode(PACKED))
                    packed = ast.unparse(one).rpartition("(")[2].rstrip(")")
                    values.append(zlib.decompress(base64.b64decode(constants[packed])))
                else:
                    values.append(ast.literal_eval(one))
            yield (
                [names, *values],
                {str(one.arg): ast.literal_eval(one.value) for one in node.keywords},
            )


@settings(max_examples=40)
@given(payload=PAYLOADS, error=TEXTS, headers=st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_it_means_what_the_letter_held(payload: bytes, error: str, headers: dict[str, str]) -> None:
    headers.pop("X-Event-Id", None)
    headers.pop("Nats-Msg-Id", None)
    for runs in ("seaway_database", "django"):
        source = source_of(payload, headers, error, runs)
        assert all(char == "\n" or char.isprintable() for char in source)
        [([_, subject, body], named)] = meant(source)
        assert subject == SUBJECT
        as_bytes = body if isinstance(body, bytes) else compact(body)
        assert as_bytes == payload
        assert named == {"headers": {"Nats-Msg-Id": "e-1", **headers}, "deliveries": 3}
        [*_, doc] = [ast.get_docstring(ast.parse(source))]
        assert doc is not None


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_formatters_and_linters_have_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "events.py").write_text("app = None\n")
    deep: Any = json.loads("[" * 39 + "1" + "]" * 39)
    plain: list[Any] = [{}, [], None, 1e-7, -3, "x", {"a": {"b": [[], {}, [1]]}}, deep]
    bodies = [
        *map(compact, plain),
        compact({"text": "word " * 60, "more": 'say "so"\n' * 9, "é" * 50: "x" * 300, "é" * 30: 1}),
        *(b"", b"\xff\x00\"'", bytes(range(256)) * 2, b"[" * 900, b'{"a":1,"a":2}', b'{"a": NaN}'),
        b"\xef\xbb\xbf{}",
        compact({"big": "\n" + "x" * PACKED_BYTES}),
        bytes(range(256)) * 4096,
    ]
    for at, body in enumerate(bodies):
        headers = {"X-Note": HOSTILE.replace("\ud800", ""), "X-Long": "a b " * 60, "'": '"'}
        source = source_of(body, headers, HOSTILE + "and so on " * 30, "seaway_database")
        (tmp_path / f"test_{at}.py").write_text(source)
        [([_, _, given_body], _)] = meant(source)
        assert (given_body if isinstance(given_body, bytes) else compact(given_body)) == body
    ruff = str(Path(sys.executable).with_name("ruff"))
    for width in ("88", "100", "120"):
        command = [ruff, "format", "--isolated", "--diff", "--line-length", width, "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    rules = "E,F,W,I,UP,B,C4,SIM,RUF,PT,ANN,S,Q,N,ISC,DTZ,PIE,RET,ASYNC"
    command = [ruff, "check", "--isolated", "--select", rules, "--ignore", "RUF001,RUF002", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "app", ["shop", "shop:", ":app", "shop:app()", "a-b:app", "shop:a.b\n", "x;y:z"]
)
def test_only_what_can_be_imported_is(app: str) -> None:
    letter = a_letter(b"")
    with pytest.raises(ConfigError, match="imported by a statement"):
        written(letter, [], app=app, runs="seaway_database")


# ---------------------------------------------------------------------------- redacting


class Kind(Enum):
    SMALL = "small"
    LARGE = "large"


class Item(BaseModel):
    iban: str
    amount: float


class Order(BaseModel):
    id: UUID
    born: date
    kind: Kind
    plan: Literal["free", "paid"]
    name: str
    born_at: datetime | None
    age: int
    vip: bool
    items: list[Item]


ORDER = {
    "id": "0192aaaa-bbbb-7ccc-8ddd-eeeeffff0000",
    "born": "1999-12-31",
    "kind": "small",
    "plan": "paid",
    "name": "Jane Doe",
    "born_at": "1999-12-31T23:59:59Z",
    "age": 4711,
    "vip": True,
    "items": [{"iban": "CH93 0076", "amount": 12.5}, {"iban": "DE00", "amount": 0.25}],
}


def check(payload: bytes) -> str | None:
    try:
        Codec(Order, "order").decode(payload)
    except DecodeError as error:
        return error.field or "payload"
    return None


def test_another_of_the_same_type_that_the_class_takes() -> None:
    among = ["small", "large", "free", "paid"]
    fields = [*ORDER.keys() - {"items"}, "items[*].iban", "items.*.amount"]
    made = redact(ORDER, fields, check=check, among=among)
    assert check(compact(made.value)) is None
    assert made.value | {"id": "", "kind": "", "plan": ""} == {
        "id": "",
        "born": "1111-11-11",
        "kind": "",
        "plan": "",
        "name": "Aaaa Aaa",
        "born_at": "1111-11-11T11:11:11Z",
        "age": 1111,
        "vip": False,
        "items": [{"iban": "AA11 1111", "amount": 11.1}, {"iban": "AA11", "amount": 1.11}],
    }
    old = [ORDER[name] for name in ("id", "kind", "plan")]
    assert not set(old) & {made.value[name] for name in ("id", "kind", "plan")}
    assert made.hide("4711: 'Jane Doe' of CH93 0076") == "1111: 'Aaaa Aaa' of AA11 1111"
    assert made.hide("small is paid") == "small is paid".replace(
        "small", made.value["kind"]
    ).replace("paid", made.value["plan"])
    assert set(made.places) >= {("items", 0, "iban"), ("items", 1, "amount"), ("name",)}
    assert made.hide("2026-4711, 47110 and 4711.5 are others, 4711. is not: 'Jane\\n'") == (
        "2026-4711, 47110 and 4711.5 are others, 1111. is not: 'Jane\\n'"
    )
    assert ORDER["name"] == "Jane Doe"


def test_what_is_wrong_stays_as_wrong() -> None:
    broken = {**ORDER, "age": "four", "name": "Jane"}
    made = redact(broken, ["age", "name"], check=check, among=())
    assert check(compact(made.value)) == check(compact(broken)) == "age"
    assert (made.value["age"], made.value["name"]) == ("aaaa", "Aaaa")


def test_which_places_are_meant() -> None:
    value = {"a.b": 1, "c": {"d": [[1, 22], {"e": ""}], "f": None}, "g": [], "h": "a"}
    made = redact(value, ["a\\.b", "c", "g", "h", "no", "c.d.*.e.*"], among=())
    assert made.value == {
        "a.b": 0,
        "c": {"d": [[0, 11], {"e": ""}], "f": None},
        "g": [],
        "h": "redacted",
    }
    assert made.missing == ("no", "c.d.*.e.*")
    assert redact([["x1"], "y2"], ["0.0", "[1]"], among=()).value == [["a1"], "a1"]
    assert made.hide("a") == "redacted"
    assert made.hide("a1") == "a1"


def test_what_has_no_other_value_is_said() -> None:
    @dataclass
    class Only:
        kind: Literal["one"]

    def wrong(payload: bytes) -> str | None:
        return None if json.loads(payload) == {"kind": "one"} else "kind"

    with pytest.raises(ConfigError, match="--redact 'kind': the event's class takes nothing else"):
        redact({"kind": "one"}, ["kind"], check=wrong, among=["one"])
