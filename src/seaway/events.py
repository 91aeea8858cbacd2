"""Events as Python types: ``@event``, the registry, the ids of events, and what led to an event.

Owns: the link between a class and its subject; the chain (correlation, causation, trace) that
events written from here belong to, which context variables carry. Pure; knows no transport.
Guarantees: ``decode(encode(e)) == e``, or ``encode`` raises, naming the field (``seaway.codec``); a
payload that does not validate raises ``DecodeError`` naming the field; two classes never share a
subject.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from seaway.codec import Codec, place
from seaway.errors import ConfigError, DecodeError
from seaway.naming import EventSubject, event_name_of

T = TypeVar("T")

_ATTRIBUTE = "__seaway_event__"


class EventType(Codec[T]):
    """What ``@event`` knows of a class: its subject, and how to write and read it."""

    def __init__(self, cls: type[T], subject: EventSubject) -> None:
        super().__init__(cls, str(subject))
        self.subject = subject


@dataclass(frozen=True, slots=True)
class RawEvent:
    """An event without a class: bytes for a subject. For gateways, replays and logs.

    Written, it may bring its own ``event_id`` (a UUID's text; adding it twice fails on the unique
    index), ``occurred_at``, ``correlation_id`` and ``causation_id``; a handler for ``RawEvent``
    receives what no typed handler takes.
    """

    subject: str
    payload: bytes
    key: str | None = None
    event_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    occurred_at: datetime | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The payload read as JSON; ``DecodeError`` where it is not, or is nested too deep."""
        try:
            return json.loads(self.payload)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"{self.subject}: the payload is not JSON: {error}") from error


class Registry:
    """Which class stands for which subject. One for the process is enough: ``registry``."""

    def __init__(self) -> None:
        self._types: dict[str, EventType[Any]] = {}

    def register(self, cls: type[T], subject: EventSubject) -> EventType[T]:
        """Tie ``cls`` to ``subject``; ``ConfigError`` where another class has it.

        The same class defined again (a reloaded module) replaces itself.
        """
        known = self._types.get(str(subject))
        if known is not None and place(known.cls) != place(cls):
            raise ConfigError(
                f"{place(cls)} and {place(known.cls)} both claim {subject}",
                hint="give one of them another name= or version=",
            )
        event_type = EventType(cls, subject)
        event_type.refuse_one_way()
        self._types[str(subject)] = event_type
        return event_type

    @property
    def contexts(self) -> list[str]:
        """Of which contexts there are classes, in alphabetical order."""
        return sorted({event_type.subject.context for event_type in self._types.values()})

    @property
    def subjects(self) -> list[str]:
        """Those that classes stand for, in alphabetical order."""
        return sorted(self._types)

    def type_of(self, subject: str) -> EventType[Any]:
        """Of the class that stands for ``subject``; ``DecodeError`` where none does."""
        if (found := self._types.get(subject)) is not None:
            return found
        event, _, version = subject.rpartition(".v")
        versions = [
            one.subject.version
            for known, one in self._types.items()
            if known.rpartition(".v")[0] == event
        ]
        if versions:
            raise unknown_version(subject, version, versions)
        raise DecodeError(f"no class here stands for {subject}", field="subject")

    def check(self) -> None:
        """``ConfigError`` for a class whose types are not known at run time, which cannot be told
        at import: they may be defined after it."""
        for event_type in self._types.values():
            event_type.check()


registry = Registry()


def unknown_version(subject: str, version: str, known: Iterable[int]) -> DecodeError:
    """What is wrong with ``subject``, of an event that is known in other versions."""
    listed = ", ".join(f"v{one}" for one in sorted(known))
    return DecodeError(
        f"{subject}: version {version} is unknown here, known: {listed}", field="version"
    )


def _typed(cls: type[T]) -> type[T]:
    if dataclasses.is_dataclass(cls) or issubclass(cls, BaseModel):
        return cls
    raise ConfigError(
        f"@event on {place(cls)}: neither a dataclass nor a pydantic model",
        hint="put @event above @dataclass, or derive from pydantic.BaseModel",
    )


def event(
    *, context: str, version: int = 1, name: str | None = None, registry: Registry = registry
) -> Callable[[type[T]], type[T]]:
    """Declare a dataclass or pydantic model to be an event.

    ``name`` defaults to the class name in snake case without a final ``Event``. Raises
    ``InvalidName`` or ``ConfigError`` at import. The class itself is returned unchanged.
    """

    def decorate(cls: type[T]) -> type[T]:
        subject = EventSubject(context, name or event_name_of(cls.__name__), version)
        setattr(_typed(cls), _ATTRIBUTE, registry.register(cls, subject))
        return cls

    return decorate


@overload
def event_type_of(what: type[T]) -> EventType[T]: ...
@overload
def event_type_of(what: T) -> EventType[T]: ...
def event_type_of(what: type[T] | T) -> EventType[T]:
    """The ``EventType`` of a class or an instance; ``ConfigError`` if it is not an event."""
    cls = what if isinstance(what, type) else type(what)
    found = cls.__dict__.get(_ATTRIBUTE)
    if not isinstance(found, EventType):
        raise ConfigError(
            f"{place(cls)} is not an event",
            hint="decorate it with @event(context=..., version=...)",
        )
    return found


_DRAWN_BITS, _LOW_BITS = 74, 62
_LOW = (1 << _LOW_BITS) - 1

_last_id = 0
_id_lock = threading.Lock()


def _start_anew() -> None:
    """In a fork's child, what was copied is another's: it goes on from the same last id, and a
    thread of it may hold the lock for ever."""
    global _id_lock, _last_id
    _id_lock, _last_id = threading.Lock(), 0


os.register_at_fork(after_in_child=_start_anew)


def new_event_id() -> str:
    """A UUIDv7 in canonical text (RFC 9562); strictly increasing within the process, whatever its
    clock does. Two processes make the same one only by chance, 1 in 2**61, forked or not."""
    global _last_id
    drawn = int.from_bytes(os.urandom(10)) >> (80 - _DRAWN_BITS)
    count = (time.time_ns() // 1_000_000) << _DRAWN_BITS | drawn
    with _id_lock:
        if count <= _last_id:
            # Same millisecond, or a clock set back. By a step that is drawn: whoever has a copy of
            # this state would make the next ids too. Some 8,000 steps are a millisecond.
            count = _last_id + 1 + (drawn & _LOW)
        _last_id = count
    high = count >> _LOW_BITS  # Milliseconds, and the twelve bits behind the version.
    value = (high >> 12) << 80 | 0x7 << 76 | (high & 0xFFF) << 64 | 0x2 << 62 | count & _LOW
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class Chain:
    """Which request and which event the running code works for.

    A consumer sets it around each handler; a service may set it around each request
    (``chained``). It follows ``await`` and ``asyncio.create_task``; a thread started by hand begins
    without (use ``contextvars.copy_context``). ``causation_id`` is the event being handled,
    ``None`` at the start of a chain.
    """

    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


_current: ContextVar[Chain] = ContextVar("seaway_chain", default=Chain())  # noqa: B039


def current_chain() -> Chain:
    """The chain that the running code is part of; an empty one at a start."""
    return _current.get()


@contextmanager
def chained(
    correlation_id: str | None = None,
    causation_id: str | None = None,
    *,
    traceparent: str | None = None,
    tracestate: str | None = None,
) -> Iterator[Chain]:
    """Events written inside belong to this chain."""
    with continued(Chain(correlation_id, causation_id, traceparent, tracestate)) as chain:
        yield chain


class continued:
    """Events written inside belong to ``chain``; ``None``: to the one that they belong to now."""

    __slots__ = ("_chain", "_token")

    def __init__(self, chain: Chain | None) -> None:
        self._chain = chain

    def __enter__(self) -> Chain:
        chain = self._chain or _current.get()
        self._token = _current.set(chain)
        return chain

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
