"""Whether a durable would pass over events, since its stream has lost what it was given (ADR 0024).

Its state may have survived where the end of its stream did not: then what takes the lost places,
such as the same events published again, counts as acknowledged. So the last place that came here is
noted every two seconds, and looked for where a subscription begins and after each of its gaps.

Owns: those notes, and from where on the durable has to give out again. Guarantees: nothing is
passed over that was stored after what was lost; what took effect meets the inbox.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta

from seaway import logs
from seaway.consumer.standing import settled
from seaway.consumer.state import State
from seaway.contracts import (
    ConsumerInfo,
    Incoming,
    KnownPlace,
    StoredMessage,
    StreamInfo,
)
from seaway.errors import SeawayError, StoreRefused
from seaway.inbox.places import entry, is_at, what_became_of
from seaway.naming import redrive_stream, stream_context
from seaway.telemetry import SetBack
from seaway.waiting import set_within

logger = logs.logger("seaway.consumer")

EVERY = timedelta(seconds=2)
"""How old the note of the last place is at the most."""
_CLOCKS_DIFFER = timedelta(seconds=10)
"""Those of a cluster's servers, at the most; each gives its time to what it stores as the
leader."""
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Lost:
    """What a stream has lost, as far as a durable is concerned."""

    first: int
    """From here on it holds something else than it did, or nothing."""
    last_seq: int
    """The stream's end."""
    to: int | None
    """From where on the durable has to give out again; ``None``: it does so by itself."""
    reason: str


class Places:
    """Of one consumer's streams."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._admin = state.setup.broker.admin
        self._durable = state.setup.durable
        self._notes = state.setup.notes
        self._noted: dict[str, KnownPlace] = {}
        self._uncertain: set[str] = set()
        """Streams of which the last place is not to be noted: what is known says what is lost."""
        self.suspicious: set[str] = set()
        """Streams that have lost what was noted, though no connection was."""

    async def keep(self) -> None:
        """Note the last place of each stream every two seconds, and at the end."""
        if self._notes is None:
            return
        while not await set_within(EVERY, self._state.drained):
            await self._note()
        await self._note()

    async def _note(self) -> None:
        for stream, newest in tuple(self._state.newest.items()):
            noted = self._noted.get(stream)
            if stream in self._uncertain or stream in self.suspicious:
                continue  # What is noted says what is lost.
            if noted is not None and newest.stored_at <= noted.stored_at:
                continue
            # Whatever fails: it is noted the next time.
            with contextlib.suppress(SeawayError):
                if noted is not None and await self._is_gone(noted, newest):
                    self.suspicious.add(stream)
                else:
                    await self._know(self._place(newest))

    async def _is_gone(self, noted: KnownPlace, newest: StoredMessage) -> bool:
        """Whether a noted place holds another event; ``newest`` was stored later."""
        if newest.stream_seq <= noted.stream_seq:
            return True
        found = await self._admin.get(noted.stream, noted.stream_seq)
        return found is not None and not is_at(found, noted)

    async def _know(self, place: KnownPlace) -> None:
        if self._notes is not None:
            await self._notes.know(place)
            self._noted[place.stream] = place

    def _place(self, message: StoredMessage) -> KnownPlace:
        return KnownPlace(self._durable, *message.place, message.event_id, message.stored_at)

    # ------------------------------------------------------------------ looking

    async def look(self, stream: str) -> Lost | None:
        """What the stream has lost of what was given out; ``None``: nothing that is known.

        ``BrokerUnavailable``, ``NotPermitted`` and ``ApiError`` where that cannot be found out.
        """
        info = await self._admin.consumer(stream, self._durable)
        held = await self._admin.stream(stream)
        if info is None or held is None:
            return None
        first = end = held.last_seq + 1
        known, reason, missed = await self._known(stream), "", None
        if known is not None and (reason := await what_became_of(self._admin, known, held)):
            first = min(end, await self._first_after(info, known) or end)
            missed = (
                await self._first_missed(info, held, first) if self._inbox_tells(stream) else first
            )
        elif known is not None and self._inbox_tells(stream):
            missed = await self._first_missed(info, held, known.stream_seq + 1)
            if missed is not None:
                first, reason = missed, f"{stream}:{missed} counts as settled and has had no effect"
        if not reason and info.stream_seq > held.last_seq:
            reason = f"it was given {stream}:{info.stream_seq}, and that ends at {held.last_seq}"
        if not reason:
            return None
        to = None
        if missed is not None and missed <= info.ack_floor:
            to = missed
        elif info.stream_seq > held.last_seq:
            to = min(end, info.ack_floor + 1)
        return Lost(first, held.last_seq, to, reason)

    async def _known(self, stream: str) -> KnownPlace | None:
        """The database knows of other processes, too."""
        if self._notes is None:
            return None
        with contextlib.suppress(SeawayError):
            noted = {one.stream: one for one in await self._notes.places(self._durable)}
            if stream in noted:
                self._noted[stream] = noted[stream]
        return self._noted.get(stream)

    async def _first_after(self, info: ConsumerInfo, known: KnownPlace) -> int | None:
        """The first message that was stored after what was lost."""
        # Without an inbox, what comes again has its effects again.
        margin = timedelta() if self._state.setup.store is None else _CLOCKS_DIFFER
        since = known.stored_at - margin
        async with aclosing(self._read(info, from_time=since)) as found:
            async for one in found:
                if one.stored_at >= since:
                    return one.stream_seq
        return None

    def _inbox_tells(self, stream: str) -> bool:
        """Whether it does of what was settled; a stream of redrives keeps nothing of that."""
        redrives = redrive_stream(stream_context(stream))
        return self._state.setup.store is not None and stream != redrives

    async def _first_missed(self, info: ConsumerInfo, held: StreamInfo, first: int) -> int | None:
        """Of what counts as acknowledged, from ``first`` on, the first that the inbox knows nothing
        of."""
        upto = min(info.ack_floor, held.last_seq)
        if upto < first:
            return None
        async with aclosing(self._between(info, first, upto)) as chunks:
            async for chunk in chunks:
                done = await settled(self._state, chunk)
                for one in chunk:
                    if one.place not in done and not await self._is_refused(one):
                        return one.stream_seq
        return None

    async def _between(
        self, info: ConsumerInfo, first: int, upto: int
    ) -> AsyncGenerator[Sequence[Incoming]]:
        """What it handles of that, some at a time."""
        handles, chunk = self._state.setup.handlers.handles, list[Incoming]()
        async with aclosing(self._read(info, from_seq=first)) as found:
            async for one in found:
                if one.stream_seq > upto:
                    break
                if handles(one.event_subject):
                    chunk.append(Incoming.read(one, self._durable, deliveries=1))
                if len(chunk) == _AT_ONCE:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    def _read(
        self,
        info: ConsumerInfo,
        *,
        from_seq: int | None = None,
        from_time: datetime | None = None,
    ) -> AsyncGenerator[StoredMessage]:
        """What the durable is given, without payloads."""
        return self._admin.read(
            info.stream,
            filter_subjects=info.filters,
            from_seq=from_seq,
            from_time=from_time,
            headers_only=True,
            reader=self._durable,
        )

    async def _is_refused(self, one: Incoming) -> bool:
        """Whether no row can be about it: then it says nothing that there is none."""
        store = self._state.setup.store
        try:
            return store is None or bool(await store.claimed(self._durable, [one.event_id]))
        except StoreRefused:
            return True

    # ------------------------------------------------------------------ what was done about it

    def hold(self, stream: str) -> None:
        """Note no further place: what is noted says what is lost."""
        self._uncertain.add(stream)
        self.suspicious.discard(stream)

    def go_on(self, stream: str) -> None:
        """Its subscription begins, or goes on after a gap."""
        self._uncertain.discard(stream)
        self.suspicious.discard(stream)

    async def was_set_back(self, lost: Lost, stream: str, to: int) -> None:
        """The server gives out from ``to`` on."""
        state, durable = self._state, self._durable
        state.setup.telemetry.emit(SetBack(stream, durable, to, lost.reason))
        if self._notes is None:
            return
        # Nothing depends on these: where they are lacking, the next process looks once more.
        with contextlib.suppress(SeawayError):
            detail = {"stream": stream, "to_seq": to, "reason": lost.reason}
            await self._notes.note(entry("set back", durable, detail))
            before = await self._admin.get(stream, to - 1)
            if before is not None:
                await self._know(self._place(before))

    def forget(self, lost: Lost, stream: str, *, upto: int) -> None:
        """What came from the lost end is void. ``upto``: up to where the durable had given out."""
        self._state.set_back(stream, lost.first, upto if upto <= lost.last_seq else lost.first - 1)
        self._noted.pop(stream, None)
