"""What the relay remembers from round to round; losing it costs time, never an event.

Owns: per stream, whether ids have to be looked up and until when it rests, and for which subjects
it has no room; which troubles have been said. Monotonic seconds come in as ``now``; no I/O but
``Telemetry.emit``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from seaway.contracts import Sent, SentPlace, Unconfirmed
from seaway.process import running_time
from seaway.relay.decisions import Cause
from seaway.retry import Backoff
from seaway.telemetry import RelayPaused, RelayResumed, Telemetry


@dataclass(frozen=True, slots=True)
class Full:
    """A subject that its stream has no room for: the least bytes that found none, and when to try
    again."""

    size: int
    failures: int
    rests_until: float


@dataclass(slots=True)
class StreamMemory:
    """One stream as the relay knows it. A new one is suspected, as after any unclean end."""

    suspect: bool = True
    """Entries may be on the stream that the outbox still has."""
    window: timedelta | None = None
    """How long it remembers ids, read from the stream while it is suspected."""
    dated: tuple[datetime, float] = (datetime.max.replace(tzinfo=UTC), 0.0)
    """What the time was by the clock that dates the outbox, and when that was asked: our own clock
    may be another, or be set meanwhile."""
    cause: Cause | None = None
    failures: int = 0
    rests_until: float = 0.0
    missing_since: float | None = None
    """Since when there has been no such stream."""
    full: dict[str, Full] = field(default_factory=dict)
    """By subject. Others of the stream go on meanwhile."""
    last: SentPlace | None = None
    """The highest place that it acknowledged to this process since it was last looked at."""
    doubted: SentPlace | None = None
    """It acknowledged something below this place of ours."""
    searched: bool = False
    """Of what it lost and has not again, nothing lies on it: it was read for that."""
    looked_in: int | None = None
    """The epoch of the connection in which it was seen to hold what it acknowledged; ``None``: it
    may have lost some since."""
    looked_at: float = 0.0
    unhealed: bool = False
    """What it lost is not on it again."""

    @property
    def epoch(self) -> int:
        """In which epoch something may be sent to it: none, where it has to be looked at first."""
        return -1 if self.looked_in is None else self.looked_in

    def is_sound(self, epoch: int) -> bool:
        """Whether it holds what it acknowledged: seen in this epoch, and nothing said otherwise."""
        return self.looked_in == epoch

    def looked(self, epoch: int) -> None:
        """It holds what it acknowledged."""
        self.looked_in, self.looked_at = epoch, running_time()

    def to_look(self) -> None:
        """It may have lost what it acknowledged."""
        self.looked_in = None

    def acknowledged(self, sent: Sequence[Sent], *, before: SentPlace | None) -> bool:
        """It acknowledged these, which were published after it had ``before``. Whether it went on
        from there: an end that went back has lost some."""
        places = [one.stream_seq for one in sent]
        highest = sent[places.index(max(places))]
        if self.last is None or self.last.stream_seq < highest.stream_seq:
            self.last = SentPlace(highest.entry.event_id, highest.stream_seq)
        if before is None or min(places) > before.stream_seq:
            return True
        self.doubted = before
        self.to_look()
        return False

    def suspected(self) -> None:
        """From now on, look up old entries before they are sent."""
        self.suspect, self.window = True, None
        self.to_look()

    def stumbled(self, cause: Cause, *, progress: bool, now: float, backoff: Backoff) -> None:
        """It takes nothing at the moment; ``progress``: but did until just now."""
        self.suspected()
        self.cause = cause
        self.failures = 1 if progress else self.failures + 1
        self.rests_until = now + backoff.delay(self.failures).total_seconds()

    def worked(self, *, complete: bool) -> None:
        """It acknowledged a share; ``complete``: and with it everything that the outbox had."""
        self.cause, self.failures, self.rests_until = None, 0, 0.0
        if complete:
            self.suspect = False

    def lacked_room(
        self, sizes: Mapping[str, int], *, progress: Collection[str], now: float, backoff: Backoff
    ) -> None:
        """The stream had no room for messages of these ``sizes``, by subject. ``progress``:
        subjects of which it stored some."""
        for subject, size in sizes.items():
            known = self.full.get(subject)
            failures = 1 if known is None or subject in progress else known.failures + 1
            if known is not None and known.rests_until > now:
                size, failures = min(size, known.size), known.failures
            until = now + backoff.delay(failures).total_seconds()
            self.full[subject] = Full(size, failures, until)

    def looked_through(self, fitting: Collection[str], *, since: float, complete: bool) -> bool:
        """Forget what found room since then; ``complete``: nothing else waits. Whether any did."""
        over = [
            subject
            for subject, full in self.full.items()
            if full.rests_until <= since and (complete or subject in fitting)
        ]
        for subject in over:
            del self.full[subject]
        return bool(over)

    def reconciled(self) -> None:
        """Nothing that it has stored is in the outbox any more."""
        self.suspect = False

    def now(self) -> datetime:
        """What the time is by the clock that dates the outbox."""
        moment, asked_at = self.dated
        return moment + timedelta(seconds=running_time() - asked_at)

    @property
    def silent(self) -> bool:
        """Whether it gave no answer at all when it was last tried."""
        return isinstance(self.cause, Unconfirmed)


@dataclass(slots=True)
class Troubles:
    """Says each trouble once an outage, and once that everything works again."""

    telemetry: Telemetry
    _sources: set[str] = field(default_factory=set)
    _said: set[str] = field(default_factory=set)
    _since: float = 0.0

    def began(
        self, source: str, *, topic: str, reason: str, now: float, alone: bool = False
    ) -> None:
        """``alone``: other streams go on meanwhile."""
        if not self._sources:
            self._since = now
        self._sources.add(source)
        self.telemetry.waiting("relay", source, reason)
        if topic not in self._said:
            self._said.add(topic)
            self.telemetry.emit(RelayPaused(reason, source if alone else ""))

    def ended(self, source: str, *, now: float) -> None:
        if source not in self._sources:
            return
        self._sources.remove(source)
        self.telemetry.going_on("relay", source)
        if not self._sources:
            self._said.clear()
            self.telemetry.emit(RelayResumed(timedelta(seconds=now - self._since)))


def next_due(moments: Iterable[float], *, now: float, waiting: bool) -> timedelta | None:
    """How long until the earliest of ``moments``; ``None`` where there is none.

    One that came while the relay was at work counts as long as something is ``waiting`` for it.
    """
    ahead = [max(0.0, moment - now) for moment in moments if waiting or moment > now]
    return timedelta(seconds=min(ahead)) if ahead else None
