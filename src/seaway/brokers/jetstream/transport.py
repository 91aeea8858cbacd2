"""The socket under the NATS client, TLS included; in the place of the client's own.

Owns: how far a connection has come (``step``), and its end. Guarantees: what the server said before
it closed can be read, and closing takes a second at the most, whatever the other side does or does
not. Must not know what is said. (nats-py 2.16: its own leaves a failed TLS handshake unfinished and
waits for that for ever, and loses the server's last line where the connection is cut behind it.)
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias
from urllib.parse import ParseResult

Step: TypeAlias = Literal["reaching", "greeting", "tls", "login"]

_GOODBYE_SECONDS = 1


class NotNats(ConnectionError):
    """What answers there does not speak as a NATS server does."""


class _Reader(asyncio.StreamReader):
    """Keeps what has come when the connection is lost: the reason stands there."""

    lost: BaseException | None = None
    come = 0
    """How many bytes, ever."""

    def feed_data(self, data: Any) -> None:
        self.come += len(data)
        super().feed_data(data)

    def set_exception(self, exc: BaseException) -> None:
        self.lost = exc
        self.feed_eof()


class Transport:
    """One at a time; ``connect`` again for the next connection."""

    def __init__(self) -> None:
        self._reader: _Reader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._held = b""
        self._greeted = 0
        self.step: Step = "reaching"

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        """To ``uri``'s host and port. ``OSError``, a ``TimeoutError`` too."""
        assert uri.hostname is not None
        assert uri.port is not None
        self._abort()
        self.step, self._held, self._greeted = "reaching", b"", 0
        loop = asyncio.get_running_loop()
        reader = _Reader(limit=buffer_size, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        async with asyncio.timeout(connect_timeout):
            transport, _ = await loop.create_connection(lambda: protocol, uri.hostname, uri.port)
        self._reader = reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.step = "greeting"

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """Go on with TLS. ``OSError`` (an ``ssl.SSLError`` is one), a ``TimeoutError`` too."""
        assert self._writer is not None
        assert self._reader is not None
        if self._reader.come > self._greeted:
            # Kept, it would be read as if it had come under TLS: anybody may have said it.
            self._abort()
            raise ssl.SSLError(1, "it speaks in the open first")
        before, self.step = self.step, "tls"
        host = uri if isinstance(uri, str) else uri.hostname
        try:
            await self._writer.start_tls(
                ssl_context, server_hostname=host, ssl_handshake_timeout=connect_timeout
            )
        except BaseException:
            self._abort()  # Its protocol hears of no end any more: closing it would wait for ever.
            raise
        self.step = before

    def write(self, payload: bytes) -> None:
        """Hand over. CONNECT waits for the PING behind it: a server that refuses the one closes,
        and the other, sent alone, would cost us what it said."""
        if payload.startswith(b"CONNECT "):
            self._held = payload
        elif self._writer is not None:
            self._writer.write(self._held + payload if self._held else payload)
            self._held = b""

    def writelines(self, payload: Sequence[bytes]) -> None:
        """Hand over all."""
        self.write(b"".join(payload))

    async def drain(self) -> None:
        """Until the socket takes more. ``OSError`` where it is lost."""
        if self._writer is not None:
            await self._writer.drain()

    async def read(self, buffer_size: int) -> bytes:
        """What has come; empty at the end."""
        assert self._reader is not None
        return await self._reader.read(buffer_size)

    async def readline(self) -> bytes:
        """One line of what is said before messages may come. ``OSError`` where none comes."""
        assert self._reader is not None
        try:
            line = await self._reader.readline()
        except ValueError:
            raise NotNats("it sends no lines") from None
        if not line:
            raise self._reader.lost or ConnectionResetError("it closes the connection")
        if self.step == "greeting":
            if not line.startswith(b"INFO {"):
                raise NotNats(f"it says {line[:40]!r}")
            self.step, self._greeted = "login", len(line)
        return line

    def at_eof(self) -> bool:
        """Whether nothing more comes."""
        return self._reader is None or self._reader.at_eof()

    def close(self) -> None:
        """Begin to close, behind what was written."""
        if self._writer is not None:
            self._writer.close()

    async def wait_closed(self) -> None:
        """Until it is closed; what the other side does not take by then is dropped."""
        if self._writer is None:
            return
        with contextlib.suppress(OSError):  # A TimeoutError is one.
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._writer.wait_closed()
        self._abort()

    def _abort(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()
