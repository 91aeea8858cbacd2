"""Which request and which event the running code works for, carried by context variables.

Owns: the correlation and causation that events written from here get. Pure. A consumer sets it
around each handler; a service may set it around each request. Context variables follow ``await``
and ``asyncio.create_task``; a thread started by hand begins without (use
``contextvars.copy_context``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chain:
    """``causation_id`` is the event being handled, ``None`` at the start of a chain."""

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
