"""Handled, or behind another of its key: every standing that a delivery can have."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from seaway.consumer.standing import admission
from seaway.waiting_events import Standing, WaitingEvent

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def row(event_id: str, place: int, *, failed: bool = True, letter: int | None = 1) -> WaitingEvent:
    return WaitingEvent("case_mgmt__from_sea", event_id, "k", place, failed, letter, NOW, False)


FIRST = row("first", 3)
ITS_OWN = row("e", 5, failed=False)


@pytest.mark.parametrize(
    ("standing", "place", "redriven", "wanted"),
    [
        (Standing(), 5, False, "handle"),
        (Standing(first=FIRST), 5, False, "wait"),
        (Standing(first=FIRST), 2, False, "handle"),
        (Standing(first=FIRST, processed=True), 5, False, "handle"),
        (Standing(first=FIRST, own=ITS_OWN), 5, False, "lettered"),
        (Standing(first=FIRST, own=row("e", 5, letter=None)), 5, False, "wait"),
        (
            Standing(first=row("e", 5, letter=None), own=row("e", 5, letter=None)),
            5,
            False,
            "handle",
        ),
        # Published to everybody again: not the message that its letter stands for.
        (Standing(first=FIRST, own=ITS_OWN), 99, False, "wait"),
        (Standing(first=ITS_OWN, own=ITS_OWN), 99, False, "handle"),
        # Redriven.
        (Standing(first=FIRST), 1, True, "handle"),
        (Standing(first=FIRST, own=ITS_OWN), 1, True, "wait"),
        (Standing(first=ITS_OWN, own=ITS_OWN), 1, True, "handle"),
        (Standing(own=ITS_OWN, processed=True), 1, True, "handle"),
    ],
)
def test_what_becomes_of_it(standing: Standing, place: int, redriven: bool, wanted: str) -> None:
    assert admission(standing, event_id="e", place=place, redriven=redriven) == wanted


def test_of_two_without_a_place_the_id_decides() -> None:
    standing = Standing(first=row("b", 0), own=row("c", 0, failed=False))
    assert admission(standing, event_id="c", place=1, redriven=True) == "wait"
    standing = Standing(first=row("b", 0), own=row("a", 0, failed=False))
    assert admission(standing, event_id="a", place=1, redriven=True) == "handle"
