"""One call of a handler: what it is given, its deadline, its chain.

Owns: deliveries as handlers see them. Guarantees: a handler that lets a foreign cancellation escape
has failed, and does not end its worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from seaway.consumer.deadlines import Deadline
from seaway.consumer.delivery import Delivery
from seaway.consumer.handlers import Registration
from seaway.consumer.lanes import Work
from seaway.consumer.run import Run
from seaway.contracts import InboxTransaction, OutboxWriter
from seaway.errors import AlreadyProcessed
from seaway.events import Chain, continued


async def call_handler(
    run: Run,
    registration: Registration,
    works: Sequence[Work],
    events: list[Any],
    tx: InboxTransaction | None,
) -> bool:
    """True if the handler handled them, false if it raised ``AlreadyProcessed``.

    Raises what the handler raises, ``TimeoutError`` past its deadline.
    """
    handle, outbox = None if tx is None else tx.handle, run.ports.outbox
    task = asyncio.current_task()
    assert task is not None
    # Not 0: until Python 3.13 a TaskGroup that failed in an earlier handler is counted for ever.
    cancelling = task.cancelling()
    try:
        with Deadline(run.deadlines, task):
            if registration.takes_lists:
                deliveries = [_delivery(work, handle, outbox, _chain(work)) for work in works]
                await registration.handler(events, deliveries)
            else:
                (work,) = works
                delivery = _delivery(work, handle, outbox)
                with continued(_chain(work)):
                    await registration.handler(events[0], delivery)
    except AlreadyProcessed:
        return False
    except asyncio.CancelledError as error:
        if task.cancelling() > cancelling:
            raise
        # Not our cancellation: it would end this worker without a word.
        raise RuntimeError("the handler awaited something that was cancelled") from error
    return True


def _delivery(
    work: Work, tx: Any, outbox: OutboxWriter | None, chain: Chain | None = None
) -> Delivery:
    return Delivery(work.counted(), work.metadata, tx, outbox, chain)


def _chain(work: Work) -> Chain:
    found = work.metadata
    return Chain(found.correlation_id, found.event_id, found.traceparent, found.tracestate)
