"""What the server sends, cut into frames: ``MSG``, ``HMSG`` and the lines beside them. Pure.

Owns: the bytes that arrive, and what is said in a header block. Must not know a connection.
Guarantees: no message, whatever it holds, makes reading it fail: header lines that say nothing are
left out, and bytes that are no text become U+FFFD, as in the client's own reading. So do control
characters in a subject, which stands in other subjects, in lists and in logs.

    bytes ──cut──> Arrival ──frame──> Frame
             └──> how many bytes are lacking
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

_BLANKS = " \t\n\r\v\f"
_VERSION = "NATS/1.0"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONG_NAME = 64

DELIVERED = "$JS.ACK."
"""How the reply subject of everything begins that a stream delivers."""


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
