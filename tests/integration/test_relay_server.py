"""The relay between a real SQLite file and a real nats-server."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import headers as h
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.contracts import Message, Refused, Stored, StoredMessage
from seaway.embedded.nats_server import NatsServer
from seaway.errors import EventTooLarge
from seaway.events import RawEvent, new_event_id
from seaway.outbox import Outbox
from seaway.relay import Relay
from seaway.retry import Backoff
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import Parked, Relayed, RelayPaused, RelayResumed, Signal, Telemetry

pytestmark = pytest.mark.server

QUICK = Backoff(base=timedelta(milliseconds=20), cap=timedelta(milliseconds=100))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(tmp_path / "outbox.db") as opened:
        await opened.schema.upgrade()
        yield opened


class Heard(list[Signal]):
    """Every signal so far; ``until`` waits for the one that is looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.telemetry = Telemetry()
        self.telemetry.subscribe(self._hear)
        self._more = asyncio.Event()

    def _hear(self, signal: Signal) -> None:
        self.append(signal)
        self._more.set()

    def of(self, kind: type) -> list[Any]:
        return [signal for signal in self if isinstance(signal, kind)]

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not wanted():
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def heard() -> Heard:
    return Heard()


def make_relay(store: SqliteStore, broker: JetStreamBroker, heard: Heard, **options: Any) -> Relay:
    options.setdefault("backoff", QUICK)
    options.setdefault("publish_timeout", timedelta(seconds=2))
    return Relay(store, broker, telemetry=heard.telemetry, **options)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task


async def make_stream(broker: JetStreamBroker, context: str, **config: Any) -> str:
    name = f"{context.upper()}_EVENTS"
    await broker.admin.create_stream(
        {
            "name": name,
            "subjects": [f"{context}.event.>"],
            "storage": "file",
            "allow_atomic": True,
            "duplicate_window": 120_000_000_000,
            **config,
        }
    )
    return name


async def write(
    store: SqliteStore, context: str, count: int, *, keys: int = 5, payload: bytes = b"{}"
) -> list[str]:
    async with store.transaction() as transaction:
        events = [
            RawEvent(f"{context}.event.case_moved.v1", payload, key=f"case-{number % keys}")
            for number in range(count)
        ]
        return await Outbox().add(transaction.handle, *events)


async def on_stream(broker: JetStreamBroker, stream: str) -> list[StoredMessage]:
    return [stored async for stored in broker.admin.read(stream)]


def assert_in_order(stored: Sequence[StoredMessage], written: Sequence[str]) -> None:
    """Each id once, and those of one key in the order in which they were written."""
    assert sorted(each.event_id for each in stored) == sorted(written)
    place = {event_id: number for number, event_id in enumerate(written)}
    last: dict[str, int] = {}
    for each in stored:
        key = each.message.key
        assert last.get(key, -1) < place[each.event_id]
        last[key] = place[each.event_id]


async def test_drain_publishes_everything_in_order(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    stream = await make_stream(broker, context_name)
    written = await write(store, context_name, 2500)
    assert await make_relay(store, broker, heard).drain() == 2500
    assert [each.event_id for each in await on_stream(broker, stream)] == written
    assert (await store.backlog()).count == 0
    assert sum(signal.sent for signal in heard.of(Relayed)) == 2500
    assert await make_relay(store, broker, heard).drain() == 0


async def test_a_known_id_in_a_batch_is_stored_once_and_order_holds(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    stream = await make_stream(broker, context_name)
    written = await write(store, context_name, 300)
    entries = await store.entries(limit=300)
    early = [entry.message for entry in entries[:7]]
    outcomes = await broker.publish(stream, early, timeout=timedelta(seconds=5))
    assert all(isinstance(outcome, Stored) for outcome in outcomes)
    assert await make_relay(store, broker, heard, batch=100).drain() == 300
    assert_in_order(await on_stream(broker, stream), written)
    assert sum(signal.duplicates for signal in heard.of(Relayed)) == 7


@pytest.mark.parametrize(
    "atomic", [pytest.param(True, marks=pytest.mark.seaway_since("2.12", "atomic batches")), False]
)
async def test_an_event_with_all_the_headers_that_it_may_have_is_published_among_others(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard, atomic: bool
) -> None:
    stream = await make_stream(broker, context_name, allow_atomic=atomic)
    written = await write(store, context_name, 10)
    subject, event_id = f"{context_name}.event.case_moved.v1", new_event_id()

    async def add(note: str) -> Sequence[str]:
        event = RawEvent(subject, b"{}", event_id=event_id, headers={"X-Note": note})
        async with store.transaction() as tx:
            return await Outbox().add(tx.handle, event)

    with pytest.raises(EventTooLarge) as refused:
        await add("n" * h.HEADER_BLOCK_BYTES)
    own = int(re.findall(r"are (\d+) bytes", str(refused.value))[0]) - h.HEADER_BLOCK_BYTES
    with pytest.raises(EventTooLarge):
        await add("n" * (h.EVENT_HEADER_BYTES - own + 1))
    assert len(await store.entries(limit=100)) == 10
    written += await add("n" * (h.EVENT_HEADER_BYTES - own))
    written += await write(store, context_name, 10)
    assert await make_relay(store, broker, heard).drain() == 21
    stored = await on_stream(broker, stream)
    assert_in_order(stored, written)
    [message] = [each.message for each in stored if each.event_id == event_id]
    assert h.header_bytes(message.headers) <= h.HEADER_BLOCK_BYTES
    assert ("Nats-Batch-Sequence" in message.headers) is atomic
    # The server's own limit, to the byte.
    for over in (0, 1):
        rest = {"Nats-Msg-Id": f"another {over}", "X-Note": ""}
        length = h.HEADER_BLOCK_BYTES - h.header_bytes(rest) + over
        again = Message(message.subject, b"", {**rest, "X-Note": "n" * length})
        [outcome] = await broker.publish(stream, [again], timeout=timedelta(seconds=5))
        assert isinstance(outcome, Refused if over else Stored)


async def test_ids_that_the_stream_forgot_are_looked_up(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    stream = await make_stream(broker, context_name, duplicate_window=100_000_000)
    written = await write(store, context_name, 250)
    entries = await store.entries(limit=250)
    published = [entry.message for entry in entries[:150]]
    await broker.publish(stream, published, timeout=timedelta(seconds=5))
    await until_forgotten(broker, stream, published[0])
    before = len(await on_stream(broker, stream))
    assert await make_relay(store, broker, heard, batch=100).drain() == 250
    stored = await on_stream(broker, stream)
    assert len(stored) == before + 100
    of_ours = [each for each in stored if each.message.subject.endswith(".v1")]
    assert_in_order(of_ours, written)
    assert sum(signal.duplicates for signal in heard.of(Relayed)) == 150


async def until_forgotten(broker: JetStreamBroker, stream: str, known: Message) -> None:
    """Poll until the stream takes an id of our own, stored after ``known``, a second time."""
    probe = Message(known.subject.replace(".v1", ".v2"), b"", {"Nats-Msg-Id": str(uuid.uuid4())})
    stored = 0
    async with asyncio.timeout(60):
        while stored < 2:
            [outcome] = await broker.publish(stream, [probe], timeout=timedelta(seconds=5))
            assert isinstance(outcome, Stored)
            stored += not outcome.duplicate


async def test_a_missing_stream_is_said_once_with_the_way_out(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    written = await write(store, context_name, 50)
    async with running(make_relay(store, broker, heard)):
        await heard.until(lambda: bool(heard.of(RelayPaused)))
        stream = await make_stream(broker, context_name)
        await heard.until(lambda: bool(heard.of(RelayResumed)))
    assert_in_order(await on_stream(broker, stream), written)
    [paused] = heard.of(RelayPaused)
    assert stream in paused.reason
    assert paused.stream == stream, "the others go on"
    assert "seaway topology apply" in paused.reason


async def test_events_of_a_stream_that_stays_missing_are_parked_and_can_be_retried(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    written = await write(store, context_name, 50)
    relay = make_relay(store, broker, heard, stream_grace=timedelta(milliseconds=50))
    assert await asyncio.wait_for(relay.drain(), 20) == 0
    parked = await store.entries(parked=True)
    assert {entry.key for entry in parked} == {f"case-{key}" for key in range(5)}
    assert all("does not exist" in (entry.last_error or "") for entry in parked)
    stream = await make_stream(broker, context_name)
    await store.unpark()
    assert await asyncio.wait_for(relay.drain(), 20) == 50
    assert_in_order(await on_stream(broker, stream), written)


@pytest.mark.seaway_since("2.11", "rights that change while JetStream answers")
@pytest.mark.parametrize("atomic", [True, False])
async def test_a_subject_that_may_not_be_published_to_is_waited_for_until_it_may(
    store: SqliteStore, heard: Heard, atomic: bool
) -> None:
    def users(denied: str) -> str:
        rights = f'publish: {{deny: ["{denied}"]}}'
        user = f"{{user: relay, password: pass, permissions: {{{rights}}}}}"
        return f"authorization {{ users: [{user}] }}"

    async with NatsServer(extra_config=users("den.event.secret.v1")) as server:
        url = server.url.replace("nats://", "nats://relay:pass@")
        broker = await connect(NatsSettings(url=url), telemetry=heard.telemetry)
        stream = await make_stream(broker, "den", allow_atomic=atomic)
        async with store.transaction() as tx:
            names = ["open", "secret", "open", "secret", "open"]
            added = await Outbox().add(
                tx.handle,
                *(RawEvent(f"den.event.{name}.v1", b"{}", key=f"{name}") for name in names),
            )

        def sent() -> int:
            return sum(each.sent for each in heard.of(Relayed))

        async with running(make_relay(store, broker, heard, max_attempts=1)):
            async with asyncio.timeout(2):
                await heard.until(lambda: sent() == 3 and bool(heard.of(RelayPaused)))
            reason = "no permission to publish to den.event.secret.v1"
            assert reason in heard.of(RelayPaused)[0].reason
            [waits] = [wait for wait in heard.telemetry.waits if wait.part == "permissions"]
            assert (waits.about, reason in waits.reason) == ("publish den.event.>", True)
            server.reload(users("den.event.other.v1"))
            await heard.until(lambda: sent() == 5)
        stored = [each.event_id for each in await on_stream(broker, stream)]
        assert stored == [added[0], added[2], added[4], added[1], added[3]]
        assert heard.of(Parked) == []
        assert heard.telemetry.waits == []
        await broker.close()


async def test_a_full_stream_heals_without_parking(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    stream = await make_stream(broker, context_name, max_msgs=20, discard="new")
    written = await write(store, context_name, 60)
    async with running(make_relay(store, broker, heard, max_attempts=1)):
        await heard.until(lambda: bool(heard.of(RelayPaused)))
        info = await broker.admin.stream(stream)
        assert info is not None
        await broker.admin.update_stream({**info.config, "max_msgs": -1})
        await heard.until(lambda: sum(each.sent for each in heard.of(Relayed)) == 60)
    assert_in_order(await on_stream(broker, stream), written)
    assert heard.of(Parked) == []


async def test_another_stream_goes_on_while_one_is_missing(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    stream = await make_stream(broker, context_name)
    await write(store, f"{context_name}x", 2500)
    written = await write(store, context_name, 10)
    async with running(make_relay(store, broker, heard)):
        await heard.until(lambda: sum(each.sent for each in heard.of(Relayed)) == 10)
    assert_in_order(await on_stream(broker, stream), written)
    assert (await store.backlog()).count == 2500


async def test_a_message_that_is_too_large_parks_and_its_key_waits(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    stream = await make_stream(broker, context_name, max_msg_size=4096)
    subject = f"{context_name}.event.case_moved.v1"
    async with store.transaction() as transaction:
        first, large, behind, other = await Outbox().add(
            transaction.handle,
            RawEvent(subject, b"1", key="a"),
            RawEvent(subject, json.dumps("x" * 5000).encode(), key="a"),
            RawEvent(subject, b"3", key="a"),
            RawEvent(subject, b"4", key="b"),
        )
    relay = make_relay(store, broker, heard)
    assert await relay.drain() == 2
    assert {each.event_id for each in await on_stream(broker, stream)} == {first, other}
    [parked] = heard.of(Parked)
    assert parked.event_id == large
    info = await broker.admin.stream(stream)
    assert info is not None
    await broker.admin.update_stream({**info.config, "max_msg_size": -1})
    assert await store.unpark([large]) == 1
    assert await relay.drain() == 2
    stored = [each.event_id for each in await on_stream(broker, stream)]
    assert stored[-2:] == [large, behind]
    assert (await store.backlog()).count == 0


async def test_a_subject_that_the_stream_does_not_take_parks_alone(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    stream = await make_stream(
        broker, context_name, subjects=[f"{context_name}.event.case_moved.>"]
    )
    async with store.transaction() as transaction:
        [foreign] = await Outbox().add(
            transaction.handle, RawEvent(f"{context_name}.event.other.v1", b"{}")
        )
    written = await write(store, context_name, 20)
    assert await make_relay(store, broker, heard).drain() == 20
    assert_in_order(await on_stream(broker, stream), written)
    [parked] = heard.of(Parked)
    assert parked.event_id == foreign
    assert "case_moved" in parked.error


async def test_two_relays_share_one_file(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    stream = await make_stream(broker, context_name)
    async with await SqliteStore.open(store.path) as second:
        others = Heard()
        written: list[str] = []
        one, two = make_relay(store, broker, heard), make_relay(second, broker, others)
        async with running(one), running(two):
            for _ in range(20):
                written += await write(store, context_name, 50)
                await asyncio.sleep(0)
        await make_relay(second, broker, others).drain()
    assert_in_order(await on_stream(broker, stream), written)


async def test_drain_waits_for_the_relay_that_holds_the_lease(
    store: SqliteStore, broker: JetStreamBroker, context_name: str, heard: Heard
) -> None:
    await make_stream(broker, context_name)
    async with await SqliteStore.open(store.path) as second:
        async with second.lease() as lease:
            assert lease is not None
            await write(store, context_name, 5)
            draining = asyncio.create_task(make_relay(store, broker, heard).drain())
            await asyncio.wait([draining], timeout=0.3)
            assert not draining.done()
        async with asyncio.timeout(60):
            assert await draining == 5


async def test_a_server_that_stops_and_starts_again_loses_nothing(
    store: SqliteStore, nats_server_own: NatsServer, context_name: str, heard: Heard
) -> None:
    broker = await connect(NatsSettings(url=nats_server_own.url))
    try:
        stream = await make_stream(broker, context_name)
        written = await write(store, context_name, 1500)
        async with running(make_relay(store, broker, heard, batch=100, max_attempts=1)):
            await heard.until(lambda: bool(heard.of(Relayed)))
            await nats_server_own.stop()
            written += await write(store, context_name, 500)
            await heard.until(lambda: bool(heard.of(RelayPaused)))
            await nats_server_own.start()
            await heard.until(lambda: sum(each.sent for each in heard.of(Relayed)) == 2000)
        assert_in_order(await on_stream(broker, stream), written)
        assert heard.of(Parked) == []
        assert len(heard.of(RelayResumed)) == 1
    finally:
        await broker.close()


async def test_stop_ends_an_outage_at_once(
    store: SqliteStore, nats_server_own: NatsServer, context_name: str, heard: Heard
) -> None:
    broker = await connect(NatsSettings(url=nats_server_own.url))
    try:
        await write(store, context_name, 3)
        slow = Backoff(base=timedelta(hours=1), cap=timedelta(hours=1), floor=timedelta(hours=1))
        async with running(make_relay(store, broker, heard, backoff=slow)):
            await heard.until(lambda: bool(heard.of(RelayPaused)))
        assert (await store.backlog()).count == 3
    finally:
        await broker.close()
