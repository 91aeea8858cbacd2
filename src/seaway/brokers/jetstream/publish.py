"""Publishing in order: atomic batches where the stream allows, else one in flight for each key.

Owns: what can be sent at all, which way each piece of a call's messages goes, and each message's
outcome. Guarantees: one outcome a message; of one ordering key, nothing is stored behind a message
that was not newly stored, whatever happens to the server in between. What has no room holds up its
key alone, and a message of that subject that is as large or larger is not tried.

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

Why one of a key in a window: a stream stores what it receives in the order of arrival, but refuses
each message by itself. With two of a key on their way, a stream that is full, or without its
leader, for the first and not for the second stores them in the wrong order.
``Nats-Expected-Last-Msg-Id`` would chain them, but it speaks of the whole stream: a known id in the
run, or another publisher's message in between, breaks the chain. And on nats-server 2.15.1 a stream
of three replicas has no leader for more than ten seconds after it refused one message of a chain.
Where one key must go faster, the stream's ``allow_atomic`` is the way.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.api import (
    ATOMIC_DISABLED,
    TOO_LARGE,
    classify,
    concerns_the_stream,
    denied,
    refused,
    unheard,
)
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.wire import Frame
from seaway.contracts import Held, Message, PublishOutcome, Refused, Stored, Unconfirmed
from seaway.errors import ConfigError, NotPermitted
from seaway.process import Gap

BATCH_MESSAGES = 1000
BATCH_BYTES = 8 * 1024 * 1024
WINDOW = 500
NARROW = 8
"""How many are in flight at first where the stream was full: each may be in vain."""

_NO_ATOMIC_BEFORE = (2, 12)


async def _given(after: asyncio.Future[bool], gap: Gap) -> bool:
    """Whether something of a call may be stored, once that is known. ``gap`` begins anew then."""
    waits = not after.done()
    given = await after
    if waits:
        gap.check_and_restart()
    return given


class Publisher:
    """Publishes over one connection, and remembers how its streams took it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._not_atomic: dict[str, int] = {}
        self._tight: set[str] = set()
        """Streams that had no room for all of the last piece."""

    async def publish(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        timeout: timedelta,
        after: asyncio.Future[bool] | None = None,
        epoch: int | None = None,
    ) -> list[PublishOutcome]:
        """See ``contracts.Broker.publish``."""
        gap = Gap(2 * timeout)  # A batch waits twice at the most: to be sent, to be answered.
        cut = Cut(messages, limit=self._connection.server_info().max_payload_bytes)
        while True:
            piece, outcomes = Piece(), None
            gap.check_and_restart()
            if len(messages) > 1 and self._may_be_atomic(stream) and not cut.stands_alone():
                outcomes = await self._atomic(stream, cut, piece, timeout, after, gap, epoch)
            if after is not None and not await _given(after, gap):
                return [Held()] * len(messages)
            after = None
            if outcomes is None and piece.places and gap.check_and_restart():
                # Stopped in the middle of a batch, which the server has dropped: by now another
                # may have our right to publish.
                outcomes = [Unconfirmed("this process was stopped")] * len(piece.places)
            if outcomes is None:
                outcomes = await self._one_by_one(stream, cut, piece, timeout, epoch)
            if not piece.places or not cut.settle(piece, outcomes):
                break
        if (denials := self._connection.denials).known:
            for message, outcome in zip(messages, cut.outcomes, strict=True):
                if isinstance(outcome, Stored):
                    denials.answered(message.subject)
        return cut.outcomes

    async def schedule(
        self, stream: str, message: Message, *, at: datetime, subject: str, timeout: timedelta
    ) -> PublishOutcome:
        """See ``contracts.Broker.schedule``."""
        connection = self._connection
        try:
            prepared = wire.later(message, at=at, subject=subject)
        except ConfigError as error:
            return refused(str(error), code=400, err_code=0)
        limit = connection.server_info().max_payload_bytes
        if prepared.size > limit:
            words = f"more than the server's max_payload of {limit} bytes: {prepared.size}"
            return refused(words, code=400, err_code=TOO_LARGE)
        with connection.ask(1, lambda denial: denial.subject == subject) as asked:
            frame = wire.single(prepared, asked.replies[0].encode())
            if not await connection.send([frame], timeout=timeout):
                return unheard(str(connection.away()))
            [answer] = await asked.answers(timeout=timeout, asked=1)
        if asked.denied is not None:
            return denied(subject)
        outcome = classify(answer, connection.settings.jetstream_domain)
        if isinstance(outcome, Stored):
            connection.denials.answered(subject)
        return outcome

    async def _one_by_one(
        self, stream: str, cut: Cut, piece: Piece, timeout: timedelta, epoch: int | None
    ) -> Sequence[PublishOutcome]:
        if not piece.messages:
            deque(cut.draw(piece), maxlen=0)
        width = NARROW if stream in self._tight else WINDOW
        window = Window(self._connection, cut, piece, width=width, epoch=epoch)
        outcomes = await window.publish(timeout=timeout)
        if any(isinstance(one, Refused) and one.full for one in outcomes):
            self._tight.add(stream)
        elif outcomes and all(isinstance(one, Stored) for one in outcomes):
            self._tight.discard(stream)
        return outcomes

    def _may_be_atomic(self, stream: str) -> bool:
        if stream in self._tight or self._not_atomic.get(stream) == self._connection.epoch:
            return False
        return self._connection.server_info().release >= _NO_ATOMIC_BEFORE

    async def _atomic(
        self,
        stream: str,
        cut: Cut,
        piece: Piece,
        timeout: timedelta,
        after: asyncio.Future[bool] | None,
        gap: Gap,
        epoch: int | None,
    ) -> Sequence[PublishOutcome] | None:
        """Outcomes; ``None``: nothing was stored, and a window will tell which message is why,
        unless ``after`` gives false."""
        connection = self._connection
        with connection.ask(1, piece.concerned) as asked:
            batch, reply = wire.Batch(uuid.uuid4().hex), asked.replies[0].encode()
            if after is not None:
                within = connection.epoch if epoch is None else epoch
                send = partial(connection.send, timeout=timeout, epoch=within)
                sent = await send(batch.members(cut.draw(piece)))
                whole = sent + 1 == len(piece.messages)
                if not await _given(after, gap):
                    if whole:
                        await send([batch.drop()])
                    return None
                if whole:
                    sent += await send([batch.commit(reply)])
            else:
                frames = batch.whole(cut.draw(piece), reply)
                sent = await connection.send(frames, timeout=timeout, epoch=epoch)
            last = len(piece.messages)
            if last == 0:
                return []
            if sent < last:
                # Without its commit the batch is dropped by the server.
                return [unheard(str(connection.away()))] * last
            [answer] = await asked.answers(timeout=timeout, asked=1)
        if asked.denied is not None:
            return None  # The batch has a gap, and is dropped.
        outcome = classify(answer, connection.settings.jetstream_domain)
        match outcome:
            case Stored(stream_seq):
                first = stream_seq - last + 1
                return [Stored(first + place) for place in range(last)]
            case Refused() if outcome.full:
                self._tight.add(stream)
                return None
            case Refused(err_code=err_code) if err_code == ATOMIC_DISABLED:
                self._not_atomic[stream] = connection.epoch
                return None
            case Refused():
                return [outcome] * last if outcome.heals else None
            case _:
                # Single messages have each its answer. nats-server 2.15.1 stores a part of a batch
                # that its account has no room for, and says nothing.
                self._tight.add(stream)
                return [outcome] * last


@dataclass(slots=True)
class Piece:
    """What was drawn for one batch: the messages, and their places in the call."""

    places: list[int] = field(default_factory=list)
    messages: list[wire.Prepared] = field(default_factory=list)

    def concerned(self, denial: NotPermitted) -> bool:
        """Whether one of them may not be published."""
        return any(message.subject.decode() == denial.subject for message in self.messages)


class Cut:
    """The messages of one call, cut into pieces of one atomic batch's size, encoded as drawn.

    Nothing of a key is drawn once a message of it was refused or was there, nor what needs no less
    room than what had none. A piece holds no message that could not stand in a batch, unless it
    stands alone. No more than one message is encoded ahead of what has been drawn. ``limit``: the
    server's ``max_payload`` in bytes.
    """

    def __init__(self, messages: Sequence[Message], *, limit: int) -> None:
        self.outcomes: list[PublishOutcome] = [Held()] * len(messages)
        self._messages = messages
        self._limit = limit
        self._blocked: set[str] = set()
        self._lacked: dict[bytes, tuple[int, Refused]] = {}
        self._source = self._sendable()
        self._ahead: tuple[int, wire.Prepared] | None = None

    def keys(self, piece: Piece) -> list[str]:
        """The ordering key of each message drawn."""
        return [self._messages[place].key for place in piece.places]

    def no_room(self, message: wire.Prepared, refusal: Refused) -> None:
        """There was none for ``message``.

        The server says that it is full, and not of what: all messages, bytes, or those of a
        subject. Whichever it is, one of the same subject that is no smaller finds no room either.
        """
        known = self._lacked.get(message.subject)
        if known is None or message.size < known[0]:
            self._lacked[message.subject] = message.size, refusal

    def refusal(self, message: wire.Prepared) -> Refused | None:
        """What the stream would say to ``message``, as far as is known; ``None``: to be tried."""
        known = self._lacked.get(message.subject) if self._lacked else None
        return known[1] if known is not None and message.size >= known[0] else None

    def stands_alone(self) -> bool:
        """Whether the next message has no room for the headers of a batch."""
        ahead = self._peek()
        return ahead is not None and ahead[1].size + wire.BATCH_HEADER_BYTES > self._limit

    def draw(self, piece: Piece) -> Iterator[wire.Prepared]:
        """The next batch's messages, put into ``piece`` as they are taken; none at the end."""
        places, messages, room = piece.places, piece.messages, BATCH_BYTES
        most = self._limit - wire.BATCH_HEADER_BYTES
        while (ahead := self._peek()) is not None:
            place, message = ahead
            room -= message.size
            alone = message.size > most
            if places and (alone or room < 0 or len(places) == BATCH_MESSAGES):
                return
            self._ahead = None
            places.append(place)
            messages.append(message)
            yield message
            if alone:
                return

    def settle(self, piece: Piece, outcomes: Sequence[PublishOutcome]) -> bool:
        """Take a piece's outcomes. Whether to go on: not where one speaks of the whole stream."""
        ill = None
        for place, outcome in zip(piece.places, outcomes, strict=True):
            self.outcomes[place] = outcome
            if not isinstance(outcome, Stored) or outcome.duplicate:
                self._blocked.add(self._messages[place].key)
                if ill is None and concerns_the_stream(outcome):
                    ill = outcome
        if isinstance(ill, Refused):
            first = piece.places[-1] + 1
            self.outcomes[first:] = [ill] * (len(self.outcomes) - first)
        return ill is None

    def _peek(self) -> tuple[int, wire.Prepared] | None:
        # What was encoded ahead may wait behind a message of the piece before it.
        ahead = self._ahead
        while ahead is None or (self._blocked and self._waits(*ahead)):
            ahead = next(self._source, None)
            if ahead is None:
                break
        self._ahead = ahead
        return ahead

    def _waits(self, place: int, message: wire.Prepared) -> bool:
        if self._messages[place].key in self._blocked:
            return True
        refusal = self.refusal(message)
        if refusal is not None:
            self._refuse(place, refusal)
        return refusal is not None

    def _sendable(self) -> Iterator[tuple[int, wire.Prepared]]:
        for place, message in enumerate(self._messages):
            if self._blocked and message.key in self._blocked:
                continue
            try:
                prepared = wire.prepare(message)
            except ConfigError as error:
                self._refuse(place, refused(str(error), code=400, err_code=0))
                continue
            if prepared.size <= self._limit:
                yield place, prepared
                continue
            # The server would close the connection over it.
            words = f"more than the server's max_payload of {self._limit} bytes: {prepared.size}"
            self._refuse(place, refused(words, code=400, err_code=TOO_LARGE))

    def _refuse(self, place: int, refusal: Refused) -> None:
        self.outcomes[place] = refusal
        self._blocked.add(self._messages[place].key)


class Window:
    """One piece's messages, sent one by one: one of a key on its way, many keys at once.

    Nothing is sent before the one ahead of it of its key is acknowledged as newly stored.

        waiting ──(key free, window open)──> in flight ──> Stored: the key's next is sent at once
           │                                  ├──> Refused, duplicate: the rest of its key is Held
           └──(the stream is ill) ──> Held    └──> Unconfirmed, or Refused(heals): no more goes
    """

    def __init__(
        self, connection: Connection, cut: Cut, piece: Piece, *, width: int, epoch: int | None
    ) -> None:
        self._connection = connection
        self._epoch = epoch
        self._cut = cut
        self._messages = piece.messages
        self._width = width
        self._domain = connection.settings.jetstream_domain
        self._outcomes: list[PublishOutcome] = [Held()] * len(piece.messages)
        lanes: dict[str, deque[int]] = {}
        for index, key in enumerate(cut.keys(piece)):
            lanes.setdefault(key, deque()).append(index)
        self._ready = deque(lanes.values())
        self._in_flight: dict[int, str] = {}
        self._ill = False
        self._news = asyncio.Event()

    async def publish(self, *, timeout: timedelta) -> Sequence[PublishOutcome]:
        """One outcome a message. ``timeout``: how long the stream may say nothing at all."""
        gap = Gap(timeout)
        forget = self._connection.denials.watch(self._denied)
        try:
            while True:
                # Stopped for longer than we ever wait: another may have our right to publish.
                self._ill |= gap.check_and_restart()
                self._news.clear()  # Before the look at what is ready: an answer may come any time.
                await self._fill(timeout)
                if not self._in_flight:
                    if self._ill or not self._ready:
                        break
                    continue
                async with asyncio.timeout(timeout.total_seconds()):
                    await self._news.wait()
        except TimeoutError:
            for index in self._in_flight:
                self._outcomes[index] = Unconfirmed("no acknowledgement in time")
        finally:
            forget()
            for reply in self._in_flight.values():
                self._connection.forget(reply)
        return self._outcomes

    async def _fill(self, timeout: timedelta) -> None:
        if self._ill:
            return
        heads: list[int] = []
        frames: list[bytes] = []
        while self._ready and len(self._in_flight) < self._width:
            lane = self._ready.popleft()
            index = lane.popleft()
            refusal = self._cut.refusal(self._messages[index])
            if refusal is not None:
                self._outcomes[index] = refusal
                continue
            reply = self._connection.expect(partial(self._answered, lane, index))
            self._in_flight[index] = reply
            heads.append(index)
            frames.append(wire.single(self._messages[index], reply.encode()))
        if not heads:
            return
        sent = await self._connection.send(frames, timeout=timeout, epoch=self._epoch)
        for index in heads[sent:]:
            self._connection.forget(self._in_flight.pop(index, ""))
            self._outcomes[index] = unheard(str(self._connection.away()))
            self._ill = True

    def _denied(self, denial: NotPermitted) -> None:
        for index in tuple(self._in_flight):
            if self._messages[index].subject.decode() == denial.subject:
                self._connection.forget(self._in_flight.pop(index))
                self._outcomes[index] = denied(denial.subject)
        self._news.set()

    def _answered(self, lane: deque[int], index: int, answer: Frame | None) -> None:
        del self._in_flight[index]
        self._outcomes[index] = outcome = classify(answer, self._domain)
        if isinstance(outcome, Stored):
            self._width = min(WINDOW, self._width + 1)
            if lane and not outcome.duplicate:
                self._ready.append(lane)
        elif isinstance(outcome, Refused) and outcome.full:
            self._cut.no_room(self._messages[index], outcome)
            self._width = NARROW
        elif concerns_the_stream(outcome):
            self._ill = True
        self._news.set()
