"""Which plans go on with one another, and what they refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway.dead_letters import Selection
from seaway.errors import ConfigError
from seaway.mending import Plan

NOW = datetime(2026, 11, 29, 10, tzinfo=UTC)
TWO_HOURS = Selection(consumer="billing__from_sea", since=NOW - timedelta(hours=2))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"rate": 5.0, "canary": 3, "max_failures": 1, "by": "anna"}, True),
        ({"selection": Selection(consumer="billing__from_sea", since=NOW)}, True),
        ({"command": "--since 3h"}, False),
        ({"to": "all"}, False),
        ({"payload": b"{}"}, False),
    ],
)
def test_the_same_words_are_the_same_plan_at_any_pace(other: dict[str, Any], same: bool) -> None:
    first = Plan(selection=TWO_HOURS, command="--since 2h")
    given: dict[str, Any] = {"selection": TWO_HOURS, "command": "--since 2h", **other}
    later = Plan(**given)
    assert later.same(first.noted) == same
    if same:
        assert later.selected(first.noted) == TWO_HOURS, "an age is counted from the begin"


def test_without_words_the_selection_is_the_plan() -> None:
    assert Plan(selection=TWO_HOURS).same(Plan(selection=TWO_HOURS, rate=1).noted)
    assert not Plan().same(Plan(selection=TWO_HOURS).noted)
    assert Plan().noted["what"] == "every letter"


@pytest.mark.parametrize(
    "wrong", [{"canary": 0}, {"max_failures": -1}, {"rate": 0.0}, {"canary": 1, "to": "all"}]
)
def test_a_plan_that_cannot_be_done_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Plan(**wrong)
