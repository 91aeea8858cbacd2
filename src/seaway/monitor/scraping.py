"""``/metrics`` of a process at work, served by the process itself.

Owns: an ASGI application for web frameworks, and a small HTTP server for processes without one.
Needs no web framework. Guarantees: it shows figures of this process alone, and nothing of any
event; a client that says nothing, reads nothing or comes with a hundred others costs no more than
a few connections for a few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from seaway import logs
from seaway.errors import ConfigError
from seaway.monitor.metrics import CONTENT_TYPE, Activity, activity_exposition
from seaway.telemetry import Telemetry

logger = logs.logger("seaway")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]

LOOPBACK = "127.0.0.1"
PATH = "/metrics"
_PATIENCE_SECONDS = 5.0
_LONGEST_REQUEST = 16 * 1024
_MOST_AT_ONCE = 20


class MetricsApp:
    """An ASGI application that answers every GET with this process' figures.

    An object, so that frameworks take it for a route as well as for a mounted application.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._activity = Activity()
        telemetry.subscribe(self._activity.listen)

    def text(self) -> str:
        """The figures, in Prometheus' text format."""
        return activity_exposition(self._activity)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] != "http":
            return
        known = scope["method"] in ("GET", "HEAD")
        body = self.text().encode() if known else b"read only\n"
        headers = [
            (b"content-type", CONTENT_TYPE.encode() if known else b"text/plain"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send(
            {
                "type": "http.response.start",
                "status": 200 if known else 405,
                "headers": headers if known else [*headers, (b"allow", b"GET, HEAD")],
            }
        )
        shown = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": shown})


def address(given: str | int) -> tuple[str, int]:
    """``9000``, ``HOST:9000`` or ``[::1]:9000`` as host and port; ``ConfigError`` for another."""
    host, _, port = str(given).rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ConfigError(
            f"metrics: {given!r} is no port",
            hint="PORT or HOST:PORT, like 9400; 0 takes a free one",
        )
    return host.removeprefix("[").removesuffix("]") or LOOPBACK, int(port)


@asynccontextmanager
async def serving(app: MetricsApp, given: str | int) -> AsyncIterator[int]:
    """Serve ``app`` under ``/metrics`` until the block ends; the port.

    ``ConfigError`` where the port is taken, or the address is not ours.
    """
    host, port = address(given)
    open_now: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(open_now) >= _MOST_AT_ONCE:
            writer.transport.abort()
            return
        open_now[task] = writer
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await _answer(app, reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # Whoever asks like this is told nothing.
        finally:
            del open_now[task]
            writer.transport.abort()

    try:
        server = await asyncio.start_server(client, host, port, limit=_LONGEST_REQUEST)
    except OSError as error:
        raise ConfigError(
            f"metrics: cannot listen on {host}:{port}: {error.strerror or error}",
            hint="another port; 0 takes a free one",
        ) from error
    taken = int(server.sockets[0].getsockname()[1])
    shown = f"[{host}]" if ":" in host else host
    logger.info("metrics of this process on http://%s:%d%s", shown, taken, PATH)
    try:
        yield taken
    finally:
        server.close()
        for writer in open_now.values():
            writer.transport.abort()  # Its task ends by that; streams report a cancelled one.
        await asyncio.gather(*open_now, return_exceptions=True)


async def _answer(
    app: MetricsApp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One request and its answer; the connection ends with it."""
    head = await reader.readuntil(b"\r\n\r\n")
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].decode("ascii", "replace")
    status, body, kind = "200 OK", app.text().encode(), CONTENT_TYPE
    if method not in (b"GET", b"HEAD"):
        status, body, kind = "405 Method Not Allowed", b"read only\n", "text/plain"
    elif path not in (PATH, "/"):
        status, body, kind = "404 Not Found", b"it is under /metrics\n", "text/plain"
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n".encode()
    )
    if method != b"HEAD":
        writer.write(body)
    await writer.drain()
    writer.write_eof()
    # Ended by the client: an end of ours could overtake what it has not read yet.
    while await reader.read(_LONGEST_REQUEST):
        pass
