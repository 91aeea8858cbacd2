"""A foreign client of the server: sends exactly the bytes that it is given, as no library would.

Owns: one socket. Knows the few lines of the core protocol that publishing needs, and checks
nothing. A server that has enough of it and closes the connection is connected to again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

_CONNECT = json.dumps({"verbose": False, "pedantic": False, "headers": True, "lang": "foreign"})
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Publication:
    """What to send. ``block``: the header block to the letter, ``None``: none."""

    subject: bytes
    payload: bytes = b""
    block: bytes | None = None

    @property
    def frame(self) -> bytes:
        """Its bytes on the wire."""
        size = len(self.payload)
        if self.block is None:
            return b"PUB %b %d\r\n%b\r\n" % (self.subject, size, self.payload)
        head = len(self.block)
        line = b"HPUB %b %d %d\r\n" % (self.subject, head, head + size)
        return b"%b%b%b\r\n" % (line, self.block, self.payload)


def block(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A header block of these lines, whatever is in them."""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"NATS/1.0\r\n%b\r\n" % lines


class ForeignClient:
    """Made by ``foreign_client``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.refusals = 0
        """How often the server has closed the connection."""

    async def publish(self, *publications: Publication) -> None:
        """Return when the server has read them, or has closed the connection over one of them."""
        for one in publications:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._send(one.frame + b"PING\r\n")
            except OSError:
                self.refusals += 1
                await self.close()

    async def close(self) -> None:
        """Idempotent."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _send(self, frame: bytes) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
            await self._reader.readline()
            self._writer.write(b"CONNECT %b\r\n" % _CONNECT.encode())
        assert self._reader is not None
        self._writer.write(frame)
        await self._writer.drain()
        while (line := await self._reader.readline()) != b"PONG\r\n":
            if line == b"PING\r\n":
                self._writer.write(b"PONG\r\n")
            elif not line.startswith((b"INFO", b"+OK")):
                raise ConnectionError(line)


@asynccontextmanager
async def foreign_client(url: str) -> AsyncIterator[ForeignClient]:
    """A client of the server at ``url``; closed at the end."""
    client = ForeignClient(url)
    try:
        yield client
    finally:
        await client.close()
