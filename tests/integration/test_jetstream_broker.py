"""The JetStream broker on a real server: batches, limits, crashes, absence, foreign publishers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from seaway import headers as h
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.contracts import Held, Incoming, Message, Refused, Stored, Subscription
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.process import free_port
from seaway.errors import BrokerUnavailable

pytestmark = pytest.mark.server

STREAM, SUBJECT, DURABLE = "SEA_EVENTS", "sea.event.case_created.v1", "case_mgmt__from_sea"
TIMEOUT = timedelta(seconds=5)


@pytest.fixture
async def own(nats_server_own: NatsServer) -> AsyncIterator[JetStreamBroker]:
    """A connection to this test's own server."""
    connected = await connect(NatsSettings(url=nats_server_own.url))
    yield connected
    await connected.close()


async def make(broker: JetStreamBroker, *, ack_wait: float = 30, **config: object) -> None:
    await broker.admin.create_stream(
        {"name": STREAM, "subjects": ["sea.event.>"], "storage": "file", **config}
    )
    durable = {"name": DURABLE, "durable_name": DURABLE, "ack_policy": "explicit"}
    await broker.admin.create_consumer(STREAM, {**durable, "ack_wait": int(ack_wait * 1e9)})


def events(count: int, *, keys: int = 1, first: int = 0) -> list[Message]:
    return [
        Message(SUBJECT, b"%d" % n, {h.MSG_ID: f"id-{n}", h.ORDERING_KEY: f"key-{n % keys}"})
        for n in range(first, first + count)
    ]


async def stored_ids(broker: JetStreamBroker) -> list[str]:
    return [stored.event_id async for stored in broker.admin.read(STREAM)]


async def receive(pull: Subscription, count: int) -> list[Incoming]:
    found: list[Incoming] = []
    while len(found) < count:
        batch = await pull.next(count - len(found), timeout=timedelta(seconds=15))
        assert batch, f"only {len(found)} of {count} messages came"
        found += batch
    return found


async def publish_until_stored(broker: JetStreamBroker, messages: Sequence[Message]) -> None:
    """What the relay does: send again under the same ids what is not known to be stored."""
    left = list(messages)
    async with asyncio.timeout(30):
        while left:
            outcomes = await broker.publish(STREAM, left, timeout=timedelta(seconds=2))
            pairs = zip(left, outcomes, strict=True)
            left = [message for message, one in pairs if not isinstance(one, Stored)]
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_known_id_inside_a_run_is_a_duplicate(own: JetStreamBroker, atomic: bool) -> None:
    await make(own, allow_atomic=atomic)
    messages = events(10)
    assert await own.publish(STREAM, messages[3:5], timeout=TIMEOUT) == [Stored(1), Stored(2)]
    outcomes = await own.publish(STREAM, messages, timeout=TIMEOUT)
    # Behind what was there its key waits, until somebody has looked at it.
    assert outcomes[:3] == [Stored(3), Stored(4), Stored(5)]
    assert outcomes[3:] == [Stored(1, duplicate=True)] + [Held()] * 6
    again = await own.publish(STREAM, messages[5:], timeout=TIMEOUT)
    assert again == [Stored(n) for n in range(6, 11)]
    assert len(await stored_ids(own)) == 10


@pytest.mark.parametrize("atomic", [True, False])
async def test_long_runs_keep_their_order(own: JetStreamBroker, atomic: bool) -> None:
    await make(own, allow_atomic=atomic)
    messages = events(1200 if atomic else 300)
    outcomes = await own.publish(STREAM, messages, timeout=timedelta(seconds=20))
    assert outcomes == [Stored(n) for n in range(1, len(messages) + 1)]
    assert await stored_ids(own) == [message.headers[h.MSG_ID] for message in messages]


async def test_an_atomic_batch_does_not_hide_which_message_is_too_large(
    own: JetStreamBroker,
) -> None:
    await make(own, allow_atomic=True, max_msg_size=200)
    small, other = events(2, keys=2)
    large = Message(SUBJECT, b"x" * 300, {h.ORDERING_KEY: "large"})
    outcomes = await own.publish(STREAM, [small, large, other], timeout=TIMEOUT)
    assert isinstance(outcomes[1], Refused)
    assert outcomes[1].heals is False
    assert sorted(await stored_ids(own)) == ["id-0", "id-1"]
    assert isinstance(outcomes[0], Stored)
    assert isinstance(outcomes[2], Stored)


async def test_the_servers_max_payload_keeps_the_connection() -> None:
    async with NatsServer(extra_config="max_payload: 4096\n") as server:
        broker = await connect(NatsSettings(url=server.url))
        await make(broker)
        large = Message(SUBJECT, b"x" * 4096, {h.ORDERING_KEY: "large"})
        outcomes = await broker.publish(STREAM, [large, *events(1)], timeout=TIMEOUT)
        assert isinstance(outcomes[0], Refused)
        assert outcomes[0].heals is False
        assert outcomes[1] == Stored(1)
        assert broker.connected
        await broker.close()


# ------------------------------------------------------------------------------ crashes


@pytest.mark.parametrize("atomic", [True, False])
async def test_no_id_is_lost_or_doubled_over_a_kill_while_publishing(
    own: JetStreamBroker, nats_server_own: NatsServer, atomic: bool
) -> None:
    await make(own, allow_atomic=atomic)
    first_ones = asyncio.Event()

    async def publish_all() -> None:
        for first in range(0, 400, 40):
            await publish_until_stored(own, events(40, keys=4, first=first))
            first_ones.set()

    publishing = asyncio.create_task(publish_all())
    async with asyncio.timeout(60):
        await first_ones.wait()
        await nats_server_own.kill()
        await nats_server_own.start()
        await publishing
    found = await stored_ids(own)
    assert sorted(found) == sorted(f"id-{n}" for n in range(400))
    for key in range(4):
        numbers = [int(name[3:]) for name in found if int(name[3:]) % 4 == key]
        assert numbers == sorted(numbers)


async def test_a_kill_while_pulling_loses_nothing(
    own: JetStreamBroker, nats_server_own: NatsServer
) -> None:
    await make(own, ack_wait=1)
    await publish_until_stored(own, events(60))
    settled: set[str] = set()
    async with own.subscribe(STREAM, DURABLE) as pull:
        early = await receive(pull, 20)
        confirmed = await pull.ack(*early)
        assert all(confirmed)
        settled |= {one.event_id for one in early}
        unsettled = await receive(pull, 10)
        await nats_server_own.kill()
        assert not any(await pull.ack(*unsettled))
        await nats_server_own.start()
        async with asyncio.timeout(40):
            while len(settled) < 60:
                batch = await pull.next(20, timeout=timedelta(seconds=10))
                pairs = zip(batch, await pull.ack(*batch), strict=True)
                settled |= {one.event_id for one, confirmed in pairs if confirmed}
    assert settled == {f"id-{n}" for n in range(60)}


async def test_reading_goes_on_where_a_restart_has_forgotten_the_reader(
    own: JetStreamBroker, nats_server_own: NatsServer
) -> None:
    await make(own, allow_atomic=True)
    # More than are on their way at once, so that some are left to be asked for.
    await publish_until_stored(own, events(2_000))
    found: list[str] = []
    async with asyncio.timeout(60):
        async for stored in own.admin.read(STREAM, from_seq=11):
            found.append(stored.event_id)
            if len(found) == 700:
                await nats_server_own.kill()
                await nats_server_own.start()
    assert found == [f"id-{n}" for n in range(10, 2_000)]


# ------------------------------------------------------------------------------ absence


async def test_jetstream_not_enabled_is_told() -> None:
    async with NatsServer(jetstream=False) as server:
        broker = await connect(NatsSettings(url=server.url))
        assert (await broker.admin.server_info()).jetstream is False
        with pytest.raises(BrokerUnavailable, match="JetStream is not enabled"):
            await broker.admin.streams()
        with pytest.raises(BrokerUnavailable, match="JetStream is not enabled"):
            async with broker.subscribe(STREAM, DURABLE):
                pass
        [outcome] = await broker.publish(STREAM, events(1), timeout=TIMEOUT)
        assert isinstance(outcome, Refused)
        assert outcome.heals
        await broker.close()


async def test_without_a_server_it_says_so_soon() -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    async with asyncio.timeout(5):
        with pytest.raises(BrokerUnavailable, match=url):
            await connect(NatsSettings(url=url))


async def test_waiting_connects_when_the_server_comes() -> None:
    port = free_port()
    settings = NatsSettings(url=f"nats://127.0.0.1:{port}")
    waiting = asyncio.create_task(connect(settings, wait=True))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    async with NatsServer(port=port):
        async with asyncio.timeout(60):
            broker = await waiting
        assert broker.connected
        assert await broker.admin.streams() == []
        await broker.close()


async def test_a_cancelled_wait_leaves_nothing_open() -> None:
    settings = NatsSettings(url=f"nats://127.0.0.1:{free_port()}")
    waiting = asyncio.create_task(connect(settings, wait=True))
    await asyncio.wait([waiting], timeout=0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# ------------------------------------------------------------------------------ foreign publishers


def publish_raw(server: NatsServer, subject: bytes, block: bytes | None, payload: bytes) -> None:
    """Publish as a program of another make would, byte for byte; wait for the server's PONG."""
    if block is None:
        frame = b"PUB %s %d\r\n" % (subject, len(payload))
    else:
        frame = b"HPUB %s %d %d\r\n" % (subject, len(block), len(block) + len(payload))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
        raw.sendall(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
        raw.sendall(frame + (block or b"") + payload + b"\r\nPING\r\n")
        heard = b""
        while b"PONG" not in heard:
            more = raw.recv(4096)
            assert more, heard
            heard += more


FOREIGN = {
    "junk": (SUBJECT.encode(), b"\x00\xff\x01\x02"),
    "header block only": (SUBJECT.encode(), b"NATS/1.0\r\n\r\n"),
    "line without colon": (SUBJECT.encode(), b"NATS/1.0\r\nno colon here\r\n\r\n"),
    "value not UTF-8": (SUBJECT.encode(), b"NATS/1.0\r\nX-Name: \xff\xfe\r\n\r\n"),
    "name not ASCII": (SUBJECT.encode(), b"NATS/1.0\r\n\xff\xfe: x\r\n\r\n"),
    "subject not UTF-8": (b"sea.event.\xff\xfe.v1", None),
}


@pytest.mark.parametrize("what", FOREIGN)
async def test_a_foreign_message_is_delivered_or_skipped_and_nothing_breaks(
    own: JetStreamBroker, nats_server_own: NatsServer, what: str
) -> None:
    await make(own)
    subject, block = FOREIGN[what]
    async with own.subscribe(STREAM, DURABLE) as pull:
        await asyncio.to_thread(publish_raw, nats_server_own, subject, block, b"foreign")
        [mine] = events(1)
        assert isinstance((await own.publish(STREAM, [mine], timeout=TIMEOUT))[0], Stored)
        found: list[Incoming] = []
        while not found or found[-1].message.payload != mine.payload:
            found += await receive(pull, 1)
        assert found[-1].message == mine
        assert {one.message.payload for one in found[:-1]} <= {b"foreign", b""}
        assert all(await pull.ack(*found))
    info = await own.admin.stream(STREAM)
    assert info is not None
    for seq in range(1, info.last_seq + 1):
        assert await own.admin.get(STREAM, seq) is not None
    assert (await stored_ids(own))[-1] == "id-0"
    assert own.connected
