"""The dashboard's HTTP server: uvicorn, for clients that may not mean well.

Owns: the socket, and how long a client may take. Guarantees: a connection from which no whole
request comes, or whose answer is not taken, is cut; uvicorn by itself would keep it for ever.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from seaway.errors import ConfigError
from seaway.waiting import done_before

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


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Whoever runs it is in charge of them, and of the exit code.


async def serve_until(stop: asyncio.Event, web: ASGIApp, sock: socket.socket) -> None:
    """Answer on ``sock`` until ``stop`` is set; what is being answered then has three seconds."""
    server = _Server(
        uvicorn.Config(
            web,
            http=BoundedProtocol,
            limit_concurrency=MOST_AT_ONCE,
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    await done_before(stop, asyncio.wait({serving}))
    server.should_exit = True
    await serving


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; ``ConfigError`` where the port is taken or the address is not ours."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror}") from error
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {port} of {host} is taken", hint="choose another with --port"
                ) from error
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield sock
