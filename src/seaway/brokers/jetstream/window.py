"""A sliding window of single publications: one of a key on its way, many keys at once.

Owns: which message is sent when, where no atomic batch can be. Guarantees: of one ordering key,
nothing is sent before the one ahead of it is acknowledged as newly stored; so nothing of a key lies
behind a message of it that does not, whatever happens to the server in between. What has no room
holds up its key alone, and what needs no less room of its subject is not tried.

    waiting ──(key free, window open)──> in flight ──> Stored: the key's next is sent at once
       │                                     ├──> Refused, duplicate: the rest of its key is Held
       └──(the stream is ill) ──> Held       └──> Unconfirmed, or Refused(heals): nothing more goes

Why one of a key: a stream stores what it receives in the order of arrival, but refuses each message
by itself. With two of a key on their way, a stream that is full, or without its leader, for the
first and not for the second stores them in the wrong order. ``Nats-Expected-Last-Msg-Id`` would
chain them, but it speaks of the whole stream: a known id in the run, or another publisher's message
in between, breaks the chain. And on nats-server 2.15.1 a stream of three replicas has no leader for
more than ten seconds after it refused one message of a chain. Where one key must go faster, the
stream's ``allow_atomic`` is the way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.answers import classify, concerns_the_stream, denied, unreachable
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.frames import Frame
from seaway.brokers.jetstream.pieces import Room
from seaway.brokers.jetstream.replies import Replies
from seaway.contracts import Held, PublishOutcome, Refused, Stored, Unconfirmed
from seaway.process import Gap

WINDOW = 500
NARROW = 8
"""How many are in flight at first where the stream was full: each may be in vain."""


class Window:
    """One run of messages with their keys, to be published once."""

    def __init__(
        self,
        connection: Connection,
        replies: Replies,
        messages: Sequence[wire.Prepared],
        keys: Sequence[str],
        room: Room,
        *,
        width: int = WINDOW,
    ) -> None:
        self._connection = connection
        self._replies = replies
        self._messages = messages
        self._room = room
        self._width = width
        self._domain = connection.settings.jetstream_domain
        self._outcomes: list[PublishOutcome] = [Held()] * len(messages)
        self._lanes: dict[str, deque[int]] = {}
        for index, key in enumerate(keys):
            self._lanes.setdefault(key, deque()).append(index)
        self._ready = deque(self._lanes.values())
        self._in_flight: dict[int, str] = {}
        self._ill = False
        self._news = asyncio.Event()

    async def publish(self, *, timeout: timedelta) -> Sequence[PublishOutcome]:
        """One outcome a message. ``timeout``: how long the stream may say nothing at all."""
        gap = Gap(timeout)
        forget = self._connection.on_denial(self._denied)
        try:
            while True:
                # Stopped for longer than we ever wait: another may have our right to publish.
                self._ill |= gap.too_long()
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
                self._replies.forget(reply)
        return self._outcomes

    async def _fill(self, timeout: timedelta) -> None:
        if self._ill:
            return
        heads: list[int] = []
        frames: list[bytes] = []
        while self._ready and len(self._in_flight) < self._width:
            lane = self._ready.popleft()
            index = lane.popleft()
            refusal = self._room.refusal(self._messages[index])
            if refusal is not None:
                self._outcomes[index] = refusal
                continue
            reply = self._replies.expect(partial(self._answered, lane, index))
            self._in_flight[index] = reply
            heads.append(index)
            frames.append(wire.single(self._messages[index], reply.encode()))
        if not heads:
            return
        sent = await self._connection.send(frames, timeout=timeout)
        for index in heads[sent:]:
            self._replies.forget(self._in_flight.pop(index, ""))
            self._outcomes[index] = unreachable(self._connection.away())
            self._ill = True

    def _denied(self, subject: str) -> None:
        for index in tuple(self._in_flight):
            if self._messages[index].subject.decode() == subject:
                self._replies.forget(self._in_flight.pop(index))
                self._outcomes[index] = denied(subject)
        self._news.set()

    def _answered(self, lane: deque[int], index: int, answer: Frame | None) -> None:
        del self._in_flight[index]
        self._outcomes[index] = outcome = classify(answer, self._domain)
        if isinstance(outcome, Stored):
            self._width = min(WINDOW, self._width + 1)
            if lane and not outcome.duplicate:
                self._ready.append(lane)
        elif isinstance(outcome, Refused) and outcome.full:
            self._room.lacked(self._messages[index], outcome)
            self._width = NARROW
        elif concerns_the_stream(outcome):
            self._ill = True
        self._news.set()
