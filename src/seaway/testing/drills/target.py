"""The services that the hostile publisher is aimed at.

Two durables: ``worker`` goes on behind a failed event, ``keeper`` keeps the later ones of its key.
Every text that a delivery brings is written into the effects' table beside the event's number.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from seaway.app import Seaway
from seaway.consumer import Delivery
from seaway.events import RawEvent, event
from seaway.naming import Durable
from seaway.proof.ledger import take_effect
from seaway.retry import Backoff
from seaway.testing.drills.stage import CONTEXT

WORKER, KEEPER = "worker", "keeper"
DURABLES = tuple(Durable.from_context(service, CONTEXT) for service in (WORKER, KEEPER))


@event(context=CONTEXT, version=1)
@dataclass
class CaseMoved:
    """What the honest write."""

    number: int
    note: str


def declare(app: Seaway, *, service: str) -> None:
    """Tie the handlers to the service's durable."""
    logging.getLogger().setLevel(logging.INFO)  # What is said of a stranger's texts is judged too.
    consumer = app.consumer(
        service,
        from_context=CONTEXT,
        workers=4,
        batch=20,
        retry=Backoff(timedelta(milliseconds=50), timedelta(milliseconds=200)),
        on_failure="park" if service == KEEPER else "continue",
    )

    @consumer.handler(CaseMoved)
    async def moved(what: CaseMoved, delivery: Delivery) -> None:
        await take_effect(delivery, what.number, _texts(delivery, what.note))

    @consumer.handler(RawEvent)
    async def anything(what: RawEvent, delivery: Delivery) -> None:
        await take_effect(delivery, int(what.json()["number"]), _texts(delivery))


def _texts(delivery: Delivery, note: str = "") -> str:
    chain = (delivery.correlation_id, delivery.causation_id or "", delivery.subject)
    return " ".join((*chain, delivery.key or "", note))
