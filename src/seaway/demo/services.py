"""The two consuming services: ordinary handlers, each with a projection in its own database.

Owns: what the services do with an event, and how they fail. Knows nothing of the reconciliation.
Guarantees: what keeps effects and projections exact is the library alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from seaway.app import Seaway
from seaway.consumer import Delivery
from seaway.demo.scenario import (
    CONTEXT,
    CaseClosed,
    CaseCreated,
    TaskCompleted,
    TaskOpened,
)
from seaway.errors import Poison, Retry
from seaway.events import RawEvent
from seaway.naming import Durable
from seaway.proof.faults import draw
from seaway.proof.ledger import take_effect

CASE_MGMT, ANALYTICS = "case_mgmt", "analytics"
SERVICES = {CASE_MGMT: "key", ANALYTICS: "subject"}
"""Each with what its projection counts by: a column of the ledger."""

TABLES = "CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, events INTEGER NOT NULL)"
"""The projection."""

FIXED = "handlers-fixed"
"""A file of this name in the demo's folder stands for the release that mends the handler."""

BATCH = 100
"""Deliveries in one transaction: what pays on SQLite."""

_HICCUP_SHARE = 0.01
_BUSY_SHARE = 0.01
_LAST_FAILING_DELIVERY = 3


class Unreachable(ConnectionError):
    """A system that the handler calls did not answer; it will, later."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How a service fails: now and then, and until it is fixed on what it does not understand."""

    service: str
    seed: int
    fixed: Path

    def now_and_then(self, delivery: Delivery) -> None:
        """Fail some of the early deliveries; which ones, seed and event decide."""
        if delivery.deliveries > _LAST_FAILING_DELIVERY:
            return
        chance = draw(self.seed, self.service, delivery.event_id, delivery.deliveries)
        if chance < _HICCUP_SHARE:
            raise Unreachable("the address register did not answer")
        if chance < _HICCUP_SHARE + _BUSY_SHARE:
            raise Retry("the address register is busy", after=timedelta(milliseconds=100))

    def read_postcode(self, postcode: str) -> None:
        """The bug: a postcode with a country in front of it is taken for nonsense."""
        if not postcode.isdigit() and not self.fixed.exists():
            raise Poison(f"postcode {postcode!r} is not a number")


def durable(service: str) -> Durable:
    """Of one of ``SERVICES``."""
    return Durable.from_context(service, CONTEXT)


def declare(app: Seaway, *, service: str, seed: int, fixed: str) -> None:
    """Tie the service's handlers to its durable in ``app``."""
    consumer = app.consumer(service, from_context=CONTEXT, batch=BATCH)
    faults = Faults(service, seed, Path(fixed))

    @consumer.handler(CaseCreated)
    async def open_case(event: CaseCreated, delivery: Delivery) -> None:
        faults.now_and_then(delivery)
        if service == CASE_MGMT:
            faults.read_postcode(event.postcode)
        await count(event.case_id, delivery)

    @consumer.handler(TaskOpened)
    async def open_task(event: TaskOpened, delivery: Delivery) -> None:
        faults.now_and_then(delivery)
        await count(event.case_id, delivery)

    @consumer.handler(TaskCompleted)
    async def complete_task(event: TaskCompleted, delivery: Delivery) -> None:
        faults.now_and_then(delivery)
        await count(event.case_id, delivery)

    @consumer.handler(CaseClosed)
    async def close_case(event: CaseClosed, delivery: Delivery) -> None:
        faults.now_and_then(delivery)
        await count(event.case_id, delivery)

    @consumer.handler(RawEvent)
    async def next_step(event: RawEvent, delivery: Delivery) -> None:
        faults.now_and_then(delivery)
        await count(event.key or "", delivery)

    async def count(case_id: str, delivery: Delivery) -> None:
        await take_effect(delivery)
        await delivery.tx.execute(
            "INSERT INTO totals (name, events) VALUES (?, 1)"
            " ON CONFLICT (name) DO UPDATE SET events = events + 1",
            (case_id if service == CASE_MGMT else delivery.subject,),
        )
