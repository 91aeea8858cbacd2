"""A transform of the user's: what it is given, what it may give, and what is told of all else."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway import Refuse, event
from seaway.contracts import Message, StoredMessage
from seaway.dead_letters import letter as form
from seaway.dead_letters.letter import Letter
from seaway.errors import ConfigError
from seaway.events import Registry
from seaway.mending.checking import checked_by
from seaway.mending.differences import differences, form_of
from seaway.mending.transforming import (
    Function,
    Mended,
    Stays,
    Transforming,
    find_transform,
)

KNOWN = Registry()
SUBJECT = "till.event.paid.v1"
SECRET = "hunter2"
PAYLOAD = b'{"order": 7,  "amount": "12,50", "card": "hunter2"}'
NOW = datetime(2026, 11, 29, tzinfo=UTC)
SOON = timedelta(milliseconds=100)


@event(context="till", version=1, registry=KNOWN)
@dataclass
class Paid:
    order: int
    amount: float
    card: str


@event(context="till", version=2, name="paid", registry=KNOWN)
@dataclass
class PaidLater:
    order: int


def letter(payload: bytes = PAYLOAD, subject: str = SUBJECT) -> Letter:
    headers = {
        "Nats-Msg-Id": "dlq:1",
        "X-Event-Id": "e-1",
        "X-Ordering-Key": "order-7",
        "X-Dlq-Stream": "TILL_EVENTS",
        "X-Dlq-Stream-Sequence": "17",
        "X-Dlq-Consumer": "books__from_till",
        "X-Dlq-Reason": "poison",
        "X-Dlq-Deliveries": "1",
        "X-Dlq-Failed-At": "2026-11-29T00:00:00.000000Z",
    }
    stored = StoredMessage(Message(f"till.dlq.{subject}", payload, headers), "TILL_DLQ", 3, NOW)
    return form.read(stored)


async def mended(
    function: Function, of: Letter | None = None, *, within: timedelta = timedelta(seconds=20)
) -> Mended:
    of = of or letter()
    async with Transforming(function, check=checked_by(known=KNOWN), within=within) as transform:
        found = await transform.mend(of, Message(of.subject, of.payload, of.headers))
    assert SECRET not in str(getattr(found.stays, "reason", ""))
    return found


def numbers(payload: Any, headers: Mapping[str, str]) -> Any:
    payload["amount"] = float(payload["amount"].replace(",", "."))
    return payload


async def numbers_later(payload: Any, headers: Mapping[str, str]) -> Any:
    await asyncio.sleep(0)
    return numbers(payload, headers), {**headers, "X-Tenant": "north"}


def given_bytes(payload: bytes, headers: Mapping[str, str]) -> bytes:
    assert payload == PAYLOAD
    return payload.replace(b'"12,50"', b"12.50")


def of_class(payload: Any, headers: Mapping[str, str]) -> Paid:
    return Paid(payload["order"], 12.5, payload["card"])


@pytest.mark.parametrize("function", [numbers, numbers_later, given_bytes, of_class])
async def test_what_it_gives_is_sent(function: Function) -> None:
    found = await mended(function)
    assert found.after is not None
    assert found.stays is None
    assert Paid(7, 12.5, SECRET) == KNOWN.type_of(SUBJECT).decode(found.after.payload)
    assert "changed amount: string -> number" in form_of(found.differences)
    assert found.after.headers["X-Event-Id"] == "e-1"
    if function is numbers_later:
        assert "added header X-Tenant" in form_of(found.differences)


async def test_what_it_does_not_change_stays_byte_for_byte() -> None:
    body = b'{"card": "x", "amount":  1.50, "order": 7}'
    found = await mended(lambda payload, headers: dict(payload), letter(body))
    assert found.after is not None
    assert found.after.payload == body
    assert found.differences == ()


def _raise(error: BaseException) -> Function:
    def function(payload: Any, headers: Any) -> Any:
        raise error

    return function


def _gives(result: Any) -> Function:
    return lambda payload, headers: result


async def _cancelled(payload: Any, headers: Any) -> None:
    raise asyncio.CancelledError


BAD: Mapping[str, tuple[Function, str, str]] = {
    "refuses": (_raise(Refuse("no rate")), "refused", "no rate"),
    "raises": (_raise(KeyError(SECRET)), "raised", f"KeyError ({__file__}:"),
    "exits": (_raise(SystemExit(3)), "raised", "RuntimeError"),
    "stops": (_raise(StopIteration()), "raised", "RuntimeError"),
    "cancels": (_cancelled, "raised", "RuntimeError"),
    "nothing": (_gives(None), "unusable", "it gave nothing"),
    "no JSON": (_gives({"order": {1, 2}}), "unusable", "it gave dict that is no JSON"),
    "not a number": (_gives({"amount": float("nan")}), "unusable", "no JSON"),
    "half a pair": (_gives({"card": "\ud800"}), "unusable", "no JSON"),
    "a triple": (_gives((1, {}, 3)), "unusable", "not (payload, headers)"),
    "another event": (_gives(PaidLater(7)), "unusable", "till.event.paid.v2: the subject stays"),
    "another id": (_gives(({}, {"X-Event-Id": "e-2"})), "unusable", "changed X-Event-Id"),
    "another key": (_gives(({}, {"X-Ordering-Key": "7"})), "unusable", "changed X-Ordering-Key"),
    "a place": (_gives(({}, {"X-Event-Place": "A:1"})), "unusable", "it gave X-Event-Place"),
    "an order": (_gives(({}, {"Nats-TTL": "1s"})), "unusable", "it gave Nats-TTL"),
    "a line": (_gives(({}, {"X-A": "a\nb"})), "unusable", "header X-A"),
    "a number": (_gives(({}, {"X-A": 1})), "unusable", "X-A that is no text"),
    "invalid": (_gives({"order": 7}), "invalid", "amount: Field required (and 1 more)"),
    "unread": (_gives(b"{"), "invalid", "payload"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_sent_stays_and_is_told_without_its_payload(case: str) -> None:
    function, how, reason = BAD[case]
    found = await mended(function)
    assert found.after is None
    assert isinstance(found.stays, Stays)
    assert (found.stays.how, reason in found.stays.reason) == (how, True), found.stays
    if case == "raises":
        assert SECRET in found.stays.said


async def test_what_is_no_json_is_bytes_and_comes_back_as_bytes() -> None:
    seen: list[Any] = []

    def text(payload: Any, headers: Any) -> Any:
        seen.append(payload)
        return "text"

    for body in (b"\xff", b"{", b"NaN", b'"\\ud800"', b"[" * 100_000):
        found = await mended(text, letter(body))
        assert isinstance(found.stays, Stays)
        assert found.stays.reason == "it was given bytes and gave str: give bytes"
        assert seen.pop() == body
    large = await mended(text, letter(b'{"amount": 0.10000000000000000001}'))
    assert isinstance(large.stays, Stays)
    assert "annotate the parameter as bytes" in large.stays.reason
    assert seen == []


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    end = threading.Event()
    yield end
    end.set()


async def test_one_that_hangs_is_named_and_the_others_go_on(blocked: threading.Event) -> None:
    end, threads = blocked, threading.active_count()

    def hangs(payload: Any, headers: Any) -> Any:
        if payload["order"] == 1:
            end.wait()
        return payload

    async def waits(payload: Any, headers: Any) -> Any:
        if payload["order"] == 1:
            await asyncio.Event().wait()
        return payload

    async def blocks(payload: Any, headers: Any) -> Any:
        return hangs(payload, headers)

    def of(order: int) -> Letter:
        return letter(b'{"order": %d, "amount": 1.5, "card": "x"}' % order)

    async def mend(transform: Transforming, order: int) -> Mended:
        one = of(order)
        return await transform.mend(one, Message(one.subject, one.payload, one.headers))

    for function in (hangs, waits, blocks):
        async with Transforming(function, check=None, within=SOON) as transform:
            for order in (2, 3):
                hung = (await mend(transform, 1)).stays
                assert isinstance(hung, Stays)
                assert hung.how == "hangs"
                assert "did not end within 0.1 s: it is at " in hung.reason
                async with asyncio.timeout(30):  # The machine may be slower than that.
                    while (await mend(transform, order)).after is None:
                        pass
    async with Transforming(hangs, check=None, within=SOON / 10) as transform:
        said = [(await mend(transform, 1)).stays for _ in range(9)]
    assert "8 calls before it have not come back" in str(said[-1])
    end.set()
    async with asyncio.timeout(30):
        while threading.active_count() > threads:
            await asyncio.sleep(0.01)


async def test_what_no_class_stands_for_is_not_passed() -> None:
    for subject, reason in (
        ("till.event.refunded.v1", "no class here stands for till.event.refunded.v1: name the "),
        ("till.event.paid.v3", "version 3 is unknown here, known: v1, v2"),
    ):
        found = await mended(lambda payload, headers: payload, letter(subject=subject))
        assert isinstance(found.stays, Stays)
        assert reason in found.stays.reason
        assert found.stays.how == "invalid"


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    (tmp_path / "mends_fine.py").write_text(
        "def mend(payload, headers): ...\nclass A: ...\nn = 1\n"
    )
    (tmp_path / "mends_broken.py").write_text("\ndef mend(\n")
    (tmp_path / "mends_failing.py").write_text("import nowhere_to_be_found\n")
    assert find_transform("mends_fine:mend").__name__ == "mend"
    for target, said in (
        ("mends_fine", "names no function"),
        ("mends_fine:other", "'mends_fine:other' is not there"),
        ("mends_fine:n", "is int"),
        ("mends_lacking:mend", "module 'mends_lacking' is not found"),
        ("mends_broken:mend", "mends_broken.py:2: module 'mends_broken' cannot be imported: Synt"),
        ("mends_failing:mend", "cannot be imported: ModuleNotFoundError"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            find_transform(target)
    with pytest.raises(ConfigError, match="returns a payload"):
        Transforming(find_transform("mends_fine:A"), check=None)


def test_what_cannot_be_called() -> None:
    async def many(payload: Any, headers: Any) -> AsyncIterator[Any]:
        yield payload

    def one(payload: Any) -> Any: ...

    for function, said in ((many, "returns a payload"), (one, r"takes \(payload\)")):
        with pytest.raises(ConfigError, match=said):
            Transforming(function, check=None)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- differences


def between(before: Any, after: Any) -> list[str]:
    def message(value: Any) -> Message:
        return Message(SUBJECT, value if isinstance(value, bytes) else json.dumps(value).encode())

    return list(form_of(differences(message(before), message(after))))


def test_a_form_says_what_changed_and_holds_no_values() -> None:
    assert between({"a": 1}, {"a": 1}) == []
    assert between({"a": 1, "b": 2}, {"b": 2, "a": 1}) == []
    assert between({"a": 1}, {"a": 1.0}) == ["changed a: number"]
    assert between({"a": 1}, {"a": True}) == ["changed a: number -> boolean"]
    assert between({"a": None, "b": 1}, {"b": 1}) == ["removed a"]
    assert between({"i": [{"n": 1}, {"n": 2}]}, {"i": [{"n": "1"}, {"n": "2"}, {}]}) == [
        "added i[]: object",
        "changed i[].n: number -> string",
    ]
    mails = {"totals": {"ann@example.org": 1, "bob@example.org": 2, "4711": 3}}
    changed = {"totals": dict.fromkeys(mails["totals"], "x")}
    assert between(mails, changed) == ["changed totals.*: number -> string"]
    assert between(b"\xff", {}) == ["changed payload: bytes -> object"]
    assert between([], {}) == ["changed payload: array -> object"]
    deep = b'{"a":' * 500 + b"1" + b"}" * 500
    assert len(between(deep, deep.replace(b"1", b"2"))) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_values_are_different_in_some_place_or_are_the_same(before: Any, after: Any) -> None:
    assert between(before, before) == []
    assert bool(between(before, after)) == (repr(before) != repr(after)) or before == after
