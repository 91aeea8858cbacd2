"""Publishing in order: atomic batches where the stream allows, else one in flight for each key.

Owns: which way each piece of a call's messages goes. Guarantees: one outcome a message; of one
ordering key, nothing is stored behind a message that was not.

    messages ──> pieces of <= 1,000 ──(commit acknowledged)───────────────────> Stored
       │             │ refused for a message (known id, size, no room for all), or not allowed
       │             └──> a window, one in flight a key ──> Stored | Refused | Unconfirmed, Held
       │             │ refused for the stream (no leader) ──> Refused(heals) for the rest
       │             └ no answer ───────────────────────────────> Unconfirmed, Held
       └ cannot be sent at all (too large, no subject) ──> Refused, and its key is Held

A piece is encoded while it is sent, so the server works at the same time, and a long call neither
blocks the loop nor holds all of its bytes. A call that must wait for ``after`` already sends its
first piece, without the commit: the server stores nothing of it, and drops it at a frame that
leaves a gap, or after 10 s. Source: nats-server 2.12 and newer, ADR-50 of NATS.

A batch is stored whole or not at all, so one that is larger than the room left is refused although
most of it would fit. From then on the stream gets single messages, until a piece fits whole.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta

from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.answers import (
    classify,
    unreachable,
)
from seaway.brokers.jetstream.codes import ATOMIC_DISABLED
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.pieces import Cut, Piece
from seaway.brokers.jetstream.replies import Replies
from seaway.brokers.jetstream.window import NARROW, WINDOW, Window
from seaway.contracts import Held, Message, PublishOutcome, Refused, Stored, Unconfirmed
from seaway.process import Gap

_NO_ATOMIC_BEFORE = (2, 12)


class _Gate:
    """What a call waits for until anything of it may be stored. ``gap`` begins again with it."""

    def __init__(self, after: asyncio.Future[bool] | None, gap: Gap) -> None:
        self._after = after
        self._gap = gap

    @property
    def closed(self) -> bool:
        return self._after is not None

    async def opens(self) -> bool:
        """Wait for it; at once where it is open. False: it never will be."""
        if self._after is not None:
            if not await self._after:
                return False
            self._after = None
            self._gap.too_long()
        return True


class Publisher:
    """Publishes over one connection. ``open`` before use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._replies = Replies(connection)
        self._not_atomic: dict[str, int] = {}
        self._tight: set[str] = set()
        """Streams that had no room for all of the last piece."""

    async def open(self) -> None:
        """Subscribe for acknowledgements. Idempotent."""
        await self._replies.open()

    async def close(self) -> None:
        """Give up what still waits. Idempotent."""
        await self._replies.close()

    async def publish(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        timeout: timedelta,
        after: asyncio.Future[bool] | None = None,
    ) -> list[PublishOutcome]:
        """See ``contracts.Broker.publish``."""
        gap = Gap(2 * timeout)  # A batch waits twice at the most: to be sent, to be answered.
        gate = _Gate(after, gap)
        cut = Cut(messages, limit=self._connection.server_info().max_payload_bytes)
        while True:
            piece, outcomes = Piece(), None
            gap.too_long()
            atomic = len(messages) > 1 and self._may_be_atomic(stream) and not cut.stands_alone()
            if atomic:
                outcomes = await self._atomic(stream, cut, piece, timeout, gate)
            if not await gate.opens():
                return [Held()] * len(messages)
            if outcomes is None and piece.places and gap.too_long():
                # Stopped in the middle of a batch, which the server has dropped: by now another
                # may have our right to publish.
                outcomes = [Unconfirmed("this process was stopped")] * len(piece.places)
            if outcomes is None:
                drawn = piece.messages or list(cut.draw(piece))
                outcomes = await self._window(stream, cut, piece, drawn).publish(timeout=timeout)
                self._learn(stream, outcomes)
            if not piece.places or not cut.settle(piece, outcomes):
                break
        if self._connection.denials.known:
            for message, outcome in zip(messages, cut.outcomes, strict=True):
                if isinstance(outcome, Stored):
                    self._connection.denials.answered(message.subject)
        return cut.outcomes

    def _window(
        self, stream: str, cut: Cut, piece: Piece, drawn: Sequence[wire.Prepared]
    ) -> Window:
        width = NARROW if stream in self._tight else WINDOW
        return Window(
            self._connection, self._replies, drawn, cut.keys(piece), cut.room, width=width
        )

    def _learn(self, stream: str, outcomes: Sequence[PublishOutcome]) -> None:
        if any(isinstance(one, Refused) and one.full for one in outcomes):
            self._tight.add(stream)
        elif outcomes and all(isinstance(one, Stored) for one in outcomes):
            self._tight.discard(stream)

    def _may_be_atomic(self, stream: str) -> bool:
        if stream in self._tight:
            return False
        if self._not_atomic.get(stream) == self._connection.epoch:
            return False
        return self._connection.server_info().release >= _NO_ATOMIC_BEFORE

    async def _atomic(
        self, stream: str, cut: Cut, piece: Piece, timeout: timedelta, gate: _Gate
    ) -> Sequence[PublishOutcome] | None:
        """Outcomes; ``None``: nothing was stored, and a window will tell which message is why,
        unless ``gate`` stays closed."""
        refused = False
        with self._replies.ask(1) as asked, ExitStack() as watching:

            def on_denial(subject: str) -> None:
                nonlocal refused
                if any(message.subject.decode() == subject for message in piece.messages):
                    refused = True
                    asked.end()

            watching.callback(self._connection.on_denial(on_denial))
            batch, reply = wire.Batch(uuid.uuid4().hex), asked.replies[0].encode()
            if gate.closed:
                epoch = self._connection.epoch
                sent = await self._connection.send(batch.members(cut.draw(piece)), timeout=timeout)
                whole = sent + 1 == len(piece.messages)
                if not await gate.opens():
                    if whole and self._connection.epoch == epoch:
                        await self._connection.send([batch.drop()], timeout=timeout)
                    return None
                if whole and self._connection.epoch == epoch:
                    sent += await self._connection.send([batch.commit(reply)], timeout=timeout)
            else:
                frames = batch.whole(cut.draw(piece), reply)
                sent = await self._connection.send(frames, timeout=timeout)
            last = len(piece.messages)
            if last == 0:
                return []
            if sent < last:
                # Without its commit the batch is dropped by the server.
                return [unreachable(self._connection.away())] * last
            [answer] = await asked.answers(timeout=timeout, asked=1)
        if refused:
            return None  # The batch has a gap, and is dropped.
        outcome = classify(answer, self._connection.settings.jetstream_domain)
        match outcome:
            case Stored(stream_seq):
                first = stream_seq - last + 1
                return [Stored(first + place) for place in range(last)]
            case Refused(err_code=err_code, heals=heals):
                if err_code == ATOMIC_DISABLED:
                    self._not_atomic[stream] = self._connection.epoch
                if outcome.full:
                    self._tight.add(stream)
                    return None
                if heals and err_code != ATOMIC_DISABLED:
                    return [outcome] * last
                return None
            case _:
                # Single messages have each its answer. nats-server 2.15.1 stores a part of a batch
                # that its account has no room for, and says nothing.
                self._tight.add(stream)
                return [outcome] * last
