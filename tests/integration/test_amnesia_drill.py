"""A server forgets what it acknowledged, while relays and services work; and what that costs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from seaway.testing.drills import amnesia
from seaway.testing.drills.amnesia import Plan

pytestmark = pytest.mark.server

PLAN = Plan(
    events=1_500,
    keys=40,
    rewinds=1,
    kinds="all",
    kills=2,
    redrives=0,
    poison=0,
    database="sqlite",
    seed=1,
)


@pytest.mark.timeout(180)
async def test_what_a_server_forgot_is_back_once_in_order_and_told() -> None:
    """Its durables know of places that the stream has not got any more."""
    report = await amnesia.run(replace(PLAN, kinds="messages"), said=print)
    assert report.passed, report
    assert report.healed >= sum(report.forgotten.values()) > 0
    assert report.findings.took_effect == report.findings.committed == PLAN.events
    assert report.faults == {"copy": 1, "forget messages": 1, "kill relay": 1, "kill worker": 1}


@pytest.mark.timeout(180)
async def test_without_healing_the_same_plan_shows_the_loss() -> None:
    report = await amnesia.run(replace(PLAN, heal=False), said=print)
    assert not report.passed
    lost = report.findings.missing_on_stream
    assert lost == report.healed_untold == sum(report.forgotten.values()) > 0
    assert report.healed == 0


def test_a_seed_is_a_plan_and_each_rewind_has_a_copy_before_it() -> None:
    plan = Plan(rewinds=8)
    faults = [one.fault for one in plan.strikes(random.Random(5))]
    assert faults == [one.fault for one in plan.strikes(random.Random(5))]
    assert faults != [one.fault for one in plan.strikes(random.Random(6))]
    turns = [one.partition(" ")[0] for one in faults if one.startswith(("copy", "forget"))]
    assert turns == ["copy", "forget"] * plan.rewinds
    assert {"forget messages", "forget letters", "forget all"} <= set(faults)
