"""The way back of what a stream has lost: found on it after all, or published again.

    what is noted as lost ──> does it lie there? ──yes──> healed
                                   └─ no ──> published again, in outbox order ──> healed

Owns: one return of one stream's lost events, those of the lease's shards. Must not know how a loss
is found. Guarantees: what lies on the stream is not sent again; the rest goes in outbox order,
under its own ids; what no stream takes any more is given up, and told (ADR 0023).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from seaway import headers as h
from seaway.contracts import (
    GIVEN_UP,
    Broker,
    Held,
    Lease,
    Message,
    OutboxEntry,
    Refused,
    Sent,
    Stored,
    Unconfirmed,
)
from seaway.errors import NotFound
from seaway.naming import RELAY
from seaway.relay import decisions
from seaway.relay.decisions import Cause
from seaway.relay.memory import StreamMemory
from seaway.relay.stored import CLOCK_SKEW, look
from seaway.relay.telling import Telling

_CHUNK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """Of what ``stream`` has lost ``since``, when the first of it was settled. ``made_anew``: it is
    another stream by now. On this connection's ``epoch`` only."""

    broker: Broker
    telling: Telling
    timeout: timedelta
    stream: str
    memory: StreamMemory
    lease: Lease
    stop: asyncio.Event
    epoch: int
    since: datetime
    made_anew: bool

    async def go(self) -> Cause | Held | None:
        """``None``: all is there again. Else why not, ``Held`` where ``stop`` was set."""
        if not self.memory.searched:
            if not await self._find():
                return Held()
            self.memory.searched = True
        return await self._publish()

    async def _find(self) -> bool:
        """Heal what lies there: published again by a relay that was ended in the middle of it, or
        never lost. All of that was stored after the first of it was settled, or shortly before.
        ``False``: stopped."""
        lease, chunk = self.lease, dict[str, int]()

        async def heal() -> None:
            lost = await lease.find_lost(self.stream, list(chunk))
            known = [(one.entry, chunk[one.entry.event_id]) for one in lost]
            seen = await look(self.broker.admin, self.stream, known)
            there = [
                (one.lost, one._replace(stream_seq=seen.own[one.entry.event_id]))
                for one in lost
                if one.entry.event_id in seen.own
            ]
            moved = [one for was, one in there if one.stream_seq != was]
            await self._heal(lost, moved)
            unmoved = [one for was, one in there if one.stream_seq == was]
            await lease.heal(unmoved, again=False)
            chunk.clear()

        begin = self.since - CLOCK_SKEW
        reading = self.broker.admin.read(
            self.stream, from_time=begin, headers_only=True, reader=RELAY
        )
        try:
            async with aclosing(reading):
                async for stored in reading:
                    event_id = h.identity(stored.message.headers, fallback_id="")
                    if event_id:
                        chunk[event_id] = stored.stream_seq
                    if len(chunk) == _CHUNK:
                        await heal()
                    if self.stop.is_set():
                        return False
        except NotFound:
            return True
        await heal()
        return True

    async def _publish(self) -> Cause | Held | None:
        stream = self.stream
        while lost := await self.lease.lost(stream, limit=_CHUNK):
            if self.stop.is_set():
                return Held()
            await self.lease.confirm()
            self.memory.searched = False
            outcomes = await self.broker.publish(
                stream, [_again(one) for one in lost], timeout=self.timeout, epoch=self.epoch
            )
            there: list[Sent] = []
            known: list[tuple[OutboxEntry, int]] = []
            hopeless: list[tuple[Sent, str]] = []
            cause: Cause | None = None
            for one, outcome in zip(lost, outcomes, strict=True):
                match outcome:
                    case Stored(stream_seq, duplicate=True):
                        known.append((one.entry, stream_seq))
                    case Stored(stream_seq):
                        there.append(one._replace(stream_seq=stream_seq))
                    case Refused(hopeless=True):
                        hopeless.append((one, decisions.describe(outcome)))
                    case Refused() | Unconfirmed():
                        cause = cause or outcome
                    case Held():
                        pass
            if known:
                seen = await look(self.broker.admin, stream, known)
                for one in lost:
                    event_id = one.entry.event_id
                    if event_id in seen.own:
                        there.append(one._replace(stream_seq=seen.own[event_id]))
                    elif event_id in seen.foreign:
                        taken = decisions.taken(one.entry, seen.foreign[event_id])
                        hopeless.append((one, taken.error))
            await self._heal(lost, there)
            await self._give_up(hopeless)
            self.memory.searched = not any(isinstance(one, Unconfirmed) for one in outcomes)
            if cause is not None:
                return cause
            if not there and not hopeless:
                return Unconfirmed("it took none of the events that it had lost")
        return None

    async def _heal(self, lost: Sequence[Sent], there: Sequence[Sent]) -> None:
        if not there:
            return
        was = {one.entry.event_id: one.lost or 0 for one in lost}
        moved = [[one.entry.event_id, was[one.entry.event_id], one.stream_seq] for one in there]
        noted = await self.telling.note_healed(self.stream, moved, made_anew=self.made_anew)
        await self.lease.heal(there)
        self.telling.emit(noted)

    async def _give_up(self, hopeless: Sequence[tuple[Sent, str]]) -> None:
        """What no stream takes any more would hold up all others for ever."""
        if not hopeless:
            return
        for one, why in hopeless:
            await self.telling.not_healed(self.stream, f"{one.entry.event_id}: {why}", events=1)
        await self.lease.heal(
            [
                one._replace(stream=f"lost by {self.stream}: {why}", stream_seq=GIVEN_UP)
                for one, why in hopeless
            ]
        )


def _again(one: Sent) -> Message:
    """Whoever had given it up in its old place knows it by that."""
    message = one.entry.message
    return replace(message, headers={**message.headers, h.HEALED: str(one.lost or 0)})
