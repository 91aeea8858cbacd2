"""The core protocol's bytes, both ways: what we send, and what the server sends. Pure.

Owns: frames (``PUB``, ``HPUB``, ``MSG``, ``HMSG``), what may stand in one, and what a header block
and JetStream's reply subject say. Must not know a connection.

    message ──prepare──> Prepared ──┬── single ──> one frame
                                    └── Batch ───> frames of one atomic batch (ADR-50 of NATS)
    a delivery's reply subject ──bare──> one frame

    bytes ──cut──> Arrival ──frame──> Frame ──incoming_of──> Incoming, of a pull
             └──> how many bytes are lacking

Guarantees, of what is sent: no message, whatever it holds, ends its frame early or makes the server
close the connection; it raises ``ConfigError`` that names what is wrong with it instead. Read back
by any client, a frame gives the headers that it was made of, but for blanks around a value, which
readers drop.

Of what arrives: no message, whatever it holds, makes reading it fail: header lines that say nothing
are left out, and bytes that are no text become U+FFFD, as in the client's own reading. So do
control characters in a subject, which stands in other subjects, in lists and in logs. No number of
a reply subject becomes zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from seaway import headers as h
from seaway.contracts import Incoming, Message
from seaway.errors import ConfigError, InvalidName
from seaway.naming import MAX_WIRE_SUBJECT_BYTES

BATCH_HEADER_BYTES = 160
"""No less than what membership of a batch adds to a message's headers."""

_BLOCK_BYTES = len(b"NATS/1.0\r\n\r\n")
_SUBJECT = re.compile(r"[^ \t\r\n\v\f\ud800-\udfff]+")  # nats-py's readers end it at \v and \f.
_VALUE = re.compile(r"[^\r\n\0\ud800-\udfff]*")
_BLANKS = " \t\n\r\v\f"
_VERSION = "NATS/1.0"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONG_NAME = 64

DELIVERED = "$JS.ACK."
"""How the reply subject of everything begins that a stream delivers."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# ------------------------------------------------------------------ what is sent


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


def later(message: Message, *, at: datetime, subject: str) -> Prepared:
    """``message``, to lie under ``subject`` until the server sends it at ``at``."""
    sent = prepare(message)
    own = f"{h.SCHEDULE}: {h.format_schedule(at)}\r\n{h.SCHEDULE_TARGET}: ".encode()
    lines = b"%b%b%b\r\n" % (sent.lines, own, sent.subject)
    size = len(lines) + _BLOCK_BYTES + len(sent.payload)
    return Prepared(_subject(subject), lines, sent.payload, size)


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
    if len(encoded) > MAX_WIRE_SUBJECT_BYTES:  # The server would close the connection over it.
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


# ------------------------------------------------------------------ what arrives


@dataclass(slots=True)
class Frame:
    """A message as the core protocol delivers it. ``status``: a control message's number."""

    subject: str
    reply: str
    headers: Mapping[str, str]
    data: bytes

    @property
    def status(self) -> str | None:
        """``404``, ``408``, ``409``, ``503``, ``100``; ``None`` for a message, also for one whose
        foreign writer gave it a status of its own."""
        if self.data or self.reply.startswith(DELIVERED):
            return None
        return self.headers.get("Status")

    @property
    def description(self) -> str:
        """The text beside the status."""
        return self.headers.get("Description", "")


class Arrival(NamedTuple):
    """A message, or a line of another kind: that has ``sid`` 0 and stands in ``data``."""

    end: int
    """Where the next one begins."""
    sid: int
    subject: bytes
    reply: bytes
    block: bytes
    """The header block; empty where there is none."""
    data: bytes


def cut(received: bytes, start: int) -> Arrival | int:
    """What begins at ``start``, or the least number of bytes from there that could be all of it.

    ``ValueError`` where a message's line cannot be read.
    """
    end = received.find(b"\r\n", start)
    if end < 0:
        return len(received) - start + 1
    # At blanks alone: a foreign subject may hold any other control character.
    words = received[start:end].split(b" ")
    kind, head = words[0], end + 2
    if kind == b"HMSG" and 5 <= len(words) <= 6:
        begin = head + int(words[-2])
        reply = words[3] if len(words) == 6 else b""
    elif kind == b"MSG" and 4 <= len(words) <= 5:
        begin = head
        reply = words[3] if len(words) == 5 else b""
    elif kind in (b"HMSG", b"MSG"):
        raise ValueError(f"{received[start:end]!r} is not the line of a message")
    else:
        return Arrival(head, 0, b"", b"", b"", received[start:head])
    stop = head + int(words[-1])
    if len(received) < stop + 2:
        return stop + 2 - start
    block, data = received[head:begin], received[begin:stop]
    return Arrival(stop + 2, int(words[2]), words[1], reply, block, data)


def frame(arrival: Arrival) -> Frame:
    """The message of an arrival."""
    _, _, subject, reply, block, data = arrival
    return Frame(
        subject_text(subject.decode("utf-8", "replace")),
        reply.decode("utf-8", "replace"),
        headers(block) if block else {},
        data,
    )


def subject_text(subject: str) -> str:
    """A message's subject, with U+FFFD for each control character."""
    return subject if subject.isprintable() else _CONTROL.sub("\ufffd", subject)


def headers(block: bytes) -> dict[str, str]:
    """What a header block says; a status line gives ``Status`` and ``Description``."""
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    found: dict[str, str] = {}
    if first != _VERSION:
        status, _, description = first[len(_VERSION) :].strip(_BLANKS).partition(" ")
        if status.isdigit():
            found["Status"] = status
        if description:
            found["Description"] = description
    for line in lines:
        raw, colon, value = line.partition(":")
        # Remembered are short ones: a stranger's would hold 64 KiB each.
        if colon and (name := _name(raw) if len(raw) <= _LONG_NAME else _name_in(raw)):
            found[name] = value.strip(_BLANKS)
    return found


def _name_in(raw: str) -> str:
    """Empty where it is none."""
    name = raw.strip(_BLANKS)
    return name if name.isascii() and len(name.split()) == 1 else ""


_name = lru_cache(maxsize=1024)(_name_in)


def incoming_of(frame: Frame) -> Incoming:
    """The delivery that a frame carries. ``ValueError`` where its reply subject is not one of
    ``$JS.ACK``: 9 tokens, or 11 to 12 with domain and account."""
    tokens = frame.reply.split(".")
    if len(tokens) in (11, 12):
        del tokens[2:4], tokens[9:]
    if len(tokens) != 9 or tokens[0] != "$JS" or tokens[1] != "ACK":
        raise ValueError(f"{frame.reply!r} is not an acknowledgement subject of JetStream")
    _, _, stream, consumer, deliveries, stream_seq, consumer_seq, nanoseconds, pending = tokens
    return Incoming(
        Message(frame.subject, frame.data, frame.headers),
        stream,
        int(stream_seq),
        # Cut to microseconds as the API's times are: letters are named by them.
        _EPOCH + timedelta(microseconds=int(nanoseconds) // 1000),
        consumer,
        int(consumer_seq),
        int(deliveries),
        int(pending),
        frame.reply,
    )
