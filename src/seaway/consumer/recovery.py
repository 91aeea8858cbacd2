"""What the server has sent and nobody has acknowledged, read from the stream itself.

After a crash or a lost connection the server gives that out again only after ``ack_wait``, and
newer events at once: a key's later event would overtake. Read from the stream it can be handled
first; the inbox skips what had taken effect, and whatever the server redelivers later is then
already processed. Only a consumer with an inbox may do this (ADR 0007).

Settled it is acknowledged like any other, so that it does not fill ``max_ack_pending`` till then.

The server counts no such attempt. So each event has three over all lives of the processes, noted
before they begin: what kills its process again and again comes by the server then, and its
deliveries end. One would be too few: a process that is killed from outside has many events on their
way, and those of one key that all wait for the server may come among newer ones.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Literal

from seaway.consumer.run import Run
from seaway.contracts import JSON, BrokerAdmin, InboxStore, Incoming, StoredMessage, Subscription
from seaway.errors import StoreUnavailable, TransientError
from seaway.naming import filter_subjects
from seaway.parked import letter_row

_BATCH = 100
_LIVES = 3
_LOOK_SECONDS = 1.0


async def recover(run: Run, stream: str, source: Subscription) -> None:
    """Take in first what was on its way when a process died or a connection was lost.

    What of it is settled already is acknowledged over ``source``.
    """
    if not run.options.ordered or run.ports.store is None:
        return
    info = await run.info(stream)
    if run.stop.is_set():
        return
    settled: list[Incoming] = []
    async with aclosing(in_flight(run.ports.broker.admin, info)) as lost:
        async for found in lost:
            if run.stop.is_set():
                break
            incoming = Incoming.read(found, run.durable, deliveries=1)
            match await _what_to_do(run, incoming):
                case "try":
                    run.take_in([incoming], None)
                case "expect":
                    run.expect(incoming)
                case "settled":
                    settled.append(incoming)
            while run.lanes.moving(None) >= run.capacity and not run.stop.is_set():
                await run.room_or_stop()
            if len(settled) == _BATCH:
                await source.ack(*settled)
                settled.clear()
    if settled:
        await source.ack(*settled)


async def _what_to_do(run: Run, incoming: Incoming) -> Literal["try", "expect", "settled"]:
    """Try it, unless it has been tried like this in three lives and we are not in one of them."""
    store = run.ports.store
    if store is None or incoming.place in run.tried:
        return "try"
    if not run.handles(incoming.event_subject):
        return "settled"
    try:
        if await _is_settled(run, store, incoming):
            return "settled"
        for life in range(1, _LIVES + 1):
            async with store.transaction() as tx:
                fresh = await tx.claim(f"{run.durable} recovery {life}", incoming.event_id)
            if fresh:
                run.tried.add(incoming.place)
                return "try"
    except StoreUnavailable:
        return "try"  # It cannot begin before the database is back.
    return "expect"


async def _is_settled(run: Run, store: InboxStore, incoming: Incoming) -> bool:
    """It has taken effect, or a letter stands for it."""
    if run.durable in await store.processed(incoming.event_id):
        return True
    consumer, letter = letter_row(run.durable, incoming.place)
    return consumer in await store.processed(letter)


async def _look_for_expected(run: Run, store: InboxStore, now: float) -> None:
    """Once a second: what another process has settled meanwhile does not come here any more."""
    if not run.lanes.expecting or now - run.looked < _LOOK_SECONDS:
        return
    run.looked = now
    for work in run.lanes.expected:
        with suppress(StoreUnavailable):
            if await _is_settled(run, store, work.incoming):
                run.lanes.release(work.place)


async def read_overdue(run: Run, now: float) -> None:
    """Read what should have come again from the stream: a nak or a delivery was lost, or
    another process has it, and then the inbox knows or will know."""
    if run.ports.store is not None:
        await _look_for_expected(run, run.ports.store, now)
    infos: dict[str, JSON | None] = {}
    admin = run.ports.broker.admin
    for held in run.lanes.overdue(now):
        if run.ports.store is None:
            run.lanes.release(held.place)
            continue
        try:
            found = await admin.get(*held.place)
            if run.lanes.expects(held.place):
                stream, stream_seq = held.place
                if stream not in infos:
                    infos[stream] = await admin.consumer(stream, run.durable)
                if found is not None and _may_come(infos[stream], stream_seq):
                    run.expect(Incoming.read(found, run.durable, deliveries=held.deliveries))
                else:
                    run.lanes.release(held.place)
                continue
        except TransientError:
            return
        if found is None:
            run.lanes.release(held.place)
        else:
            run.take_in([Incoming.read(found, run.durable, deliveries=held.deliveries + 1)], None)


def _may_come(info: JSON | None, stream_seq: int) -> bool:
    """Whether the server has not done with it. Where it has, somebody has settled it, or it had its
    last delivery and the sweeper has or will have the letter."""
    if info is None:
        return False
    if stream_seq > int(info["delivered"]["stream_seq"]):
        return True
    floor = int(info["ack_floor"]["stream_seq"])
    return stream_seq > floor and int(info.get("num_ack_pending", 0)) > 0


async def in_flight(admin: BrokerAdmin, info: JSON) -> AsyncGenerator[StoredMessage, None]:
    """The durable's messages behind its ack floor that were delivered, in order.

    ``info`` is the durable's own, fresh from the server. Some of them may be acknowledged.
    """
    config, delivered = info["config"], int(info["delivered"]["stream_seq"])
    floor = int(info["ack_floor"]["stream_seq"])
    if int(info.get("num_ack_pending", 0)) == 0 or floor >= delivered:
        return
    stored = admin.read(
        info["stream_name"], filter_subjects=filter_subjects(config), from_seq=floor + 1
    )
    async with aclosing(stored):
        async for found in stored:
            if found.stream_seq > delivered:
                return
            yield found
