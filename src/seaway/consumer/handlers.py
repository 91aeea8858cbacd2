"""Handlers by event type, checked when they are registered, and the delivery that each is given.

Owns: which function takes which subject, and what becomes of a subject that none takes: an unknown
version of an event that is handled here is refused, another event is ignored. Guarantees: what mypy
cannot see (a second handler for the same event, plain and ``async`` ones beside each other, an
annotation that says another class, a parameter that nobody fills) is a ``ConfigError`` at import.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from seaway.consumer.callables import place_of
from seaway.consumer.lanes import InHand
from seaway.consumer.middleware import Middleware, surrounded
from seaway.consumer.wiring import Overrides, Wired, wire
from seaway.contracts import Incoming, OutboxWriter
from seaway.errors import ConfigError, DecodeError
from seaway.events import Chain, EventType, RawEvent, continued, event_type_of, unknown_version
from seaway.headers import Metadata

E = TypeVar("E")
P = ParamSpec("P")
R = TypeVar("R", bound=Awaitable[None] | None)


class Added(list[str]):
    """The ids of the events that ``Delivery.add`` wrote, in order.

    A plain handler has them at once. An ``async`` handler awaits this, and has them then.
    """

    __slots__ = ("_writing",)

    def __init__(self, written: list[str] | Awaitable[list[str]]) -> None:
        self._writing: Awaitable[list[str]] | None = None
        if isinstance(written, list):
            super().__init__(written)
        else:
            self._writing = written

    def __await__(self) -> Generator[Any, None, list[str]]:
        writing, self._writing = self._writing, None
        if writing is not None:
            self[:] = yield from writing.__await__()
        return self

    def forgotten(self) -> bool:
        """Whether nobody awaited it, so that nothing is written, nor will be."""
        writing, self._writing = self._writing, None
        if inspect.iscoroutine(writing):
            writing.close()
        return writing is not None


class Delivery:
    """One attempt to handle one event. Valid only while its handler runs."""

    __slots__ = ("_added", "_chain", "_incoming", "_metadata", "_outbox", "_tx")

    def __init__(
        self,
        incoming: Incoming,
        metadata: Metadata,
        tx: Any = None,
        outbox: OutboxWriter | None = None,
        chain: Chain | None = None,
    ) -> None:
        """``chain``: for a delivery among several, whose chain ``add`` continues."""
        self._incoming = incoming
        self._metadata = metadata
        self._tx = tx
        self._outbox = outbox
        self._chain = chain
        self._added: list[Added] | None = None

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.deliveries} of {self.event_id} to {self.consumer}: "
            f"{self.subject}, {self.stream} {self.stream_seq}>"
        )

    @property
    def event_id(self) -> str:
        return self._metadata.event_id

    @property
    def subject(self) -> str:
        """The event's own subject, also where it came by a redrive."""
        return self._incoming.event_subject

    @property
    def stream(self) -> str:
        return self._incoming.stream

    @property
    def stream_seq(self) -> int:
        return self._incoming.stream_seq

    @property
    def consumer(self) -> str:
        return self._incoming.consumer

    @property
    def deliveries(self) -> int:
        """1 at the first attempt. Not counted: attempts that an outage or a conflict between
        transactions undid, and those of a batch that failed for another event's sake.

        It goes on where a process or its connection ends, as far as is known: of attempts that
        ended their process without being noted before, one is counted.
        """
        return self._incoming.deliveries

    @property
    def correlation_id(self) -> str:
        return self._metadata.correlation_id

    @property
    def causation_id(self) -> str | None:
        return self._metadata.causation_id

    @property
    def key(self) -> str | None:
        return self._metadata.key

    @property
    def occurred_at(self) -> datetime | None:
        return self._metadata.occurred_at

    @property
    def stored_at(self) -> datetime:
        return self._incoming.stored_at

    @property
    def headers(self) -> Mapping[str, str]:
        return self._incoming.message.headers

    @property
    def redriven(self) -> bool:
        """Whether it comes from the dead letter queue."""
        return self._incoming.redriven

    @property
    def tried(self) -> bool:
        """Whether its transaction is rolled back afterwards, since somebody only wants to know what
        would come of it (``seaway dlq redrive --try``, ``seaway replay --shadow``). What a handler
        does elsewhere, an e-mail or a request, is done all the same: it looks here before that."""
        return False

    @property
    def tx(self) -> Any:
        """The transaction that also holds the inbox row; never commit or roll it back yourself.

        ``ConfigError`` in a consumer without a database.
        """
        if self._tx is None:
            raise ConfigError(f"{self.consumer} has no database: its deliveries have no tx")
        return self._tx

    def add(
        self,
        *events: object,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Added:
        """Write events to the outbox in this delivery's transaction; their ids in order.

        They carry this event's correlation, and its id as their causation. An ``async`` handler
        awaits it (``ids = await delivery.add(...)``): one that does not has failed, with nothing
        written. In a plain handler the events are written when it returns. Raises what
        ``Outbox.add`` does. Not idempotent, but undone with the delivery.
        """
        if self._outbox is None:
            raise ConfigError(f"{self.consumer} has no outbox")
        with continued(self._chain):
            added = Added(self._outbox.add(self.tx, *events, key=key, headers=headers))
        if self._added is None:
            self._added = []
        self._added.append(added)
        return added


def require_written(delivery: Delivery) -> None:
    """``ConfigError`` where its handler, which has returned, added events and did not await it."""
    if delivery._added is not None and [one for one in delivery._added if one.forgotten()]:
        raise ConfigError(
            f"the handler of {delivery.subject} added events and did not await them, so they are "
            "not written",
            hint="write await delivery.add(...)",
        )


class Registers(Protocol[E]):
    """Takes a handler whose first parameter is an ``E``, and gives it back as it is."""

    def __call__(self, handler: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], R]:
        """Register it."""
        ...


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler, and how its event is read; ``event_type`` ``None``: raw."""

    handler: Callable[[Any, Any], Any]
    """What is called: with its dependencies, and the middleware around it."""
    event_type: EventType[Any] | None
    takes_lists: bool = False
    plain: bool = False
    """Whether it is no coroutine function, so that it runs in a thread."""
    refusal: DecodeError | None = None
    """Why its events become dead letters; then there is no handler for them."""
    wired: Wired | None = None
    """The same without middleware."""
    written: Callable[..., Any] | None = None
    """The handler as it was registered."""

    @property
    def code(self) -> Callable[..., Any]:
        """What its user wrote."""
        return self.written or self.handler

    def read(self, item: InHand) -> Any:
        """The event for the handler; ``DecodeError`` where the payload is not one."""
        message, metadata = item.incoming.message, item.metadata
        if self.refusal is not None:
            raise self.refusal
        if self.event_type is not None:
            return self.event_type.decode(message.payload)
        return raw_event(item.subject, message.payload, metadata, message.headers)


def raw_event(
    subject: str, payload: bytes, metadata: Metadata, headers: Mapping[str, str]
) -> RawEvent:
    """An event as it was written, with what its ``headers`` say of it (``metadata``)."""
    return RawEvent(
        subject=subject,
        payload=payload,
        key=metadata.key,
        event_id=metadata.event_id,
        correlation_id=metadata.correlation_id,
        causation_id=metadata.causation_id,
        occurred_at=metadata.occurred_at,
        content_type=metadata.content_type,
        headers=headers,
    )


class HandlerTable:
    """The handlers of one consumer. ``keeps_unknown``: it refuses what it would ignore.
    ``middleware``: what stands around each of them."""

    def __init__(
        self,
        consumer: str,
        *,
        keeps_unknown: bool = False,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._consumer = consumer
        self._keeps_unknown = keeps_unknown
        self._middleware = tuple(middleware)
        self._typed: dict[str, Registration] = {}
        self._versions: dict[str, list[int]] = {}
        """Those that are handled, by the subject without its version."""
        self._raw: Registration | None = None
        self._first: Registration | None = None

    @property
    def plain(self) -> bool:
        """Whether its handlers are plain functions: all of them are, or none."""
        return self._first is not None and self._first.plain

    def written(self) -> list[Callable[..., Any]]:
        """The handlers as they were registered."""
        raw = [] if self._raw is None else [self._raw]
        return [one.code for one in (*self._typed.values(), *raw)]

    def __len__(self) -> int:
        return len(self._typed) + (self._raw is not None)

    @property
    def contexts(self) -> set[str]:
        """Those of the events that have a typed handler."""
        return {subject.partition(".")[0] for subject in self._typed}

    def register(
        self, event: type[Any], handler: Callable[..., Any], *, takes_lists: bool = False
    ) -> None:
        """Tie ``handler`` to ``event``, an ``@event`` class or ``RawEvent`` for all others.

        ``ConfigError`` for what cannot be: a second handler of an event, a signature that does not
        fit, a plain handler beside an ``async`` one.
        """
        event_type = None if event is RawEvent else event_type_of(event)
        subject = "RawEvent" if event_type is None else str(event_type.subject)
        known = self._raw if event_type is None else self._typed.get(subject)
        if known is not None:
            assert known.written is not None
            raise ConfigError(
                f"{self._consumer} has two handlers for {subject}: "
                f"handler {place_of(known.written)} and handler {place_of(handler)}"
            )
        registration = self._registration(handler, event_type, takes_lists, None)
        if self._first is None:
            self._first = registration
        elif self._first.plain != registration.plain:
            assert self._first.written is not None
            here, there = place_of(handler), place_of(self._first.written)
            plain, waits = (here, there) if registration.plain else (there, here)
            raise ConfigError(
                f"{self._consumer} mixes kinds of handlers: handler {plain} is plain, "
                f"handler {waits} is async",
                hint="make all of a consumer's handlers the same kind, or declare a consumer of "
                "its own for the others (purpose=)",
            )
        if event_type is None:
            self._raw = registration
        else:
            self._typed[subject] = registration
            versions = self._versions.setdefault(subject.rpartition(".")[0], [])
            versions.append(event_type.subject.version)

    def surround(self, middleware: Sequence[Middleware]) -> None:
        """Put ``middleware`` around each handler, in place of what stood there."""
        typed = {subject: self._around(one, middleware) for subject, one in self._typed.items()}
        raw = None if self._raw is None else self._around(self._raw, middleware)
        self._typed, self._raw, self._middleware = typed, raw, tuple(middleware)

    def override(self, overrides: Overrides) -> list[Callable[..., Any]]:
        """Put others in the place of providers, instead of those that stood there; the providers
        that any handler depends on, as they are written."""
        typed = {subject: self._anew(one, overrides) for subject, one in self._typed.items()}
        raw = None if self._raw is None else self._anew(self._raw, overrides)
        self._typed, self._raw = typed, raw
        every = [*typed.values(), *([raw] if raw else [])]
        return [provider for one in every if one.wired for provider in one.wired.used]

    def _anew(self, known: Registration, overrides: Overrides) -> Registration:
        assert known.written is not None
        return self._registration(known.written, known.event_type, known.takes_lists, overrides)

    def _registration(
        self,
        handler: Callable[..., Any],
        event_type: EventType[Any] | None,
        takes_lists: bool,
        overrides: Overrides | None,
    ) -> Registration:
        given = (RawEvent if event_type is None else event_type.cls, Delivery)
        wired = wire(handler, given, takes_lists=takes_lists, overrides=overrides)
        made = Registration(
            *(wired.call, event_type, takes_lists, wired.plain), wired=wired, written=handler
        )
        return self._around(made, self._middleware)

    def _around(self, one: Registration, middleware: Sequence[Middleware]) -> Registration:
        assert one.wired is not None
        assert one.written is not None
        call = surrounded(
            one.wired.call,
            middleware,
            place=f"handler {place_of(one.written)}",
            plain=one.wired.plain,
            delivery=Delivery,
            takes_lists=one.takes_lists,
        )
        return replace(one, handler=call)

    def handles(self, subject: str) -> bool:
        """Whether it is handled, or refused; all other events are ignored."""
        return self.find(subject) is not None

    def find(self, subject: str) -> Registration | None:
        """The handler for a subject: the typed one, else the raw one, else what refuses it."""
        return self._typed.get(subject, self._raw) or self._refusing(subject)

    def _refusing(self, subject: str) -> Registration | None:
        event, _, version = subject.rpartition(".")
        if known := self._versions.get(event):
            why = unknown_version(subject, version.removeprefix("v"), known)
        elif self._keeps_unknown:
            why = DecodeError(f"{subject}: {self._consumer} has no handler for it", field="subject")
        else:
            return None
        # Read like an event that has a handler: it may have taken effect in a process that had one.
        return Registration(_nobody, None, refusal=why)


async def _nobody(event: Any, delivery: Any) -> None:
    raise AssertionError("what is refused reaches no handler")
