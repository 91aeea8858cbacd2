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

import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from seaway import logs
from seaway.consumer.lanes import Expected
from seaway.consumer.run import Run
from seaway.contracts import (
    BrokerAdmin,
    ConsumerInfo,
    InboxStore,
    Incoming,
    StoredMessage,
    Subscription,
)
from seaway.errors import ApiError, NotFound, StoreRefused, StoreUnavailable, TransientError
from seaway.parked import Place, letter_rows

logger = logs.logger("seaway.consumer")

_BATCH = 100
_LIVES = 3
_LOOK_SECONDS = 1.0


async def recover(run: Run, stream: str, source: Subscription) -> None:
    """Take in first what was on its way when a process died or a connection was lost.

    What of it is settled already is acknowledged over ``source``.
    """
    store = run.ports.store
    if not run.options.ordered or store is None:
        return
    info = await run.info(stream)
    if run.stop.is_set() or info is None:
        return
    async with aclosing(in_flight(run.ports.broker.admin, info)) as lost:
        async for some in _batches(lost):
            found = [Incoming.read(one, run.durable, deliveries=1) for one in some]
            settled = await _settled(run, store, found)
            for incoming in found:
                if run.stop.is_set():
                    return
                if incoming.place in settled:
                    continue
                if await _may_be_tried(run, store, incoming):
                    run.take_in([incoming], None)
                else:
                    run.expect(incoming)
                while run.lanes.moving(None) >= run.capacity and not run.stop.is_set():
                    await run.room_or_stop()
            if settled:
                await source.ack(*(one for one in found if one.place in settled))


async def _settled(run: Run, store: InboxStore, messages: Sequence[Incoming]) -> set[Place]:
    """Those of the messages that have taken effect, or have become letters. None where the database
    is away: nothing can begin before it is back."""
    consumer, rows = letter_rows(run.durable, messages)
    try:
        effects = await store.claimed(run.durable, {one.event_id for one in messages})
        letters = await store.claimed(consumer, rows)
    except StoreUnavailable:
        return set()
    except StoreRefused:
        # The question about one of them spoils that about all: its own delivery will tell.
        if len(messages) > 1:
            middle = len(messages) // 2
            first = await _settled(run, store, messages[:middle])
            return first | await _settled(run, store, messages[middle:])
        effects, letters = set(), set()
    return {rows[letter] for letter in letters} | {
        one.place for one in messages if one.event_id in effects
    }


async def _may_be_tried(run: Run, store: InboxStore, incoming: Incoming) -> bool:
    """Unless it has been tried like this in three lives and we are not in one of them."""
    if incoming.place in run.tried or not run.handlers.handles(incoming.event_subject):
        return True
    try:
        async with store.transaction() as tx:
            for life in range(1, _LIVES + 1):
                if await tx.claim(f"{run.durable} recovery {life}", incoming.event_id):
                    break
            else:
                return False
    except (StoreUnavailable, StoreRefused):
        return True  # Its handler is not called before its own row is written.
    run.tried.add(incoming.place)
    return True


async def read_overdue(run: Run, now: float) -> None:
    """See after what should have come, or come again, and did not. One worker at a time."""
    if now < run.looks_at:
        return
    run.looks_at = math.inf
    try:
        await _read_held(run, now)
        if run.lanes.expecting and run.ports.store is not None:
            await _look_for_expected(run, run.ports.store, now)
    except TransientError as error:
        logger.debug("%s: what is overdue is looked for later: %s", run.durable, error)
    finally:
        run.looks_at = run.now() + (_LOOK_SECONDS if run.lanes.expecting else 0)


async def _read_held(run: Run, now: float) -> None:
    """Read from the stream what was given back: the nak or a delivery was lost, or another process
    has it, and then the inbox knows or will know."""
    for held in run.lanes.overdue(now):
        found = None
        if run.ports.store is not None:
            found = await run.ports.broker.admin.get(*held.place)
        if found is None:
            run.lanes.release(held.place)
        else:
            run.take_in([Incoming.read(found, run.durable, deliveries=held.deliveries + 1)], None)


async def _look_for_expected(run: Run, store: InboxStore, now: float) -> None:
    """What is expected and has been settled meanwhile does not come here any more."""
    expected = [work.incoming for work in run.lanes.expected]
    for place in await _settled(run, store, expected):
        run.lanes.release(place)
    if late := run.lanes.late(now):
        await _look_for_late(run, store, late, now)


async def _look_for_late(run: Run, store: InboxStore, late: Sequence[Expected], now: float) -> None:
    """Wait on for what the server may still deliver, unless the queue has its letter: the inbox
    may not know of one that a sweeper of another database wrote."""
    admin, messages = run.ports.broker.admin, [one.work.incoming for one in late]
    lettered = await _with_unknown_letter(run, store, messages)
    infos = {
        stream: await admin.consumer(stream, run.durable)
        for stream in {one.stream for one in messages}
    }
    for (_, _, last), incoming in zip(late, messages, strict=True):
        stream, stream_seq = place = incoming.place
        if (
            place in lettered
            or not _may_come(infos[stream], stream_seq)
            or await admin.get(stream, stream_seq) is None
        ):
            run.lanes.release(place)
        elif last <= now:
            logger.warning(
                "%s: %s:%d was delivered before and has not come again: what is newer of its key "
                "goes on without it",
                *(run.durable, stream, stream_seq),
            )
            run.lanes.release(place)
        elif run.lanes.expects(place):
            run.expect(incoming)


async def _with_unknown_letter(
    run: Run, store: InboxStore, messages: Sequence[Incoming]
) -> set[Place]:
    """Those of which the queue has a letter, and the inbox a row from now on."""
    try:
        lettered = await run.ports.dead_letters.lettered(run.durable, messages)
    except (TransientError, ApiError, NotFound) as error:
        # A service need not be allowed to read the queue.
        logger.debug("%s: the dead letters cannot be read: %s", run.durable, error)
        return set()
    if lettered:
        consumer, rows = letter_rows(
            run.durable, (one for one in messages if one.place in lettered)
        )
        for row in rows:
            with contextlib.suppress(StoreRefused):
                async with store.transaction() as tx:
                    await tx.claim(consumer, row)
    return lettered


def _may_come(info: ConsumerInfo | None, stream_seq: int) -> bool:
    """Whether the server has not done with it. Where it has, somebody has settled it, or it had its
    last delivery and the sweeper has or will have the letter."""
    if info is None:
        return False
    if stream_seq > info.stream_seq:
        return True
    return stream_seq > info.ack_floor and info.num_ack_pending > 0


async def in_flight(admin: BrokerAdmin, info: ConsumerInfo) -> AsyncGenerator[StoredMessage, None]:
    """The durable's messages behind its ack floor that were delivered, in order.

    ``info`` is the durable's own, fresh from the server. Some of them may be acknowledged.
    """
    if info.num_ack_pending == 0 or info.ack_floor >= info.stream_seq:
        return
    stored = admin.read(
        info.stream,
        filter_subjects=info.filters,
        from_seq=info.ack_floor + 1,
        reader=info.durable,
    )
    async with aclosing(stored):
        async for found in stored:
            if found.stream_seq > info.stream_seq:
                return
            yield found


async def _batches(found: AsyncGenerator[StoredMessage]) -> AsyncGenerator[list[StoredMessage]]:
    batch = []
    async for one in found:
        batch.append(one)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
