"""The consumer on a real server and a real database: outcomes, outages, order, exactly once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import topology
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.consumer import Consumer, Delivery
from seaway.contracts import Broker, Message, Stored
from seaway.dead_letters import DeadLetters
from seaway.embedded.nats_server import NatsServer
from seaway.errors import ConfigError, Poison, Retry, StoreUnavailable
from seaway.events import RawEvent, event, new_event_id
from seaway.naming import Durable
from seaway.outbox import Outbox
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import ConsumerPaused, ConsumerResumed, Delivered, Signal, Telemetry

pytestmark = pytest.mark.server

TIMEOUT = timedelta(seconds=5)
EFFECTS = (
    "CREATE TABLE effect (position INTEGER PRIMARY KEY, event_id TEXT, key TEXT, attempt INTEGER)"
)
INSERT = "INSERT INTO effect (event_id, key, attempt) VALUES (?, ?, ?)"


@event(context="consuming", version=3)
@dataclass
class Measured:
    number: int


async def until(condition: Callable[[], bool], *, within: float = 30) -> None:
    """Poll until it holds."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


class Service:
    """One context on the server, one durable, one database."""

    def __init__(self, broker: Broker, store: SqliteStore, context: str) -> None:
        self.broker = broker
        self.store = store
        self.context = context
        self.durable = Durable.from_context("case_mgmt", context)
        self.stream = f"{context.upper()}_EVENTS"
        self.signals: list[Signal] = []
        self.telemetry = Telemetry()
        self.telemetry.subscribe(self.signals.append)
        self.letters = DeadLetters(broker)

    def outcomes(self) -> Counter[str]:
        return Counter(one.outcome for one in self.signals if isinstance(one, Delivered))

    def consumer(
        self, handle: Callable[[RawEvent, Delivery], Awaitable[None]], **options: Any
    ) -> Consumer:
        made = Consumer(self.durable, stream=self.stream, **options)
        made.handler(RawEvent)(handle)
        return made

    async def create(self, **consumer: Any) -> None:
        declared = {"stream": self.stream, "durable": str(self.durable), **consumer}
        wanted = topology.desired(
            settings_from_mapping(
                {
                    "streams": [
                        {
                            "name": self.stream,
                            "subjects": [f"{self.context}.event.>"],
                            "replicas": 1,
                        }
                    ],
                    "consumers": [declared],
                },
                environ={},
            )
        )
        actual = await topology.actual(self.broker.admin, wanted)
        await topology.apply(topology.plan(wanted, actual), self.broker.admin)

    async def publish(self, *messages: Message) -> None:
        outcomes = await self.broker.publish(self.stream, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes), outcomes

    def message(self, number: int, *, keys: int = 5) -> Message:
        return Message(
            f"{self.context}.event.case_opened.v1",
            str(number).encode(),
            {"Nats-Msg-Id": f"e{number}", "X-Ordering-Key": f"case-{number % keys}"},
        )

    @asynccontextmanager
    async def running(self, consumer: Consumer) -> AsyncIterator[asyncio.Event]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                consumer.run(
                    self.broker,
                    store=self.store,
                    outbox=Outbox(),
                    dead_letters=self.letters,
                    telemetry=self.telemetry,
                    stop=stop,
                )
            )
            yield stop
            stop.set()

    async def pending(self) -> int:
        info = await self.broker.admin.consumer(self.stream, str(self.durable))
        assert info is not None
        return info.num_ack_pending + info.num_pending

    def effects(self) -> list[tuple[str, str, int]]:
        with closing(sqlite3.connect(self.store.path)) as db:
            return db.execute(
                "SELECT event_id, key, attempt FROM effect ORDER BY position"
            ).fetchall()

    def assert_exact(self, count: int, *, keys: int = 5) -> None:
        """Each event once, and each key's in the order written."""
        found = self.effects()
        assert Counter(event_id for event_id, _, _ in found) == {f"e{n}": 1 for n in range(count)}
        for key in range(keys):
            numbers = [int(event_id[1:]) for event_id, its, _ in found if its == f"case-{key}"]
            assert numbers == sorted(numbers)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(
        tmp_path / "app.db", busy_timeout=timedelta(milliseconds=100)
    ) as opened:
        await opened.schema.upgrade()
        async with opened.transaction() as tx:
            await tx.handle.execute(EFFECTS)
        yield opened


@pytest.fixture
def service(broker: Broker, store: SqliteStore, context_name: str) -> Service:
    return Service(broker, store, context_name)


async def note(event: RawEvent, delivery: Delivery) -> None:
    await delivery.tx.execute(INSERT, (delivery.event_id, delivery.key, delivery.deliveries))


@pytest.mark.parametrize("batch", [1, 20])
async def test_every_outcome_of_a_delivery(service: Service, batch: int) -> None:
    await service.create(ack_wait="5s", max_deliver=2)
    consumer = Consumer(service.durable, stream=service.stream, batch=batch)

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        match event.payload:
            case b"poison":
                raise Poison("never")
            case b"once" if delivery.deliveries == 1:
                raise Retry(after=timedelta(milliseconds=10))
            case b"always":
                raise Retry(after=timedelta(milliseconds=10))

    consumer.handler(RawEvent)(handle)
    subject = f"{service.context}.event.case_opened.v1"
    payloads = [b"fine", b"poison", b"once", b"always", b"\xff\xfe", b""]
    await service.publish(
        *(
            Message(subject, payload, {"Nats-Msg-Id": f"e{n}", "X-Ordering-Key": f"k{n}"})
            for n, payload in enumerate(payloads)
        ),
        Message(subject, b"bad header", {"X-Occurred-At": "yesterday", "X-Ordering-Key": "k9"}),
        Message(f"{service.context}.event.odd.one.out", b"foreign"),
        Message(subject, b"fine", {"Nats-Msg-Id": "other", "X-Event-Id": "e0"}),
    )
    async with service.running(consumer):
        await until(lambda: sum(service.outcomes().values()) == 11)

    assert service.outcomes() == {
        "handled": 5,
        "already_processed": 1,
        "dead_lettered": 3,
        "retried": 2,
    }
    assert await service.pending() == 0
    assert {(event_id, attempt) for event_id, _, attempt in service.effects()} == {
        ("e0", 1),
        ("e2", 2),
        ("e4", 1),
        ("e5", 1),
        (f"{service.stream}:8", 1),
    }
    letters = {
        one.event_id: one for one in await service.letters.list() if one.stream == service.stream
    }
    assert {event_id: one.reason for event_id, one in letters.items()} == {
        "e1": "poison",
        "e3": "exhausted",
        f"{service.stream}:7": "undecodable",
    }
    assert letters["e1"].stored.message.payload == b"poison"

    # Its cause mended, a letter comes back to this consumer alone.
    async def mended(event: RawEvent, delivery: Delivery) -> None:
        assert delivery.redriven
        await note(event, delivery)

    async with service.running(service.consumer(mended)):
        await service.letters.redrive(letters["e1"])
        await until(lambda: service.outcomes()["handled"] == 6)
    assert service.effects()[-1] == ("e1", "k1", 1)


async def test_an_event_without_handler_is_acknowledged(service: Service) -> None:
    await service.create()
    consumer = Consumer(service.durable, stream=service.stream)

    @consumer.handler(Measured)
    async def handle(event: Measured, delivery: Delivery) -> None: ...

    await service.publish(*(service.message(n) for n in range(3)))
    async with service.running(consumer):
        await until(lambda: service.outcomes()["ignored"] == 3)
    assert await service.pending() == 0


async def test_a_handler_slower_than_ack_wait_runs_once(service: Service) -> None:
    await service.create(ack_wait="1s", max_deliver=5)
    attempts: list[str] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        attempts.append(delivery.event_id)
        if delivery.event_id == "e0":
            await asyncio.sleep(2.5)
        await note(event, delivery)

    # The second of its key waits behind it, and is kept alive as well.
    await service.publish(service.message(0), service.message(5))
    async with service.running(service.consumer(handle)):
        await until(lambda: service.outcomes()["handled"] == 2)
    assert attempts == ["e0", "e5"]
    info = await service.broker.admin.consumer(service.stream, str(service.durable))
    assert info is not None
    assert info.num_redelivered == 0


async def test_failures_now_and_then_leave_each_keys_order(service: Service) -> None:
    await service.create(ack_wait="5s", max_deliver=100)
    failing = Counter({f"e{n}": 1 + n % 3 for n in range(0, 200, 17)})

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if failing[delivery.event_id] > 0:
            failing[delivery.event_id] -= 1
            raise Retry(after=timedelta(milliseconds=20))

    await service.publish(*(service.message(n) for n in range(200)))
    async with service.running(service.consumer(handle, batch=10)):
        await until(lambda: service.outcomes()["handled"] == 200)
    service.assert_exact(200)
    assert service.outcomes()["retried"] == sum(1 + n % 3 for n in range(0, 200, 17))


async def test_a_drained_consumer_leaves_nothing_to_wait_for(service: Service) -> None:
    """What was not started is given back, so the next run need not wait for ``ack_wait``."""
    await service.create(ack_wait="60s", max_deliver=5)
    await service.publish(*(service.message(n) for n in range(60)))
    enough = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e10":
            enough.set()

    for _ in range(2):
        async with service.running(service.consumer(handle, batch=5)) as stop:
            await enough.wait()
            stop.set()
    async with service.running(service.consumer(handle, batch=5)):
        await until(lambda: service.outcomes()["handled"] == 60, within=20)
    service.assert_exact(60)
    assert await service.pending() == 0


async def test_a_locked_database_pauses_and_blames_nobody(service: Service) -> None:
    await service.create(ack_wait="5s", max_deliver=1)
    with closing(sqlite3.connect(service.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await service.publish(*(service.message(n) for n in range(20)))
        async with service.running(service.consumer(note, batch=5)):
            await until(lambda: any(isinstance(one, ConsumerPaused) for one in service.signals))
            assert service.effects() == []
            other.execute("ROLLBACK")
            await until(lambda: service.outcomes()["handled"] == 20)
    states = [type(one) for one in service.signals if not isinstance(one, Delivered)]
    assert states == [ConsumerPaused, ConsumerResumed]
    service.assert_exact(20)
    assert [one for one in await service.letters.list() if one.stream == service.stream] == []


@pytest.mark.parametrize("batch", [1, 10])
async def test_a_full_disk_pauses_and_blames_nobody(service: Service, batch: int) -> None:
    await service.create(ack_wait="5s", max_deliver=1)
    database = service.store._writer

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await delivery.tx.execute(INSERT, (delivery.event_id, delivery.key, "x" * 20_000))

    [(pages,)] = await database.execute_fetchall("PRAGMA page_count")
    await database.execute(f"PRAGMA max_page_count = {pages + 8}")
    # So full that no row of ours has room, where the consumer's own question would find some.
    with suppress(StoreUnavailable):
        while True:
            async with service.store.transaction() as tx:
                await tx.claim(f"{service.durable} probe", new_event_id())
    await service.publish(*(service.message(n) for n in range(6)))
    async with service.running(service.consumer(handle, batch=batch)):
        await until(lambda: any(isinstance(one, ConsumerPaused) for one in service.signals))
        await database.execute("PRAGMA max_page_count = 100000")
        await until(lambda: len(service.effects()) == 6)
        await until(lambda: sum(service.outcomes().values()) == 6)
    service.assert_exact(6)
    assert set(service.outcomes()) <= {"handled", "already_processed"}


@pytest.mark.parametrize("batch", [1, 10])
async def test_a_handler_that_commits_stops_the_consumer(service: Service, batch: int) -> None:
    await service.create()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e1":
            await delivery.tx.commit()

    await service.publish(*(service.message(n) for n in range(6)))
    with pytest.raises(ExceptionGroup) as stopped:
        async with service.running(service.consumer(handle, batch=batch)):
            await until(lambda: sum(service.outcomes().values()) == 6)
    assert stopped.group_contains(ConfigError, match="committed it or rolled it back itself")


async def test_a_deferred_constraint_blames_only_the_event_that_breaks_it(
    service: Service,
) -> None:
    await service.create(ack_wait="5s", max_deliver=1)
    async with service.store.transaction() as tx:
        await tx.handle.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        await tx.handle.execute(
            "CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        )

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e3":
            await delivery.tx.execute("INSERT INTO child VALUES (7)")

    await service.store._writer.execute("PRAGMA foreign_keys = ON")
    await service.publish(*(service.message(n) for n in range(6)))
    async with service.running(service.consumer(handle, batch=10)):
        await until(lambda: sum(service.outcomes().values()) == 6)
    assert service.outcomes() == {"handled": 5, "dead_lettered": 1}
    assert {event_id for event_id, _, _ in service.effects()} == {"e0", "e1", "e2", "e4", "e5"}


async def test_a_server_killed_in_the_middle_changes_nothing(
    nats_server_own: NatsServer, store: SqliteStore
) -> None:
    broker = await connect(NatsSettings(url=nats_server_own.url))
    try:
        service = Service(broker, store, "restarted")
        await service.create(ack_wait="2s", max_deliver=100)
        await service.publish(*(service.message(n) for n in range(300)))
        third = asyncio.Event()

        async def handle(event: RawEvent, delivery: Delivery) -> None:
            await note(event, delivery)
            if int(event.payload) >= 100:
                third.set()

        async with service.running(service.consumer(handle, batch=5)):
            await third.wait()
            await nats_server_own.kill()
            await nats_server_own.start()
            await until(lambda: len(service.effects()) >= 300)
        service.assert_exact(300)
    finally:
        await broker.close()
