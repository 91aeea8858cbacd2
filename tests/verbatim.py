"""A client that sends exactly the bytes that it is given, as a stranger may."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


class Verbatim:
    """A connection of its own; one request at a time."""

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        self._socket = socket.create_connection((at.hostname or "", at.port or 0), timeout=10)
        self._received = b""
        self._asked = 0
        hello = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
            "lang": "none",
            "version": "1",
        }
        self._line()
        self._socket.sendall(b"CONNECT %b\r\nSUB _R.v.* 1\r\nPING\r\n" % json.dumps(hello).encode())
        while not self._line().startswith(b"PONG"):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def put(
        self, subject: bytes, payload: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> int:
        """Its sequence in the stream that took it; 0 where none did, or it was a duplicate."""
        self._asked += 1
        reply = b"_R.v.%d" % self._asked
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        if lines:
            block = b"NATS/1.0\r\n%b\r\n" % lines
            sizes = b"%d %d" % (len(block), len(block) + len(payload))
            frame = b"HPUB %b %b %b\r\n%b%b\r\n" % (subject, reply, sizes, block, payload)
        else:
            frame = b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)
        self._socket.sendall(frame)
        while (answer := self._answer()) is None or answer[0] != reply:
            pass
        try:
            said = json.loads(answer[1])
        except ValueError:
            return 0
        return 0 if said.get("duplicate") else int(said.get("seq", 0))

    def _answer(self) -> tuple[bytes, bytes] | None:
        line = self._line()
        if line.startswith(b"-ERR"):
            raise ConnectionError(line.decode())
        if line.startswith(b"PING"):
            self._socket.sendall(b"PONG\r\n")
        words = line.split()
        if words[0] not in (b"MSG", b"HMSG"):
            return None
        size = int(words[-1])
        while len(self._received) < size + 2:
            self._received += self._more()
        body, self._received = self._received[:size], self._received[size + 2 :]
        return words[1], body

    def _line(self) -> bytes:
        while b"\r\n" not in self._received:
            self._received += self._more()
        line, _, self._received = self._received.partition(b"\r\n")
        return line

    def _more(self) -> bytes:
        received: Any = self._socket.recv(1 << 16)
        if not received:
            raise ConnectionError("the server closed the connection")
        return bytes(received)
