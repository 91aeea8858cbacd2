"""One call of a handler: what it is given, its deadline, its chain.

Owns: deliveries as handlers see them. Guarantees: a handler that lets a foreign cancellation escape
has failed, and does not end its worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from seaway.chain import Chain, continued
from seaway.consumer.calls import Item
from seaway.consumer.delivery import Delivery
from seaway.consumer.handlers import Registration
from seaway.consumer.run import Run
from seaway.contracts import InboxTransaction
from seaway.errors import AlreadyProcessed


async def call_handler(
    run: Run,
    registration: Registration,
    items: Sequence[Item],
    events: list[Any],
    tx: InboxTransaction | None,
) -> bool:
    """Whether the handler has handled them, and not said that this had been done before.

    Raises what the handler raises, ``TimeoutError`` past its deadline.
    """
    in_list = registration.takes_lists
    deliveries = [_delivery(run, item, tx, in_list=in_list) for item in items]
    try:
        async with asyncio.timeout(run.deadline.total_seconds()):
            if in_list:
                await registration.handler(events, deliveries)
            else:
                with continued(_chain(items[0])):
                    await registration.handler(events[0], deliveries[0])
    except AlreadyProcessed:
        return False
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Not our cancellation: it would end this worker without a word.
        raise RuntimeError("the handler awaited something that was cancelled") from error
    return True


def _chain(item: Item) -> Chain:
    found = item.metadata
    return Chain(found.correlation_id, found.event_id, found.traceparent, found.tracestate)


def _delivery(run: Run, item: Item, tx: InboxTransaction | None, *, in_list: bool) -> Delivery:
    incoming, metadata = item.work.incoming, item.metadata
    return Delivery(
        event_id=metadata.event_id,
        subject=item.subject,
        stream=incoming.stream,
        stream_seq=incoming.stream_seq,
        consumer=run.durable,
        deliveries=incoming.deliveries,
        correlation_id=metadata.correlation_id,
        causation_id=metadata.causation_id,
        key=metadata.key,
        occurred_at=metadata.occurred_at,
        stored_at=incoming.stored_at,
        headers=incoming.message.headers,
        redriven=item.subject != incoming.message.subject,
        _tx=None if tx is None else tx.handle,
        _outbox=run.ports.outbox,
        _chain=_chain(item) if in_list else None,
    )
