"""The catalogue of what Seaway says about itself; part of the public API.

Owns: the signals (frozen dataclasses below) and their one way out, ``Telemetry.emit``; and what
this process waits for now (``Telemetry.waits``). The log (``log_signal``), the metrics and the
demo's live view are listeners. A listener must be quick and must not raise; one that raises is
reported once and dropped, since telling must never break doing.
Signals carry no payloads and no secrets, but for ``Delivered.raised``: hold that no longer than you
are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Literal, TypeAlias

from seaway import logs

logger = logs.logger("seaway")
_relay = logs.logger("seaway.relay")
_consumer = logs.logger("seaway.consumer")
_nats = logs.logger("seaway.nats")

_FIRST_REMINDER = timedelta(minutes=1)
_REMINDERS = timedelta(minutes=5)

HandledAs: TypeAlias = Literal[
    "handled", "already_processed", "ignored", "dead_lettered", "retried", "parked"
]


@dataclass(frozen=True, slots=True)
class Relayed:
    """A batch was published and settled. ``duplicates`` of ``sent`` were on the stream before."""

    stream: str
    sent: int
    duplicates: int
    failed: int
    took: timedelta


@dataclass(frozen=True, slots=True)
class RelayPaused:
    """The relay cannot publish and tries again on its own; said once an outage. ``stream``: it
    waits for that one alone, and the others go on; empty: it waits for all, or the database."""

    reason: str
    stream: str = ""


@dataclass(frozen=True, slots=True)
class RelayResumed:
    """Publishing works again."""

    paused_for: timedelta


@dataclass(frozen=True, slots=True)
class Parked:
    """An event will not heal by itself and waits for ``seaway outbox retry``."""

    event_id: str
    subject: str
    error: str


@dataclass(frozen=True, slots=True)
class Healed:
    """The stream had lost ``events`` that it had acknowledged, on places between ``first`` and
    ``last``; they are on it again. ``made_anew``: the stream is another one of the same name."""

    stream: str
    events: int
    first: int
    last: int
    made_anew: bool


@dataclass(frozen=True, slots=True)
class NotHealed:
    """The stream may have lost what it acknowledged, and that cannot be published again; why.
    ``events``: how many are known to be lost for good."""

    stream: str
    reason: str
    events: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery has ended; ``deliveries`` > 1 is a redelivery."""

    stream: str
    consumer: str
    event_id: str
    subject: str
    outcome: HandledAs
    deliveries: int
    took: timedelta
    error: str | None = None
    raised: BaseException | None = field(default=None, repr=False, compare=False)
    """What ``error`` is the first line of; its frames hold the event."""


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A letter is stored in the DLQ. ``error``: the first line of what the error says, shortened;
    empty where there was none."""

    stream: str
    consumer: str
    event_id: str
    reason: str
    error_type: str
    error: str = ""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class ConsumerPaused:
    """A consumer stopped pulling: the server, its database or a downstream is away."""

    consumer: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConsumerResumed:
    """A paused consumer pulls again."""

    consumer: str


@dataclass(frozen=True, slots=True)
class Resubscribed:
    """A consumer gave up a subscription and opened another: ``reason`` is ``stalled`` (it was
    silent while there was something to give), ``deleted`` (the durable was, and is there again) or
    ``lost`` (the stream does not hold any more what it had given out; see ``SetBack``)."""

    stream: str
    consumer: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetBack:
    """A durable gives out anew from ``to_seq`` on: its stream has lost what it had given out, and
    holds something else there. What took effect is not handled again."""

    stream: str
    consumer: str
    to_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Relettered:
    """So many dead letters that their queue had lost are there again."""

    stream: str
    letters: int


@dataclass(frozen=True, slots=True)
class ThreadsLost:
    """How many threads of a consumer's plain handlers do not come back, ``lost`` of them now: their
    deadlines have passed, their deliveries have failed, and others have taken their places.
    ``handler``: whose thread was lost, or came back, last."""

    consumer: str
    handler: str
    lost: int


@dataclass(frozen=True, slots=True)
class LoopBlocked:
    """An async handler kept the event loop from everything else, for ``seconds``; ``place``: where
    it was then. Said of one handler once a minute at most."""

    consumer: str
    handler: str
    place: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection to the server was lost and is back."""

    url: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to the server is lost; the client keeps trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """What a part of this process waits for now, and why: one line, with the way out.

    ``part``: ``relay``, ``consumer case_mgmt__from_sea``, ``sweeper``. ``about``: what it waits
    for, such as a stream's name or ``database``; one part may wait for several.
    """

    part: str
    about: str
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class StillWaiting:
    """What was waited for is waited for still: said after a minute, then every five, when the part
    that waits tells of it again."""

    wait: Wait
    waited: timedelta


Signal: TypeAlias = (
    Relayed
    | RelayPaused
    | RelayResumed
    | Parked
    | Healed
    | NotHealed
    | SetBack
    | Relettered
    | Delivered
    | DeadLettered
    | ConsumerPaused
    | ConsumerResumed
    | Resubscribed
    | ThreadsLost
    | LoopBlocked
    | Reconnected
    | Disconnected
    | StillWaiting
)
Listener: TypeAlias = Callable[[Signal], None]


@dataclass(slots=True)
class _Lasting:
    """A wait, since when it lasts, and when it is said again: clocks that are set change neither of
    these."""

    wait: Wait
    since: float
    due: float


@dataclass(slots=True)
class Telemetry:
    """Hands each signal to every listener, in the order they subscribed."""

    _listeners: list[Listener] = field(default_factory=list)
    _lasting: dict[tuple[str, str], _Lasting] = field(default_factory=dict)

    @property
    def waits(self) -> Sequence[Wait]:
        """What is waited for now, the longest wait first."""
        return sorted((one.wait for one in self._lasting.values()), key=lambda wait: wait.since)

    def waiting(self, part: str, about: str, reason: str) -> None:
        """``part`` waits for ``about``; told again, it has waited since the first time.

        To be told whenever it is tried again: what lasts is said again (``StillWaiting``).
        """
        key, now = (part, about), monotonic()
        known = self._lasting.get(key)
        if known is None:
            wait = Wait(part, about, reason, datetime.now(UTC))
            self._lasting[key] = _Lasting(wait, now, now + _FIRST_REMINDER.total_seconds())
            return
        known.wait = replace(known.wait, reason=reason)
        if now >= known.due:
            known.due = now + _REMINDERS.total_seconds()
            self.emit(StillWaiting(known.wait, timedelta(seconds=now - known.since)))

    def going_on(self, part: str, about: str) -> None:
        """``part`` does not wait for ``about`` any more. Idempotent."""
        self._lasting.pop((part, about), None)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add ``listener``; the returned call takes it out again (idempotent)."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def emit(self, signal: Signal) -> None:
        """Tell every listener. Never raises."""
        for listener in tuple(self._listeners):
            try:
                listener(signal)
            except Exception:
                logger.exception("a telemetry listener failed and is dropped: %r", listener)
                self._listeners.remove(listener)


def log_signal(signal: Signal) -> None:
    """A listener for an application at work: pauses, parked events, dead letters, a connection that
    is lost and back; nothing else. What a handler's failure looks like, ``consumer.outcomes``
    says.
    """
    match signal:
        case RelayPaused(reason, ""):
            _relay.warning("relay paused: %s", reason)
        case RelayPaused(reason, stream):
            _relay.warning("relay paused for %s alone, other streams go on: %s", stream, reason)
        case RelayResumed(paused_for):
            _relay.info("relay resumed after %.1f s", paused_for.total_seconds())
        case Parked(event_id, subject, error):
            known = {"event_id": event_id}
            _relay.error("event %s (%s) is parked: %s", event_id, subject, error, extra=known)
        case Healed(stream, events, first, last, made_anew):
            _relay.error(
                "%s had lost %d events that it had acknowledged, on its places %d to %d%s; "
                "they are published again",
                *(stream, events, first, last),
                ": it was made anew" if made_anew else "",
            )
        case NotHealed(stream, reason, _):
            _relay.error("%s: not all that it lost can be published again: %s", stream, reason)
        case DeadLettered(_, consumer, event_id, reason, error_type, error):
            why = ": ".join(text for text in (error_type, error) if text)
            known = {"event_id": event_id, "consumer": consumer}
            if signal.correlation_id:
                known["correlation_id"] = signal.correlation_id
            if reason == "parked":
                said = "%s: %s waits in the queue behind an earlier event of its key"
                _consumer.info(said, consumer, event_id, extra=known)
            else:
                _consumer.error(
                    "%s: %s is a dead letter: %s %s", consumer, event_id, reason, why, extra=known
                )
        case ConsumerPaused(consumer, reason):
            _consumer.warning("%s paused: %s", consumer, reason, extra={"consumer": consumer})
        case ConsumerResumed(consumer):
            _consumer.info("%s resumed", consumer, extra={"consumer": consumer})
        case SetBack(stream, consumer, to_seq, reason):
            _consumer.error(
                "%s is set back to %s:%d, since the stream has lost what came after: %s",
                *(consumer, stream, to_seq, reason),
                extra={"consumer": consumer},
            )
        case Relettered(stream, letters):
            _consumer.error(
                "%s had lost %d dead letters: they are there again, made from their events",
                *(stream, letters),
            )
        case ThreadsLost(consumer, handler, lost):
            _consumer.warning(
                "%s: a thread of handler %s %s; %d lost now",
                *(consumer, handler),
                "does not come back from its deadline" if lost else "came back",
                lost,
                extra={"consumer": consumer},
            )
        case LoopBlocked(consumer, handler, place, seconds):
            _consumer.warning(
                "%s: handler %s blocked the event loop for %.1f s, at %s: have what blocks run in "
                "asyncio.to_thread, or make the consumer's handlers plain functions (def)",
                *(consumer, handler, seconds, place),
                extra={"consumer": consumer},
            )
        case StillWaiting(wait, waited):
            minutes = waited.total_seconds() / 60
            logger.warning("%s still waits after %.0f min: %s", wait.part, minutes, wait.reason)
        case Disconnected(reason):
            _nats.warning("disconnected: %s", reason)
        case Reconnected(url):
            _nats.info("reconnected to %s", url)
        case _:
            pass
