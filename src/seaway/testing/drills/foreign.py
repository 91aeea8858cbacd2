"""A foreign client of the server: sends exactly the bytes that it is given, as no library would.

Owns: one socket. Knows the few lines of the core protocol that publishing needs, and checks nothing
of what is sent. A server that has enough of it and closes the connection is connected to again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

_CONNECT = json.dumps(
    {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "foreign"}
)
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Publication:
    """What to send. ``block``: the header block to the letter, ``None``: none."""

    subject: bytes
    payload: bytes = b""
    block: bytes | None = None

    def frame(self, reply: bytes = b"") -> bytes:
        """Its bytes on the wire."""
        size = len(self.payload)
        names = b"%b %b" % (self.subject, reply) if reply else self.subject
        if self.block is None:
            return b"PUB %b %d\r\n%b\r\n" % (names, size, self.payload)
        head = len(self.block)
        line = b"HPUB %b %d %d\r\n" % (names, head, head + size)
        return b"%b%b%b\r\n" % (line, self.block, self.payload)


def block(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A header block of these lines, whatever is in them."""
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"NATS/1.0\r\n%b\r\n" % lines


class ForeignClient:
    """Made by ``foreign_client``; one call at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._inbox = b"_R.%b." % os.urandom(8).hex().encode()
        self._asked = 0
        self.refusals = 0
        """How often the server has closed the connection."""

    async def publish(self, *publications: Publication) -> None:
        """Return when the server has read them, or has closed the connection over one of them."""
        for one in publications:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._send(one.frame() + b"PING\r\n")
                    await self._until(b"PONG")
            except OSError:
                self.refusals += 1
                await self.close()

    async def put(
        self, subject: bytes, payload: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> int:
        """Its place in the stream that took it; 0 where none did, or it was a duplicate."""
        self._asked += 1
        reply = b"%b%d" % (self._inbox, self._asked)
        one = Publication(subject, payload, block(headers) if headers else None)
        async with asyncio.timeout(_PATIENCE):
            await self._send(one.frame(reply))
            answer = await self._until(reply)
        try:
            said = json.loads(answer)
        except ValueError:
            return 0  # Nobody has answered: there are headers in place of it.
        return 0 if said.get("duplicate") else int(said.get("seq", 0))

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
            hello = b"CONNECT %b\r\nSUB %b* 1\r\n" % (_CONNECT.encode(), self._inbox)
            self._writer.write(hello)
        self._writer.write(frame)
        await self._writer.drain()

    async def _until(self, wanted: bytes) -> bytes:
        """Read on to PONG, or to a message on that subject: what it holds."""
        assert self._reader is not None
        assert self._writer is not None
        while True:
            line = await self._reader.readline()
            words = line.split()
            match words[:1]:
                case [b"PONG"] if wanted == b"PONG":
                    return b""
                case [b"MSG" | b"HMSG"]:
                    held = await self._reader.readexactly(int(words[-1]) + 2)
                    if words[1] == wanted:
                        return held[:-2]
                case [b"PING"]:
                    self._writer.write(b"PONG\r\n")
                case [b"INFO" | b"+OK" | b"PONG"]:
                    pass
                case _:
                    raise ConnectionError(line)


@asynccontextmanager
async def foreign_client(url: str) -> AsyncIterator[ForeignClient]:
    """A client of the server at ``url``; closed at the end."""
    client = ForeignClient(url)
    try:
        yield client
    finally:
        await client.close()
