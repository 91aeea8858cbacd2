"""A batch's way to its streams: sorted out, looked up where it must be, published, judged.

Owns: what is with the broker, and what its answers say of a stream. Must not know when to claim,
settle or rest. Guarantees: a batch that is begun while another is under way is prepared, and
nothing of it is stored. Once the other is stored whole, so is it; if the other is not, it is begun
anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from seaway.contracts import Broker, Held, Lease, OutboxEntry, Refused, Unconfirmed
from seaway.errors import ApiError, NotFound, TransientError
from seaway.process import running_time
from seaway.relay import decisions
from seaway.relay.decisions import Cause, Kept, Sorted, Verdict
from seaway.relay.healing import Healing
from seaway.relay.memory import StreamMemory, Troubles
from seaway.relay.stored import CLOCK_SKEW, Found, look, settle_stored
from seaway.retry import Backoff
from seaway.telemetry import Relayed, Telemetry

FENCE = timedelta(seconds=5)
"""A batch claimed this long ago is published only after the lease was confirmed."""
REACH = 4
"""For each second spent on entries that cannot be published, a turn gets this many seconds for
those behind them."""


@dataclass(slots=True)
class Turn:
    """One lease, what it may not touch, and what it came to."""

    lease: Lease
    stop: asyncio.Event
    until: float
    """When it gives others their turn, in monotonic seconds."""
    marked: float
    looks_behind: bool
    """Whether it goes on past batches of which nothing could go."""
    keys: set[str]
    streams: set[str]
    full: dict[str, int]
    """Subjects without room on their stream, and the least bytes that found none."""
    settled: int = 0
    failed: int = 0
    waiting: int = 0
    """Entries that were claimed and stay in the outbox."""
    exhausted: bool = False
    barren_for: float = 0.0
    """Seconds spent on batches of which nothing could go."""
    barren: bool = False
    fitting: set[str] = field(default_factory=set)
    """Subjects of which something was stored, where some have no room."""
    found: set[str] = field(default_factory=set)
    """Their stream was found to hold their ids, perhaps after they were claimed."""
    doubts: int = 0
    """How often a stream's end was seen to have gone back."""
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while all that was acknowledged is settled, but for what is with the broker now."""

    def __post_init__(self) -> None:
        self.quiet.set()

    @property
    def news(self) -> int:
        """How much was learnt that batches made ready before do not know."""
        return len(self.found) + self.doubts

    @property
    def progress(self) -> bool:
        """Whether anything left the outbox, or came closer to it."""
        return self.settled + self.failed > 0

    @property
    def over(self) -> bool:
        """Whether it is time to leave the lease."""
        return (
            self.stop.is_set()
            or time.monotonic() > self.until
            or (self.barren and not self.looks_behind)
        )

    def learnt(self, verdict: Verdict) -> None:
        """What a verdict means for the batches that follow."""
        self.keys |= verdict.stuck
        self.waiting += len(verdict.kept)
        if verdict.trouble:
            self.streams.add(verdict.stream)
        for subject, size in verdict.full.items():
            self.full[subject] = min(size, self.full.get(subject, size))

    def went_by(self, fruitful: bool) -> None:
        """A batch has ended; ``fruitful``: something of it went.

        Each second spent on blocked entries lengthens the turn by five: with many of them, little
        or nothing of what lies behind would be published otherwise.
        """
        now = time.monotonic()
        if not fruitful:
            self.barren_for += now - self.marked
            self.until += (now - self.marked) * (1 + REACH)
        self.barren, self.marked = not fruitful, now


@dataclass(slots=True)
class Batch:
    """What was claimed, by a read that began at ``began``; ``complete``: there was no more.

    Begun, it has its shares, its verdicts to come and, behind another one, whether it is
    ``allowed``: to be stored as it was made ready.
    """

    entries: Sequence[OutboxEntry] = ()
    began: float = 0.0
    complete: bool = True
    parts: Sorted = field(default_factory=Sorted)
    allowed: asyncio.Task[bool] | None = None
    verdicts: asyncio.Task[Sequence[Verdict]] = field(init=False)

    @property
    def old(self) -> bool:
        """Whether the lease may be another's by now."""
        return running_time() - self.began > FENCE.total_seconds()

    async def is_allowed(self) -> bool:
        """Whether what was made ready is, or will be, stored; else it has to be begun anew."""
        return self.allowed is None or await self.allowed

    async def follows(self, before: Batch, turn: Turn, news: int) -> bool:
        """Whether it may be stored as it was made ready: once the one before it is, whole.

        Otherwise it is made ready again: something failed, ids were found on the stream since or
        its end went back (``news``: what the turn knew when it was sorted out), or it is too old.
        """
        verdicts = await before.verdicts
        whole = not before.parts.unroutable and all(verdict.whole for verdict in verdicts)
        return whole and turn.news == news and not self.old and not turn.stop.is_set()


async def give_up(batches: Iterable[Batch]) -> None:
    """Cancel what is under way, and return when it has ended."""
    for each in batches:
        tasks = [task for task in (each.verdicts, each.allowed) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Publishing:
    """Publishes the batches of one relay. See ``Relay`` for the settings."""

    broker: Broker
    streams: defaultdict[str, StreamMemory]
    troubles: Troubles
    telemetry: Telemetry
    dated_by: Callable[[], Awaitable[datetime]]
    max_attempts: int
    stream_grace: timedelta
    timeout: timedelta
    backoff: Backoff
    way_to: Callable[[str], str]
    healing: Healing | None
    """``None``: nobody looks for what a stream has lost."""

    def begin(self, turn: Turn, batch: Batch, behind: Batch | None = None) -> Batch:
        """Hand a batch to the broker, ``behind`` the one that it follows, where it does."""
        batch.parts = decisions.sort_out(
            batch.entries,
            keys=turn.keys,
            streams=turn.streams,
            settled=turn.found,
            full=turn.full,
        )
        turn.keys |= set(batch.parts.held)
        batch.allowed = None
        if behind is not None:
            follows = batch.follows(behind, turn, turn.news)
            batch.allowed = asyncio.create_task(follows)
        batch.verdicts = asyncio.create_task(self._publish(turn, batch))
        return batch

    async def _publish(self, turn: Turn, batch: Batch) -> Sequence[Verdict]:
        """Each stream's lanes at the same time: they do not depend on one another."""
        if batch.allowed is None and batch.old:
            # This process may have been stopped for longer than the lease was left to it.
            await turn.lease.confirm()
        found = await asyncio.gather(
            *(
                self._publish_stream(turn, batch, stream, list(lanes.values()))
                for stream, lanes in batch.parts.shares.items()
            )
        )
        return [verdict for verdicts in found for verdict in verdicts]

    async def _publish_stream(
        self, turn: Turn, batch: Batch, stream: str, shares: Sequence[Sequence[OutboxEntry]]
    ) -> Sequence[Verdict]:
        entries = [entry for share in shares for entry in share]
        waits = await self._heal(turn, batch, stream)
        if waits is not None:
            return [Verdict(stream, kept=[Kept(entry, waits) for entry in entries])]
        try:
            found = await self._look_up(turn, batch, stream, entries)
        except (TransientError, ApiError) as error:
            cause = Unconfirmed(str(error))
            verdict = Verdict(stream, kept=[Kept(entry, cause) for entry in entries])
            self._learn(verdict, complete=False)
            return [verdict]
        if found is None:
            return [Verdict(stream, kept=[Kept(entry, Held()) for entry in entries])]
        also: list[Verdict] = []
        if gone := found.settled | found.taken.keys():
            turn.found |= gone
            turn.settled += len(found.settled)
            failed = list(found.taken.values())
            stuck = {each.entry.key for each in failed}
            shares = [[e for e in share if e.event_id not in gone] for share in shares]
            kept = [Kept(e, Held()) for share in shares for e in share if e.key in stuck]
            shares = [[e for e in share if e.key not in stuck] for share in shares]
            also = [Verdict(stream, failed=failed, kept=kept)] if failed else []
        verdicts = await asyncio.gather(
            *(self._publish_share(turn, batch, stream, share) for share in shares)
        )
        if doubt := await self._doubt(turn, stream):
            left = [entry for share in shares for entry in share]
            verdicts = [Verdict(stream, kept=[Kept(entry, doubt) for entry in left])]
            self._learn(verdicts[0], complete=False)
        return [*verdicts, *also]

    async def _doubt(self, turn: Turn, stream: str) -> Cause | None:
        """Where the stream's end went back, note what it has lost before anything newer is
        settled: in the places of what is lost, that would look as if it were sound. Why that cannot
        be done now; what was published is left in the outbox then, and found on the stream."""
        memory, healing = self.streams[stream], self.healing
        if healing is None or memory.doubted is None:
            return None
        await turn.quiet.wait()
        return await healing.doubt(stream, memory, turn.lease)

    async def _publish_share(
        self, turn: Turn, batch: Batch, stream: str, share: Sequence[OutboxEntry]
    ) -> Verdict:
        began, verdict, left = time.monotonic(), Verdict(stream), share
        memory = self.streams[stream]
        while left:
            before = memory.last
            outcomes = await self.broker.publish(
                stream,
                [entry.message for entry in left],
                timeout=self.timeout,
                after=batch.allowed,
                epoch=None if self.healing is None else memory.epoch,
            )
            if not await batch.is_allowed():
                return Verdict(stream)
            part = decisions.judge(stream, left, outcomes, max_attempts=self.max_attempts)
            if part.sent and not memory.acknowledged(part.sent, before=before):
                turn.doubts += 1
            part, left = await self._looked_at(part)
            verdict = decisions.joined(verdict, part) if verdict.sent or verdict.failed else part
            if left and batch.old:
                await turn.lease.confirm()
        verdict = await self._explained(verdict)
        self._learn(verdict, complete=batch.complete and not batch.parts.skipped)
        return replace(verdict, took=timedelta(seconds=time.monotonic() - began))

    async def _heal(self, turn: Turn, batch: Batch, stream: str) -> Cause | Held | None:
        """Why nothing of the stream may be sent: what it has lost goes first. ``None``: it may."""
        memory, healing = self.streams[stream], self.healing
        if healing is None or memory.is_sound(self.broker.epoch):
            return None
        if batch.allowed is not None and not await batch.allowed:
            return None  # Nothing of it will be sent as it is.
        # What was acknowledged and is not settled yet would be overlooked.
        await turn.quiet.wait()
        return await self._look(healing, turn, stream)

    async def look(self, turn: Turn, streams: Iterable[str]) -> None:
        """See whether the streams hold what they acknowledged, and have them do so."""
        if self.healing is None:
            return
        now = time.monotonic()
        to_see = [
            stream
            for stream in streams
            if not self.streams[stream].is_sound(self.broker.epoch)
            and self.streams[stream].rests_until <= now
        ]
        await asyncio.gather(*(self._look(self.healing, turn, stream) for stream in to_see))

    async def _look(self, healing: Healing, turn: Turn, stream: str) -> Cause | Held | None:
        memory = self.streams[stream]
        if memory.is_sound(self.broker.epoch):
            return None
        waits = await healing.look(stream, memory, turn.lease, turn.stop)
        now = time.monotonic()
        if waits is None:
            if memory.unhealed:
                memory.unhealed = False
                memory.worked(complete=False)
                self.troubles.ended(stream, now=now)
        elif not isinstance(waits, Held):
            turn.streams.add(stream)
            memory.unhealed = True
            memory.stumbled(waits, progress=False, now=now, backoff=self.backoff)
            text = decisions.reason(stream, waits, self.way_to)
            topic = decisions.topic(stream, waits)
            alone = isinstance(waits, Refused)
            self.troubles.began(stream, topic=topic, reason=text, now=now, alone=alone)
        return waits

    async def _looked_at(self, verdict: Verdict) -> tuple[Verdict, Sequence[OutboxEntry]]:
        """The verdict without what the stream knew by its id, and what may be published now."""
        if not verdict.known:
            return verdict, ()
        known = [(each.entry, each.stream_seq) for each in verdict.known]
        behind = [each.entry for each in verdict.kept]
        try:
            seen = await look(self.broker.admin, verdict.stream, known, behind)
        except (TransientError, ApiError, NotFound) as error:
            return decisions.unseen(verdict, str(error)), ()
        return decisions.looked_at(verdict, seen.own, seen.foreign)

    async def _explained(self, verdict: Verdict) -> Verdict:
        """The verdict in the light of what the stream is, where it refused something."""
        memory, refused = self.streams[verdict.stream], isinstance(verdict.trouble, Refused)
        if not refused:
            memory.missing_since = None
            if not verdict.full:
                return verdict
        try:
            info = await self.broker.admin.stream(verdict.stream)
        except (TransientError, ApiError) as error:
            cause = Unconfirmed(str(error))
            return decisions.refused_alike(verdict, cause) if refused else verdict
        if info is not None:
            memory.missing_since = None
            verdict = decisions.reconsidered(verdict, info) if refused else verdict
            return decisions.outgrown(verdict, info)
        if not refused:
            return verdict
        now = time.monotonic()
        if memory.missing_since is None:
            memory.missing_since = now
        if now - memory.missing_since < self.stream_grace.total_seconds():
            return decisions.refused_alike(verdict, decisions.MISSING)
        return decisions.given_up(verdict, self.way_to(verdict.stream))

    def _learn(self, verdict: Verdict, *, complete: bool) -> None:
        stream, trouble, now = verdict.stream, verdict.trouble, time.monotonic()
        memory = self.streams[stream]
        if trouble is not None:
            progress = bool(verdict.sent)
            memory.stumbled(trouble, progress=progress, now=now, backoff=self.backoff)
            topic = decisions.topic(stream, trouble)
            text = decisions.reason(stream, trouble, self.way_to)
            alone = isinstance(trouble, Refused)
            self.troubles.began(stream, topic=topic, reason=text, now=now, alone=alone)
            return
        memory.worked(complete=complete and not verdict.kept)
        if full := verdict.full:
            stored = {each.entry.message.subject for each in verdict.sent}
            memory.lacked_room(full, progress=stored, now=now, backoff=self.backoff)
            cause = verdict.lack
            assert cause is not None
            text = decisions.no_room(stream, memory.full, cause)
            topic = decisions.topic(stream, cause)
            self.troubles.began(stream, topic=topic, reason=text, now=now, alone=True)
        elif not memory.full:
            self.troubles.ended(stream, now=now)

    async def _look_up(
        self, turn: Turn, batch: Batch, stream: str, entries: Sequence[OutboxEntry]
    ) -> Found | None:
        """Settle what the stream holds by now, where it may have forgotten the ids of ``entries``.

        ``None``: stopped before it was known.
        """
        memory, admin = self.streams[stream], self.broker.admin
        if not memory.suspect:
            return Found()
        if memory.window is None:
            info = await admin.stream(stream)
            if info is None:
                return Found()
            memory.dated = await self.dated_by(), running_time()
            memory.window = info.duplicate_window
        oldest = decisions.oldest_beyond(entries, now=memory.now(), window=memory.window)
        if oldest is None:
            return Found()
        if batch.allowed is not None and not (await batch.allowed and memory.suspect):
            return Found()  # The batch before this one was looked up, or is not over yet.
        found = await settle_stored(
            admin, stream, turn.lease, since=oldest - CLOCK_SKEW, stop=turn.stop
        )
        if found is not None:
            memory.reconciled()
            if settled := len(found.settled):
                self.telemetry.emit(Relayed(stream, settled, settled, 0, timedelta()))
        return found
