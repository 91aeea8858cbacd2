"""What letters have in common: error, place in the user's own code, event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from seaway import headers as h
from seaway.contracts import Incoming, Message, StoredMessage
from seaway.dead_letters import Letter, writing
from seaway.dead_letters import letter as form
from seaway.dead_letters.cause import Cause, cause_of, place_of
from seaway.mending.causes import MOST, MOST_CONSUMERS, OTHERS, Causes

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)
LIBRARY = "/venv/lib/python3.11/site-packages"


def frame(place: str, name: str = "f") -> str:
    file, _, line = place.rpartition(":")
    return f'  File "{file}", line {line}, in {name}\n    some_code()\n'


def trace(*places: str, error: str = "ValueError: no") -> str:
    return "Traceback (most recent call last):\n" + "".join(map(frame, places)) + error


THEN = "\n\nDuring handling of the above exception, another exception occurred:\n\n"
FROM = "\n\nThe above exception was the direct cause of the following exception:\n\n"
GROUP = """  + Exception Group Traceback (most recent call last):
  |   File "/app/cases.py", line 3, in both
  |     async with asyncio.TaskGroup() as tasks:
  |   File "/usr/lib/python3.11/asyncio/taskgroups.py", line 145, in __aexit__
  |     raise me from None
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/app/other.py", line 9, in own
    |     raise ValueError
    | ValueError
    +------------------------------------"""


@pytest.mark.parametrize(
    ("stack", "place"),
    [
        ("", ""),
        ("nonsense", ""),
        (trace("/app/cases.py:3"), "/app/cases.py:3 in f"),
        (trace("/app/cases.py:3", "/app/owners.py:7"), "/app/owners.py:7 in f"),
        (trace("/app/cases.py:3", f"{LIBRARY}/sqlalchemy/orm.py:9"), "/app/cases.py:3 in f"),
        (trace("/app/cases.py:3", "/usr/lib/python3.11/json/x.py:9"), "/app/cases.py:3 in f"),
        (trace("/app/cases.py:3", "<frozen importlib>:9"), "/app/cases.py:3 in f"),
        (trace("/app/a.py:1") + FROM + trace("/app/b.py:2"), "/app/b.py:2 in f"),
        (trace("/app/a.py:1") + THEN + trace("/app/b.py:2"), "/app/b.py:2 in f"),
        (trace("/app/a.py:1") + FROM + trace(f"{LIBRARY}/x/y.py:2"), "/app/a.py:1 in f"),
        (trace(f"{LIBRARY}/own/a.py:1", f"{LIBRARY}/x/y.py:2"), f"{LIBRARY}/own/a.py:1 in f"),
        (frame(f"{LIBRARY}/x/y.py:2") + "E", f"{LIBRARY}/x/y.py:2 in f"),
        (GROUP, "/app/cases.py:3 in both"),
        (GROUP.replace("/app/cases.py", "<string>"), "/app/other.py:9 in own"),
        # Cut at its beginning: nobody knows where the handler is.
        (
            frame(f"{LIBRARY}/x/y.py:2") + frame("/app/cases.py:3") + frame(f"{LIBRARY}/x/z.py:4"),
            "/app/cases.py:3 in f",
        ),
    ],
)
def test_the_innermost_place_of_the_users_own_code(stack: str, place: str) -> None:
    assert place_of(stack) == place


def own() -> None:
    raise ValueError("own")


def letter(
    number: int = 0,
    error: BaseException | None = None,
    *,
    subject: str = "sea.event.case_created.v1",
    consumer: str = "case_mgmt__from_sea",
    change: Mapping[str, str] | None = None,
) -> Letter:
    message = Message(subject, b"{}", {h.MSG_ID: f"e-{number}"})
    incoming = Incoming(message, "SEA_EVENTS", number + 1, NOW, consumer, 3, 20, 0)
    written = writing.write(
        incoming, reason="poison", error=error, failed_at=NOW + timedelta(seconds=number)
    )
    stored = Message(written.subject, b"{}", {**written.headers, **(change or {})})
    return form.read(StoredMessage(stored, "SEA_DLQ", number + 1, NOW), bare=True)


def foreign(subject: str = "sea.event.case_created.v1", **headers: str) -> Letter:
    message = Message(f"sea.dlq.{subject}", b"{}", headers)
    return form.read(StoredMessage(message, "SEA_DLQ", 900, NOW))


def test_the_cause_of_a_letter() -> None:
    with pytest.raises(ValueError, match="own") as caught:
        own()
    found = cause_of(letter(error=caught.value))
    assert found.error == "ValueError"
    assert found.where == f"unit/test_letter_causes.py:{own.__code__.co_firstlineno + 1} in own"
    assert found.place.endswith(found.where)
    assert found.subject == "sea.event.case_created.v1"
    assert found.id == Cause(found.error, found.place, found.subject).id
    assert cause_of(letter()) == Cause("poison", "", "sea.event.case_created.v1")
    assert cause_of(foreign()) == Cause("it has no X-Dlq-Stream", "", "sea.event.case_created.v1")
    other = letter(change={h.DLQ_VERSION: "2"})
    assert cause_of(other) == Cause("X-Dlq-Version '2': a newer Seaway may know it", "", ""), (
        "named, and so are all of them together"
    )


def test_letters_are_counted_by_their_cause() -> None:
    causes = Causes()
    for number in range(6):
        causes.add(letter(number, consumer=("a__b", "c__d")[number % 3 == 0]))
    causes.add(letter(9, subject="sea.event.case_moved.v1"))
    causes.add(foreign())
    most, *others = causes.groups()
    assert (most.count, dict(most.consumers)) == (6, {"a__b": 4, "c__d": 2})
    assert (most.first, most.last) == (NOW, NOW + timedelta(seconds=5))
    assert most.sample == "SEA_DLQ:6"
    assert most.summary()["cause"] == most.cause.id
    assert [(one.count, dict(one.consumers)) for one in others] == [
        (1, {}),
        (1, {"case_mgmt__from_sea": 1}),
    ]


def test_memory_is_bounded_whatever_a_queue_holds() -> None:
    causes, count = Causes(), MOST + 50
    for number in range(count):
        causes.add(letter(number, subject=f"sea.event.type_{number}.v1"))
    groups = causes.groups()
    assert len(groups) == MOST + 1
    assert (groups[0].cause.error, groups[0].count) == (OTHERS, 50)
    assert sum(one.count for one in groups) == count
    causes = Causes()
    for number in range(MOST_CONSUMERS + 50):
        causes.add(letter(number, consumer=f"service_{number}__x"))
    [group] = causes.groups()
    assert (group.count, len(group.consumers)) == (MOST_CONSUMERS + 50, MOST_CONSUMERS)
