"""Starting, stopping and sharing a durable on a real server: nothing leaks, nothing waits."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from seaway import topology
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.consumer import Consumer, Delivery
from seaway.contracts import Broker, ConsumerInfo, InboxStore, Message, Stored
from seaway.dead_letters import DeadLetters
from seaway.embedded.nats_server import NatsServer
from seaway.events import RawEvent
from seaway.naming import Durable, redrive_stream
from seaway.outbox import Outbox
from seaway.stores.postgres import PostgresStore
from seaway.telemetry import ConsumerPaused, Delivered, Resubscribed, Signal, Telemetry

pytestmark = pytest.mark.server

Handle = Callable[[RawEvent, Delivery], Awaitable[None]]


async def until(condition: Callable[[], Awaitable[bool]], *, within: float = 30) -> None:
    """Poll until it holds."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.01)


class Service:
    """A context's stream and one durable, run by as many processes as are started."""

    def __init__(self, broker: Broker, context: str, store: InboxStore | None = None) -> None:
        self.broker = broker
        self.context = context
        self.store = store
        self.durable = Durable.from_context("case_mgmt", context)
        self.stream = f"{context.upper()}_EVENTS"
        self.signals: list[Signal] = []
        self.telemetry = Telemetry()
        self.telemetry.subscribe(self.signals.append)

    async def create(self, **config: Any) -> None:
        declared = {"stream": self.stream, "durable": str(self.durable), **config}
        stream = {"name": self.stream, "subjects": [f"{self.context}.event.>"], "replicas": 1}
        settings = settings_from_mapping({"streams": [stream], "consumers": [declared]}, environ={})
        wanted = topology.desired(settings)
        actual = await topology.actual(self.broker.admin, wanted)
        await topology.apply(topology.plan(wanted, actual), self.broker.admin)

    async def publish(self, *numbers: int, keys: int = 5) -> None:
        subject = f"{self.context}.event.case_opened.v1"
        messages = [
            Message(
                subject,
                str(number).encode(),
                {"Nats-Msg-Id": f"e{number}", "X-Ordering-Key": f"case-{number % keys}"},
            )
            for number in numbers
        ]
        stored = await self.broker.publish(self.stream, messages, timeout=timedelta(seconds=5))
        assert all(isinstance(one, Stored) for one in stored)

    def run(self, handle: Handle, stop: asyncio.Event, **options: Any) -> asyncio.Task[None]:
        options = {"tx": None, **options}
        consumer = Consumer(self.durable, stream=self.stream, **options)
        consumer.handler(RawEvent)(handle)
        return asyncio.create_task(
            consumer.run(
                self.broker,
                store=self.store,
                outbox=Outbox(),
                dead_letters=DeadLetters(self.broker),
                telemetry=self.telemetry,
                stop=stop,
            )
        )

    def outcomes(self) -> Counter[str]:
        return Counter(one.outcome for one in self.signals if isinstance(one, Delivered))

    async def info(self, stream: str | None = None) -> ConsumerInfo:
        info = await self.broker.admin.consumer(stream or self.stream, str(self.durable))
        assert info is not None
        return info

    async def settled(self) -> bool:
        return (await self.info()).settled


@pytest.fixture
def service(broker: Broker, context_name: str) -> Service:
    return Service(broker, context_name)


async def done(service: Service, count: int) -> None:
    async def all_of_them() -> bool:
        return sum(service.outcomes().values()) >= count

    await until(all_of_them)


async def test_started_and_stopped_again_and_again_it_leaks_nothing(service: Service) -> None:
    await service.create(ack_wait="120s", max_deliver=1000, max_ack_pending=200)
    handled: Counter[int] = Counter()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        handled[int(event.payload)] += 1

    async def start_and_stop(number: int, turns: int) -> None:
        for turn in range(turns):
            stop, event = asyncio.Event(), number * turns + turn
            task = service.run(handle, stop)
            await service.publish(event)
            # Now and then in the middle of things, now and then when all is done.
            if turn % 2:
                await done(service, sum(service.outcomes().values()) + 1)
            stop.set()
            async with asyncio.timeout(60):
                await task

    # The connection's own first subscriptions are no leak.
    await start_and_stop(500, 1)
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(start_and_stop(number, 50))
    assert asyncio.all_tasks() == before

    for stream in (service.stream, redrive_stream(service.context)):

        async def nobody_waits(stream: str = stream) -> bool:
            return (await service.info(stream)).num_waiting == 0

        await until(nobody_waits)

    # What was given back is there for the next one: nothing waits for its ``ack_wait``.
    stop = asyncio.Event()
    last = service.run(handle, stop)
    await until(service.settled, within=20)
    stop.set()
    await last
    assert (await service.info(redrive_stream(service.context))).num_ack_pending == 0
    assert set(handled) == set(range(501))


async def test_the_unstarted_go_to_another_process_while_the_running_end(
    service: Service,
) -> None:
    """However long the handlers of a stopping process take, and although ``ack_wait`` is long."""
    await service.create(ack_wait="60s", max_deliver=10)
    running, go_on = asyncio.Event(), asyncio.Event()

    async def slow(event: RawEvent, delivery: Delivery) -> None:
        running.set()
        await go_on.wait()

    handled: list[int] = []

    async def quick(event: RawEvent, delivery: Delivery) -> None:
        handled.append(int(event.payload))

    stops = asyncio.Event(), asyncio.Event()
    await service.publish(*range(4))
    leaving = service.run(slow, stops[0], batch=2)
    await running.wait()
    stops[0].set()
    await service.publish(4, 5)
    staying = service.run(quick, stops[1])

    async def has_the_rest() -> bool:
        return {2, 3, 4, 5} <= set(handled)

    await until(has_the_rest, within=10)
    go_on.set()
    await leaving
    stops[1].set()
    await staying
    assert await service.settled()
    assert sorted(handled) == [2, 3, 4, 5]


async def test_a_durable_that_is_deleted_and_made_again_is_consumed_again(
    service: Service,
) -> None:
    await service.create(ack_wait="30s")
    handled: set[int] = set()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        handled.add(int(event.payload))

    stop = asyncio.Event()
    task = service.run(handle, stop)
    await service.publish(1)
    await done(service, 1)
    await service.broker.admin.delete_consumer(service.stream, str(service.durable))

    async def noticed() -> bool:
        return any(isinstance(one, ConsumerPaused) for one in service.signals)

    await until(noticed)
    await service.publish(2)
    await service.create(ack_wait="30s")

    async def consumed_again() -> bool:
        return handled == {1, 2}

    await until(consumed_again)
    stop.set()
    await task
    told = [one for one in service.signals if isinstance(one, Resubscribed)]
    assert told == [Resubscribed(service.stream, str(service.durable), "deleted")]


# ------------------------------------------------------------------ several processes


@asynccontextmanager
async def another_connection(server: NatsServer) -> AsyncIterator[Broker]:
    broker = await connect(NatsSettings(url=server.url))
    try:
        yield broker
    finally:
        await broker.close()


async def test_each_process_keeps_the_order_of_what_it_is_given(
    service: Service, nats_server: NatsServer
) -> None:
    await service.create(ack_wait="30s", max_deliver=100)
    order: dict[tuple[int, str | None], list[int]] = defaultdict(list)

    def process(number: int) -> Handle:
        async def handle(event: RawEvent, delivery: Delivery) -> None:
            order[number, delivery.key].append(delivery.stream_seq)
            await asyncio.sleep(0.001)

        return handle

    stop = asyncio.Event()
    async with another_connection(nats_server) as second:
        other = Service(second, service.context)
        tasks = [
            service.run(process(0), stop, workers=3),
            other.run(process(1), stop, workers=3),
        ]
        await service.publish(*range(300))
        await until(service.settled)
        stop.set()
        for task in tasks:
            await task
    assert {number for number, _ in order} == {0, 1}
    assert sorted(seq for seqs in order.values() for seq in seqs) == list(range(1, 301))
    for seqs in order.values():
        assert seqs == sorted(seqs)


async def test_two_processes_may_have_events_of_one_key_at_a_time(
    service: Service, nats_server: NatsServer
) -> None:
    """What is not guaranteed: the server deals a key's events to whichever process asks."""
    await service.create(ack_wait="30s", max_deliver=100)
    go_on, running = asyncio.Event(), asyncio.Event()
    order: list[int] = []

    async def first(event: RawEvent, delivery: Delivery) -> None:
        running.set()
        await go_on.wait()
        order.append(int(event.payload))

    async def second(event: RawEvent, delivery: Delivery) -> None:
        order.append(int(event.payload))

    stop = asyncio.Event()
    async with another_connection(nats_server) as connection:
        other = Service(connection, service.context)
        tasks = [service.run(first, stop, workers=2)]
        # As many as two workers have, though of one key only one is at work.
        await service.publish(0, 5)
        await running.wait()

        async def both() -> bool:
            return (await service.info()).num_ack_pending == 2

        await until(both)
        tasks.append(other.run(second, stop))
        await service.publish(10)
        await done(other, 1)
        assert order == [10]
        go_on.set()
        await until(service.settled)
        stop.set()
        for task in tasks:
            await task
    assert order == [10, 0, 5]


# ------------------------------------------------------------------ conflicts


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with await PostgresStore.open(postgres_url) as store:
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE account (id int PRIMARY KEY, events int)")
            await tx.handle.execute("INSERT INTO account VALUES (1, 0), (2, 0)")
        yield store


@pytest.mark.parametrize("batch", [1, 10])
async def test_handlers_that_deadlock_burn_no_delivery(
    broker: Broker, context_name: str, postgres: PostgresStore, batch: int
) -> None:
    service = Service(broker, context_name, postgres)
    await service.create(ack_wait="30s", max_deliver=1)
    met = asyncio.Barrier(2)
    collided = 0

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        nonlocal collided
        number = int(event.payload)
        rows = (1, 2) if number % 2 else (2, 1)
        change = "UPDATE account SET events = events + 1 WHERE id = $1"
        await delivery.tx.execute(change, rows[0])
        if collided < 2:
            collided += 1
            await met.wait()
        try:
            await delivery.tx.execute(change, rows[1])
        except asyncpg.DeadlockDetectedError:
            collided += 10
            raise

    stop = asyncio.Event()
    task = service.run(handle, stop, tx="store", workers=2, batch=batch)
    await service.publish(0)

    async def begun() -> bool:
        return collided == 1

    await until(begun)
    await service.publish(1)
    await done(service, 2)
    stop.set()
    await task
    assert collided > 10
    assert service.outcomes() == {"handled": 2}
    assert not [one for one in service.signals if isinstance(one, ConsumerPaused)]
    async with postgres.transaction() as tx:
        counts = await tx.handle.fetch("SELECT events FROM account ORDER BY id")
    assert [row["events"] for row in counts] == [2, 2]
