"""What a stream acknowledged and has lost: found by looking, and published again.

JetStream acknowledges before it syncs. A server that lost its power, or a store put back from a
copy, comes back as an earlier state of itself: the stream's tail is gone, and its places are given
out again. Or the stream was deleted, and made anew. What it acknowledged is in ``seaway_sent``.

    look: does the last place of ours still hold that event?
      ├─ yes ──────────────────────────────────────────────> sound
      ├─ nothing lies there, and the end is not before it ──> sound: deleted, expired, consumed
      └─ no ──> find the last intact one ──> lose what is above it (noted in one step)
                   ──> find what lies on the stream after all ──> publish the rest again ──> heal

Owns: the looks, and the note of what is lost; ``returning`` brings it back. Must not know when to
look, nor what waits meanwhile. Guarantees: what is lost goes again in outbox order, under its own
id, before anything newer of the same shards; once its loss is noted, it is found by whoever has the
shards next; what lies on the stream already is not sent again; what somebody deleted or purged, or
what expired, never is: the stream's end has not gone back by that (ADR 0023).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from seaway import logs
from seaway.contracts import Broker, Held, Lease, LogStore, SentPlace, Unconfirmed
from seaway.errors import ApiError, BrokerUnavailable, NotPermitted
from seaway.headers import parse_time
from seaway.inbox.places import holds
from seaway.relay.decisions import Cause
from seaway.relay.intact import last_intact
from seaway.relay.memory import StreamMemory
from seaway.relay.returning import Return
from seaway.relay.telling import Telling
from seaway.telemetry import Telemetry
from seaway.words import counted

logger = logs.logger("seaway.relay")


@dataclass(slots=True)
class Healing:
    """Looks at the streams of one relay. ``keeps``: the outbox keeps what was sent."""

    broker: Broker
    log: LogStore
    telemetry: Telemetry
    timeout: timedelta
    keeps: bool
    _telling: Telling = field(init=False)
    _warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._telling = Telling(self.log, self.telemetry)

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
            told = f"the relay cannot see whether it lost any: {error}"
            await self._telling.not_healed(stream, told)
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
        back = Return(
            broker=self.broker,
            telling=self._telling,
            timeout=self.timeout,
            stream=stream,
            memory=memory,
            lease=lease,
            stop=stop,
            epoch=epoch,
            since=since,
            made_anew=parse_time(info.created) > since,
        )
        return await back.go()

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
            await self._telling.not_healed(
                stream, f"{places} are lost, and outbox.retention is 0: no sent event is kept"
            )
        elif lowest is not None and info.last_seq + 1 < lowest and above < lowest:
            await self._telling.not_healed(
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

    # ------------------------------------------------------------------ what is told

    async def _warn(self, stream: str) -> None:
        """Say once what could not be healed, should it be lost."""
        if self.keeps or stream in self._warned:
            return
        info = await self.broker.admin.stream(stream)
        if info is None:
            return
        self._warned.add(stream)
        if info.replicas == 1:
            logger.warning(
                "outbox.retention is 0 and %s has one replica: what its server loses cannot be "
                "published again, unless its sync_interval is always (a client does not see that)",
                stream,
            )
