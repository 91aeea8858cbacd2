"""Several processes of one durable on PostgreSQL: broken at random, and replaced under load."""

from __future__ import annotations

import pytest

from seaway.testing.drills import consumer, deploy
from seaway.topology.shape import TURN

pytestmark = pytest.mark.server


@pytest.mark.timeout(180)
async def test_killed_stopped_and_cut_off_at_random_each_event_has_one_end() -> None:
    plan = consumer.Plan(
        events=5_000,
        keys=300,
        kills=6,
        stops=3,
        nats_restarts=2,
        postgres_restarts=2,
        deadly=0,
        seed=11,
    )
    report = await consumer.run(plan, said=print)
    assert report.passed, report
    assert report.faults == {
        "kill": 6,
        "stop": 3,
        "nats killed": 1,
        "nats restarted": 1,
        "postgres killed": 1,
        "postgres restarted": 1,
    }
    found = report.findings
    # An outage of the database takes the transactions of the writers with it.
    assert 0.9 * plan.events < found.committed <= plan.events
    assert found.took_effect + sum(found.dead.values()) == found.committed
    assert found.dead["poison"] > 0


@pytest.mark.timeout(180)
async def test_replaced_one_after_the_other_under_load_nothing_is_handled_twice() -> None:
    plan = deploy.Plan(rounds=1, seed=11)
    report = await deploy.run(plan, said=print)
    assert report.passed, report
    assert report.replaced == plan.processes
    found = report.findings
    assert found.calls == found.committed == found.took_effect > 0


@pytest.mark.timeout(240)
async def test_of_an_exclusive_durable_effects_are_in_order_through_kills_and_freezes() -> None:
    """Each fault strikes the process that is at work; few keys, so that each has many at a time."""
    plan = consumer.Plan(
        exclusive=True,
        events=3_000,
        keys=12,
        kills=4,
        stops=1,
        nats_restarts=2,
        postgres_restarts=1,
        deadly=0,
        poison=0,
        # Longer than a turn: another one has taken over when it wakes.
        stopped=(3.0, 3.5),
        seed=11,
    )
    report = await consumer.run(plan, said=print)
    assert report.passed, report
    assert sum(report.faults.values()) == 8
    found = report.findings
    assert found.keys == plan.keys
    assert found.keys_out_of_order == 0
    assert found.took_effect == found.committed > 0


@pytest.mark.timeout(180)
async def test_of_an_exclusive_durable_a_deploy_leaves_order_and_service_as_they_are() -> None:
    plan = deploy.Plan(exclusive=True, rounds=2, keys=12, seed=11)
    report = await deploy.run(plan, said=print)
    assert report.passed, report
    assert report.replaced == plan.rounds * plan.processes
    found = report.findings
    assert found.calls == found.committed == found.took_effect > 0
    assert found.keys_out_of_order == 0
    # The turn was handed over each time, and none had to run out, a fifth of it over at the most.
    assert report.longest_gap_seconds < 0.8 * TURN.total_seconds()
