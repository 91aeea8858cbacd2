"""The consumer between a real nats-server and a real SQLite file: every way a delivery ends."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from consuming import carrying, execute
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.consumer import Consumer, Delivery
from seaway.contracts import Message, Stored
from seaway.dead_letters import DeadLetters, Letter
from seaway.embedded.nats_server import NatsServer
from seaway.errors import AlreadyProcessed, NotFound, Poison, Retry
from seaway.events import RawEvent, Registry, event, event_type_of
from seaway.naming import Durable
from seaway.outbox import Outbox
from seaway.retry import Backoff
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import ConsumerPaused, Delivered, Signal, Telemetry
from seaway.testing.drills.foreign import foreign_client
from seaway.topology import actual, apply, desired, plan

pytestmark = pytest.mark.server

QUICK = Backoff(timedelta(milliseconds=20), timedelta(milliseconds=100))
TIMEOUT = timedelta(seconds=5)


@event(context="sea", registry=Registry())
@dataclass
class CaseMoved:
    number: int


SUBJECT = str(event_type_of(CaseMoved).subject)


class Bench:
    """One durable, one database, and what is heard of them."""

    def __init__(self, broker: JetStreamBroker, store: SqliteStore, path: Path) -> None:
        self.broker, self.store, self.path = broker, store, path
        self.durable = Durable.from_context("case_mgmt", "sea")
        self.letters = DeadLetters(broker)
        self.telemetry = Telemetry()
        self.signals: list[Signal] = []
        self._more = asyncio.Event()
        self.telemetry.subscribe(self._hear)

    def _hear(self, signal: Signal) -> None:
        self.signals.append(signal)
        self._more.set()

    def outcomes(self) -> Counter[str]:
        return Counter(one.outcome for one in self.signals if isinstance(one, Delivered))

    async def until(self, wanted: Callable[[], bool], seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while not wanted():
                self._more.clear()
                await self._more.wait()

    def consumer(self, **options: Any) -> Consumer:
        return Consumer(self.durable, stream="SEA_EVENTS", retry=QUICK, **options)

    @asynccontextmanager
    async def running(self, consumer: Consumer) -> AsyncIterator[asyncio.Event]:
        stop = asyncio.Event()
        task = asyncio.create_task(
            consumer.run(
                self.broker,
                store=self.store,
                outbox=Outbox(),
                dead_letters=self.letters,
                telemetry=self.telemetry,
                stop=stop,
            )
        )
        try:
            yield stop
        finally:
            stop.set()
            async with asyncio.timeout(15):
                await task

    async def publish(self, *numbers: int, key: str | None = None, **headers: str) -> None:
        messages = [
            Message(
                SUBJECT,
                b'{"number":%d}' % number,
                {"Nats-Msg-Id": f"id-{number}", "X-Ordering-Key": key or f"k{number % 5}"}
                | {name.replace("_", "-"): value for name, value in headers.items()},
            )
            for number in numbers
        ]
        outcomes = await self.broker.publish("SEA_EVENTS", messages, timeout=TIMEOUT)
        assert all(isinstance(outcome, Stored) for outcome in outcomes)

    def effects(self) -> list[int]:
        with sqlite3.connect(self.path, timeout=10) as reader:
            rows = reader.execute("SELECT number FROM effects ORDER BY rowid").fetchall()
        reader.close()
        return [row[0] for row in rows]

    async def settled(self) -> bool:
        info = await self.broker.admin.consumer("SEA_EVENTS", str(self.durable))
        assert info is not None
        return info.settled

    async def poll_settled(self) -> None:
        async with asyncio.timeout(60):
            while not await self.settled():
                await asyncio.sleep(0.02)  # polling until the server has seen the last ack

    async def dead(self) -> list[Letter]:
        return list(await self.letters.list())


async def take(event: CaseMoved, delivery: Delivery) -> None:
    await execute(delivery.tx, f"INSERT INTO effects VALUES ({event.number:d})")  # noqa: S608


@pytest.fixture
async def bench(nats_server_own: NatsServer, tmp_path: Path) -> AsyncIterator[Bench]:
    path = tmp_path / "service.db"
    broker = await connect(NatsSettings(url=nats_server_own.url))
    settings = settings_from_mapping(
        {
            "streams": [{"name": "SEA_EVENTS", "replicas": 1}],
            "consumers": [
                {
                    "stream": "SEA_EVENTS",
                    "durable": "case_mgmt__from_sea",
                    "ack_wait": "2s",
                    "max_deliver": 4,
                }
            ],
        },
        environ={},
    )
    wanted = desired(settings)
    await apply(plan(wanted, await actual(broker.admin, wanted)), broker.admin)
    async with await SqliteStore.open(path) as store:
        await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE effects (number INTEGER)")
        yield Bench(broker, store, path)
    await broker.close()


Handle = Callable[[CaseMoved, Delivery], Awaitable[None]]


@pytest.mark.parametrize(("batch", "plain"), [(1, False), (20, False), (1, True), (20, True)])
async def test_every_way_that_a_delivery_ends(bench: Bench, batch: int, plain: bool) -> None:
    consumer = bench.consumer(batch=batch)
    tries: Counter[int] = Counter()

    async def handle(event: CaseMoved, delivery: Delivery) -> None:
        tries[event.number] += 1
        await take(event, delivery)
        match event.number:
            case 3:
                raise Poison("cannot be")
            case 4:
                raise ValueError("always")
            case 5 if tries[5] < 3:
                raise Retry(after=timedelta(milliseconds=10))
            case 6:
                raise AlreadyProcessed

    consumer.handler(CaseMoved)(carrying(handle) if plain else handle)
    await bench.publish(*range(20))
    await bench.publish(100, X_Event_Id="id-7")  # the same event under another message id
    foreign = [
        Message(SUBJECT, b""),
        Message(SUBJECT, b"\xff\xfe", {"X-Ordering-Key": "foreign"}),
        Message(SUBJECT, b'{"number":"many"}', {"Nats-Msg-Id": "wrong-type"}),
        Message(SUBJECT, b'{"number":1}', {"X-Event-Version": "first"}),
        Message("sea.event.case_forgotten.v1", b"{}", {"Nats-Msg-Id": "unknown"}),
    ]
    await bench.broker.publish("SEA_EVENTS", foreign, timeout=TIMEOUT)
    async with bench.running(consumer):
        await bench.until(lambda: sum(bench.outcomes().values()) >= 26 + 5)
        await bench.poll_settled()
    assert sorted(bench.effects()) == [n for n in range(20) if n not in (3, 4)]
    assert 4 <= tries[4] <= (4 if batch == 1 else 8)  # In a batch, once more by itself.
    assert tries[5] == 3
    letters = Counter((letter.reason, letter.event_id) for letter in await bench.dead())
    assert letters == Counter(
        {
            ("poison", "id-3"): 1,
            ("exhausted", "id-4"): 1,
            ("undecodable", "SEA_EVENTS:22"): 1,
            ("undecodable", "SEA_EVENTS:23"): 1,
            ("undecodable", "wrong-type"): 1,
            ("undecodable", "SEA_EVENTS:25"): 1,
        }
    )
    outcomes = bench.outcomes()
    assert outcomes["ignored"] == 1
    assert outcomes["already_processed"] == 2
    assert outcomes["retried"] == 3 + 2


async def test_a_redrive_reaches_the_handler_once(bench: Bench) -> None:
    consumer = bench.consumer()
    fixed = asyncio.Event()

    @consumer.handler(CaseMoved)
    async def handle(event: CaseMoved, delivery: Delivery) -> None:
        if not fixed.is_set():
            raise Poison("not yet")
        assert delivery.redriven
        assert delivery.event_id == "id-1"
        await take(event, delivery)

    await bench.publish(1)
    async with bench.running(consumer):
        await bench.until(lambda: bench.outcomes()["dead_lettered"] == 1)
        [letter] = await bench.dead()
        fixed.set()
        await bench.letters.redrive(letter)
        await bench.letters.redrive(letter)
        await bench.until(lambda: bench.outcomes()["handled"] == 1)
    assert bench.effects() == [1]
    assert await bench.dead() == []


async def test_what_leaves_a_letter_no_room_holds_up_nobody(
    bench: Bench, nats_server_own: NatsServer
) -> None:
    """Headers, ids, subjects and payloads as large as the server takes them, each a poison."""
    consumer = bench.consumer()

    @consumer.handler(CaseMoved)
    async def handle(event: CaseMoved, delivery: Delivery) -> None:
        if event.number >= 100:
            raise Poison("no " * 1000)
        await take(event, delivery)

    subject, most = SUBJECT.encode(), 1024 * 1024
    long = b"sea.event." + b"x" * 3900
    poison: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = [
        (subject, b'{"number":100}', [(b"X-Note", b"v" * 65_000)]),
        (subject, b'{"number":101}', [(b"X-Note", b"v" * 65_500)]),
        (subject, b'{"number":102}', [(b"Nats-Msg-Id", b"i" * 65_000)]),
        (subject, b'{"number":103}', [(b"X-N-%d" % number, b"v" * 40) for number in range(1200)]),
        (subject, b'{"number":104}'.ljust(most), []),
        (subject, b'{"number":105}'.ljust(most - 65_012), [(b"X-Note", b"v" * 64_990)]),
        (long, b"", []),
        (b"sea.redrive.case_mgmt__from_sea." + subject, b'{"number":106}'.ljust(most), []),
    ]
    await bench.publish(*range(10))
    async with foreign_client(nats_server_own.url) as stranger:
        assert 0 not in [await stranger.put(*one) for one in poison]
    await bench.publish(*range(10, 20))
    async with bench.running(consumer):
        await bench.until(lambda: bench.outcomes()["dead_lettered"] == 7)
        await bench.until(lambda: bench.outcomes()["handled"] == 20)
        await bench.poll_settled()
    assert sorted(bench.effects()) == [*range(20)]
    assert not any(isinstance(one, ConsumerPaused) for one in bench.signals)
    letters = await bench.dead()
    assert len(letters) == 7
    payloads = [await bench.letters.payload(letter) for letter in letters]
    assert sorted(len(one) for one in payloads) == sorted(
        len(payload) for to, payload, _ in poison if to != long
    )
    for letter in letters:
        assert await bench.letters.discard(letter)


async def test_a_redrive_that_a_dead_process_had_is_handled_at_once(bench: Bench) -> None:
    consumer = bench.consumer()

    @consumer.handler(CaseMoved)
    async def handle(event: CaseMoved, delivery: Delivery) -> None:
        if not delivery.redriven:
            raise Poison("not yet")
        await take(event, delivery)

    await bench.publish(1)
    async with bench.running(consumer):
        await bench.until(lambda: bench.outcomes()["dead_lettered"] == 1)
    [letter] = await bench.dead()
    await bench.letters.redrive(letter)
    async with bench.broker.subscribe("SEA_REDRIVE", str(bench.durable)) as dead_process:
        assert len(await dead_process.next(1, timeout=TIMEOUT)) == 1
    async with bench.running(consumer):
        await bench.until(lambda: bench.outcomes()["handled"] == 1, seconds=1.5)
    assert bench.effects() == [1]
    # Acknowledged too, although nothing of it was delivered here.
    redrives = await bench.broker.admin.stream("SEA_REDRIVE")
    assert redrives is not None
    assert redrives.messages == 0
    assert bench.outcomes()["already_processed"] == 0


async def test_events_written_by_a_handler_carry_the_chain(bench: Bench) -> None:
    consumer = bench.consumer()

    @consumer.handler(CaseMoved)
    async def handle(event: CaseMoved, delivery: Delivery) -> None:
        await delivery.add(CaseMoved(event.number + 1), key="k")
        if delivery.deliveries == 1:
            raise Retry(after=timedelta(milliseconds=10))

    await bench.publish(1, X_Correlation_Id="request-1")
    async with bench.running(consumer):
        await bench.until(lambda: bench.outcomes()["handled"] == 1)
    [entry] = await bench.store.entries()
    assert entry.message.headers["X-Correlation-Id"] == "request-1"
    assert entry.message.headers["X-Causation-Id"] == "id-1"


async def test_a_handler_past_its_deadline_is_retried(bench: Bench) -> None:
    consumer = bench.consumer(deadline=timedelta(milliseconds=500))

    @consumer.handler(CaseMoved)
    async def handle(event: CaseMoved, delivery: Delivery) -> None:
        await take(event, delivery)
        if delivery.deliveries == 1:
            await asyncio.Event().wait()

    await bench.publish(1)
    async with bench.running(consumer):
        await bench.until(lambda: bench.outcomes()["handled"] == 1)
    assert bench.outcomes()["retried"] == 1
    assert bench.effects() == [1]


async def test_a_missing_durable_is_named_with_the_way_out(bench: Bench) -> None:
    consumer = Consumer(Durable("nobody", "from_sea"), stream="SEA_EVENTS")

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None: ...

    with pytest.raises(NotFound, match="nobody__from_sea on SEA_EVENTS: run `seaway topology"):
        async with asyncio.timeout(10):
            await consumer.run(
                bench.broker,
                store=bench.store,
                outbox=None,
                dead_letters=bench.letters,
                telemetry=bench.telemetry,
                stop=asyncio.Event(),
            )
