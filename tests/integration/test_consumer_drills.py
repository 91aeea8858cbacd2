"""Several processes of one durable on PostgreSQL: broken at random, and replaced under load."""

from __future__ import annotations

import pytest

from seaway.consumer.pace import HORIZON
from seaway.testing.drills import consumer, deploy

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
    # None, unless the machine stands still: then what one process has in hand may come again.
    assert found.redeliveries <= plan.workers * (HORIZON / plan.work)
