"""Publishing on a real server that is cut off, restarted, paused or full in the middle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta

import nats
import pytest
from nats.aio.msg import Msg

from seaway import headers as h
from seaway.brokers.jetstream import JetStreamBroker, connect, wire
from seaway.brokers.jetstream.connecting import open_connection
from seaway.brokers.jetstream.connection import Connection
from seaway.config import NatsSettings
from seaway.contracts import Held, Message, PublishOutcome, Refused, Stored, Unconfirmed
from seaway.embedded.nats_server import NatsServer
from seaway.telemetry import Disconnected, Reconnected, Signal, Telemetry

pytestmark = pytest.mark.server

STREAM, SUBJECT = "SEA_EVENTS", "sea.event.case_created.v1"
TIMEOUT = timedelta(seconds=5)


@pytest.fixture
async def own(nats_server_own: NatsServer) -> AsyncIterator[JetStreamBroker]:
    """A connection to this test's own server."""
    connected = await connect(NatsSettings(url=nats_server_own.url))
    yield connected
    await connected.close()


async def make(broker: JetStreamBroker, **config: object) -> None:
    await broker.admin.create_stream(
        {"name": STREAM, "subjects": ["sea.event.>"], "storage": "file", **config}
    )


def events(count: int, *, keys: int = 1, payload: bytes = b"x") -> list[Message]:
    return [
        Message(SUBJECT, payload, {h.MSG_ID: f"id-{n}", h.ORDERING_KEY: f"key-{n % keys}"})
        for n in range(count)
    ]


async def stored_ids(broker: JetStreamBroker) -> list[str]:
    return [stored.event_id async for stored in broker.admin.read(STREAM)]


def in_order(found: Sequence[str], *, keys: int) -> None:
    """Nothing twice, and the numbers of each key ascend without a gap."""
    numbers = [int(name.removeprefix("id-")) for name in found]
    for key in range(keys):
        mine = [number for number in numbers if number % keys == key]
        assert mine == list(range(key, key + keys * len(mine), keys))


# ------------------------------------------------------------------------- what cannot be sent


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize(
    "ill",
    [
        Message("sea.event.a b.v1", b"", {h.ORDERING_KEY: "key-1"}),
        Message("sea.event.\r\nPUB sea.event.forged.v1 0\r\n.v1", b"", {h.ORDERING_KEY: "key-1"}),
        Message(f"sea.event.{'x' * 5000}.v1", b"", {h.ORDERING_KEY: "key-1"}),
        Message(SUBJECT, b"", {h.ORDERING_KEY: "key-1", "X-Note": "a\r\nX-Forged: b"}),
        Message(SUBJECT, b"", {h.ORDERING_KEY: "key-1", "X Note": "a"}),
        Message(SUBJECT, b"", {h.ORDERING_KEY: "key-1", "X-Note": "\ud800"}),
    ],
    ids=["blank", "forged frame", "long subject", "forged header", "bad name", "surrogate"],
)
async def test_an_illegal_message_in_the_middle_holds_back_its_key_alone(
    own: JetStreamBroker, atomic: bool, ill: Message
) -> None:
    await make(own, allow_atomic=atomic)
    messages = events(8, keys=2)
    outcomes = await own.publish(STREAM, [*messages[:4], ill, *messages[4:]], timeout=TIMEOUT)
    assert isinstance(outcomes[4], Refused)
    assert (outcomes[4].heals, outcomes[4].code) == (False, 400)
    assert [place for place, one in enumerate(outcomes) if one == Held()] == [6, 8]
    assert sum(isinstance(one, Stored) for one in outcomes) == 6
    found = await stored_ids(own)
    assert sorted(found) == ["id-0", "id-1", "id-2", "id-3", "id-4", "id-6"]
    assert own.connected


async def test_messages_with_no_room_for_a_batchs_headers_keep_the_connection() -> None:
    async with NatsServer(extra_config="max_payload: 4096\n") as server:
        broker = await connect(NatsSettings(url=server.url))
        await make(broker, allow_atomic=True)
        block = len(b"NATS/1.0\r\n\r\n") + len("Nats-Msg-Id: id-0\r\nX-Ordering-Key: key-0\r\n")
        full = events(3, payload=b"x" * (4096 - block))
        outcomes = await broker.publish(STREAM, full, timeout=TIMEOUT)
        assert outcomes == [Stored(1), Stored(2), Stored(3)]
        assert broker.connected
        await broker.close()


# ------------------------------------------------------------------------- the connection


class Losses:
    """Waits for a connection to be lost and to come back."""

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        self.lost, self.back = asyncio.Event(), asyncio.Event()
        self.telemetry.subscribe(self._listen)

    def _listen(self, signal: Signal) -> None:
        if isinstance(signal, Disconnected):
            self.lost.set()
        elif isinstance(signal, Reconnected):
            self.back.set()


async def opened(server: NatsServer, losses: Losses) -> Connection:
    return await open_connection(
        NatsSettings(url=server.url), telemetry=losses.telemetry, name="test", wait=False
    )


@pytest.mark.parametrize("returns", [True, False], ids=["connected again", "still away"])
async def test_frames_cut_in_the_middle_are_not_continued(
    nats_server_own: NatsServer, returns: bool
) -> None:
    losses = Losses()
    connection = await opened(nats_server_own, losses)
    heard: list[bytes] = []
    witness = await nats.connect(nats_server_own.url, allow_reconnect=False)
    await witness.subscribe("cut")
    cut = asyncio.Event()
    taken = 0

    def frames() -> Iterator[bytes]:
        nonlocal taken
        for number in range(100_000):
            taken = number
            if number == 1000:
                cut.set()
            yield b"PUB cut  1024\r\n%b\r\n" % (b"x" * 1024)

    async def break_it() -> None:
        await cut.wait()
        nats_server_own.pause()  # From here on the socket fills, and the sender waits.
        await witness.close()
        await nats_server_own.kill()
        await losses.lost.wait()
        if returns:
            await nats_server_own.start()
            await losses.back.wait()
            other = await nats.connect(nats_server_own.url)

            async def hear(message: Msg) -> None:
                heard.append(message.data)

            await other.subscribe("cut", cb=hear)
            await other.flush()
            await connection.client.flush()
            await other.flush()
            await other.close()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(break_it())
        sent = await connection.send(frames(), timeout=TIMEOUT)
    assert 0 < sent <= taken < 99_999
    assert heard == []
    assert connection.epoch == 1
    assert returns or "no connection" in str(connection.away())
    await connection.close()


async def test_a_connection_lost_and_back_between_two_chunks_ends_the_sending(
    nats_server: NatsServer,
) -> None:
    connection = await opened(nats_server, Losses())

    def frames() -> Iterator[bytes]:
        for number in range(1000):
            if number == 500:
                connection.epoch += 1  # As a loss between two turns of the loop leaves it.
            yield b"PUB cut  1024\r\n%b\r\n" % (b"x" * 1024)

    assert 0 < await connection.send(frames(), timeout=TIMEOUT) <= 500
    await connection.close()


async def test_nothing_is_sent_while_there_is_no_connection(nats_server_own: NatsServer) -> None:
    losses = Losses()
    connection = await opened(nats_server_own, losses)
    async with asyncio.timeout(30):
        await nats_server_own.kill()
        await losses.lost.wait()
        assert await connection.send([b"PUB a  0\r\n\r\n"], timeout=TIMEOUT) == 0
        assert connection.client.pending_data_size == 0
    await connection.close()


async def test_what_was_not_flushed_is_dropped_with_its_connection(
    nats_server_own: NatsServer,
) -> None:
    losses = Losses()
    connection = await opened(nats_server_own, losses)
    async with asyncio.timeout(30):
        await connection.client.publish("late", b"")
        assert connection.client.pending_data_size > 0
        nats_server_own.terminate(graceful=False)  # Without a turn of the loop to flush in.
        await losses.lost.wait()
        assert connection.client.pending_data_size == 0
    await connection.close()


async def test_frames_stand_behind_what_the_client_has_queued(nats_server: NatsServer) -> None:
    """The client's own buffer and ours are one: fails where nats-py keeps it otherwise."""
    connection = await opened(nats_server, Losses())
    found: list[bytes] = []
    before = dict(connection.client.handlers)
    unsubscribe = await connection.subscribe("order", lambda frame: found.append(frame.data))
    numbers = [b"%d" % number for number in range(200)]
    for first, second in zip(numbers[::2], numbers[1::2], strict=True):
        await connection.client.publish("order", first)
        assert connection.client.pending_data_size > 0
        frame = b"PUB order  %d\r\n%b\r\n" % (len(second), second)
        assert await connection.send([frame], timeout=TIMEOUT) == 1
        assert connection.client.pending_data_size == 0
    await unsubscribe()
    assert found == numbers
    assert connection.client.handlers == before
    await connection.close()


async def test_a_handler_that_raises_does_not_end_the_reading(nats_server: NatsServer) -> None:
    connection = await opened(nats_server, Losses())

    def fail(frame: object) -> None:
        raise RuntimeError("a handler's own fault")

    found: list[bytes] = []
    await connection.subscribe("both", fail)
    unsubscribe = await connection.subscribe("both", lambda frame: found.append(frame.data))
    await connection.client.publish("both", b"1")
    await connection.client.flush()
    await unsubscribe()
    assert found == [b"1"]
    assert "own fault" in str(connection.last_error)
    await connection.close()


# ------------------------------------------------------------------------- the server


@pytest.mark.parametrize(
    "atomic", [pytest.param(True, marks=pytest.mark.seaway_since("2.12", "atomic batches")), False]
)
async def test_a_server_that_answers_nothing_leaves_it_unconfirmed(
    own: JetStreamBroker, nats_server_own: NatsServer, atomic: bool
) -> None:
    await make(own, allow_atomic=atomic)
    first, later = events(8, keys=2)[:2], events(8, keys=2)[2:]
    assert await own.publish(STREAM, first, timeout=TIMEOUT) == [Stored(1), Stored(2)]
    nats_server_own.pause()
    try:
        outcomes = await own.publish(STREAM, later, timeout=TIMEOUT / 10)
    finally:
        nats_server_own.resume()
    assert isinstance(outcomes[0], Unconfirmed)
    unknown = [one for one in outcomes if isinstance(one, Unconfirmed)]
    assert len(unknown) == (6 if atomic else 2)
    assert set(outcomes) - set(unknown) <= {Held()}


@pytest.mark.seaway_since("2.12", "atomic batches")
async def test_a_server_that_takes_nothing_refuses_a_batch_in_time(
    own: JetStreamBroker, nats_server_own: NatsServer
) -> None:
    await make(own, allow_atomic=True)
    assert await own.publish(STREAM, events(1), timeout=TIMEOUT) == [Stored(1)]
    nats_server_own.pause()
    try:
        async with asyncio.timeout(5):
            large = events(40, payload=b"x" * 500_000)
            outcomes = await own.publish(STREAM, large, timeout=TIMEOUT / 10)
    finally:
        nats_server_own.resume()
    assert isinstance(outcomes[0], Refused)
    assert outcomes[0].heals
    assert "stopped taking" in outcomes[0].description
    assert len(await stored_ids(own)) == 1


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("graceful", [True, False], ids=["restarted", "killed"])
async def test_a_server_restarted_while_publishing_keeps_each_keys_order(
    own: JetStreamBroker, nats_server_own: NatsServer, atomic: bool, graceful: bool
) -> None:
    await make(own, allow_atomic=atomic)
    left = events(6000, keys=20)
    under_way = asyncio.Event()
    restarts = 0

    async def publish_all(left: list[Message]) -> None:
        while left:
            under_way.set()
            outcomes: Sequence[PublishOutcome] = await own.publish(STREAM, left, timeout=TIMEOUT)
            pairs = zip(left, outcomes, strict=True)
            left = [message for message, one in pairs if not isinstance(one, Stored)]
            await asyncio.sleep(0.01)

    async with asyncio.timeout(90):
        publishing = asyncio.create_task(publish_all(left))
        await under_way.wait()
        while restarts < 3:
            info = await own.admin.stream(STREAM) if own.connected else None
            if info is not None and info.messages >= (restarts + 1) * 1000:
                await (nats_server_own.stop() if graceful else nats_server_own.kill())
                await nats_server_own.start()
                restarts += 1
            await asyncio.sleep(0.005)
        await publishing
        while not own.connected:  # All of it may have been stored before the last restart.
            await asyncio.sleep(0.005)
    found = await stored_ids(own)
    assert len(found) == 6000
    in_order(found, keys=20)


@pytest.mark.parametrize("keys", [1, 7])
async def test_a_stream_full_in_the_middle_stores_no_later_message_of_a_key(
    own: JetStreamBroker, keys: int
) -> None:
    await make(own, max_msgs=100, discard="new")
    outcomes = await own.publish(STREAM, events(300, keys=keys), timeout=TIMEOUT)
    found = await stored_ids(own)
    assert len(found) == 100
    in_order(found, keys=keys)
    stored = {f"id-{n}" for n, one in enumerate(outcomes) if isinstance(one, Stored)}
    assert stored == set(found)
    others = [one for one in outcomes if not isinstance(one, Stored)]
    assert any(isinstance(one, Refused) and one.heals for one in others)
    assert all(one == Held() or (isinstance(one, Refused) and one.heals) for one in others)


async def test_a_cancelled_call_leaves_no_question_open(
    own: JetStreamBroker, nats_server_own: NatsServer
) -> None:
    await make(own)
    assert await own.publish(STREAM, events(1), timeout=TIMEOUT) == [Stored(1)]
    nats_server_own.pause()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await own.publish(STREAM, events(50, keys=50), timeout=TIMEOUT)
    finally:
        nats_server_own.resume()
    assert own._connection._waiting == {}


def leave_given(given: bool) -> asyncio.Future[bool]:
    leave: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    leave.set_result(given)
    return leave


async def test_batches_without_leave_take_no_room_on_the_server(own: JetStreamBroker) -> None:
    """It holds 50 unfinished ones of a stream, each for 10 s."""
    await make(own, allow_atomic=True)
    sent = events(3)
    for _ in range(60):
        outcomes = await own.publish(STREAM, sent, timeout=TIMEOUT, after=leave_given(False))
        assert outcomes == [Held()] * 3
    connection, message = own._connection, wire.prepare(Message(SUBJECT, b"x"))
    with connection.ask(1, lambda denial: False) as asked:
        frames = wire.Batch("another").whole([message], asked.replies[0].encode())
        assert await connection.send(frames, timeout=TIMEOUT) == 1
        [answer] = await asked.answers(timeout=TIMEOUT, asked=1)
    assert answer is not None
    assert json.loads(answer.data)["seq"] == 1


@pytest.mark.seaway_since("2.12", "atomic batches")
async def test_a_batch_is_not_committed_on_another_connection_than_its_own(
    own: JetStreamBroker, nats_server_own: NatsServer
) -> None:
    await make(own, allow_atomic=True)
    leave: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    sent = events(3)
    waiting = asyncio.create_task(own.publish(STREAM, sent, timeout=TIMEOUT, after=leave))
    assert await own.publish(STREAM, events(4)[3:], timeout=TIMEOUT) == [Stored(1)]
    before = own._connection.epoch
    await nats_server_own.kill()
    await nats_server_own.start()
    async with asyncio.timeout(10):
        while own._connection.epoch == before or not own.connected:
            await asyncio.sleep(0.01)
    leave.set_result(True)
    outcomes = await waiting
    assert all(isinstance(one, Refused) and one.heals for one in outcomes)
    assert await stored_ids(own) == ["id-3"]


@pytest.mark.parametrize("leave", [True, False], ids=["after leave", "at once"])
@pytest.mark.parametrize("atomic", [True, False])
async def test_a_process_that_was_stopped_sends_nothing_more(
    own: JetStreamBroker, atomic: bool, leave: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP: the clock leaps, and the right to publish may be another's."""
    await make(own, allow_atomic=atomic)
    (known,) = events(1)
    assert isinstance((await own.publish(STREAM, [known], timeout=TIMEOUT))[0], Stored)
    moments = iter(range(0, 1_000_000, 60))
    monkeypatch.setattr("seaway.process.running_time", lambda: float(next(moments)))
    # A known id makes a batch fall apart into singles; those wait for one another by key.
    after = leave_given(True) if leave else None
    outcomes = await own.publish(STREAM, events(5), timeout=TIMEOUT, after=after)
    assert not any(isinstance(outcome, Stored) for outcome in outcomes)
    assert await stored_ids(own) == ["id-0"]
