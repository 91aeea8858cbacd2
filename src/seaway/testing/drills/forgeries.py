"""What a hostile publisher sends, by kind: made of a seed, the same each time. Pure.

Owns: the generators. Every text that a message can bring is chosen among good ones and among those
that hurt somebody once: control characters, broken encodings, lengths, numbers, names of others.

    headers     events with hostile ids, keys, chains, versions, times, and blocks that are none
    payloads    events that are no JSON, or JSON that is no event
    subjects    events under subjects that are no names
    letters     forged dead letters: other contexts, API subjects, headers that lie or are missing
    redrives    forged redrives, and redrives to nobody
    advisories  the server's own words about a durable, forged
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from seaway import headers as h
from seaway.naming import MAX_DELIVERIES_PREFIX, MSG_TERMINATED_PREFIX
from seaway.testing.drills.foreign import Publication, block

Kind: TypeAlias = Literal["headers", "payloads", "subjects", "letters", "redrives", "advisories"]

FOREIGN_NUMBER = -1
"""What a forged event says where an honest one has its number."""

_SHARES: Mapping[Kind, int] = {
    "headers": 45,
    "payloads": 15,
    "subjects": 10,
    "letters": 15,
    "redrives": 8,
    "advisories": 7,
}
_TEXTS: tuple[bytes, ...] = (
    b"a\x00b",
    b"\x00",
    b"bell\x07 back\x08",
    b"\x1b[31mred\x1b[0m",
    b"tab\there",
    b"\x7f",
    "\x85next".encode(),
    "\u2028line".encode(),
    "\u202etxet".encode(),
    "\ufffd".encode(),
    "\u3000wide".encode(),
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",  # A lone surrogate, as no encoder writes it.
    b"\xf4\x90\x80\x80",
    "\U0001f4a5\u0301".encode(),
    b"'; DROP TABLE effects; --",
    b'{"a": 1}',
    b"${HOME} %s %d {0}",
    b"../../etc/passwd",
    b"DRILL_EVENTS:1",
    b"0",
    b"",
)
_LENGTHS = (1, 255, 1024, 1025, 2700, 8000, 30_000)
_NUMBERS = (b"0", b"-1", b"1.5", b"1e9", b"NaN", b"\xd9\xa1", b"9" * 19, b"9" * 10_000, b"01")
_TIMES = (
    b"now",
    b"2026-11-24",
    b"2026-13-24T08:00:00Z",
    b"9999-12-31T23:59:60Z",
    b"0",
    b"x" * 9000,
)
_NAMES = (b"", b" ", b"X Y", b"X-\xff", b"X\x00", b"nats-msg-id", b"x" * 2000, b"Content-Length")
_CONTROL = ("Nats-Rollup", "Nats-TTL", "Nats-Expected-Last-Sequence", "Nats-Schedule", "Status")
# None of one byte: nats-server (2.15.1) panics over it for whoever reads headers only.
BLOCKS: tuple[bytes, ...] = (
    b"xy",
    b"\r\n\r\n",
    b"garbage\x00without a version\r\n\r\n",
    b"NATS/1.0",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0\r\n: no name\r\n  : neither\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n" + b"a:\r\n" * 15_000 + b"\r\n",
    b"NATS/1.0\r\nX-Big: " + b"x" * 65_000 + b"\r\n\r\n",
    b"NATS/1.0\r\n" + b"X-Event-Id: twice\r\nX-Event-Id: \x00\r\n" * 50 + b"\r\n",
)


@dataclass(frozen=True, slots=True)
class Names:
    """What the hostile knows of the place: he has read the documents."""

    context: str
    subject: str
    stream: str
    durables: tuple[str, ...]
    foreign_context: str
    foreign_stream: str
    foreign_durable: str


class Forger:
    """Makes forged messages; ``made`` counts them by kind."""

    def __init__(self, names: Names, seed: int) -> None:
        self._names = names
        self._chance = random.Random(seed)
        self._makers: Mapping[Kind, Callable[[], Publication]] = {
            "headers": self.headers,
            "payloads": self.payloads,
            "subjects": self.subjects,
            "letters": self.letters,
            "redrives": self.redrives,
            "advisories": self.advisories,
        }
        self._number = 0
        self.made: Counter[str] = Counter()

    def forge(self, count: int) -> Iterator[tuple[Kind, Publication]]:
        """``count`` of them, of every kind, mixed."""
        kinds, shares = tuple(_SHARES), tuple(_SHARES.values())
        for kind in self._chance.choices(kinds, shares, k=count):
            self.made[kind] += 1
            yield kind, self._makers[kind]()

    # ------------------------------------------------------------------ kinds

    def headers(self) -> Publication:
        """On the honest subject, with a payload that can be handled."""
        subject, payload = self._names.subject.encode(), self._event()
        if self._chance.random() < 0.15:
            return Publication(subject, payload, self._chance.choice(BLOCKS))
        lines: list[tuple[bytes, bytes]] = []
        for name in (h.EVENT_ID, h.MSG_ID, h.ORDERING_KEY, h.CORRELATION_ID, h.CAUSATION_ID):
            if self._chance.random() < 0.5:
                lines.append((name.encode(), self._text()))
        for name in (h.TRACEPARENT, h.TRACESTATE, h.CONTENT_TYPE):
            if self._chance.random() < 0.2:
                lines.append((name.encode(), self._text()))
        if self._chance.random() < 0.2:
            lines.append((h.EVENT_VERSION.encode(), self._chance.choice(_NUMBERS)))
        if self._chance.random() < 0.2:
            lines.append((h.OCCURRED_AT.encode(), self._chance.choice(_TIMES)))
        if self._chance.random() < 0.2:
            lines.append((self._chance.choice(_NAMES), self._text()))
        if self._chance.random() < 0.05:
            lines.append((self._chance.choice(_CONTROL).encode(), self._chance.choice(_NUMBERS)))
        if self._chance.random() < 0.1:
            lines *= 2
        self._chance.shuffle(lines)
        return Publication(subject, payload, _fitting(lines))

    def payloads(self) -> Publication:
        """On the honest subject, under an id of its own."""
        deep = self._chance.choice((100, 5_000, 50_000))
        note = self._chance.choice(("\x00", "\ud800", "\x1b[2J", "x" * 100_000))
        payload = self._chance.choice(
            (
                b"",
                b"\xff\xfe",
                b"{",
                b"null",
                b"[]",
                b"[" * deep,
                b"[" * deep + b"]" * deep,
                b'{"number":' * deep + b"1" + b"}" * deep,
                b'{"number": %b, "note": "x"}' % self._chance.choice(_NUMBERS),
                b'{"number": Infinity, "note": "x"}',
                b'{"number": -1, "note": "\xff"}',
                b'{"number": -1, "number": 5}',
                json.dumps({"number": FOREIGN_NUMBER, "note": note}).encode(),
            )
        )
        return Publication(self._names.subject.encode(), payload, block([self._own_id()]))

    def subjects(self) -> Publication:
        """Below the context's events, as far as a server takes it."""
        begin = f"{self._names.context}.event".encode()
        rest = self._chance.choice(
            (
                b"case_moved.v2",
                b"case_moved.v%b" % (b"9" * 300),
                b"Case Moved".replace(b" ", b"\x1c"),
                b"a\x00b.v1",
                b"a\x0bb.v1",
                b"a\x0cb.v1",
                b"\x1b[31m.v1",
                b"\xff\xfe.v1",
                b"*",
                b"x.>",
                "\u202e.v1".encode(),
                b"x" * 300 + b".v1",
                b"x" * 3_000,
                b"x" * 3_900,
                b".".join([b"t"] * 500),
            )
        )
        return Publication(b"%b.%b" % (begin, rest), self._event(), block([self._own_id()]))

    def letters(self) -> Publication:
        """Into the dead letter queue."""
        names = self._names
        rest = self._chance.choice(
            (
                names.subject.encode(),
                b"$JS.API.STREAM.PURGE.%b" % names.stream.encode(),
                b"$JS.API.STREAM.DELETE.%b" % names.foreign_stream.encode(),
                b"%b.event.paid.v1" % names.foreign_context.encode(),
                b"%b.event.*" % names.context.encode(),
                b"%b.event.\x00\x1b[31m.v1" % names.context.encode(),
                b"x",
                b"y" * 3_800,
            )
        )
        streams = (names.stream, names.foreign_stream, f"{names.context.upper()}_REDRIVE", "X Y.>")
        consumers = (*names.durables, names.foreign_durable, "nobody__at_all", "a b.c", "\x1b[5m")
        lines = [
            (h.DLQ_STREAM.encode(), self._or_text(*streams)),
            (h.DLQ_STREAM_SEQUENCE.encode(), self._chance.choice((b"1", b"7", *_NUMBERS))),
            (h.DLQ_CONSUMER.encode(), self._or_text(*consumers)),
            (h.DLQ_DELIVERIES.encode(), self._chance.choice((b"5", *_NUMBERS))),
            (h.DLQ_REASON.encode(), self._or_text("poison", "parked", "exhausted")),
            (h.DLQ_FAILED_AT.encode(), self._or_text("2026-11-24T08:00:00Z")),
            (h.DLQ_ERROR.encode(), self._text()),
            (h.DLQ_ERROR_TYPE.encode(), self._text()),
            (h.DLQ_ERROR_STACK.encode(), self._text()),
            (h.EVENT_ID.encode(), self._or_text(f"forged-{self._next()}")),
        ]
        if self._chance.random() < 0.3:
            lines.append((b"X-Dlq-Payload", b"by-reference"))
        if self._chance.random() < 0.3:
            lines = self._chance.sample(lines, k=self._chance.randint(0, len(lines)))
        subject = b"%b.dlq.%b" % (names.context.encode(), rest)
        return Publication(subject, self._event(), _fitting(lines))

    def redrives(self) -> Publication:
        """Into the redrive stream."""
        names = self._names
        durable = self._chance.choice((*names.durables, names.foreign_durable, "nobody__at_all"))
        rest = self._chance.choice((names.subject.encode(), b"x", b"$JS.API.INFO", b"a\x0bb", b"*"))
        subject = b"%b.redrive.%b.%b" % (names.context.encode(), durable.encode(), rest)
        lines = [self._own_id(), (h.ORDERING_KEY.encode(), self._text())]
        return Publication(subject, self._event(), _fitting(lines))

    def advisories(self) -> Publication:
        """As the server would say it, or nearly."""
        names, chance = self._names, self._chance
        stream = chance.choice((names.stream, names.foreign_stream, "A" * 5_000 + "_EVENTS", "X.>"))
        consumer = chance.choice((*names.durables, names.foreign_durable, "nobody__at_all", "\x1b"))
        said = {
            "type": "io.nats.jetstream.advisory.v1.max_deliver",
            "stream": stream,
            "consumer": consumer,
            # Of the other context, what has not been delivered there: the rest would be believed.
            "stream_seq": chance.randint(1, chance.choice((50, 1_000, 20_000)))
            + 10**6 * (stream != names.stream),
            "deliveries": chance.choice((5, 0, 2**62, -1, "5")),
        }
        payload = json.dumps(said).encode()
        if chance.random() < 0.3:
            payload = chance.choice((b"", b"\xff", b"[" * 100_000, b"{}", b'{"stream": 5}'))
        prefix = chance.choice((MAX_DELIVERIES_PREFIX, MSG_TERMINATED_PREFIX))
        return Publication(f"{prefix}.{names.stream}.{names.durables[0]}".encode(), payload)

    # ------------------------------------------------------------------ texts

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _event(self) -> bytes:
        return b'{"number": %d, "note": "forged"}' % FOREIGN_NUMBER

    def _own_id(self) -> tuple[bytes, bytes]:
        return h.MSG_ID.encode(), b"foreign-%d" % self._next()

    def _or_text(self, *good: str) -> bytes:
        return self._text() if self._chance.random() < 0.2 else self._chance.choice(good).encode()

    def _text(self) -> bytes:
        chance = self._chance
        if chance.random() < 0.2:
            return b"foreign-text-%d" % self._next()
        if chance.random() < 0.3:
            length = chance.choice(_LENGTHS)
            return chance.randbytes(length).hex().encode()[:length]
        if chance.random() < 0.2:
            return chance.randbytes(chance.randint(1, 40)).replace(b"\r", b"").replace(b"\n", b"")
        return b"%b%b" % (chance.choice(_TEXTS), b"-%d" % self._next() * chance.randint(0, 1))


def _fitting(lines: list[tuple[bytes, bytes]]) -> bytes:
    """As many of the lines as a stream takes."""
    while len(made := block(lines)) > h.HEADER_BLOCK_BYTES:
        lines = lines[:-1]
    return made
