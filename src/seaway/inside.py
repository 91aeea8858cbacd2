"""Whether code runs inside a delivery's transaction, for whoever watches connections beside it.

Owns: one context variable. What a handler starts and leaves running is told that the call is over.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any


class Inside:
    """A call of handlers in a transaction of ``handle``, for as long as it is entered."""

    __slots__ = ("_token", "handle", "over")

    _token: Token[Inside | None]

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.over = False

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        self.over = True
        _current.reset(self._token)


_current: ContextVar[Inside | None] = ContextVar("seaway_inside", default=None)


def handle_of_delivery() -> Any:
    """``delivery.tx`` of the handler that is running here; ``None`` outside, and where its consumer
    has no database."""
    found = _current.get()
    return None if found is None or found.over else found.handle
