"""uvicorn's HTTP protocol, for clients that may not mean well.

Owns: how long a client may take. Guarantees: a connection from which no whole request comes, or
whose answer is not taken, is cut; uvicorn by itself would keep it for ever.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 30.0
"""From a connection's begin, or its last answer, until the next answer has been written."""
MOST_AT_ONCE = 200
"""Connections and requests; more are told to come back (503)."""


class BoundedProtocol(H11Protocol):
    """One connection. A deadline is set anew with each answer."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._set_deadline()

    def _set_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        # Not ``close``: that would wait until the client has taken what was written.
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
