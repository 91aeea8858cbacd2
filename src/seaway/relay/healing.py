"""What a stream acknowledged and has lost: found by looking, and published again.

JetStream acknowledges before it syncs. A server that lost its power, or a store put back from a
copy, comes back as an earlier state of itself: the stream's tail is gone, and its places are given
out again. Or the stream was deleted, and made anew. What it acknowledged is in ``seaway_sent``.

    look: does the last place of ours still hold that event?
      ├─ yes ──────────────────────────────────────────────> sound
      ├─ nothing lies there, and the end is not before it ──> sound: deleted, expired, consumed
      └─ no ──> find the first that is lost ──> lose (noted in one step) ──> publish again ──> heal

Owns: the looks, the search, and the events on their way back. Must not know when to look, nor what
waits meanwhile. Guarantees: what is lost goes again in outbox order, under its own id, before
anything newer of the same shards; once its loss is noted, it is found by whoever has the shards
next; what lies on the stream already is not sent again; what somebody deleted or purged, or what
expired, never is: the stream's end has not gone back by that (ADR 0023).

A stream loses its tail, never its middle: below a place that holds its event, all is as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from seaway import headers as h
from seaway import logs
from seaway.contracts import (
    GIVEN_UP,
    Broker,
    Held,
    Lease,
    LogEntry,
    LogStore,
    Loss,
    Message,
    Refused,
    Sent,
    SentPlace,
    Stored,
    StreamInfo,
    Unconfirmed,
)
from seaway.errors import ApiError, NotFound, NotPermitted, SeawayError, TransientError
from seaway.naming import RELAY
from seaway.relay import decisions
from seaway.relay.decisions import Cause
from seaway.relay.memory import StreamMemory
from seaway.relay.stored import look
from seaway.telemetry import Healed, NotHealed, Telemetry
from seaway.words import counted

logger = logs.logger("seaway.relay")

_CHUNK = 1000
_MOST_SILENT = 64
"""Places in a row at which nothing lies, until no more is asked."""


@dataclass(slots=True)
class Healing:
    """Looks at the streams of one relay. ``keeps``: the outbox keeps what was sent."""

    broker: Broker
    log: LogStore
    telemetry: Telemetry
    timeout: timedelta
    keeps: bool
    by: str = ""
    _said: set[str] = field(default_factory=set)

    async def look(
        self, stream: str, memory: StreamMemory, lease: Lease, stop: asyncio.Event
    ) -> Cause | Held | None:
        """Have ``stream`` hold what it acknowledged of the lease's shards.

        ``None``: it does, and ``memory`` knows. Else nothing new may be sent to it: why, ``Held``
        where ``stop`` was set. To be called again then; nothing is lost by that.
        """
        epoch = self.broker.epoch
        try:
            cause = await self._look(stream, memory, lease, stop, epoch)
        except NotPermitted as error:
            await self._not_healed(stream, f"the relay cannot see whether it lost any: {error}")
        except (TransientError, ApiError) as error:
            return Unconfirmed(str(error))
        else:
            if cause is not None:
                memory.knows = False
                return cause
        memory.looked(epoch)
        return None

    async def _look(
        self, stream: str, memory: StreamMemory, lease: Lease, stop: asyncio.Event, epoch: int
    ) -> Cause | Held | None:
        last, lost = memory.last, False
        if not memory.knows:
            stored = await lease.last_sent(stream)
            last = max((one for one in (last, stored) if one), key=_place, default=None)
            lost = bool(await lease.lost(stream, limit=1))
            await self._warn(stream)
        if last is not None and await self._holds(stream, last) is False:
            lost |= await self._lose(stream, memory, lease, last)
            last = None
        if lost:
            cause = await self._publish_lost(stream, memory, lease, stop, epoch)
            if cause is not None:
                return cause
            last = await lease.last_sent(stream)
        memory.last, memory.knows = last, True
        return None

    async def _holds(self, stream: str, place: SentPlace) -> bool | None:
        """Whether its event lies there; ``None``: nothing does, and that tells nothing."""
        admin = self.broker.admin
        stored = await admin.get(stream, place.stream_seq)
        if stored is not None:
            return h.identity(stored.message.headers, fallback_id="") == place.event_id
        info = await admin.stream(stream)
        return False if info is not None and info.last_seq < place.stream_seq else None

    # ------------------------------------------------------------------ the loss

    async def _lose(self, stream: str, memory: StreamMemory, lease: Lease, last: SentPlace) -> bool:
        """Note what is lost; whether any of the lease's shards is."""
        info = await self.broker.admin.stream(stream)
        if info is None:
            return False
        memory.last = None
        lowest = await lease.first_sent(stream)
        above = await self._last_intact(stream, lease, info)
        loss = await lease.lose(stream, above=above)
        if not self.keeps:
            places = f"the places {info.last_seq + 1} to {last.stream_seq}"
            if info.last_seq >= last.stream_seq:
                places = f"the place {last.stream_seq} and others before it"
            await self._not_healed(
                stream, f"{places} are lost, and outbox.retention is 0: no sent event is kept"
            )
        elif lowest is not None and info.last_seq + 1 < lowest and above < lowest:
            await self._not_healed(
                stream,
                f"what lay on the places {info.last_seq + 1} to {lowest - 1} is older than "
                "outbox.retention, or another's: it cannot be published again",
            )
        if loss.events:
            logger.warning(
                "%s has lost %s that it had acknowledged, from its places %d to %d: they are "
                "published again",
                *(stream, counted(loss.events, "event"), loss.first, loss.last),
            )
            memory.made_anew = await self._is_made_anew(stream, lease, info)
            if info.last_seq > above:
                await self._find(stream, lease, above, memory.made_anew)
        return loss.events > 0

    async def _last_intact(self, stream: str, lease: Lease, info: StreamInfo) -> int:
        """The highest place below which nothing of the lease's shards is lost.

        First down from the stream's end in steps that double, then between the lowest that is lost
        and the highest that is not by halves. What is gone from its place says nothing: with
        nothing else to be seen, only what lies beyond the end is lost.
        """
        intact, lost = info.first_seq - 1, info.last_seq + 1
        at, step, silent = info.last_seq, 1, 0
        while at > intact:
            place = await lease.last_sent(stream, upto=at)
            if place is None or place.stream_seq <= intact:
                break
            holds = await self._holds(stream, place)
            if holds:
                intact = place.stream_seq
                break
            if holds is False:
                lost, silent = place.stream_seq, 0
            elif (silent := silent + 1) > _MOST_SILENT:
                break
            at, step = place.stream_seq - step, step * 2
        while lost - intact > 1:
            middle = (intact + lost) // 2
            place = await lease.last_sent(stream, upto=middle)
            holds = True
            while place is not None and place.stream_seq > intact:
                holds = await self._holds(stream, place)
                if holds is not None:
                    break
                place = await lease.last_sent(stream, upto=place.stream_seq - 1)
            if holds is False and place is not None:
                lost = place.stream_seq
            else:
                intact = middle
        return lost - 1

    async def _is_made_anew(self, stream: str, lease: Lease, info: StreamInfo) -> bool:
        """Whether the stream is younger than what it has lost; only to be told."""
        first = await lease.lost(stream, limit=1)
        return bool(first) and h.parse_time(info.created) > first[0].entry.added_at

    async def _find(self, stream: str, lease: Lease, above: int, made_anew: bool) -> None:
        """Heal what was published again already, by a relay that was ended in the middle."""
        chunk: dict[str, int] = {}

        async def heal() -> None:
            lost = await lease.find_lost(stream, list(chunk))
            known = [(one.entry, chunk[one.entry.event_id]) for one in lost]
            seen = await look(self.broker.admin, stream, known)
            there = [
                one._replace(stream_seq=seen.own[one.entry.event_id])
                for one in lost
                if one.entry.event_id in seen.own
            ]
            await self._heal(stream, lease, lost, there, made_anew=made_anew)
            chunk.clear()

        reading = self.broker.admin.read(
            stream, from_seq=above + 1, headers_only=True, reader=RELAY
        )
        try:
            async with aclosing(reading):
                async for stored in reading:
                    event_id = h.identity(stored.message.headers, fallback_id="")
                    if event_id:
                        chunk[event_id] = stored.stream_seq
                    if len(chunk) == _CHUNK:
                        await heal()
        except NotFound:
            return
        await heal()

    # ------------------------------------------------------------------ the way back

    async def _publish_lost(
        self, stream: str, memory: StreamMemory, lease: Lease, stop: asyncio.Event, epoch: int
    ) -> Cause | Held | None:
        while lost := await lease.lost(stream, limit=_CHUNK):
            if stop.is_set():
                return Held()
            await lease.confirm()
            outcomes = await self.broker.publish(
                stream, [_again(one) for one in lost], timeout=self.timeout, epoch=epoch
            )
            there: list[Sent] = []
            known: list[tuple[Any, int]] = []
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
            await self._heal(stream, lease, lost, there, made_anew=memory.made_anew)
            await self._give_up(stream, lease, hopeless)
            if cause is not None:
                return cause
            if not there and not hopeless:
                return Unconfirmed("it took none of the events that it had lost")
        return None

    async def _heal(
        self,
        stream: str,
        lease: Lease,
        lost: Sequence[Sent],
        there: Sequence[Sent],
        *,
        made_anew: bool,
    ) -> None:
        if not there:
            return
        was = {one.entry.event_id: one.lost or 0 for one in lost}
        ids = [[one.entry.event_id, was[one.entry.event_id], one.stream_seq] for one in there]
        places = [was[one.entry.event_id] for one in there]
        loss = Loss(len(there), min(places), max(places))
        await self._note(
            "healed",
            stream,
            {
                "events": loss.events,
                "first": loss.first,
                "last": loss.last,
                "made_anew": made_anew,
                "moved": ids,
            },
        )
        await lease.heal(there)
        self.telemetry.emit(Healed(stream, *loss, made_anew))

    async def _give_up(
        self, stream: str, lease: Lease, hopeless: Sequence[tuple[Sent, str]]
    ) -> None:
        """What no stream takes any more would hold up all others for ever."""
        if not hopeless:
            return
        for one, why in hopeless:
            await self._not_healed(stream, f"{one.entry.event_id}: {why}", events=1)
        await lease.heal(
            [
                one._replace(stream=f"lost by {stream}: {why}", stream_seq=GIVEN_UP)
                for one, why in hopeless
            ]
        )

    # ------------------------------------------------------------------ what is told

    async def _warn(self, stream: str) -> None:
        """Say once what could not be healed, should it be lost."""
        if self.keeps or stream in self._said:
            return
        info = await self.broker.admin.stream(stream)
        if info is None:
            return
        self._said.add(stream)
        if info.replicas == 1:
            logger.warning(
                "outbox.retention is 0 and %s has one replica: what its server loses cannot be "
                "published again, unless its sync_interval is always (a client does not see that)",
                stream,
            )

    async def _not_healed(self, stream: str, reason: str, *, events: int = 0) -> None:
        told = f"{stream} {reason}"
        if not events and told in self._said:
            return
        self._said.add(told)
        await self._note("not healed", stream, {"events": events, "reason": reason})
        self.telemetry.emit(NotHealed(stream, reason, events))

    async def _note(self, action: str, stream: str, detail: dict[str, Any]) -> None:
        try:
            await self.log.note(LogEntry(action, stream, detail, self.by))
        except TransientError:
            raise
        except SeawayError as error:
            logger.warning(
                "seaway_log has no entry of what was %s on %s: %s", action, stream, error
            )


def _again(one: Sent) -> Message:
    """Whoever had given it up in its old place knows it by that."""
    message = one.entry.message
    return replace(message, headers={**message.headers, h.HEALED: str(one.lost or 0)})


def _place(one: SentPlace) -> int:
    return one.stream_seq
