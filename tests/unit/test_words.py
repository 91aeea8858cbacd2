"""Figures with their nouns."""

from __future__ import annotations

from seaway.words import counted


def test_one_is_not_many() -> None:
    assert [counted(n, "event") for n in (0, 1, 2)] == ["0 events", "1 event", "2 events"]
    assert counted(1, "time more", "times more") == "1 time more"
    assert counted(2, "event is", "events are") == "2 events are"
