"""After a handler has failed: what is done next, and what is logged.

| the handler                                   | the step                                 |
| --------------------------------------------- | ---------------------------------------- |
| returned, or ``AlreadyProcessed``             | commit, ack (no decision needed)         |
| ``Poison``; payload or headers unreadable     | roll back, dead letter, ack              |
| ``Retry(after)``, anything else, the deadline | roll back, nak with a delay              |
| ``Retry(after)`` of a minute or more          | roll back, sent again later, ack         |
| the same on the last delivery that it has     | roll back, dead letter ``exhausted``, ack |
| the database or a downstream is away          | not the event's doing: keep it, pause    |

Owns: that decision, and which failures are said at once and which are counted first. A kind of
failure is a handler, a type of exception and the innermost line of the user's own code: the first
is a warning with its traceback, what follows is counted, and said after a minute and then every
five. A kind that was quiet so long is a new one. Guarantees: whatever comes takes bounded memory,
and bounded lines of the log. Retries and poison that a handler asked for are not told of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from seaway import logs
from seaway.consumer.callables import name_of
from seaway.consumer.handlers import HandlerTable
from seaway.consumer.lanes import InHand
from seaway.consumer.state import Limits
from seaway.contracts import DeadLetterReason, Incoming
from seaway.errors import DecodeError, HandlerSignal, Poison, Retry, Unavailable
from seaway.logs import innermost
from seaway.retry import LATER, Backoff, RetryPolicy
from seaway.words import counted

logger = logs.logger("seaway.consumer")

_KINDS = 100
"""How many kinds of failures are kept apart, and how many ignored types are named."""
_TOLD = 200
"""How many characters of a subject a line holds."""
_FIRST_SECONDS = 60.0
_LATER_SECONDS = 300.0

_Kind = tuple[str, str, str, int]
_OTHERS: _Kind = ("", "", "", 0)


@dataclass(frozen=True, slots=True)
class Bury:
    """Store a dead letter, then acknowledge."""

    reason: DeadLetterReason


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Negative ack with this delay."""

    delay: timedelta


Step: TypeAlias = Bury | TryAgain


class Lapsed(Exception):
    """Not the handler's: while nothing ran in this process, the server gave the message up."""


def decide(error: BaseException, *, deliveries: int, limits: Limits, policy: RetryPolicy) -> Step:
    """The step after ``error``, which is no outage, on the ``deliveries``-th attempt."""
    if isinstance(error, DecodeError):
        return Bury("undecodable")
    if isinstance(error, Poison):
        return Bury("poison")
    attempts = policy.attempts(error)
    if limits.is_last(deliveries) or 0 < (attempts.most or 0) <= deliveries:
        return Bury("exhausted")
    if isinstance(error, Retry) and error.after is not None:
        return TryAgain(max(timedelta(0), error.after))
    return TryAgain((attempts.backoff or Backoff(cap=limits.ack_wait)).delay(deliveries))


def is_put_off(error: BaseException) -> bool:
    """Whether a handler asks for so long a delay that nobody should keep a place for it."""
    return isinstance(error, Retry) and error.after is not None and error.after >= LATER


def is_downstream(error: BaseException, policy: RetryPolicy) -> bool:
    """Whether a handler says that something is away that it needs."""
    return isinstance(error, Unavailable) or policy.is_outage(error)


def is_verdict(error: BaseException) -> bool:
    """Whether ``error`` is about its event whatever else was in its transaction."""
    return isinstance(error, HandlerSignal | DecodeError)


# ---------------------------------------------------------------------- what the log hears


@dataclass(slots=True)
class _Repeats:
    """What came of a kind since it was said the last time."""

    said_at: float
    due: float
    count: int = 0
    last: str = ""


class Heard:
    """What one run of a consumer has said. ``now``: a clock in seconds."""

    def __init__(self, durable: str, handlers: HandlerTable, now: Callable[[], float]) -> None:
        self._durable = durable
        self._handlers = handlers
        self._now = now
        self._ignored: set[str] = set()
        self._not_put_off: set[str] = set()
        self._kinds: dict[_Kind, _Repeats] = {}

    def ignored(self, item: InHand) -> None:
        """It is acknowledged, since no handler takes it: said once a type."""
        subject, known = item.subject, self._ignored
        if subject in known or len(known) > _KINDS:
            return
        known.add(subject)
        if len(known) > _KINDS:
            logger.warning(
                "%s: more than %d types of events have no handler here: no more of them are named",
                *(self._durable, _KINDS),
            )
            return
        logger.warning(
            "%s: no handler takes %s: such events are acknowledged and counted as ignored (said "
            'once; on_unknown="letter" keeps them as dead letters)',
            *(self._durable, subject[:_TOLD]),
            extra=_known_of(item.incoming),
        )

    def failed(self, item: InHand, error: BaseException, step: Step) -> None:
        """Its handler failed, or the transaction that it was in; ``step`` is what comes of it."""
        incoming = item.incoming
        if is_verdict(error):
            logger.debug("%s: %s: %r", self._durable, item.event_id, error)
            return
        found = self._handlers.find(item.subject)
        handler = None if found is None else found.written
        name = str(handler) if handler is None else name_of(handler)
        place = innermost(error, str(getattr(handler, "__module__", "")))
        kind: _Kind = (name, type(error).__name__, *place)
        if kind not in self._kinds and len(self._kinds) >= _KINDS:
            self.remind()
            kind = kind if len(self._kinds) < _KINDS else _OTHERS
        said = f"{type(error).__name__}: {logs.first_line(error)}"
        known = self._kinds.get(kind)
        if known is not None:
            known.count += 1
            known.last = said
            self.remind()
            return
        now = self._now()
        self._kinds[kind] = _Repeats(now, now + _FIRST_SECONDS)
        outcome = "it becomes a dead letter" if isinstance(step, Bury) else "it is tried again"
        logger.warning(
            "%s: %s failed: %s (%s, event %s, delivery %d): %s",
            *(self._durable, name, said, item.subject[:_TOLD], item.event_id),
            *(incoming.deliveries, outcome),
            exc_info=error,
            extra=_known_of(item.incoming),
        )

    def not_put_off(self, why: str) -> None:
        """A retry keeps its place at the server while it waits: said once a reason."""
        if why not in self._not_put_off and len(self._not_put_off) < _KINDS:
            self._not_put_off.add(why)
            logger.warning(
                "%s: a long Retry(after=...) waits as a pending message, and takes a place of "
                "max_ack_pending: %s",
                *(self._durable, why),
            )

    def remind(self, *, rest: bool = False) -> None:
        """Say what has come together and is due; ``rest``: and all else."""
        now = self._now()
        for kind, repeats in tuple(self._kinds.items()):
            if now < repeats.due and not (rest and repeats.count):
                continue
            if not repeats.count:
                del self._kinds[kind]
                continue
            name, _, file, line = kind
            where = f"{name} failed" if name else "handlers failed in other ways"
            more = counted(repeats.count, "time more", "times more")
            logger.warning(
                "%s: %s %s in the last %.0f s: %s%s",
                *(self._durable, where, more, now - repeats.said_at, repeats.last),
                f" ({file}:{line})" if file else "",
                extra={"consumer": self._durable},
            )
            self._kinds[kind] = _Repeats(now, now + _LATER_SECONDS)


def _known_of(incoming: Incoming) -> Mapping[str, str]:
    """What a log that is made for machines says of a record besides its text."""
    return {
        "event_id": incoming.event_id,
        "consumer": incoming.consumer,
        "correlation_id": incoming.correlation_id,
    }
