from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway import naming
from seaway.errors import InvalidName
from seaway.naming import Durable, EventSubject

PART = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
parts = st.from_regex(r"\A[a-z][a-z0-9]{0,6}(_[a-z0-9]{1,6}){0,2}\Z")
versions = st.integers(min_value=1, max_value=10**6)
subjects = st.builds(EventSubject, parts, parts, versions)
durables = st.builds(Durable, parts, parts)
filters = st.lists(st.sampled_from(["a", "b", "*", ">"]), min_size=1, max_size=4).map(".".join)
# Text near enough to the forms to be accepted now and then.
near = st.one_of(
    st.text(),
    st.text(alphabet="abAB01_.*>v \n\u0663é"),
    st.from_regex(r"\A[a-c_]{1,3}\.(event|dlq|redrive)\.[a-c_0.]{1,9}(v[0-9]{1,2})?\n?\Z"),
)


@given(subjects)
def test_event_subjects_round_trip(subject: EventSubject) -> None:
    assert EventSubject.parse(str(subject)) == subject


@given(durables)
def test_durables_round_trip(durable: Durable) -> None:
    assert Durable.parse(str(durable)) == durable


@given(parts, parts)
def test_durables_of_a_context_round_trip(service: str, context: str) -> None:
    durable = Durable.from_context(service, context)
    assert Durable.parse(f"{service}__from_{context}") == durable


@given(parts)
def test_stream_names_round_trip(context: str) -> None:
    for build in (naming.events_stream, naming.dlq_stream, naming.redrive_stream):
        assert naming.stream_context(build(context)) == context


@given(near)
def test_what_is_accepted_is_rebuilt_as_it_was(text: str) -> None:
    rebuilt: list[Callable[[str], str]] = [
        lambda one: str(EventSubject.parse(one)),
        lambda one: str(Durable.parse(one)),
        naming.check_subject,
        naming.check_filter,
    ]
    for rebuild in rebuilt:
        try:
            assert rebuild(text) == text
        except InvalidName:
            continue


@given(near)
def test_no_stream_name_is_repaired(text: str) -> None:
    try:
        context = naming.stream_context(text)
    except InvalidName:
        return
    built = {f(context) for f in (naming.events_stream, naming.dlq_stream, naming.redrive_stream)}
    assert text in built


@given(near)
def test_only_the_grammar_passes(text: str) -> None:
    try:
        naming.check_part(text, "context")
        accepted = True
    except InvalidName:
        accepted = False
    assert accepted == bool(re.fullmatch(PART, text, re.ASCII))


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "a..b",
        ".a",
        "a.",
        "a b",
        "a.*",
        "a.>",
        "a\n",
        "a\u00a0b",
        "a\x00",
        "x" * 256,
        "\ud800",
    ],
)
def test_subjects_that_cannot_be_published_to(subject: str) -> None:
    with pytest.raises(InvalidName):
        naming.check_subject(subject)


@pytest.mark.parametrize(
    "text",
    [
        "sea.event.case_created.v0",
        "sea.event.case_created.v01",
        "sea.event.case_created.1",
        "sea.event.case_created",
        "sea.event.case__created.v1",
        "Sea.event.case_created.v1",
        "sea.dlq.case_created.v1",
        "sea.event.case_created.v1.x",
        "sea.event.case_created.v\u0661",
        "sea.event.case_created.v1\n",
        "sea.event.case_created.v" + "9" * 5000,
    ],
)
def test_wrong_event_subjects(text: str) -> None:
    with pytest.raises(InvalidName):
        EventSubject.parse(text)


@pytest.mark.parametrize("name", ["a", "a_b", "a__b__c", "a___b", "__a", "a__", "A__b", "a__b\n"])
def test_wrong_durables(name: str) -> None:
    with pytest.raises(InvalidName, match="case_mgmt__from_sea"):
        Durable.parse(name)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1"])
def test_wrong_versions(version: int) -> None:
    with pytest.raises(InvalidName):
        EventSubject("sea", "case_created", version)


@pytest.mark.parametrize(
    ("class_name", "expected"),
    [
        ("CaseCreated", "case_created"),
        ("CaseCreatedEvent", "case_created"),
        ("Event", "event"),
        ("HTTPRequestSent", "http_request_sent"),
        ("Step2Done", "step2_done"),
    ],
)
def test_event_names_of_classes(class_name: str, expected: str) -> None:
    assert naming.event_name_of(class_name) == expected


@given(filters, filters, st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4))
def test_covering_and_overlapping_mean_what_they_say(
    one: str, other: str, tokens: list[str]
) -> None:
    try:
        naming.check_filter(one)
        naming.check_filter(other)
    except InvalidName:
        return
    subject = ".".join(tokens)
    in_one, in_other = naming.covers(one, subject), naming.covers(other, subject)
    if naming.covers(one, other) and in_other:
        assert in_one
    if in_one and in_other:
        assert naming.overlap(one, other)
    assert naming.overlap(one, other) == naming.overlap(other, one)


def test_filters() -> None:
    assert naming.covers("sea.event.>", "sea.event.a.v1")
    assert naming.covers("sea.event.>", "sea.event.*.v1")
    assert not naming.covers("sea.event.>", "sea.event")
    assert not naming.covers("sea.event.*", "sea.event.>")
    assert not naming.overlap("sea.event.a", "sea.event.a.b")
    assert not naming.overlap("a.>", "a")
    for wrong in ("", "a..b", "a.>.b", "a b", "a>"):
        with pytest.raises(InvalidName):
            naming.check_filter(wrong)
