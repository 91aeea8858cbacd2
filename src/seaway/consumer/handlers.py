"""Handlers by event type, checked when they are registered, and the delivery that each is given.

Owns: which function takes which subject, and what becomes of a subject that none takes: an unknown
version of an event that is handled here is refused, another event is ignored. Guarantees: what mypy
cannot see (a second handler for the same event, a plain function, an annotation that says another
class) is a ``ConfigError`` at import.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from seaway.consumer.lanes import InHand
from seaway.contracts import Incoming, OutboxWriter
from seaway.errors import ConfigError, DecodeError
from seaway.events import Chain, EventType, RawEvent, continued, event_type_of, unknown_version
from seaway.headers import Metadata
from seaway.words import counted

E = TypeVar("E")


class Delivery:
    """One attempt to handle one event. Valid only while its handler runs."""

    __slots__ = ("_chain", "_incoming", "_metadata", "_outbox", "_tx")

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
    def tx(self) -> Any:
        """The transaction that also holds the inbox row; never commit or roll it back yourself.

        ``ConfigError`` in a consumer without a database.
        """
        if self._tx is None:
            raise ConfigError(f"{self.consumer} has no database: its deliveries have no tx")
        return self._tx

    async def add(
        self,
        *events: object,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Write events to the outbox in this delivery's transaction; their ids in order.

        They carry this event's correlation, and its id as their causation.
        """
        if self._outbox is None:
            raise ConfigError(f"{self.consumer} has no outbox")
        with continued(self._chain):
            added = self._outbox.add(self.tx, *events, key=key, headers=headers)
            return await added if inspect.isawaitable(added) else added


Handler: TypeAlias = Callable[[E, Delivery], Awaitable[None]]
BatchHandler: TypeAlias = Callable[[list[E], list[Delivery]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler, and how its event is read; ``event_type`` ``None``: raw."""

    handler: Callable[[Any, Any], Awaitable[None]]
    event_type: EventType[Any] | None
    takes_lists: bool = False
    refusal: DecodeError | None = None
    """Why its events become dead letters; then there is no handler for them."""

    def read(self, item: InHand) -> Any:
        """The event for the handler; ``DecodeError`` where the payload is not one."""
        message, metadata = item.incoming.message, item.metadata
        if self.refusal is not None:
            raise self.refusal
        if self.event_type is not None:
            return self.event_type.decode(message.payload)
        return RawEvent(
            subject=item.subject,
            payload=message.payload,
            key=metadata.key,
            event_id=metadata.event_id,
            correlation_id=metadata.correlation_id,
            causation_id=metadata.causation_id,
            occurred_at=metadata.occurred_at,
            content_type=metadata.content_type,
            headers=message.headers,
        )


class HandlerTable:
    """The handlers of one consumer. ``keeps_unknown``: it refuses what it would ignore."""

    def __init__(self, consumer: str, *, keeps_unknown: bool = False) -> None:
        self._consumer = consumer
        self._keeps_unknown = keeps_unknown
        self._typed: dict[str, Registration] = {}
        self._versions: dict[str, list[int]] = {}
        """Those that are handled, by the subject without its version."""
        self._raw: Registration | None = None

    def __len__(self) -> int:
        return len(self._typed) + (self._raw is not None)

    @property
    def contexts(self) -> set[str]:
        """Those of the events that have a typed handler."""
        return {subject.partition(".")[0] for subject in self._typed}

    def register(
        self,
        event: type[Any],
        handler: Callable[[Any, Any], Awaitable[None]],
        *,
        takes_lists: bool = False,
    ) -> None:
        """Tie ``handler`` to ``event``, an ``@event`` class or ``RawEvent`` for all others."""
        place = _place(handler)
        event_type = None if event is RawEvent else event_type_of(event)
        subject = "RawEvent" if event_type is None else str(event_type.subject)
        known = self._raw if event_type is None else self._typed.get(subject)
        if known is not None:
            raise ConfigError(
                f"{self._consumer} has two handlers for {subject}: "
                f"{_place(known.handler)} and {place}"
            )
        _check_signature(event, handler, place, takes_lists=takes_lists)
        registration = Registration(handler, event_type, takes_lists)
        if event_type is None:
            self._raw = registration
        else:
            self._typed[subject] = registration
            versions = self._versions.setdefault(subject.rpartition(".")[0], [])
            versions.append(event_type.subject.version)

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


def _check_signature(
    event: type[Any], handler: Callable[..., Any], place: str, *, takes_lists: bool
) -> None:
    if not inspect.iscoroutinefunction(handler):
        raise ConfigError(
            f"{place} is not async", hint="write async def; call blocking code in asyncio.to_thread"
        )
    parameters = list(inspect.signature(handler).parameters.values())
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(parameters) != 2 or len(positional) != 2:
        wanted = (
            f"a batch handler takes two: (events: list[{event.__name__}], "
            "deliveries: list[Delivery])"
            if takes_lists
            else f"a handler takes two: (event: {event.__name__}, delivery: Delivery)"
        )
        raise ConfigError(f"{place} takes {counted(len(parameters), 'parameter')}", hint=wanted)
    try:
        hints = typing.get_type_hints(handler)
    except Exception:
        # Names that exist only for the type checker: it has checked them.
        return
    expected: tuple[type[Any], type[Any]] = (event, Delivery)
    for parameter, given in zip(positional, expected, strict=True):
        said = hints.get(parameter.name, Any)
        if said is Any or (_is_list_of(said, given) if takes_lists else said is given):
            continue
        raise ConfigError(
            f"{place}: {parameter.name} is annotated {_name(said)}, "
            f"but is given {f'list[{given.__name__}]' if takes_lists else given.__name__}"
        )


def _is_list_of(said: Any, given: type[Any]) -> bool:
    return typing.get_origin(said) in (list, Sequence) and typing.get_args(said) == (given,)


def _name(said: Any) -> str:
    return str(said) if typing.get_origin(said) else str(getattr(said, "__name__", said))


def _place(handler: Callable[..., Any]) -> str:
    code = getattr(handler, "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"handler {getattr(handler, '__qualname__', handler)}{where}"
