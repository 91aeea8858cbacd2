"""Publications as the core protocol writes them: ``PUB`` and ``HPUB`` frames. Pure.

Owns: the bytes of a frame, and what may stand in one. Must not know a connection. Guarantees: no
message, whatever it holds, ends its frame early or makes the server close the connection; it raises
``ConfigError`` that names what is wrong with it instead. Read back by any client, a frame gives the
headers that it was made of, but for blanks around a value, which readers drop.

    message ──prepare──> Prepared ──┬── single ──> one frame
                                    └── Batch ───> frames of one atomic batch (ADR-50 of NATS)
    a delivery's reply subject ──bare──> one frame
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from seaway import headers as h
from seaway.contracts import Message
from seaway.errors import ConfigError, InvalidName

CONTROL_LINE_BYTES = 4096
"""The server's default ``max_control_line``: it closes the connection over a longer one."""

BATCH_HEADER_BYTES = 160
"""No less than what membership of a batch adds to a message's headers."""

_LINE_ROOM = 256  # For the verb, a reply subject and two sizes.
_BLOCK_BYTES = len(b"NATS/1.0\r\n\r\n")
_SUBJECT = re.compile(r"[^ \t\r\n\v\f\ud800-\udfff]+")  # nats-py's readers end it at \v and \f.
_VALUE = re.compile(r"[^\r\n\0\ud800-\udfff]*")


class Prepared(NamedTuple):
    """A message that may be sent.

    ``lines``: its header lines, each with its line end. ``size``: bytes of headers and payload as
    the server counts them against ``max_payload``.
    """

    subject: bytes
    lines: bytes
    payload: bytes
    size: int


def prepare(message: Message) -> Prepared:
    """Encode and check; ``ConfigError`` for what cannot stand in a frame."""
    payload, lines = message.payload, _lines(message)
    block = len(lines) + _BLOCK_BYTES if lines else 0
    return Prepared(_subject(message.subject), lines, payload, block + len(payload))


def single(message: Prepared, reply: bytes = b"") -> bytes:
    """One frame. ``reply``: where the acknowledgement goes, of at most 200 bytes."""
    subject, lines, payload, _ = message
    if not lines:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)
    return _hpub(subject, reply, lines, payload)


def bare(subject: str, payload: str, reply: str = "") -> bytes:
    """One frame without headers. Not checked: a subject that the server sent, or that is known."""
    return f"PUB {subject} {reply} {len(payload.encode())}\r\n{payload}\r\n".encode()


class Batch:
    """One atomic batch, to be sent once. The server stores nothing of it before its commit."""

    def __init__(self, batch_id: str) -> None:
        self._member = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: " % batch_id.encode()
        self._last: Prepared | None = None
        self._place = 0

    def whole(self, messages: Iterable[Prepared], reply: bytes) -> Iterator[bytes]:
        """One frame a message, the last with the commit; none where there are no messages."""
        yield from self.members(messages)
        if self._last is not None:
            yield self.commit(reply)

    def members(self, messages: Iterable[Prepared]) -> Iterator[bytes]:
        """One frame a message but for the last. Takes from ``messages`` always one ahead."""
        member = self._member
        for message in messages:
            if self._last is not None:
                subject, lines, payload, _ = self._last
                yield _hpub(subject, b"", b"%b%b%d\r\n" % (lines, member, self._place), payload)
            self._last = message
            self._place += 1

    def commit(self, reply: bytes) -> bytes:
        """The frame of the last message, which stores all. ``reply``: for the acknowledgement."""
        assert self._last is not None
        subject, lines, payload, _ = self._last
        commit = b"%b%b%d\r\nNats-Batch-Commit: 1\r\n" % (lines, self._member, self._place)
        return _hpub(subject, reply, commit, payload)

    def drop(self) -> bytes:
        """A frame with a gap before it: the server forgets the members at once."""
        assert self._last is not None
        return _hpub(self._last.subject, b"", b"%b%d\r\n" % (self._member, self._place + 1), b"")


def chunks(frames: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """``frames`` in order, in lists that end once they hold ``size`` bytes."""
    chunk: list[bytes] = []
    held = 0
    for frame in frames:
        chunk.append(frame)
        held += len(frame)
        if held >= size:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _hpub(subject: bytes, reply: bytes, lines: bytes, payload: bytes) -> bytes:
    block = len(lines) + _BLOCK_BYTES
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (
        *(subject, reply, block, block + len(payload)),
        *(lines, payload),
    )


@lru_cache(maxsize=1024)
def _subject(subject: str) -> bytes:
    if not _SUBJECT.fullmatch(subject):
        raise ConfigError(f"{subject!r} is not a subject: it is empty, or has blanks or line ends")
    encoded = subject.encode()
    if len(encoded) > CONTROL_LINE_BYTES - _LINE_ROOM:
        raise ConfigError(f"a subject of {len(encoded)} bytes is too long: {subject[:80]}…")
    return encoded


@lru_cache(maxsize=1024)
def _form(names: tuple[str, ...]) -> str:
    """Header lines with a place for each value. Messages of one kind share their names."""
    for name in names:
        h.check_header(name, "")
        h.check_control(name)
    return "".join(f"{name.replace('%', '%%')}: %s\r\n" for name in names)


def _lines(message: Message) -> bytes:
    headers = message.headers
    if isinstance(headers, h.StoredHeaders):
        if (lines := headers.lines) is not None:
            return lines
        if fault := headers.fault:
            raise InvalidName(fault)
    text = _form(tuple(headers)) % tuple(headers.values())
    if text.count("\n") == text.count("\r") == len(headers) and "\0" not in text:
        try:
            return text.encode()
        except UnicodeEncodeError:
            pass
    # A line end would let the value's writer add headers of his own choosing.
    broken = next(name for name, value in headers.items() if not _VALUE.fullmatch(str(value)))
    raise InvalidName(f"header {broken}: a line break, NUL, or not UTF-8 text")
