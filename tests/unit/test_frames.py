"""What the server sends, cut into frames, whole or not yet; headers as the client reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from seaway.brokers.jetstream.wire import Arrival, Frame, cut, frame, headers

BLOCK = b"NATS/1.0\r\nNats-Msg-Id: 7\r\nX-Name: a\r\n\r\n"
MESSAGES = (
    b"MSG sea.event.a 3 5\r\nhello\r\n",
    b"MSG _INBOX.1 12 $JS.ACK.S.C.1.2.3.4.5 0\r\n\r\n",
    b"HMSG sea.event.b 4 reply.to %d %d\r\n%b\r\n\x00\r\r\n" % (len(BLOCK), len(BLOCK) + 4, BLOCK),
    b"HMSG sea.event.c 5 %d %d\r\n%b\r\n" % (len(BLOCK), len(BLOCK), BLOCK),
    b"PING\r\n",
    b"-ERR 'Slow Consumer'\r\n",
)
FRAMES = (
    Frame("sea.event.a", "", {}, b"hello"),
    Frame("_INBOX.1", "$JS.ACK.S.C.1.2.3.4.5", {}, b""),
    Frame("sea.event.b", "reply.to", {"Nats-Msg-Id": "7", "X-Name": "a"}, b"\r\n\x00\r"),
    Frame("sea.event.c", "", {"Nats-Msg-Id": "7", "X-Name": "a"}, b""),
)


def read(received: bytes) -> list[Arrival]:
    """Everything that is whole."""
    found: list[Arrival] = []
    place = 0
    while not isinstance(arrival := cut(received, place), int):
        found.append(arrival)
        place = arrival.end
    return found


def test_messages_and_other_lines() -> None:
    arrivals = read(b"".join(MESSAGES))
    assert [one.sid for one in arrivals] == [3, 12, 4, 5, 0, 0]
    assert tuple(frame(one) for one in arrivals[:4]) == FRAMES
    assert [one.data for one in arrivals[4:]] == list(MESSAGES[4:])


@pytest.mark.parametrize("message", MESSAGES)
def test_what_is_lacking_is_never_more_than_the_message(message: bytes) -> None:
    for length in range(len(message)):
        lacking = cut(b"PING\r\n" + message[:length], 6)
        assert isinstance(lacking, int)
        assert length < lacking <= len(message)


@pytest.mark.parametrize(
    "line", [b"MSG a 1", b"MSG a b c d e f", b"MSG a one 5", b"MSG a 1 x", b"HMSG a 1 5", b"HMSG"]
)
def test_a_line_that_cannot_be_read(line: bytes) -> None:
    with pytest.raises(ValueError):
        cut(line + b"\r\nhello\r\n" * 9, 0)


@pytest.mark.parametrize(
    ("line", "status", "description"),
    [
        (b"NATS/1.0 404 No Messages", "404", "No Messages"),
        (b"NATS/1.0 503", "503", ""),
        (b"NATS/1.0 100 Idle Heartbeat", "100", "Idle Heartbeat"),
    ],
)
def test_a_status(line: bytes, status: str, description: str) -> None:
    block = line + b"\r\nNats-Pending-Messages: 7\r\n\r\n"
    found = Frame("_INBOX.1", "", headers(block), b"")
    assert (found.status, found.description) == (status, description)
    assert found.headers["Nats-Pending-Messages"] == "7"
    assert Frame("a.b", "", headers(block), b"payload").status is None
    # What a stream delivers is a message, whatever its writer began it with, and headers only too.
    assert Frame("a.b", "$JS.ACK.S.C.1.2.3.4.5", headers(block), b"").status is None


ODD = (
    b"no colon here",
    b"\xff\xfe: x",
    b"Two Words: x",
    b"X-Name: \xff\xfe",
    b"X-Tight:x",
    b" X-Wide \t:  x \t",
    b"X-Colon: a:b: c",
    b"X-Blank:",
    b"X-Nbsp: \xc2\xa0x\xc2\xa0",
)


@pytest.mark.parametrize("line", ODD)
async def test_an_odd_line_is_read_as_the_client_reads_it(line: bytes) -> None:
    block = b"NATS/1.0\r\nX-First: 1\r\n" + line + b"\r\nX-Last: 2\r\n\r\n"
    assert headers(block) == await Client()._process_headers(block)


@pytest.mark.parametrize("char", [chr(code) for code in range(0x20) if chr(code) not in "\t\r\n"])
def test_a_subject_may_hold_any_control_character_and_shows_none(char: str) -> None:
    """A server takes and delivers it; taken for a blank, it would end the connection's reading."""
    line = f"MSG sea.event.a{char}b 3 $JS.ACK.S.C.1.2.3.4.5 5\r\nhello\r\n".encode()
    [arrival] = read(line)
    found = frame(arrival)
    assert (found.subject, found.data) == ("sea.event.a\ufffdb", b"hello")
    assert found.reply == "$JS.ACK.S.C.1.2.3.4.5"


@given(
    st.dictionaries(
        st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", fullmatch=True),
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n")),
        min_size=1,
    )
)
def test_what_was_written_is_read(pairs: dict[str, str]) -> None:
    block = "".join(f"{name}: {value}\r\n" for name, value in pairs.items())
    read_back = headers(f"NATS/1.0\r\n{block}\r\n".encode())
    assert read_back == {name: value.strip(" \t\n\r\v\f") for name, value in pairs.items()}


@given(st.binary())
def test_no_block_makes_reading_fail(junk: bytes) -> None:
    for block in (junk, b"NATS/1.0" + junk, b"NATS/1.0\r\n" + junk):
        assert all(name and name.isascii() for name in headers(block))
