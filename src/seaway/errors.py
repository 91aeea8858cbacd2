"""The exception tree, split by what the caller does next.

Owns: every exception that crosses Seaway's public surface. Knows nothing else of the package.
Guarantees: a class says what to do (fix, retry, resend, dead letter), its fields say about what;
codes are matched, texts never. The docstring's first line is the message where none is given.

    SeawayError
    ├── ConfigError            fix the configuration or the call, then start again
    │   ├── InvalidName        a subject, stream or durable that the contract does not allow
    │   ├── EventTooLarge      refused at write time; nothing was written
    │   ├── OutsideTransaction open a transaction first
    │   ├── SchemaMismatch     run ``seaway db upgrade``
    │   └── MissingExtra       pip install seaway[extra]
    ├── NotFound               the thing asked about is not there
    ├── TransientError         nothing is wrong with the call: try again
    │   ├── BrokerUnavailable  no server, no leader, no answer
    │   │   └── NotPermitted   grant the right that it names; whoever runs on tries again
    │   └── StoreUnavailable   database away or locked
    │       ├── TransactionConflict  another transaction was in the way: again, at once
    │       └── SessionLost    the session ended under its transaction: again, on another
    ├── StoreRefused           the database takes no such row: the event's doing, not an outage
    ├── ApiError               JetStream's API refused a request
    ├── DecodeError            a message that no retry will make readable: dead letter now
    ├── Refuse                 raised by a transform: this letter stays in its queue
    └── HandlerSignal          raised by handlers to say how a delivery ends
        ├── AlreadyProcessed   its effects are there already: acknowledge
        ├── Poison             it will never succeed: dead letter now
        ├── Retry              try again, after the given delay
        └── Unavailable        something that handlers need is away: pause the consumer
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Literal, TypeAlias

LONGEST = timedelta(days=366)
"""The longest that anything is put off."""


class SeawayError(Exception):
    """Seaway failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (inspect.getdoc(type(self)) or "").partition("\n")[0])


class ConfigError(SeawayError):
    """The configuration is not usable.

    ``where`` names the place (``seaway.yaml:12``), ``hint`` the way out; both are in the text.
    """

    def __init__(
        self, message: str | None = None, *, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = super().__str__()
        if self.where:
            text = f"{self.where}: {text}"
        if self.hint:
            text = f"{text} ({self.hint})"
        return text


class InvalidName(ConfigError, ValueError):
    """A name that the naming rules do not allow."""


class EventTooLarge(ConfigError, ValueError):
    """The event is larger than its stream takes; nothing was written."""


class OutsideTransaction(ConfigError):
    """No transaction is open on this handle, so the event could not be atomic with anything.

    Begin a transaction (or make your own change first) and add the event inside it.
    """


class SchemaMismatch(ConfigError):
    """The database's Seaway tables do not fit this version: run ``seaway db upgrade``."""


class NoDatabase(SchemaMismatch):
    """There is no such database file, and what was asked makes none: `seaway db upgrade` does."""


class MissingExtra(ConfigError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs an extra: pip install 'seaway[{extra}]'")
        self.extra = extra


class NotFound(SeawayError):
    """The thing asked about does not exist."""


class TransientError(SeawayError):
    """Not possible right now; the same call may succeed later."""


class BrokerUnavailable(TransientError):
    """The NATS server cannot be reached, or does not answer."""


class NotPermitted(BrokerUnavailable):
    """The server does not let this user publish or subscribe to a subject.

    ``verb``: ``publish`` or ``subscribe``; ``right``: what has to be granted, of which ``subject``
    is one. It may be granted while we run: what waits for it tries again.
    """

    def __init__(self, verb: str, subject: str, right: str) -> None:
        what = "it" if right == subject else right
        super().__init__(
            f"no permission to {verb} to {subject}: grant {what} (`seaway permissions` lists what "
            "each role needs)"
        )
        self.verb = verb
        self.subject = subject
        self.right = right


class CannotRewind(SeawayError):
    """The server does not give out again what it has sent; it will after ``ack_wait``."""


class StoreUnavailable(TransientError):
    """The database cannot be reached, or is locked by another writer."""


class TransactionConflict(StoreUnavailable):
    """Another transaction was in the way and this one was rolled back: run it again at once."""


class SessionLost(StoreUnavailable):
    """The database's session ended under its transaction, which did nothing: run it again."""


class StoreRefused(SeawayError):
    """The database refuses what a row was to hold; others are not concerned."""


WhyApi: TypeAlias = Literal["no_jetstream", "too_many_replicas", "subjects_taken", "other"]


class ApiError(SeawayError):
    """JetStream refused an API request.

    ``why``: what a caller acts on; ``subjects_taken`` by another stream. For people, ``code`` is
    the HTTP-like class and ``err_code`` the exact reason (see the server's errors.json).
    """

    def __init__(
        self, description: str, *, code: int, err_code: int, why: WhyApi = "other"
    ) -> None:
        super().__init__(f"{description} (code {code}, err_code {err_code})")
        self.description = description
        self.code = code
        self.err_code = err_code
        self.why: WhyApi = why


class DecodeError(SeawayError):
    """The message cannot be read as the event that its subject names; ``field`` says where."""

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Refuse(SeawayError):
    """Raised in a transform of dead letters, with the reason: this letter stays in its queue."""


class HandlerSignal(SeawayError):
    """Raised in a handler to say how its delivery ends."""


class AlreadyProcessed(HandlerSignal):
    """The event's effects are there already; the message is acknowledged."""


class Poison(HandlerSignal):
    """This event can never succeed here; it goes to the dead letter queue."""


class Retry(HandlerSignal):
    """Try this delivery again ``after`` a delay (default: exponential backoff, full jitter).

    A negative one is none at all; more than 366 days are a ``ValueError``. One of a minute or more
    takes no place of ``max_ack_pending`` where the server can send later (ADR 0030).
    """

    def __init__(self, message: str | None = None, *, after: timedelta | None = None) -> None:
        super().__init__(message)
        if after is not None and not isinstance(after, timedelta):
            raise TypeError(f"Retry: after is a timedelta, like timedelta(hours=6), not {after!r}")
        if after is not None and after > LONGEST:
            raise ValueError(f"Retry: after is 366 days at the most, not {after.days} days")
        self.after = after


class Unavailable(HandlerSignal):
    """Something that this consumer's handlers need is away, through no fault of the event.

    The consumer pauses and keeps what it has in hand, which burns no deliveries; then one delivery
    at a time probes whether it is back, the first ``after`` that delay (default: backoff).
    """

    def __init__(self, message: str | None = None, *, after: timedelta | None = None) -> None:
        super().__init__(message)
        self.after = after
