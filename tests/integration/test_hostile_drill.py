"""A publisher of what hurts, beside honest events: with smaller figures than ``make drills``."""

from __future__ import annotations

from typing import Literal

import pytest

from seaway.testing.drills import hostile

pytestmark = pytest.mark.server


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
async def test_nothing_stops_and_nothing_slips_by(database: Literal["postgres", "sqlite"]) -> None:
    plan = hostile.Plan(messages=300, events=150, keys=10, forged_ids=20, database=database, seed=3)
    report = await hostile.run(plan, said=print)
    assert report.passed, report
    assert sum(report.told["sent"].values()) == plan.messages
    assert report.told["honest"] == plan.events
    assert report.told["forged_ids"] == plan.forged_ids
    assert report.told["letters"]["undecodable"] > 0
    assert report.told["effects_of_foreign_events"] > 0
