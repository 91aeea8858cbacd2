"""What an acknowledgement means, how a run is cut into batches, and what a reply subject says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seaway.brokers.jetstream.connection import Frame
from seaway.brokers.jetstream.publish import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    batches,
    classify,
    size_of,
)
from seaway.brokers.jetstream.pull import incoming_of, parse_reply
from seaway.contracts import Message, Refused, Stored, Unconfirmed


def answer(**content: Any) -> Frame:
    return Frame("_INBOX.1", "", {}, json.dumps(content).encode())


def error(code: int, err_code: int) -> Frame:
    return answer(error={"code": code, "err_code": err_code, "description": "no"})


def test_an_acknowledgement_is_stored() -> None:
    assert classify(answer(stream="SEA_EVENTS", seq=7)) == Stored(7)
    assert classify(answer(stream="SEA_EVENTS", seq=7, duplicate=True)) == Stored(7, True)


def test_silence_is_unconfirmed() -> None:
    assert isinstance(classify(None), Unconfirmed)


@pytest.mark.parametrize(
    "data", [b"", b"+OK", b"[]", b"7", b"{}", b'{"seq": null}', b'{"seq": "x"}', b'{"error": 1}']
)
def test_an_unreadable_answer_is_unconfirmed(data: bytes) -> None:
    assert isinstance(classify(Frame("_INBOX.1", "", {}, data)), Unconfirmed)


def test_nobody_listening_heals() -> None:
    outcome = classify(Frame("_INBOX.1", "", {"Status": "503"}, b""))
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.heals) == (503, True)


@pytest.mark.parametrize(
    ("code", "err_code", "heals"),
    [
        (503, 10077, True),  # full
        (503, 10008, True),  # JetStream is away
        (500, 10000, True),
        (404, 10059, True),  # no such stream yet
        (503, 10076, True),
        (503, 10039, True),
        (429, 10167, True),
        (400, 10054, False),  # larger than the stream takes
        (400, 10071, False),  # not the last sequence it expects
        (400, 10060, False),  # meant for another stream
    ],
)
def test_refusals_heal_or_not(code: int, err_code: int, heals: bool) -> None:
    assert classify(error(code, err_code)) == Refused("no", code, err_code, heals)


def test_size_is_what_the_server_counts() -> None:
    assert size_of(Message("a", b"123")) == 3
    # "NATS/1.0\r\n" + "Name: ü\r\n"-like lines + "\r\n"
    block = b"NATS/1.0\r\nName:" + "ü".encode() + b"\r\n\r\n"
    assert size_of(Message("a", b"123", {"Name": "ü"})) >= len(block) + 3


def test_batches_are_cut_by_count() -> None:
    messages = [Message("a", b"")] * (2 * BATCH_MESSAGES + 1)
    runs = [list(run) for run in batches(messages)]
    assert [len(run) for run in runs] == [BATCH_MESSAGES, BATCH_MESSAGES, 1]
    assert [index for run in runs for index in run] == list(range(len(messages)))


def test_batches_are_cut_by_bytes() -> None:
    half = Message("a", b"x" * (BATCH_BYTES // 2))
    small = Message("a", b"x")
    assert [list(run) for run in batches([half, half, small, half])] == [[0, 1], [2, 3]]


def test_a_message_larger_than_a_batch_stands_alone() -> None:
    large, small = Message("a", b"x" * (BATCH_BYTES + 1)), Message("a", b"x")
    assert [list(run) for run in batches([small, large, small])] == [[0], [1], [2]]


def test_no_messages_make_no_batch() -> None:
    assert list(batches([])) == []


PARSED = ("SEA_EVENTS", "case_mgmt__from_sea", 2, 41, 57, 1_700_000_000_000_000_000, 3)
NUMBERS = "SEA_EVENTS.case_mgmt__from_sea.2.41.57.1700000000000000000.3"


@pytest.mark.parametrize(
    "reply",
    [
        f"$JS.ACK.{NUMBERS}",
        f"$JS.ACK._.ACCOUNT.{NUMBERS}",
        f"$JS.ACK.hub.ACCOUNT.{NUMBERS}.token",
    ],
)
def test_both_forms_of_a_reply_are_read(reply: str) -> None:
    assert parse_reply(reply) == PARSED


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX.abc",
        "$JS.ACK",
        "$JS.ACK.SEA_EVENTS.durable.1.2.3.4",
        f"$JS.ACK.one.{NUMBERS}",
        "$JS.ACK.SEA_EVENTS.durable.x.2.3.4.5",
        f"$JS.API.{NUMBERS}",
    ],
)
def test_other_replies_are_refused(reply: str) -> None:
    with pytest.raises(ValueError):
        parse_reply(reply)


def test_a_delivery_is_read_from_its_frame() -> None:
    reply = f"$JS.ACK.{NUMBERS}"
    incoming = incoming_of(Frame("sea.event.a.v1", reply, {"X-Event-Id": "e"}, b"{}"))
    assert incoming.message == Message("sea.event.a.v1", b"{}", {"X-Event-Id": "e"})
    assert (incoming.stream, incoming.consumer, incoming.reply) == (*PARSED[:2], reply)
    assert (incoming.deliveries, incoming.stream_seq, incoming.consumer_seq) == (2, 41, 57)
    assert (incoming.pending, incoming.stored_at.timestamp()) == (3, 1_700_000_000)
    assert incoming.event_id == "e"
