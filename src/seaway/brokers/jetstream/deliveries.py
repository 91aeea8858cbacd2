"""What a pull is given, and where its acknowledgement goes. Pure.

Owns: both forms of ``$JS.ACK`` subjects. Guarantees: what cannot be read raises ``ValueError``; no
number in it becomes zero.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from seaway.brokers.jetstream.frames import Frame
from seaway.contracts import Incoming, Message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_reply(reply: str) -> tuple[str, str, int, int, int, int, int]:
    """``(stream, consumer, deliveries, stream_seq, consumer_seq, nanoseconds, pending)``.

    Reads both forms of ``$JS.ACK``: 9 tokens, and 11 or 12 with domain and account. ``ValueError``
    for anything else.
    """
    tokens = reply.split(".")
    if len(tokens) in (11, 12):
        del tokens[2:4], tokens[9:]
    if len(tokens) != 9 or tokens[0] != "$JS" or tokens[1] != "ACK":
        raise ValueError(f"{reply!r} is not an acknowledgement subject of JetStream")
    _, _, stream, consumer, deliveries, stream_seq, consumer_seq, nanoseconds, pending = tokens
    return (
        *(stream, consumer),
        *(int(deliveries), int(stream_seq), int(consumer_seq), int(nanoseconds), int(pending)),
    )


def incoming_of(frame: Frame) -> Incoming:
    """The delivery that a frame carries; ``ValueError`` where its reply is not JetStream's."""
    reply = frame.reply
    stream, consumer, deliveries, stream_seq, consumer_seq, nanoseconds, pending = parse_reply(
        reply
    )
    return Incoming(
        Message(frame.subject, frame.data, frame.headers),
        stream,
        stream_seq,
        # Cut to microseconds as the API's times are: letters are named by them.
        _EPOCH + timedelta(microseconds=nanoseconds // 1000),
        consumer,
        consumer_seq,
        deliveries,
        pending,
        reply,
    )
