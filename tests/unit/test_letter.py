"""A letter's form: what it keeps, what it cuts, what a hostile message cannot make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway import headers as h
from seaway.brokers.jetstream import wire
from seaway.contracts import Incoming, Message, StoredMessage
from seaway.dead_letters import Selection, writing
from seaway.dead_letters import letter as form
from seaway.dead_letters.letter import Letter
from seaway.errors import InvalidName, Poison
from seaway.naming import is_event_of

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)
SUBJECT = "sea.event.case_created.v1"
DURABLE = "case_mgmt__from_sea"
LIMIT = 1024 * 1024


def incoming(
    headers: dict[str, str] | None = None,
    payload: bytes = b'{"case": 7}',
    subject: str = SUBJECT,
    stream: str = "SEA_EVENTS",
) -> Incoming:
    carried = {h.MSG_ID: "e-1", h.CORRELATION_ID: "c-1"} if headers is None else headers
    return Incoming(Message(subject, payload, carried), stream, 17, NOW, DURABLE, 3, 20, 0)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def write(
    of: Incoming,
    error: BaseException | None = None,
    room: int | None = LIMIT,
    kept: bool = True,
) -> Message:
    return writing.write(of, reason="poison", error=error, failed_at=NOW, room=room, kept=kept)


def redriven(
    of: Letter, payload: bytes | None = None, *, to_all: bool = False
) -> tuple[str, Message]:
    event = Message(of.subject, of.payload if payload is None else payload, of.headers)
    return form.redriven(of, event, edition=payload, to_all=to_all)


def stored(message: Message, seq: int = 5) -> StoredMessage:
    return StoredMessage(message, "SEA_DLQ", seq, NOW)


def letter(of: Incoming | None = None, error: BaseException | None = None) -> Letter:
    return form.read(stored(write(of or incoming(), error)))


def test_a_letter_says_what_the_contract_asks() -> None:
    message = write(incoming(), raised(Poison("no such case")))
    stack = message.headers.pop(h.DLQ_ERROR_STACK)  # type: ignore[attr-defined]
    assert message.subject == "sea.dlq.sea.event.case_created.v1"
    assert message.payload == b'{"case": 7}'
    assert message.headers == {
        "Nats-Msg-Id": "dlq:case_mgmt__from_sea:SEA_EVENTS:17:e-1",
        "X-Event-Id": "e-1",
        "X-Correlation-Id": "c-1",
        "X-Dlq-Stream": "SEA_EVENTS",
        "X-Dlq-Stream-Sequence": "17",
        "X-Dlq-Consumer": "case_mgmt__from_sea",
        "X-Dlq-Deliveries": "20",
        "X-Dlq-Reason": "poison",
        "X-Dlq-Error-Type": "seaway.errors.Poison",
        "X-Dlq-Error": "no such case",
        "X-Dlq-Failed-At": "2026-11-24T08:00:00.000000Z",
    }
    assert stack.startswith("Traceback")
    assert stack.endswith("\\nseaway.errors.Poison: no such case")


def test_what_was_written_is_read_back() -> None:
    read = letter(error=raised(ValueError("C:\\new\nline")))
    assert (read.id, read.event_id, read.subject) == ("SEA_DLQ:5", "e-1", SUBJECT)
    assert (read.stream, read.stream_seq, read.consumer) == ("SEA_EVENTS", 17, DURABLE)
    assert (read.deliveries, read.reason, read.failed_at) == (20, "poison", NOW)
    assert (read.error_type, read.error) == ("ValueError", "C:\\new line")
    assert read.stack.endswith("ValueError: C:\\new\nline")
    assert "\n  File " in read.stack
    assert not read.problem


def test_headers_that_would_act_on_the_letter_stay_behind() -> None:
    acting = [
        "Nats-Batch-Id",
        "Nats-Batch-Sequence",
        "Nats-Batch-Commit",
        "Nats-Expected-Stream",
        "Nats-Rollup",
        "Nats-Expected-Last-Msg-Id",
        "Nats-TTL",
        "Nats-Schedule",
        "Nats-Schedule-Target",
        "Nats-Incr",
        "nats-ttl",
    ]
    old = {"X-Dlq-Consumer": "other__one", "x-dlq-error": "old", "X-Dlq-Payload": "by-reference"}
    kept = {"X-Correlation-Id": "c", "traceparent": "00-1", "X-Anything": "é"}
    message = write(incoming({**dict.fromkeys(acting, "1"), **old, **kept, h.MSG_ID: "e"}))
    assert {name: message.headers[name] for name in kept} == kept
    assert not {*acting, "x-dlq-error", "X-Dlq-Payload"} & set(message.headers)
    assert message.headers["X-Dlq-Consumer"] == DURABLE
    assert message.headers["Nats-Msg-Id"].startswith("dlq:")


@given(
    text=st.text(st.characters(codec=None), max_size=300),
    name=st.text(max_size=20),
    value=st.text(st.characters(codec=None), max_size=50),
)
def test_no_text_breaks_out_of_its_header(text: str, name: str, value: str) -> None:
    hostile = type("E\r\nX-Evil: 1", (Exception,), {})(text)
    of = incoming({name: value, h.MSG_ID: value})
    message = write(of, raised(hostile))
    for key, content in message.headers.items():
        h.check_header(key, content)
    again = form.read(stored(message))
    assert again.event_id == message.headers[h.EVENT_ID]
    assert not again.problem


@given(st.text(st.characters(codec="utf-8"), max_size=200), st.integers(0, 120))
def test_a_cut_never_halves_a_character_or_an_escape(text: str, limit: int) -> None:
    tail = writing._tail(text, limit)
    assert len(tail.encode()) <= limit
    plain = form._unescape(tail)
    printable = "".join(
        char if char in "\n\r\t" or char.isprintable() else " " for char in text.strip()
    )
    assert plain.strip() == "" or printable.strip().endswith(plain.strip())
    head = writing._head(text, limit)
    assert len(head.encode()) <= limit
    assert head in text


def test_error_and_stack_keep_to_their_limits() -> None:
    message = write(incoming(), raised(ValueError("é" * 20_000)))
    assert len(message.headers[h.DLQ_ERROR].encode()) == 1024
    assert 8000 < len(message.headers[h.DLQ_ERROR_STACK].encode()) <= 8192


def test_an_error_that_cannot_be_printed_is_no_obstacle() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    message = write(incoming(), raised(Mute()))
    assert message.headers[h.DLQ_ERROR] == "(its text cannot be had: RuntimeError)"
    assert message.headers[h.DLQ_ERROR_TYPE].endswith("Mute")
    assert h.DLQ_ERROR_STACK in message.headers


@pytest.mark.parametrize("spare", [*range(0, 40, 7), 100, 300, 331, 400, 700, 5000, 9000, 20_000])
def test_a_letter_always_fits(spare: int) -> None:
    of = incoming()
    used = writing.size_of(replace(of.message, payload=b""))
    of = replace(of, message=replace(of.message, payload=b"x" * (LIMIT - used - spare)))
    assert writing.size_of(of.message) == LIMIT - spare
    message = write(of, raised(ValueError("too late " * 30)))
    assert writing.size_of(message) <= LIMIT
    read = form.read(stored(message))
    assert not read.problem
    assert read.by_reference == (message.payload == b"")
    assert read.by_reference or message.payload == of.message.payload
    assert message.headers[h.CORRELATION_ID] == "c-1"
    if spare >= 9000:
        assert read.stack.startswith("Traceback")
    if spare >= 700:
        assert read.error
        assert not read.by_reference
    if spare <= 40:
        assert read.by_reference


def test_headers_as_large_as_the_limit_are_left_behind_too() -> None:
    of = incoming({h.MSG_ID: "e-1", "X-Large": "x" * (LIMIT - 100)}, b"{}")
    message = write(of, raised(ValueError("x")))
    assert writing.size_of(message) <= LIMIT
    assert "X-Large" not in message.headers
    assert form.read(stored(message)).headers_by_reference


def block_of(message: Message) -> int:
    return h.header_bytes(message.headers)


ERROR = ValueError("too late " * 30)
MANY = {f"X-N-{number}": "v" * 50 for number in range(1200)}


@pytest.mark.parametrize(
    "more",
    [
        {"X-Note": "v" * 65_000},
        {"X-Note": "v" * 65_400},
        {"X-Note": "é" * 33_000},
        MANY,
        {"X-Note": "v" * 200_000},
        {h.ORDERING_KEY: "k" * 65_000},
        {h.CORRELATION_ID: "k" * 65_000},
        {h.MSG_ID: "i" * 65_000},
        {h.EVENT_ID: "i" * 65_000},
        {h.EVENT_ID: "i" * 30_000, h.MSG_ID: "i" * 30_000},
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_a_letter_never_has_more_headers_than_the_server_takes(
    more: dict[str, str], kept: bool
) -> None:
    own = {h.MSG_ID: "e-1", h.CORRELATION_ID: "c-1", h.ORDERING_KEY: "k-1"}
    message = write(incoming({**own, **more}), raised(ERROR), kept=kept)
    assert block_of(message) <= h.HEADER_BLOCK_BYTES
    read = form.read(stored(message))
    assert not read.problem
    assert message.payload == b'{"case": 7}', "the payload is not what takes the room"
    if "X-Note" in more or more is MANY:
        fits = len(more.get("X-Note", "v" * 70_000).encode()) < 65_100
        assert read.headers_by_reference == kept
        assert read.lacks_headers == (not kept and not fits)
        assert (read.key, message.headers[h.CORRELATION_ID]) == ("k-1", "c-1")
    if kept:
        assert read.error_type == "ValueError", "what can be had elsewhere leaves room for it"
        assert read.error


@pytest.mark.parametrize("spare", [0, 1, 20, 60, 200, 330, 500, 1000])
def test_where_nothing_keeps_the_message_its_letter_has_the_payload(spare: int) -> None:
    headers = {h.MSG_ID: "e-1", "X-Note": "n" * 20}
    payload = b"x" * (LIMIT - h.header_bytes(headers) - spare)
    of = incoming(headers, payload, stream="SEA_REDRIVE")
    message = write(of, raised(ERROR), kept=False)
    assert message.payload == payload
    assert writing.size_of(message) <= LIMIT
    read = form.read(stored(message))
    assert bool(read.problem) == (spare <= 60)
    assert not read.by_reference
    assert not read.headers_by_reference
    bare = write(incoming({}, b"x" * LIMIT), raised(ERROR), kept=False)
    assert (bare.payload, bare.headers) == (b"x" * LIMIT, {})


@pytest.mark.parametrize("room", [5000, 3000, 1500, 600])
def test_a_queue_s_own_limit_counts(room: int) -> None:
    """``max_msg_size`` of the dead letter stream."""
    message = write(incoming(payload=b"x" * 4000), raised(ERROR), room=room)
    assert writing.size_of(message) <= room
    assert not form.read(stored(message)).problem


@pytest.mark.parametrize(
    ("subject", "as_filed"),
    [
        ("sea.event." + "x" * 3900, "sea.dlq.sea.event.~"),
        ("sea.event." + "y.x" * 1280, None),
        ("sea.event.a\x0bb", "sea.dlq.sea.event.~"),
        ("sea.event.a b.c", "sea.dlq.sea.event.~"),
        ("a b", "sea.dlq.~"),
        ("sea.event.\ud800", "sea.dlq.sea.event.~"),
        ("sea.event.a\x0b", "sea.dlq.sea.event.~"),
    ],
)
def test_a_subject_that_cannot_be_sent_is_told_in_a_header(
    subject: str, as_filed: str | None
) -> None:
    message = write(incoming(subject=subject))
    assert as_filed in (None, message.subject)
    wire.single(wire.prepare(message), b"_INBOX." + b"r" * 40)
    read = form.read(stored(message))
    assert subject in (read.subject, json.loads(read.subject) if read.subject[0] == '"' else "")
    assert bool(read.problem) == (not is_event_of("sea", subject))
    if not read.problem:
        with pytest.raises(InvalidName, match="longer than 3840"):
            redriven(read)
    assert h.header_bytes({"X-Dlq-Subject": read.subject}) < 4200


@pytest.mark.parametrize(
    "subject",
    ["Legacy.Order-Placed", "other.event.case_created.v1", "sea", "x", "9.dlq.z", "sea.event.É"],
)
def test_a_foreign_subject_is_filed_in_its_stream_s_context(subject: str) -> None:
    of = incoming(subject=subject)
    assert writing.queue_of(of) == ("SEA_DLQ", f"sea.dlq.{subject}")
    assert form.read(stored(write(of))).subject == subject


def test_a_redriven_message_is_filed_under_its_event_s_subject() -> None:
    of = incoming(
        {h.MSG_ID: "redrive:SEA_DLQ:1", h.EVENT_ID: "e-1"},
        subject=f"sea.redrive.{DURABLE}.{SUBJECT}",
        stream="SEA_REDRIVE",
    )
    message = write(of)
    assert message.subject == f"sea.dlq.{SUBJECT}"
    moment = "1795507200000000"  # Its place may be another redrive's, should its stream lose it.
    assert message.headers[h.MSG_ID] == f"dlq:{DURABLE}:SEA_REDRIVE@{moment}:17:e-1"


def test_a_message_without_an_id_is_called_by_its_place() -> None:
    assert write(incoming({})).headers[h.EVENT_ID] == "SEA_EVENTS:17"
    assert write(incoming({h.MSG_ID: "a\0b"})).headers[h.EVENT_ID] == "SEA_EVENTS:17"


@pytest.mark.parametrize(
    "change",
    [
        {h.DLQ_STREAM: ""},
        {h.DLQ_CONSUMER: ""},
        {h.DLQ_REASON: ""},
        {h.DLQ_DELIVERIES: "abc"},
        {h.DLQ_DELIVERIES: "-1"},
        {h.DLQ_STREAM_SEQUENCE: "٣"},
        {h.DLQ_STREAM_SEQUENCE: "1" * 5000},
        {h.DLQ_FAILED_AT: "yesterday"},
    ],
)
def test_a_letter_of_somebody_else_s_making_is_read_with_its_problem(
    change: dict[str, str],
) -> None:
    message = write(incoming())
    read = form.read(stored(replace(message, headers={**message.headers, **change})))
    assert next(iter(change)) in read.problem
    assert read.summary()["problem"] == read.problem
    bare = form.read(stored(Message("sea.dlq.x", b"")))
    assert (bare.subject, bare.problem) == ("x", "it has no X-Dlq-Stream")


def test_a_redrive_goes_to_the_failed_consumer_under_a_fresh_stable_id() -> None:
    of = letter(error=raised(ValueError("x")))
    stream, message = redriven(of)
    assert stream == "SEA_REDRIVE"
    assert message.subject == f"sea.redrive.{DURABLE}.{SUBJECT}"
    assert message.payload == b'{"case": 7}'
    assert message.headers == {
        "X-Correlation-Id": "c-1",
        "X-Event-Id": "e-1",
        "Nats-Msg-Id": "redrive:SEA_DLQ:5:2026-11-24T08:00:00.000000Z",
        "X-Redrive-Count": "1",
        "X-Event-Place": "SEA_EVENTS:17",
    }
    assert redriven(of) == (stream, message)


@pytest.mark.parametrize(("before", "after"), [("2", 3), ("-1", 1), ("9" * 10, 1), ("two", 1)])
def test_a_redrive_is_counted_and_its_letter_says_how_often(before: str, after: int) -> None:
    of = letter(incoming({h.MSG_ID: "e-1", h.REDRIVE_COUNT: before}, stream="SEA_REDRIVE"))
    _, message = redriven(of)
    again = letter(incoming(dict(message.headers), stream="SEA_REDRIVE"))
    assert (message.headers[h.REDRIVE_COUNT], again.redrives) == (str(after), after)
    assert again.summary()["redrives"] == after


def test_another_payload_or_another_queue_of_the_same_name_is_another_redrive() -> None:
    of = letter()
    later = replace(of, stored=replace(of.stored, stored_at=datetime(2026, 12, 1, tzinfo=UTC)))
    ids = {
        redriven(each, payload, to_all=to_all)[1].headers[h.MSG_ID]
        for each in (of, later)
        for payload in (None, b"1", b"2")
        for to_all in (False, True)
    }
    assert len(ids) == 12


@pytest.mark.parametrize("stream", ["SEA_EVENTS", "SEA_REDRIVE"])
def test_a_redrive_to_all_goes_back_onto_the_event_stream(stream: str) -> None:
    of = letter(incoming(stream=stream))
    to, message = redriven(of, b"{}", to_all=True)
    assert (to, message.subject, message.payload) == ("SEA_EVENTS", SUBJECT, b"{}")


@pytest.mark.parametrize(
    "subject",
    [
        "Legacy.Order",
        "other.event.case_created.v1",
        "$JS.API.STREAM.PURGE.SEA_EVENTS",
        "bank.event.case_created.v1",
        "sea.dlq.sea.event.x",
        "sea.redrive.case_mgmt__from_sea.sea.event.x",
        "sea.event",
        "sea.event.*",
        "sea.event.>",
        "sea.event.a b",
        "sea.event.a\x00b",
        "sea.event.a\x0bb",
        "sea.event.\ufffd",
        "sea",
        "x",
    ],
)
@pytest.mark.parametrize("header", [False, True])
def test_nothing_but_an_event_s_subject_of_the_context_is_redriven(
    subject: str, header: bool
) -> None:
    """A redrive is sent with the operator's rights: the letter's author must not choose where."""
    message = write(incoming())
    if header:
        told = replace(message, headers={**message.headers, "X-Dlq-Subject": subject})
    else:
        told = replace(message, subject=f"sea.dlq.{subject}")
    read = form.read(stored(told))
    assert read.problem.endswith("is not the subject of an event of sea")
    assert read.problem.isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {h.DLQ_STREAM: "BANK_EVENTS"},
        {h.DLQ_STREAM: "SEA_DLQ"},
        {h.DLQ_STREAM: "SEAWAY_ADVISORIES"},
        {h.DLQ_STREAM: "SEA_EVENTS.x"},
        {h.DLQ_STREAM: "sea_events"},
        {h.DLQ_CONSUMER: "bob"},
        {h.DLQ_CONSUMER: "case_mgmt__from_sea.sea.event.x"},
        {h.DLQ_CONSUMER: "case_mgmt__>"},
        {h.DLQ_CONSUMER: "a" * 300 + "__b"},
        {h.DLQ_REASON: "because"},
        {h.DLQ_STREAM_SEQUENCE: "0"},
        {h.DLQ_STREAM_SEQUENCE: ""},
        {h.EVENT_ID: ""},
        {h.EVENT_ID: "a\x00b"},
        {h.EVENT_ID: "i" * 5000},
    ],
)
def test_a_letter_that_names_what_is_not_its_context_s_has_a_problem(
    change: dict[str, str],
) -> None:
    message = write(incoming())
    read = form.read(stored(replace(message, headers={**message.headers, **change})))
    assert next(iter(change)) in read.problem
    assert read.problem.isprintable()
    assert len(read.problem) < 250


def test_a_foreign_event_of_the_context_is_redriven_under_its_own_subject() -> None:
    subject = "sea.event.Legacy-Order.É." + "x" * 400
    read = letter(incoming(subject=subject))
    assert not read.problem
    assert redriven(read)[1].subject == f"sea.redrive.{DURABLE}.{subject}"
    assert redriven(read, to_all=True) == (
        "SEA_EVENTS",
        replace(redriven(read, to_all=True)[1], subject=subject),
    )


def test_what_somebody_put_among_the_event_s_headers_is_not_sent_again() -> None:
    message = write(incoming())
    smuggled = {
        "Nats-Rollup": "all",
        "nats-ttl": "1",
        "x-dlq-reason": "parked",
        "X-Dlq-Anything": "1",
    }
    read = form.read(stored(replace(message, headers={**message.headers, **smuggled})))
    for to_all in (False, True):
        _, sent = redriven(read, to_all=to_all)
        assert set(sent.headers) == {
            *(h.MSG_ID, h.EVENT_ID, h.CORRELATION_ID, h.REDRIVE_COUNT, h.EVENT_PLACE)
        }


@pytest.mark.parametrize(
    ("selection", "takes"),
    [
        (Selection(), True),
        (Selection(ids=("SEA_DLQ:5",)), True),
        (Selection(ids=("e-1", "e-2")), True),
        (Selection(ids=("SEA_DLQ:6",)), False),
        (Selection(consumer=DURABLE), True),
        (Selection(consumer="analytics__from_sea"), False),
        (Selection(subject="sea.event.*.v1"), True),
        (Selection(subject="sea.>"), True),
        (Selection(subject="sea.event.case_closed.v1"), False),
        (Selection(reason="poison"), True),
        (Selection(reason="exhausted"), False),
        (Selection(error_type="Poison"), True),
        (Selection(error_type="seaway.errors.Poison"), True),
        (Selection(error_type="errors.Poison"), False),
        (Selection(since=NOW), True),
        (Selection(until=NOW), False),
        (Selection(ids=("e-1",), consumer="analytics__from_sea"), False),
    ],
)
def test_selections(selection: Selection, takes: bool) -> None:
    assert selection.takes(letter(error=raised(Poison("x")))) is takes


def test_a_selection_s_subject_is_a_filter() -> None:
    with pytest.raises(InvalidName):
        Selection(subject="sea..x")
