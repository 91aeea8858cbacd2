"""Pulling on a real server: how far it asks ahead, and what heals a pull that is no more."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from seaway import headers as h
from seaway.brokers.jetstream import JetStreamBroker, connect, pull
from seaway.brokers.jetstream.pull import Pull
from seaway.config import NatsSettings
from seaway.contracts import Message, Stored
from seaway.embedded.nats_server import NatsServer
from seaway.errors import NotFound
from seaway.testing.conformance.broker_words import DURABLE, TIMEOUT, receive, until

pytestmark = pytest.mark.server

STREAM, SUBJECT = "SEA_EVENTS", "sea.event.case_created.v1"


@pytest.fixture
async def own(nats_server_own: NatsServer) -> AsyncIterator[JetStreamBroker]:
    """A connection to this test's own server, and on it a stream with a durable."""
    connected = await connect(NatsSettings(url=nats_server_own.url))
    await connected.admin.create_stream(
        {"name": STREAM, "subjects": ["sea.event.>"], "storage": "file"}
    )
    config = {"name": DURABLE, "durable_name": DURABLE, "ack_policy": "explicit"}
    await connected.admin.create_consumer(STREAM, config | {"ack_wait": 2_000_000_000})
    yield connected
    await connected.close()


async def publish(broker: JetStreamBroker, count: int, *, payload: bytes = b"") -> None:
    """Until they are stored: a server that has just come back may have no leader yet."""
    for _ in range(count):
        message = Message(SUBJECT, payload, {h.MSG_ID: uuid.uuid4().hex})

        async def stored(message: Message = message) -> bool:
            [outcome] = await broker.publish(STREAM, [message], timeout=TIMEOUT)
            return isinstance(outcome, Stored)

        await until(stored)


async def on_their_way(broker: JetStreamBroker) -> int:
    """How many deliveries the server waits to have acknowledged."""
    info = await broker.admin.consumer(STREAM, DURABLE)
    assert info is not None
    return info.num_ack_pending


# ------------------------------------------------------------------------------ asking ahead


async def test_the_next_are_on_their_way_while_these_are_handled(own: JetStreamBroker) -> None:
    """8 of the 15 that were asked for leave 7 to come: half, so the next call asks for more."""
    handed = 0

    async def ahead() -> bool:
        return await on_their_way(own) > handed

    async with own.subscribe(STREAM, DURABLE) as source:
        await publish(own, 8)
        while handed < 8:
            handed += len(await source.next(15, timeout=TIMEOUT))
        await publish(own, 92)
        await until(ahead)
        handed += len(await source.next(15, timeout=TIMEOUT))
        await until(ahead)


@pytest.mark.parametrize("limit", [1, 2, 10])
async def test_no_more_than_the_limit_is_asked_for(own: JetStreamBroker, limit: int) -> None:
    await publish(own, 100)
    handed = 0
    async with own.subscribe(STREAM, DURABLE) as source:
        while handed < 50:
            handed += len(await source.next(limit, timeout=TIMEOUT))
            assert handed <= await on_their_way(own) <= handed + limit


async def test_cancelling_again_and_again_loses_nothing(own: JetStreamBroker) -> None:
    await publish(own, 300)
    seen: list[int] = []
    async with own.subscribe(STREAM, DURABLE) as source:
        async with asyncio.timeout(30):
            while len(seen) < 300:
                call = asyncio.create_task(source.next(7, timeout=TIMEOUT))
                await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait({call})
                batch = [] if call.cancelled() else call.result()
                batch = [*batch, *await source.next(3, timeout=TIMEOUT)]
                seen += [one.stream_seq for one in batch]
                assert all(await source.ack(*batch))
    assert seen == list(range(1, 301))


@pytest.mark.parametrize("turns", range(1, 8))
async def test_a_drain_that_is_cancelled_says_so(own: JetStreamBroker, turns: int) -> None:
    """nats-py passes over a cancellation while it drains."""
    async with own.subscribe(STREAM, DURABLE) as source:
        draining = asyncio.create_task(source.drain())
        for _ in range(turns):
            await asyncio.sleep(0)
        ended = draining.done()
        draining.cancel()
        await asyncio.wait({draining})
        assert ended or draining.cancelled()


async def test_a_payload_of_many_reads_comes_whole(own: JetStreamBroker) -> None:
    payload = bytes(range(256)) * 3500
    await publish(own, 3, payload=payload)
    async with own.subscribe(STREAM, DURABLE) as source:
        found = await receive(source, 3)
        assert [one.message.payload for one in found] == [payload] * 3
        assert all(await source.ack(*found))


# ------------------------------------------------------------------------------ acknowledging


async def test_many_acknowledgements_are_confirmed_together(own: JetStreamBroker) -> None:
    await publish(own, 1500)
    async with own.subscribe(STREAM, DURABLE) as source:
        found = await receive(source, 1000)
        assert await source.ack(*found) == [True] * 1000
        assert await source.ack() == []
    assert await on_their_way(own) <= 500


async def test_without_its_durable_nothing_is_confirmed(own: JetStreamBroker) -> None:
    await publish(own, 2)
    async with own.subscribe(STREAM, DURABLE) as source:
        found = await receive(source, 2)
        await own.admin.delete_consumer(STREAM, DURABLE)
        async with asyncio.timeout(4):  # Told by the server, not by a timeout.
            assert await source.ack(*found) == [False, False]


# ------------------------------------------------------------------------------ healing


async def test_a_durable_deleted_with_its_pull_open(own: JetStreamBroker) -> None:
    async with own.subscribe(STREAM, DURABLE) as source:
        waiting = asyncio.create_task(source.next(1, timeout=TIMEOUT))
        await asyncio.wait({waiting}, timeout=0.2)
        await own.admin.delete_consumer(STREAM, DURABLE)
        async with asyncio.timeout(8):
            with pytest.raises(NotFound):
                await waiting


async def test_a_pull_outlives_restarts(own: JetStreamBroker, nats_server_own: NatsServer) -> None:
    await publish(own, 5)
    async with own.subscribe(STREAM, DURABLE) as source:
        assert all(await source.ack(*await receive(source, 5)))
        for _ in range(2):
            waiting = asyncio.create_task(source.next(5, timeout=timedelta(seconds=30)))
            await asyncio.wait({waiting}, timeout=0.1)
            await nats_server_own.kill()
            await nats_server_own.start()

            async def back() -> bool:
                return own.connected

            await until(back)
            await publish(own, 1)
            async with asyncio.timeout(30):
                # Ended early by the gap: its owner may want what was lost in it first.
                found = await waiting
                # What a killed server has not written down comes again, and may be known by then.
                while not (found and all(await source.ack(*found))):
                    found = await source.next(5, timeout=TIMEOUT)


async def test_a_pull_without_heartbeats_is_made_anew(
    own: JetStreamBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that reached nobody, though nobody says so."""
    monkeypatch.setattr(pull, "_HEARTBEAT", timedelta(milliseconds=100))
    await publish(own, 1)
    unsubscribe = await own._connection.subscribe("quiet.next", lambda frame: None)
    async with own.subscribe(STREAM, DURABLE) as source:
        assert isinstance(source, pull.Pull)
        right, source._subject = source._subject, "quiet.next"
        assert await source.next(1, timeout=timedelta(milliseconds=200)) == []
        source._subject = right
        with caplog.at_level(logging.WARNING, "seaway.nats"):
            assert len(await source.next(1, timeout=TIMEOUT)) == 1
    assert "no heartbeat" in caplog.text
    await unsubscribe()


async def test_a_pull_that_expired_is_followed_by_another(
    own: JetStreamBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "_TERMS", '"expires":300000000,"idle_heartbeat":100000000')
    async with own.subscribe(STREAM, DURABLE) as source:
        assert await source.next(3, timeout=timedelta(seconds=1)) == []
        await publish(own, 9)
        found = await receive(source, 9)
        assert [one.deliveries for one in found] == [1] * 9


async def test_what_a_former_subscription_asked_for_is_not_lost(own: JetStreamBroker) -> None:
    async with own.subscribe(STREAM, DURABLE) as former:
        assert await former.next(50, timeout=timedelta(milliseconds=100)) == []
    async with own.subscribe(STREAM, DURABLE) as source:
        await publish(own, 60)
        found = await receive(source, 60)
        assert sorted(one.stream_seq for one in found) == list(range(1, 61))
        assert {one.deliveries for one in found} == {1}


async def test_a_drain_has_the_server_read_its_end_first(
    own: JetStreamBroker, nats_server_own: NatsServer
) -> None:
    """What is sent after the PONG that it waits for would be lost until ``ack_wait``."""
    said = bytearray()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", nats_server_own.port)

        async def one_way(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if source is reader:
                    said.extend(data)
                target.write(data)
            target.close()

        await asyncio.gather(one_way(reader, back), one_way(there, writer))

    async with await asyncio.start_server(carry, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        heard = await connect(NatsSettings(url=f"nats://127.0.0.1:{port}"))
        async with heard.subscribe(STREAM, DURABLE):
            await heard.admin.stream(STREAM)
            said.clear()
        verbs = [line.split()[0] for line in bytes(said).splitlines()]
        await heard.close()
    assert b"PING" in verbs[verbs.index(b"UNSUB") :]
    assert b"PING" not in verbs[: verbs.index(b"UNSUB")]


# ------------------------------------------------------------------------------ taking turns


@pytest.fixture
async def exclusive(
    own: JetStreamBroker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Pull, Pull]]:
    """Two pulls of the durable, which takes turns of a second; the first has its turn."""
    monkeypatch.setattr(pull, "_SIGN_EVERY", timedelta(milliseconds=200))
    info = await own.admin.consumer(STREAM, DURABLE)
    assert info is not None
    turns = {
        "priority_policy": "pinned_client",
        "priority_groups": ["seaway"],
        "priority_timeout": 10**9,
    }
    await own.admin.update_consumer(STREAM, info.config | turns)
    async with own.subscribe(STREAM, DURABLE) as one, own.subscribe(STREAM, DURABLE) as other:
        assert isinstance(one, Pull)
        assert isinstance(other, Pull)
        await publish(own, 1)
        assert all(await one.ack(*await receive(one, 1)))
        yield one, other


def hush(pull: Pull) -> None:
    """As when its process is stopped: no sign of life from now on."""
    assert pull._signing is not None
    pull._signing.cancel()


async def waiting_for(own: JetStreamBroker) -> str | None:
    """Whose turn it is."""
    info = await own.admin.consumer(STREAM, DURABLE)
    assert info is not None
    [state] = info.document["priority_groups"]
    found: str | None = state.get("pinned_client_id")
    return found


async def turn_is_over(own: JetStreamBroker) -> None:
    """Return when no pull is given messages."""

    async def over() -> bool:
        return await waiting_for(own) is None

    await until(over)


@pytest.mark.seaway_since("2.11", "exclusive durables")
async def test_a_turn_lasts_while_hands_are_full(
    own: JetStreamBroker, exclusive: tuple[Pull, Pull]
) -> None:
    one, other = exclusive
    await publish(own, 5)
    [held] = await receive(one, 1)
    # One more may be on its way: asked for ahead.
    assert await other.next(5, timeout=timedelta(seconds=3)) == []
    assert (one.standby, other.standby) == (False, True)
    assert all(await one.ack(held))
    assert [found.stream_seq for found in await receive(one, 4)] == [3, 4, 5, 6]
    assert (one.gaps, other.gaps) == (1, 0)


@pytest.mark.seaway_since("2.11", "exclusive durables")
async def test_a_silent_one_loses_its_turn_and_stands_by(
    own: JetStreamBroker, exclusive: tuple[Pull, Pull]
) -> None:
    one, other = exclusive
    hush(one)
    assert await one.next(5, timeout=timedelta(milliseconds=10)) == []
    await turn_is_over(own)
    await publish(own, 2)
    assert [found.stream_seq for found in await receive(other, 2)] == [2, 3]
    assert await one.next(5, timeout=timedelta(milliseconds=500)) == []
    assert (one.standby, one.gaps) == (True, 1)
    assert (other.standby, other.gaps) == (False, 1)


@pytest.mark.seaway_since("2.11", "exclusive durables")
async def test_a_turn_that_comes_back_is_a_new_one(
    own: JetStreamBroker, exclusive: tuple[Pull, Pull]
) -> None:
    one, other = exclusive
    hush(one)
    await turn_is_over(own)
    await publish(own, 1)
    assert len(await receive(other, 1)) == 1
    assert await one.next(5, timeout=timedelta(milliseconds=200)) == []
    waiting = asyncio.create_task(receive(one, 1))
    await other.__aexit__(None, None, None)
    await publish(own, 1)
    [found] = await waiting
    assert (found.stream_seq, one.gaps, one.standby) == (3, 2, False)


@pytest.mark.seaway_since("2.11", "exclusive durables")
async def test_who_leaves_takes_no_turn_from_another(
    own: JetStreamBroker, exclusive: tuple[Pull, Pull]
) -> None:
    one, other = exclusive
    hush(one)
    await turn_is_over(own)
    await publish(own, 1)
    assert len(await receive(other, 1)) == 1
    turn = await waiting_for(own)
    assert not one.standby  # It has not heard of it.
    await one.__aexit__(None, None, None)
    assert await waiting_for(own) == turn


@pytest.mark.seaway_since("2.11", "exclusive durables")
async def test_a_turn_ends_with_its_server(
    own: JetStreamBroker, nats_server_own: NatsServer, exclusive: tuple[Pull, Pull]
) -> None:
    one, _ = exclusive
    waiting = asyncio.create_task(receive(one, 3))
    await nats_server_own.kill()
    await nats_server_own.start()

    async def back() -> bool:
        return own.connected

    await until(back)
    await publish(own, 3)
    found = await waiting
    assert [delivery.stream_seq for delivery in found] == [2, 3, 4]
    assert one.gaps >= 2  # The connection, and the turn.


async def test_a_durable_that_is_not_exclusive_any_more_goes_on(
    own: JetStreamBroker, exclusive: tuple[Pull, Pull]
) -> None:
    one, _ = exclusive
    info = await own.admin.consumer(STREAM, DURABLE)
    assert info is not None
    shared = {"priority_policy": "none", "priority_groups": [], "priority_timeout": 0}
    await own.admin.update_consumer(STREAM, info.config | shared)
    await publish(own, 20)
    assert len(await receive(one, 10)) == 10
