"""Events as types: declaring, writing and reading them."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from seaway.errors import ConfigError, DecodeError, InvalidName
from seaway.events import RawEvent, Registry, event, event_type_of, new_event_id
from seaway.naming import EventSubject

local = Registry()


@event(context="sea", registry=local)
@dataclass(frozen=True)
class CaseCreated:
    case_id: str
    amount: int = 0
    opened_at: datetime | None = None


@event(context="sea", version=2, registry=local)
class TaskDoneEvent(BaseModel):
    task_id: str
    tags: list[str] = []


@event(context="sea", name="moved", registry=local)
@dataclass
class Relocated:
    place: dict[str, list[int]]


def test_the_subject_comes_from_the_class() -> None:
    assert str(event_type_of(CaseCreated).subject) == "sea.event.case_created.v1"
    assert str(event_type_of(TaskDoneEvent).subject) == "sea.event.task_done.v2"
    assert str(event_type_of(Relocated).subject) == "sea.event.moved.v1"
    assert event_type_of(CaseCreated("1")) is event_type_of(CaseCreated)


@given(st.text(), st.integers(-(2**63), 2**63 - 1), st.none() | st.datetimes())
def test_a_dataclass_is_read_as_it_was_written(case: str, amount: int, at: datetime | None) -> None:
    written = CaseCreated(case, amount, at and at.replace(tzinfo=UTC))
    kind = event_type_of(CaseCreated)
    assert kind.decode(kind.encode(written)) == written


@given(st.text(), st.lists(st.text()))
def test_a_model_is_read_as_it_was_written(task: str, tags: list[str]) -> None:
    written = TaskDoneEvent(task_id=task, tags=tags)
    kind = event_type_of(TaskDoneEvent)
    assert kind.decode(kind.encode(written)) == written


def test_the_payload_is_compact_json() -> None:
    assert event_type_of(Relocated).encode(Relocated({"ü": [1]})) == '{"place":{"ü":[1]}}'.encode()


@pytest.mark.parametrize(
    ("payload", "field", "text"),
    [
        (b"", None, "payload"),
        (b"{", None, "payload"),
        (b"\xff\xfe", None, "payload"),
        (b"null", None, "payload"),
        (b"{}", "case_id", "case_id"),
        (b'{"case_id":5}', "case_id", "case_id"),
        (b'{"case_id":"1","amount":"much"}', "amount", "amount"),
        (b'{"amount":"much","opened_at":"never"}', "case_id", "and 2 more"),
    ],
)
def test_what_does_not_validate_names_the_field(
    payload: bytes, field: str | None, text: str
) -> None:
    with pytest.raises(DecodeError, match=text) as caught:
        event_type_of(CaseCreated).decode(payload)
    assert caught.value.field == field
    assert "sea.event.case_created.v1" in str(caught.value)


def test_a_nested_field_is_named_with_its_path() -> None:
    with pytest.raises(DecodeError) as caught:
        event_type_of(Relocated).decode(b'{"place":{"a":[1,"x"]}}')
    assert caught.value.field == "place.a.1"


def test_an_instance_that_breaks_its_own_types_is_not_written() -> None:
    wrong: Any = 5
    with pytest.raises(ValueError, match="case_id"):
        event_type_of(CaseCreated).encode(CaseCreated(case_id=wrong))


def test_what_is_not_an_event_is_refused() -> None:
    class Plain:
        pass

    class Child(CaseCreated):
        """Another class: it must not pass as its parent's subject unnoticed."""

    for what in (Plain, Plain(), Child, 5, "text"):
        with pytest.raises(ConfigError, match="is not an event"):
            event_type_of(what)


def test_only_dataclasses_and_models_can_be_events() -> None:
    with pytest.raises(ConfigError, match="neither a dataclass nor a pydantic model"):

        @event(context="sea", registry=Registry())
        class Plain:
            pass


@pytest.mark.parametrize("wrong", [{"context": "Sea"}, {"context": "sea", "version": 0}])
def test_a_wrong_name_fails_at_import(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidName):

        @event(**wrong, registry=Registry())
        @dataclass
        class Happened:
            pass


def test_two_classes_never_share_a_subject() -> None:
    registry = Registry()

    @dataclass
    class First:
        pass

    @dataclass
    class Second:
        pass

    subject = EventSubject("sea", "happened")
    registry.register(First, subject)
    registry.register(First, subject)
    with pytest.raises(ConfigError, match="both claim"):
        registry.register(Second, subject)


def test_a_raw_event_reads_json_or_says_that_it_is_none() -> None:
    assert RawEvent("sea.event.a.v1", b'{"a":1}').json() == {"a": 1}
    for payload in (b"", b"{", b"\xff"):
        with pytest.raises(DecodeError, match=r"sea\.event\.a\.v1"):
            RawEvent("sea.event.a.v1", payload).json()


def test_event_ids_are_uuid7_and_increase() -> None:
    made = [new_event_id() for _ in range(5000)]
    assert made == sorted(set(made))
    for text in made[::500]:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        seconds = (parsed.int >> 80) / 1000
        assert abs(datetime.now(UTC).timestamp() - seconds) < 60


def test_event_ids_are_unique_over_threads() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend(new_event_id() for _ in range(2000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000
