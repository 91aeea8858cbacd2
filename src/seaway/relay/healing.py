"""What a stream acknowledged and has lost: found by looking, and published again.

JetStream acknowledges before it syncs. A server that lost its power, or a store put back from a
copy, comes back as an earlier state of itself: the stream's tail is gone, and its places are given
out again. Or the stream was deleted, and made anew. What it acknowledged is in ``seaway_sent``.

    look: does the last place of ours still hold that event?
      ├─ yes ──────────────────────────────────────────────> sound
      ├─ nothing lies there, and the end is not before it ──> sound: deleted, expired, consumed
      └─ no ──> find the last intact one ──> lose what is above it (noted in one step)
                   ──> find what lies on the stream after all ──> publish the rest again ──> heal

Owns: the looks, and the events on their way back. Must not know when to look, nor what
waits meanwhile. Guarantees: what is lost goes again in outbox order, under its own id, before
anything newer of the same shards; once its loss is noted, it is found by whoever has the shards
next; what lies on the stream already is not sent again; what somebody deleted or purged, or what
expired, never is: the stream's end has not gone back by that (ADR 0023).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
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
    Unconfirmed,
)
from seaway.errors import (
    ApiError,
    BrokerUnavailable,
    NotFound,
    NotPermitted,
    SeawayError,
    TransientError,
)
from seaway.inbox.places import holds
from seaway.naming import RELAY
from seaway.relay import decisions
from seaway.relay.decisions import Cause
from seaway.relay.intact import last_intact
from seaway.relay.memory import StreamMemory
from seaway.relay.stored import CLOCK_SKEW, look
from seaway.telemetry import Healed, NotHealed, Telemetry
from seaway.words import counted

logger = logs.logger("seaway.relay")

_CHUNK = 1000


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
        where ``stop`` was set. To be called again then; nothing is lost by that. Only when all
        that was acknowledged is settled.
        """
        epoch = self.broker.epoch
        try:
            await self._warn(stream)
            places = {await lease.last_sent(stream, of_all=True), memory.doubted, memory.last}
            await self._check(stream, memory, lease, places)
            waits = await self._return(stream, memory, lease, stop, epoch)
        except NotPermitted as error:
            await self._not_healed(stream, f"the relay cannot see whether it lost any: {error}")
            waits = None
        except (BrokerUnavailable, ApiError) as error:
            waits = Unconfirmed(str(error))
        if waits is None:
            memory.looked(epoch)
        return waits

    async def doubt(self, stream: str, memory: StreamMemory, lease: Lease) -> Cause | None:
        """Note what is lost of a stream whose end went back; why that cannot be done now."""
        try:
            await self._check(stream, memory, lease, {memory.doubted})
        except NotPermitted:
            memory.doubted = None  # The next look says so.
        except (BrokerUnavailable, ApiError) as error:
            return Unconfirmed(str(error))
        return None

    async def _check(
        self,
        stream: str,
        memory: StreamMemory,
        lease: Lease,
        places: Collection[SentPlace | None],
    ) -> None:
        """Note what is lost, if one of these places does not hold its event any more."""
        for place in places:
            if place is None:
                continue
            there = await holds(self.broker.admin, stream, place.stream_seq, place.event_id)
            if there is not False:
                continue
            # Another relay may have noted it meanwhile.
            known = await lease.last_sent(stream, upto=place.stream_seq, of_all=True)
            if known == place or not self.keeps:
                await self._lose(stream, memory, lease, place)
                break
        memory.last = memory.doubted = None

    async def _return(
        self,
        stream: str,
        memory: StreamMemory,
        lease: Lease,
        stop: asyncio.Event,
        epoch: int,
    ) -> Cause | Held | None:
        """Bring back what is lost of the lease's shards, whoever noted it."""
        since = await lease.lost_since(stream)
        if since is None:
            return None
        info = await self.broker.admin.stream(stream)
        if info is None:
            return None
        made_anew = h.parse_time(info.created) > since
        if not memory.searched:
            if not await self._find(stream, lease, since, stop, made_anew=made_anew):
                return Held()
            memory.searched = True
        return await self._publish_lost(stream, memory, lease, stop, epoch, made_anew=made_anew)

    # ------------------------------------------------------------------ the loss

    async def _lose(self, stream: str, memory: StreamMemory, lease: Lease, last: SentPlace) -> None:
        """Note what is lost, of all shards: those that others hold may be held by us next, and the
        places of what was sent since would hide it."""
        info = await self.broker.admin.stream(stream)
        if info is None:
            return
        lowest = await lease.first_sent(stream)
        above = min(
            [
                await last_intact(self.broker.admin, lease, info, of_all=each)
                for each in (True, False)
            ]
        )
        memory.searched = False
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
                "%s may have lost %s that it had acknowledged, from its places %d to %d: what is "
                "not on it is published again",
                *(stream, counted(loss.events, "event"), loss.first, loss.last),
            )

    async def _find(
        self,
        stream: str,
        lease: Lease,
        since: datetime,
        stop: asyncio.Event,
        *,
        made_anew: bool,
    ) -> bool:
        """Heal what lies there: published again by a relay that was ended in the middle of it, or
        never lost. All of that was stored after the first of it was settled, or shortly before.
        ``False``: stopped."""
        chunk: dict[str, int] = {}

        async def heal() -> None:
            lost = await lease.find_lost(stream, list(chunk))
            known = [(one.entry, chunk[one.entry.event_id]) for one in lost]
            seen = await look(self.broker.admin, stream, known)
            there = [
                (one.lost, one._replace(stream_seq=seen.own[one.entry.event_id]))
                for one in lost
                if one.entry.event_id in seen.own
            ]
            moved = [one for was, one in there if one.stream_seq != was]
            await self._heal(stream, lease, lost, moved, made_anew=made_anew)
            unmoved = [one for was, one in there if one.stream_seq == was]
            await lease.heal(unmoved, again=False)
            chunk.clear()

        reading = self.broker.admin.read(
            stream, from_time=since - CLOCK_SKEW, headers_only=True, reader=RELAY
        )
        try:
            async with aclosing(reading):
                async for stored in reading:
                    event_id = h.identity(stored.message.headers, fallback_id="")
                    if event_id:
                        chunk[event_id] = stored.stream_seq
                    if len(chunk) == _CHUNK:
                        await heal()
                    if stop.is_set():
                        return False
        except NotFound:
            return True
        await heal()
        return True

    # ------------------------------------------------------------------ the way back

    async def _publish_lost(
        self,
        stream: str,
        memory: StreamMemory,
        lease: Lease,
        stop: asyncio.Event,
        epoch: int,
        *,
        made_anew: bool,
    ) -> Cause | Held | None:
        while lost := await lease.lost(stream, limit=_CHUNK):
            if stop.is_set():
                return Held()
            await lease.confirm()
            memory.searched = False
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
            await self._heal(stream, lease, lost, there, made_anew=made_anew)
            await self._give_up(stream, lease, hopeless)
            memory.searched = not any(isinstance(one, Unconfirmed) for one in outcomes)
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
        places = [was[one.entry.event_id] for one in there]
        loss = Loss(len(there), min(places), max(places))
        moved = [[one.entry.event_id, was[one.entry.event_id], one.stream_seq] for one in there]
        detail: dict[str, Any] = {
            "events": loss.events,
            "first": loss.first,
            "last": loss.last,
            "made_anew": made_anew,
            "moved": moved,
        }
        await self._note("healed", stream, detail)
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
