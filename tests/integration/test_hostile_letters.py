"""What a stranger sends becomes a letter, and what he puts into a queue reaches nothing else.

On a real server: every message that a stream takes has a letter that its queue takes, which can be
listed, shown and discarded; a letter that names what is not its context's own can only be that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from seaway import headers as h
from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.contracts import Incoming, StoredMessage
from seaway.dead_letters import DeadLetters, Letter
from seaway.dead_letters.letter import carried
from seaway.embedded.nats_server import NatsServer
from seaway.errors import BrokerUnavailable, ConfigError, NotFound
from seaway.testing.drills.foreign import ForeignClient, foreign_client

pytestmark = pytest.mark.server
DURABLE = "case_mgmt__from_sea"
EVENT = b"sea.event.case_created.v1"
MIB = 1024 * 1024
TIMEOUT = timedelta(seconds=5)


class Stage:
    """The contexts ``sea`` and ``bank`` on a server, and a stranger beside them."""

    def __init__(self, broker: JetStreamBroker, stranger: ForeignClient) -> None:
        self.broker = broker
        self.admin = broker.admin
        self.letters = DeadLetters(broker)
        self.stranger = stranger

    async def open(self) -> None:
        mapping = {
            "streams": [
                {"name": name, "replicas": 1, "storage": "memory", "max_bytes": "100MB"}
                for name in ("SEA_EVENTS", "BANK_EVENTS")
            ],
            "consumers": [
                {"stream": "SEA_EVENTS", "durable": DURABLE},
                {"stream": "BANK_EVENTS", "durable": "ledger__from_bank"},
            ],
        }
        wanted = topology.desired(settings_from_mapping(mapping, environ={}))
        await topology.apply(
            topology.plan(wanted, await topology.actual(self.admin, wanted)), self.admin
        )

    async def bury(
        self, stream: str, stream_seq: int, error: BaseException | None = None
    ) -> Letter:
        """The letter of a message that lies there, as its consumer or a sweeper writes it."""
        found = await self.found(stream, stream_seq)
        incoming = Incoming.read(found, DURABLE, deliveries=3)
        place = await self.letters.store(incoming, reason="poison", error=error)
        return await self.letters.get(f"SEA_DLQ:{place}")

    async def found(self, stream: str, stream_seq: int) -> StoredMessage:
        found = await self.admin.get(stream, stream_seq)
        assert found is not None
        return found

    async def held(self, stream: str) -> int:
        info = await self.admin.stream(stream)
        assert info is not None
        return info.messages

    async def empty(self) -> None:
        for stream in STREAMS[:3]:
            async for stored in self.admin.read(stream):
                await self.admin.delete_message(*stored.place)

    async def configure(self, stream: str, **fields: object) -> None:
        info = await self.admin.stream(stream)
        assert info is not None
        await self.admin.update_stream({**info.config, **fields})

    async def event(
        self, *headers: tuple[bytes, bytes], payload: bytes = b"{}", subject: bytes = EVENT
    ) -> int:
        stream_seq = await self.stranger.put(subject, payload, headers)
        assert stream_seq, "the stream takes it"
        return stream_seq

    async def forge(
        self, subject: bytes = EVENT, payload: bytes = b"{}", **change: bytes
    ) -> Letter:
        """A letter as a consumer of ``sea`` writes it, but for what is changed."""
        said = {
            "X-Event-Id": b"forged",
            "X-Dlq-Stream": b"SEA_EVENTS",
            "X-Dlq-Stream-Sequence": b"999",
            "X-Dlq-Consumer": DURABLE.encode(),
            "X-Dlq-Deliveries": b"1",
            "X-Dlq-Reason": b"poison",
            "X-Dlq-Failed-At": b"2026-11-28T10:00:00Z",
            **{name.replace("_", "-"): value for name, value in change.items()},
        }
        pairs = [(name.encode(), value) for name, value in said.items()]
        place = await self.stranger.put(b"sea.dlq." + subject, payload, pairs)
        assert place
        return await self.letters.get(f"SEA_DLQ:{place}")

    async def refuses(self, letter: Letter) -> str:
        """That nothing is done with the letter but to show and to discard it; why."""
        before = [await self.held(name) for name in STREAMS]
        said = set()
        for to_all in (False, True):
            with pytest.raises((ConfigError, NotFound)) as caught:
                await self.letters.redrive(letter, to="all" if to_all else "consumer")
            said.add(str(caught.value))
        [reason] = said
        assert "--to all" not in reason
        assert reason.isprintable()
        assert [await self.held(name) for name in STREAMS] == before
        listed = await self.letters.list(payloads=False)
        assert letter.id in [one.id for one in listed]
        assert await self.letters.discard(letter)
        return reason


STREAMS = ("SEA_EVENTS", "SEA_REDRIVE", "SEA_DLQ", "BANK_EVENTS", "BANK_REDRIVE", "BANK_DLQ")


@pytest.fixture
async def stage(nats_server: NatsServer) -> AsyncIterator[Stage]:
    broker = await connect(NatsSettings(url=nats_server.url))
    try:
        async with foreign_client(nats_server.url) as stranger:
            made = Stage(broker, stranger)
            await made.open()
            yield made
        for name in STREAMS:
            await broker.admin.delete_stream(name)
    finally:
        await broker.close()


# ---------------------------------------------------------------------- letters that fit


@pytest.mark.parametrize("size", [1000, 64_500, 64_900, 65_300, 65_400])
async def test_headers_up_to_the_server_s_own_limit_have_a_letter(stage: Stage, size: int) -> None:
    at = await stage.event((b"Nats-Msg-Id", b"e-1"), (b"X-Note", b"v" * size), payload=b"bad")
    letter = await stage.bury("SEA_EVENTS", at, ValueError("no such case"))
    assert (letter.event_id, letter.error, letter.problem) == ("e-1", "no such case", "")
    assert letter.headers_by_reference == (size > 64_500)
    event = await stage.letters.event(letter)
    assert event.payload == b"bad"
    assert event.headers == {"X-Note": "v" * size, "X-Event-Id": "e-1"}
    await stage.letters.redrive(letter)
    again = await stage.found("SEA_REDRIVE", 1)
    assert again.message.headers["X-Note"] == "v" * size
    # There nothing keeps it: of what does not fit the headers are left out, and the letter says so.
    letter = await stage.bury("SEA_REDRIVE", 1, ValueError("still no"))
    assert (letter.event_id, letter.payload, letter.problem) == ("e-1", b"bad", "")
    assert letter.lacks_headers == ("X-Note" not in letter.headers)
    assert letter.lacks_headers == (size > 65_000)


async def test_headers_that_have_gone_from_their_stream_are_said_to_be_gone(stage: Stage) -> None:
    at = await stage.event((b"Nats-Msg-Id", b"e-1"), (b"X-Note", b"v" * 65_300), (b"X-Small", b"s"))
    letter = await stage.bury("SEA_EVENTS", at)
    await stage.admin.delete_message("SEA_EVENTS", at)
    with pytest.raises(NotFound, match="headers were left in SEA_EVENTS:1"):
        await stage.letters.redrive(letter)
    assert await stage.letters.payload(letter) == b"{}"
    await stage.letters.redrive(letter, payload=b"mended")
    again = await stage.found("SEA_REDRIVE", 1)
    assert again.message.payload == b"mended"
    assert again.message.headers["X-Small"] == "s"


async def test_a_redrive_that_leaves_no_room_has_a_letter_with_its_payload(stage: Stage) -> None:
    """Nothing keeps it once it is acknowledged, so nothing may be left there."""
    subject = f"sea.redrive.{DURABLE}.sea.event.case_created.v1".encode()
    for at, spare in enumerate((0, 30, 600), start=1):
        payload = b"x" * (MIB - spare)
        assert await stage.stranger.put(subject, payload)
        letter = await stage.bury("SEA_REDRIVE", at, ValueError("too much"))
        assert letter.payload == payload
        assert bool(letter.problem) == (spare < 600)
        assert await stage.letters.discard(letter)


@pytest.mark.parametrize("most", [600, 1000, 5000, 200_000])
async def test_a_queue_that_takes_small_messages_has_a_letter_by_reference(
    stage: Stage, most: int
) -> None:
    await stage.configure("SEA_DLQ", max_msg_size=most)
    payload = b"x" * 300_000
    at = await stage.event((b"Nats-Msg-Id", b"e-1"), (b"X-Note", b"v" * 9000), payload=payload)
    letter = await stage.bury("SEA_EVENTS", at, ValueError("no " * 5000))
    assert letter.by_reference
    assert letter.headers_by_reference == (most < 10_000)
    event = await stage.letters.event(letter)
    assert event.payload == payload
    assert event.headers == {"X-Note": "v" * 9000, "X-Event-Id": "e-1"}


async def test_a_queue_that_takes_no_letter_at_all_is_said(stage: Stage) -> None:
    await stage.configure("SEA_DLQ", max_msg_size=100)
    with pytest.raises(BrokerUnavailable, match="SEA_DLQ takes no message of more than 100 bytes"):
        await stage.bury("SEA_EVENTS", await stage.event(), ValueError("no"))


async def test_a_letter_s_subject_is_one_that_can_be_sent(stage: Stage) -> None:
    """Longer by its prefix than the event's, it would end the connection of whoever sends it."""
    for subject in (b"sea.event." + b"x" * 3900, b"sea.event." + b"a." * 1900 + b"z"):
        at = await stage.event((b"Nats-Msg-Id", b"long-%d" % len(subject)), subject=subject)
        letter = await stage.bury("SEA_EVENTS", at)
        assert letter.subject == subject.decode()
        assert await stage.letters.has_letter(
            Incoming.read(await stage.found("SEA_EVENTS", at), DURABLE, deliveries=1)
        )
        with pytest.raises(ConfigError, match="longer than 3840 bytes"):
            await stage.letters.redrive(letter)
        assert await stage.letters.discard(letter)


async def test_wildcards_in_a_subject_meet_no_other_letters(stage: Stage) -> None:
    found = []
    for subject in (b"sea.event.>", b"sea.event.*.v1", EVENT):
        at = await stage.event((b"Nats-Msg-Id", subject), subject=subject)
        await stage.bury("SEA_EVENTS", at)
        found.append(Incoming.read(await stage.found("SEA_EVENTS", at), DURABLE, deliveries=1))
    assert [await stage.letters.has_letter(one) for one in found] == [True] * 3


async def test_a_forged_message_id_swallows_no_letter(stage: Stage) -> None:
    at = await stage.event((b"Nats-Msg-Id", b"e-1"))
    forged = f"dlq:{DURABLE}:SEA_EVENTS:{at}:e-1".encode()
    assert await stage.stranger.put(b"sea.dlq.x", b"", [(b"Nats-Msg-Id", forged)]) == 1
    letter = await stage.bury("SEA_EVENTS", at)
    assert (letter.event_id, letter.stored.stream_seq) == ("e-1", 2)
    stored_at = h.format_time(letter.stored.stored_at)
    forged = f"redrive:{letter.id}:{stored_at}".encode()
    subject = f"sea.redrive.{DURABLE}.sea.event.other.v1".encode()
    assert await stage.stranger.put(subject, b"", [(b"Nats-Msg-Id", forged)]) == 1
    await stage.letters.redrive(letter)
    assert (await stage.found("SEA_REDRIVE", 2)).event_id == "e-1"


# ---------------------------------------------------------------------- letters of somebody else's


@pytest.mark.parametrize(
    "subject",
    [
        b"$JS.API.STREAM.PURGE.SEA_EVENTS",
        b"bank.event.paid.v1",
        b"bank.dlq.bank.event.paid.v1",
        b"sea.redrive.case_mgmt__from_sea.sea.event.x.v1",
        b"sea.dlq.sea.event.x.v1",
        b"sea.event.>",
        b"sea.event.*",
        b"sea.event",
        b"sea.event.\x00",
        b"sea.event.\x1b[2J",
        b"sea.event.a\x0bb",
        b"sea.event.a\x0c.b",
        b"sea.event.\xff",
        b"Legacy.Order",
    ],
)
async def test_a_redrive_goes_nowhere_but_to_an_event_s_subject_of_its_context(
    stage: Stage, subject: bytes
) -> None:
    for _ in range(3):
        await stage.event()
    reason = await stage.refuses(await stage.forge(subject, X_Event_Id=b"e" + subject[-2:-1]))
    assert "event" in reason.casefold()
    reason = await stage.refuses(await stage.forge(X_Dlq_Subject=subject))
    assert await stage.held("SEA_EVENTS") == 3


@pytest.mark.parametrize("name", [b"BANK_EVENTS", b"SEA_DLQ", b"SEAWAY_ADVISORIES", b"X", b">"])
async def test_a_reference_shows_nothing_of_another_stream(stage: Stage, name: bytes) -> None:
    secret = [(b"Nats-Msg-Id", b"forged")]
    assert await stage.stranger.put(b"bank.event.paid.v1", b"secret", secret) == 1
    letter = await stage.forge(
        X_Dlq_Stream=name, X_Dlq_Stream_Sequence=b"1", X_Dlq_Payload=b"by-reference"
    )
    assert name.decode() in letter.problem
    for look in (stage.letters.payload, stage.letters.event):
        with pytest.raises(ConfigError, match="no stream of sea's events"):
            await look(letter)
    await stage.refuses(letter)


async def test_a_reference_to_another_event_is_not_followed(stage: Stage) -> None:
    at = await stage.event((b"Nats-Msg-Id", b"honest"), payload=b"private")
    for change in (
        {"X_Event_Id": b"forged"},
        {"X_Event_Id": b"honest", "subject": b"sea.event.other.v1"},
    ):
        letter = await stage.forge(
            X_Dlq_Stream_Sequence=b"%d" % at, X_Dlq_Payload=b"by-reference", **change
        )
        assert not letter.problem
        with pytest.raises(ConfigError, match="holds another event"):
            await stage.letters.payload(letter)
        await stage.refuses(letter)


async def test_a_pending_event_s_id_does_not_carry_another_payload(stage: Stage) -> None:
    """Handled under its id, the event itself would be taken for processed."""
    at = await stage.event(
        (b"Nats-Msg-Id", b"honest"), (b"X-Ordering-Key", b"k-1"), payload=b"honest"
    )
    letter = await stage.forge(
        payload=b"forged", X_Event_Id=b"honest", X_Dlq_Stream_Sequence=b"%d" % at
    )
    assert "not that of SEA_EVENTS:1" in await stage.refuses(letter)
    letter = await stage.forge(
        payload=b"honest",
        X_Event_Id=b"honest",
        X_Dlq_Stream_Sequence=b"%d" % at,
        X_Ordering_Key=b"other",
    )
    await stage.letters.redrive(letter)
    sent = await stage.found("SEA_REDRIVE", 1)
    assert (sent.message.payload, sent.key) == (b"honest", "k-1"), "its own headers"


async def test_a_durable_that_is_not_there_is_nobody_s_to_redrive_for(stage: Stage) -> None:
    letter = await stage.forge(X_Dlq_Consumer=b"ledger__from_bank")
    assert "ledger__from_bank on SEA_REDRIVE" in await stage.refuses(letter)


async def test_a_place_that_was_given_anew_holds_up_no_letter(stage: Stage) -> None:
    """The stream was made anew, or an older copy of it put back: the letter is as right."""
    at = await stage.event((b"Nats-Msg-Id", b"e-1"), payload=b"mine")
    letter = await stage.bury("SEA_EVENTS", at)
    await stage.admin.delete_stream("SEA_EVENTS")
    await stage.open()
    assert await stage.event((b"Nats-Msg-Id", b"e-2"), payload=b"other") == at
    await stage.letters.redrive(letter)
    assert (await stage.found("SEA_REDRIVE", 1)).message.payload == b"mine"


# ---------------------------------------------------------------------- anything at all

SUBJECT_BYTES = st.sampled_from([bytes([byte]) for byte in range(256) if byte not in b" \t\r\n."])
TOKEN = st.one_of(
    st.sampled_from(
        [b"case_created", b"v1", b"*", b">", b"$JS", b"dlq", b"redrive", b"~", b"a" * 900]
    ),
    st.lists(SUBJECT_BYTES, min_size=1, max_size=6).map(b"".join),
)
SUBJECT = st.lists(TOKEN, min_size=1, max_size=5).map(b".".join).filter(lambda one: len(one) < 3900)
VALUE = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([1, 500, 1024, 5000, 30_000, 64_000, 65_000, 65_400]).map(lambda n: b"v" * n),
).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b""))
NAME = st.sampled_from(
    [
        *(b"X-Event-Id", b"X-Ordering-Key", b"X-Correlation-Id", b"X-Causation-Id"),
        *(b"X-Event-Version", b"X-Occurred-At", b"Content-Type", b"traceparent", b"Nats-Msg-Id"),
        *(b"X-Dlq-Stream", b"X-Dlq-Payload", b"X-Dlq-Headers", b"X-Dlq-Subject", b"x-dlq-reason"),
        *(b"X-Note", b"x-note", b"X-\x80", b"A B", b"", b"n" * 3000, b"Nats-Batch", b"Status"),
    ]
)
HEADERS = st.lists(st.tuples(NAME, VALUE), max_size=8)
SIZE = st.sampled_from([0, 1, 100, 60_000, 983_000, MIB - 700, MIB - 300, MIB - 40, MIB])


class HostileError(Exception):
    def __init__(self, text: str, fails: bool) -> None:
        super().__init__(text)
        self._fails = fails

    def __str__(self) -> str:
        if self._fails:
            raise RuntimeError("no words")
        return str(self.args[0])


ERRORS = st.one_of(
    st.none(), st.builds(HostileError, st.text(st.characters(codec=None)), st.booleans())
)


@pytest.fixture(scope="module")
def shared(nats_server: NatsServer) -> Iterator[tuple[asyncio.Runner, Stage]]:
    """One stage for all examples: they are many."""
    with asyncio.Runner() as runner:
        stranger = ForeignClient(nats_server.url)
        broker = runner.run(connect(NatsSettings(url=nats_server.url)))
        try:
            stage = Stage(broker, stranger)
            runner.run(stage.open())
            yield runner, stage
            for name in STREAMS:
                runner.run(broker.admin.delete_stream(name))
        finally:
            runner.run(stranger.close())
            runner.run(broker.close())


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(subject=SUBJECT, headers=HEADERS, size=SIZE, error=ERRORS, redriven=st.booleans())
def test_whatever_a_stream_takes_has_a_letter(
    shared: tuple[asyncio.Runner, Stage],
    subject: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    size: int,
    error: BaseException | None,
    redriven: bool,
) -> None:
    runner, stage = shared
    prefix = f"sea.redrive.{DURABLE}.sea.event.".encode() if redriven else b"sea.event."
    block = sum(len(name) + len(value) + 4 for name, value in headers)
    payload = b"x" * min(size, MIB - block - 12 * bool(headers))
    assume(block < 65_500)
    runner.run(stage.empty())
    at = runner.run(stage.stranger.put(prefix + subject, payload, headers))
    assume(at)
    stream = "SEA_REDRIVE" if redriven else "SEA_EVENTS"
    runner.run(_buried_shown_and_discarded(stage, stream, at, payload, error))


async def _buried_shown_and_discarded(
    stage: Stage, stream: str, at: int, payload: bytes, error: BaseException | None
) -> None:
    found = await stage.found(stream, at)
    letter = await stage.bury(stream, at, error)
    assert letter.has_place or not letter.by_reference
    [listed] = await stage.letters.list(payloads=False)
    assert listed.summary() == letter.summary()
    event = await stage.letters.event(letter)
    assert event.payload == payload, "byte for byte"
    if not letter.problem:
        assert (letter.stream, letter.stream_seq) == (stream, at)
        assert letter.subject == found.event_subject
    if stream == "SEA_EVENTS" and not letter.problem:
        assert event.headers == {**carried(found.message.headers), h.EVENT_ID: letter.event_id}
    refused = ""
    try:
        await stage.letters.redrive(letter)
    except (ConfigError, NotFound) as said:
        refused = str(said)
    assert refused == "" or refused.isprintable()
    if refused:
        assert await stage.letters.discard(letter)
    else:
        [sent] = [one async for one in stage.admin.read("SEA_REDRIVE") if one.place != found.place]
        assert (sent.event_subject, sent.message.payload) == (letter.subject, payload)
        assert sent.event_id == letter.event_id
        await stage.admin.delete_message("SEA_REDRIVE", sent.stream_seq)
    assert await stage.letters.list() == []
    await stage.admin.delete_message(stream, at)
    assert await stage.held("SEA_REDRIVE") == await stage.held("SEA_EVENTS") == 0


SAID = st.fixed_dictionaries(
    {},
    optional={
        "X_Event_Id": st.one_of(VALUE, st.sampled_from([b"honest", b"forged", b"SEA_EVENTS:1"])),
        "X_Dlq_Stream": st.one_of(
            VALUE, st.sampled_from([b"BANK_EVENTS", b"SEA_REDRIVE", b"SEA_DLQ", b"*", b">"])
        ),
        "X_Dlq_Stream_Sequence": st.one_of(
            VALUE, st.sampled_from([b"0", b"1", b"2", b"-1", b"9" * 19, b"1" * 40])
        ),
        "X_Dlq_Consumer": st.one_of(
            VALUE, st.sampled_from([b"ledger__from_bank", b"a__b", b"*", b"a__b.sea.event.x"])
        ),
        "X_Dlq_Deliveries": VALUE,
        "X_Dlq_Reason": st.one_of(VALUE, st.just(b"parked")),
        "X_Dlq_Failed_At": st.one_of(VALUE, st.just(b"9999-12-31T23:59:59-23:59")),
        "X_Dlq_Payload": st.one_of(VALUE, st.just(b"by-reference")),
        "X_Dlq_Headers": st.one_of(VALUE, st.sampled_from([b"by-reference", b"left-out"])),
        "X_Dlq_Subject": st.one_of(
            VALUE, st.sampled_from([b"bank.event.paid.v1", EVENT, b"$JS.API.INFO"])
        ),
        "X_Dlq_Error_Stack": VALUE,
        "Nats_Rollup_": VALUE,
    },
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    subject=st.one_of(SUBJECT.map(lambda one: b"sea.event." + one), SUBJECT, st.just(EVENT)),
    said=SAID,
    to_all=st.booleans(),
)
def test_whatever_lies_in_a_queue_reaches_nothing_outside_its_context(
    shared: tuple[asyncio.Runner, Stage], subject: bytes, said: dict[str, bytes], to_all: bool
) -> None:
    runner, stage = shared
    assume(sum(map(len, said.values())) < 60_000)
    assume(all(b"\r" not in value and b"\n" not in value for value in said.values()))
    runner.run(_forged_and_redriven(stage, subject, said, to_all))


async def _forged_and_redriven(
    stage: Stage, subject: bytes, said: dict[str, bytes], to_all: bool
) -> None:
    await stage.empty()
    for own in (b"sea.event.case_created.v1", b"bank.event.paid.v1"):
        await stage.stranger.put(own, b"private", [(b"X-Event-Id", b"honest")])
    bank = [await stage.held(name) for name in STREAMS[3:]]
    letter = await stage.forge(subject, **said)
    assert [one.id for one in await stage.letters.list(payloads=False)] == [letter.id]
    assert letter.problem.isprintable()
    with contextlib.suppress(ConfigError, NotFound):
        event = await stage.letters.event(letter)
        assert event.payload in (b"{}", b"private")
        assert event.payload == b"{}" or letter.has_place
    with contextlib.suppress(ConfigError, NotFound):
        await stage.letters.redrive(letter, to="all" if to_all else "consumer")
        assert not letter.problem
        name = "SEA_EVENTS" if to_all else "SEA_REDRIVE"
        *_, sent = [one async for one in stage.admin.read(name)]
        assert sent.event_subject == letter.subject
        assert sent.event_subject.startswith("sea.event.")
        assert (sent.event_id, sent.redriven) == (letter.event_id, not to_all)
        assert not [one for one in sent.message.headers if one.lower().startswith("x-dlq-")]
    assert [await stage.held(name) for name in STREAMS[3:]] == bank
    for one in await stage.letters.list():
        assert await stage.letters.discard(one)
    assert await stage.held("SEA_DLQ") == 0
