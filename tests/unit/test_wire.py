"""Frames as the server and other clients read them, whatever a message holds."""

from __future__ import annotations

import asyncio
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from seaway.brokers.jetstream import wire
from seaway.contracts import Message
from seaway.errors import ConfigError
from seaway.headers import wire_bytes
from seaway.naming import MAX_WIRE_SUBJECT_BYTES

BATCH, REPLY = "0123456789abcdef" * 2, b"_INBOX.a.1"
HPUB = re.compile(rb"HPUB (\S+) (\S*) ?(\d+) (\d+)\r\n")
PUB = re.compile(rb"PUB (\S+) (\S*) ?(\d+)\r\n")

names = st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,20}", fullmatch=True)
values = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=60)
lines = st.dictionaries(names, values, max_size=8)
anything = st.text(max_size=40)
payloads = st.binary(max_size=200)


def headers_of(block: bytes) -> dict[str, str]:
    """As nats-py reads a header block."""
    client = Client()
    return asyncio.run(client._process_headers(block)) or {}


def read(frame: bytes) -> tuple[str, str, dict[str, str], bytes]:
    """Subject, reply, headers and payload, as a server takes the frame apart."""
    if match := HPUB.match(frame):
        subject, reply, size, total = match.groups()
        block = frame[match.end() : match.end() + int(size)]
        rest = frame[match.end() + int(size) :]
        headers, length = headers_of(block), int(total) - int(size)
    else:
        match = PUB.match(frame)
        assert match is not None, frame
        subject, reply, total = match.groups()
        rest, headers, length = frame[match.end() :], {}, int(total)
    assert rest[length:] == b"\r\n"
    return subject.decode(), reply.decode(), headers, rest[:length]


def kept(headers: dict[str, str]) -> dict[str, str]:
    """What a reader makes of the values: ASCII blanks around them are not theirs."""
    return {name: value.strip(" \t\n\r\x0b\x0c") for name, value in headers.items()}


@given(headers=lines, payload=payloads)
def test_a_single_frame_reads_back(headers: dict[str, str], payload: bytes) -> None:
    message = wire.prepare(Message("sea.event.süd.v1", payload, headers))
    expected = ("sea.event.süd.v1", REPLY.decode(), kept(headers), payload)
    assert read(wire.single(message, REPLY)) == expected
    assert read(wire.single(message))[1] == ""


@given(sent=st.lists(st.tuples(lines, payloads), min_size=1, max_size=5))
def test_a_batch_reads_back(sent: list[tuple[dict[str, str], bytes]]) -> None:
    messages = [wire.prepare(Message("a", payload, headers)) for headers, payload in sent]
    frames = list(wire.Batch(BATCH).whole(messages, REPLY))
    assert len(frames) == len(sent)
    for place, (frame, (headers, payload)) in enumerate(zip(frames, sent, strict=True), start=1):
        member = {"Nats-Batch-Id": BATCH, "Nats-Batch-Sequence": str(place)}
        if place == len(sent):
            member["Nats-Batch-Commit"] = "1"
        reply = REPLY.decode() if place == len(sent) else ""
        assert read(frame) == ("a", reply, {**kept(headers), **member}, payload)


@given(headers=lines, payload=payloads)
def test_sizes_are_what_the_server_counts(headers: dict[str, str], payload: bytes) -> None:
    message = wire.prepare(Message("a", payload, headers))
    assert message.size == wire_bytes(headers, payload)
    [frame] = wire.Batch(BATCH).whole([message], REPLY)
    match = HPUB.match(frame)
    assert match is not None
    assert int(match[4]) - message.size <= wire.BATCH_HEADER_BYTES


@given(subject=anything, headers=st.dictionaries(anything, anything, max_size=3), payload=payloads)
def test_no_message_breaks_its_frame(subject: str, headers: dict[str, str], payload: bytes) -> None:
    try:
        message = wire.prepare(Message(subject, payload, headers))
    except ConfigError:
        return
    assert read(wire.single(message, REPLY)) == (subject, REPLY.decode(), kept(headers), payload)


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"X-A": "1", "X-Break": "a\r\nX-More: b"}, "X-Break"),
        ({"X-Feed": "a\nb"}, "X-Feed"),
        ({"X-Return": "a\rb"}, "X-Return"),
        ({"X-End": "\r\n\r\nPUB a 0"}, "X-End"),
        ({"X-Outer": "a\n"}, "X-Outer"),
        ({"X-Surrogate": "\ud800"}, "X-Surrogate"),
        ({"X Blank": "a"}, "X Blank"),
        ({"X-Colon:": "a"}, "X-Colon:"),
        ({"": "a"}, "''"),
        ({"süd": "a"}, "süd"),
    ],
)
def test_a_header_that_would_break_the_block_is_named(headers: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        wire.prepare(Message("a", b"", headers))


@pytest.mark.parametrize(
    "subject", ["", "a b", "a\tb", "a\r\nPUB b 0", "a\n", "a\v", "\ud800", "a" * 4000]
)
def test_a_subject_that_would_break_the_line_is_refused(subject: str) -> None:
    with pytest.raises(ConfigError, match="subject"):
        wire.prepare(Message(subject, b""))


def test_the_longest_subject_stays_below_the_servers_control_line() -> None:
    subject = "a" * MAX_WIRE_SUBJECT_BYTES
    message = wire.prepare(Message(subject, b"x" * 1024, {"X": "y"}))
    frame = wire.single(message, b"r" * 200)
    assert frame.index(b"\r\n") < 4096


def test_a_percent_sign_is_itself() -> None:
    headers = {"X-%s": "%d", "%": "100%"}
    assert read(wire.single(wire.prepare(Message("a", b"", headers))))[2] == headers


def test_chunks_are_cut_by_size_and_drawn_one_at_a_time() -> None:
    assert list(wire.chunks([b"aa", b"b", b"ccc", b"d"], 3)) == [[b"aa", b"b"], [b"ccc"], [b"d"]]
    assert list(wire.chunks([], 3)) == []
    endless = wire.chunks(itertools.repeat(b"x"), 2)
    assert next(endless) == [b"x", b"x"]
