"""What an acknowledgement means, how a call is cut into pieces, and what a reply subject says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.api import classify, concerns_the_stream
from seaway.brokers.jetstream.publish import BATCH_BYTES, BATCH_MESSAGES, Cut, Piece
from seaway.brokers.jetstream.wire import Frame, incoming_of
from seaway.contracts import Held, Message, PublishOutcome, Refused, Stored, Unconfirmed


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
    assert (outcome.code, outcome.heals, outcome.why) == (503, True, "unheard")


@pytest.mark.parametrize(
    ("code", "err_code", "heals"),
    [
        (503, 10077, True),  # full
        (409, 10158, True),  # its id is being stored just now
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
    outcome = classify(error(code, err_code))
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.err_code, outcome.heals) == (code, err_code, heals)


@pytest.mark.parametrize(
    ("code", "err_code"), [(503, 10077), (400, 10002), (503, 10023), (500, 10028), (500, 10047)]
)
def test_no_room_is_no_trouble_of_the_stream(code: int, err_code: int) -> None:
    """In the stream (whichever bound), the account, the server's memory, on its disk."""
    outcome = classify(error(code, err_code))
    assert isinstance(outcome, Refused)
    assert (outcome.heals, outcome.full) == (True, True)
    assert not concerns_the_stream(outcome)


ENOUGH = 64 * 1024 * 1024


def stored(piece: Piece) -> list[PublishOutcome]:
    return [Stored(place + 1) for place in piece.places]


def drawn(cut: Cut) -> Piece:
    piece = Piece()
    assert list(cut.draw(piece)) == piece.messages
    return piece


def pieces(messages: list[Message], *, limit: int = ENOUGH) -> tuple[list[list[int]], Cut]:
    """The places of each piece, every message of which is stored."""
    cut, found = Cut(messages, limit=limit), []
    while (piece := drawn(cut)).places:
        assert cut.settle(piece, stored(piece))
        found.append(piece.places)
    return found, cut


def keyed(key: str, payload: bytes = b"x", subject: str = "a") -> Message:
    return Message(subject, payload, {"X-Ordering-Key": key})


def test_pieces_are_cut_by_count() -> None:
    found, _ = pieces([Message("a", b"")] * (2 * BATCH_MESSAGES + 1))
    assert [len(piece) for piece in found] == [BATCH_MESSAGES, BATCH_MESSAGES, 1]
    assert [place for piece in found for place in piece] == list(range(2 * BATCH_MESSAGES + 1))


def test_pieces_are_cut_by_bytes() -> None:
    half, small = Message("a", b"x" * (BATCH_BYTES // 2)), Message("a", b"x")
    assert pieces([half, half, small, half])[0] == [[0, 1], [2, 3]]


def test_a_message_larger_than_a_batch_stands_alone() -> None:
    large, small = Message("a", b"x" * (BATCH_BYTES + 1)), Message("a", b"x")
    assert pieces([small, large, small])[0] == [[0], [1], [2]]


def test_a_message_without_room_for_a_batchs_headers_stands_alone() -> None:
    tight, small = Message("a", b"x" * 1000), Message("a", b"x")
    cut = Cut([tight, small], limit=1000)
    assert cut.stands_alone()
    assert drawn(cut).places == [0]
    assert not cut.stands_alone()
    assert pieces([small, tight, small], limit=1000)[0] == [[0], [1], [2]]
    assert pieces([small, tight, small], limit=1000 + wire.BATCH_HEADER_BYTES)[0] == [[0, 1, 2]]


def test_no_messages_make_no_piece() -> None:
    assert pieces([])[0] == []


@pytest.mark.parametrize(
    "ill", [keyed("k", b"x" * 2000), keyed("k", subject="a b"), keyed("k", subject="")]
)
def test_what_cannot_be_sent_holds_back_its_key_alone(ill: Message) -> None:
    found, cut = pieces([keyed("k"), ill, keyed("k"), keyed("other")], limit=1000)
    assert [place for piece in found for place in piece] == [0, 3]
    assert isinstance(cut.outcomes[1], Refused)
    assert not cut.outcomes[1].heals
    assert cut.outcomes[2] == Held()


def test_a_key_that_was_not_stored_is_not_drawn_again_even_where_encoded_ahead() -> None:
    half = b"x" * (BATCH_BYTES // 2)
    cut = Cut([keyed("a", half), keyed("a", half), keyed("b", half), keyed("a")], limit=ENOUGH)
    piece = drawn(cut)
    assert cut.settle(piece, [Refused("no", 400, 10054, heals=False)])
    following = drawn(cut)
    assert (piece.places, following.places) == ([0], [2])
    assert isinstance(cut.outcomes[0], Refused)
    assert (cut.outcomes[1], cut.outcomes[3]) == (Held(), Held())


def test_what_had_no_room_holds_back_what_needs_as_much_of_its_subject() -> None:
    half = b"x" * (BATCH_BYTES // 2)
    messages = [keyed("a", half), keyed("b", half), keyed("c", half), keyed("a"), keyed("d")]
    messages += [keyed("e", half, subject="other"), keyed("c")]
    cut = Cut(messages, limit=ENOUGH)
    piece = drawn(cut)
    full = Refused("full", 503, 10077, heals=True, why="full")
    cut.no_room(piece.messages[0], full)
    assert cut.settle(piece, [full] * len(piece.places))
    assert drawn(cut).places == [4, 5]
    assert cut.outcomes[:4] == [full, full, full, Held()][:4] or piece.places == [0]
    assert cut.outcomes[6] == Held()


def test_behind_an_id_that_was_there_its_key_waits_to_be_looked_at() -> None:
    cut = Cut([keyed("a")] * BATCH_MESSAGES + [keyed("a"), keyed("b")], limit=ENOUGH)
    piece = drawn(cut)
    assert cut.settle(piece, [Stored(1, duplicate=True)] * len(piece.places))
    assert drawn(cut).places == [BATCH_MESSAGES + 1]


@pytest.mark.parametrize("ill", [Refused("ill", 503, 10008, heals=True), Unconfirmed("silence")])
def test_trouble_with_the_stream_ends_the_call(ill: PublishOutcome) -> None:
    cut = Cut([Message("a", b"")] * (BATCH_MESSAGES + 2), limit=ENOUGH)
    piece = drawn(cut)
    assert not cut.settle(piece, [ill] * len(piece.places))
    later = ill if isinstance(ill, Refused) else Held()
    assert cut.outcomes == [ill] * BATCH_MESSAGES + [later] * 2


NUMBERS = "SEA_EVENTS.case_mgmt__from_sea.2.41.57.1700000000000000000.3"


@pytest.mark.parametrize(
    "reply",
    [
        f"$JS.ACK.{NUMBERS}",
        f"$JS.ACK._.ACCOUNT.{NUMBERS}",
        f"$JS.ACK.hub.ACCOUNT.{NUMBERS}.token",
    ],
)
def test_a_delivery_is_read_from_its_frame(reply: str) -> None:
    incoming = incoming_of(Frame("sea.event.a.v1", reply, {"X-Event-Id": "e"}, b"{}"))
    assert incoming.message == Message("sea.event.a.v1", b"{}", {"X-Event-Id": "e"})
    assert (incoming.stream, incoming.consumer) == ("SEA_EVENTS", "case_mgmt__from_sea")
    assert (incoming.deliveries, incoming.stream_seq, incoming.consumer_seq) == (2, 41, 57)
    assert (incoming.pending, incoming.stored_at.timestamp()) == (3, 1_700_000_000)
    assert (incoming.event_id, incoming.reply) == ("e", reply)


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
        incoming_of(Frame("sea.event.a.v1", reply, {}, b"{}"))
