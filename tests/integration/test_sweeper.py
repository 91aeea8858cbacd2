"""The sweeper on a real server: what no consumer could bury becomes one letter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from described import ASweptConsumer
from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import settings_from_mapping
from seaway.contracts import JSON, ConsumerInfo, Incoming, Message, Stored, StoredMessage
from seaway.dead_letters import DeadLetters, Letter, Sweeper
from seaway.embedded.nats_server import NatsServer
from seaway.inbox.letters import letter_row
from seaway.naming import ADVISORY_STREAM, MAX_DELIVERIES_PREFIX, SWEEPER_DURABLE
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import DeadLettered, Signal, Telemetry
from seaway.testing.drills.foreign import Publication, foreign_client

pytestmark = pytest.mark.server
TIMEOUT = timedelta(seconds=5)
MOMENT = timedelta(milliseconds=100)


async def until(there: Callable[[], Awaitable[bool]]) -> None:
    """Poll until it is so; fails after 15 seconds."""
    deadline = time.monotonic() + 60
    while not await there():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.02)


class Shop:
    """A durable that gives up after two short deliveries."""

    def __init__(self, broker: JetStreamBroker, context: str) -> None:
        self.broker = broker
        self.context = context
        self.stream = f"{context.upper()}_EVENTS"
        self.queue = f"{context.upper()}_DLQ"
        self.redrives = f"{context.upper()}_REDRIVE"
        self.durable = f"case_mgmt__from_{context}"
        self.letters = DeadLetters(broker)

    async def open(self) -> None:
        mapping = {
            "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
            "consumers": [
                {
                    "stream": self.stream,
                    "durable": self.durable,
                    "ack_wait": "100ms",
                    "max_deliver": 2,
                }
            ],
        }
        wanted = topology.desired(settings_from_mapping(mapping, environ={}))
        admin = self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)

    async def publish(self, *ids: str) -> None:
        await self.put(
            self.stream,
            *(
                Message(f"{self.context}.event.case_created.v1", b"{}", {"Nats-Msg-Id": event_id})
                for event_id in ids
            ),
        )

    async def put(self, stream: str, *messages: Message) -> None:
        outcomes = await self.broker.publish(stream, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes), outcomes

    async def advise(self, stream: str, consumer: str, payload: bytes) -> None:
        subject = f"{MAX_DELIVERIES_PREFIX}.{stream}.{consumer}"
        await self.put(ADVISORY_STREAM, Message(subject, payload, {}))

    async def consumer(self, stream: str, durable: str) -> ConsumerInfo:
        info = await self.broker.admin.consumer(stream, durable)
        assert info is not None
        return info

    async def advised(self, stream: str) -> int:
        """How many advisories there are of the durable on ``stream``."""
        place = f".{stream}.{self.durable}"
        found = self.broker.admin.read(ADVISORY_STREAM)
        return len([one async for one in found if one.message.subject.endswith(place)])

    async def exhaust(self, count: int = 1, stream: str | None = None) -> None:
        """Take ``count`` messages and acknowledge none, until the server has given up on them."""
        name = stream or self.stream
        expected = await self.advised(name) + count
        async with self.broker.subscribe(name, self.durable) as source:

            async def given_up() -> bool:
                await source.next(10, timeout=MOMENT)
                info = await self.consumer(name, self.durable)
                return not info.num_ack_pending and await self.advised(name) == expected

            await until(given_up)

    async def from_the_beginning(self) -> None:
        """Have the sweepers be given every advisory again."""
        info = await self.consumer(ADVISORY_STREAM, SWEEPER_DURABLE)
        await self.broker.admin.delete_consumer(ADVISORY_STREAM, SWEEPER_DURABLE)
        await self.broker.admin.create_consumer(ADVISORY_STREAM, info.config)

    async def here(self) -> list[Letter]:
        found = await self.letters.list()
        return [letter for letter in found if letter.stored.stream == self.queue]

    async def is_swept(self) -> bool:
        """Whether the sweeper has settled every advisory that there is."""
        info = await self.broker.admin.consumer(ADVISORY_STREAM, SWEEPER_DURABLE)
        if info is None:
            return False
        return info.settled

    def sweeper(
        self,
        store: SqliteStore,
        handles: Callable[[str], bool] = lambda _: True,
        durable: str | None = None,
    ) -> Sweeper:
        swept = ASweptConsumer(self.stream, handles)
        return Sweeper(self.broker, store=store, consumers={durable or self.durable: swept})

    @asynccontextmanager
    async def sweeping(
        self,
        telemetry: Telemetry | None = None,
        store: SqliteStore | None = None,
        durables: Collection[str] | None = None,
    ) -> AsyncIterator[None]:
        stop = asyncio.Event()
        having = [self.durable] if durables is None else durables
        sweeper = Sweeper(
            self.broker,
            store=store,
            consumers=dict.fromkeys(having, ASweptConsumer(self.stream)),
            telemetry=telemetry,
        )
        work = asyncio.create_task(sweeper.run(stop))
        try:
            yield
            stop.set()
            async with asyncio.timeout(5):
                await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def sweep(self) -> None:
        """Once over all that the server has said."""
        async with self.sweeping():
            await until(self.is_swept)


@pytest.fixture
async def shop(broker: JetStreamBroker, context_name: str) -> Shop:
    made = Shop(broker, context_name)
    await made.open()
    return made


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(tmp_path / "inbox.db") as opened:
        await opened.schema.upgrade()
        yield opened


async def test_what_is_never_acknowledged_becomes_one_letter(shop: Shop) -> None:
    heard: list[Signal] = []
    telemetry = Telemetry()
    telemetry.subscribe(heard.append)
    event_id = uuid.uuid4().hex
    await shop.publish(event_id)
    async with shop.sweeping(telemetry):
        await shop.exhaust()

        async def written() -> bool:
            return bool(await shop.here())

        await until(written)
    [letter] = await shop.here()
    assert (letter.reason, letter.event_id, letter.deliveries) == ("exhausted", event_id, 2)
    assert (letter.consumer, letter.stream, letter.stream_seq) == (shop.durable, shop.stream, 1)
    said = DeadLettered(shop.stream, shop.durable, event_id, "exhausted", "", "", event_id)
    assert said in heard


async def test_sweeping_again_adds_none_even_beyond_the_queues_memory_of_ids(shop: Shop) -> None:
    info = await shop.broker.admin.stream(shop.queue)
    assert info is not None
    await shop.broker.admin.update_stream({**info.config, "duplicate_window": 100_000_000})
    await shop.publish("one", "two")
    await shop.exhaust(2)
    for _ in range(2):
        await shop.sweep()
        assert sorted(letter.event_id for letter in await shop.here()) == ["one", "two"]
        await shop.from_the_beginning()


async def test_what_a_consumer_terminated_becomes_a_letter(
    shop: Shop, nats_server: NatsServer
) -> None:
    await shop.publish("bad")
    async with shop.broker.subscribe(shop.stream, shop.durable) as source:
        [incoming] = await source.next(1, timeout=TIMEOUT)
        async with foreign_client(nats_server.url) as stranger:  # No consumer of ours does so.
            await stranger.publish(Publication(incoming.reply.encode(), b"+TERM"))

    async def terminated() -> bool:
        return await shop.advised(shop.stream) == 1

    await until(terminated)
    await shop.sweep()
    [letter] = await shop.here()
    assert (letter.reason, letter.event_id, letter.deliveries) == ("terminated", "bad", 1)


async def test_what_a_consumer_buried_itself_gets_no_second_letter(shop: Shop) -> None:
    await shop.publish("bad")
    async with shop.broker.subscribe(shop.stream, shop.durable) as source:
        [incoming] = await source.next(1, timeout=TIMEOUT)
        await shop.letters.store(incoming, reason="poison", error=ValueError("no"))
    await shop.exhaust()
    await shop.sweep()
    assert [letter.reason for letter in await shop.here()] == ["poison"]


async def test_an_exhausted_redrive_goes_back_into_the_queue(shop: Shop) -> None:
    await shop.publish("bad")
    await shop.exhaust()
    await shop.sweep()
    [letter] = await shop.here()
    await shop.letters.redrive(letter)
    await shop.exhaust(stream=shop.redrives)
    await shop.sweep()
    [again] = await shop.here()
    assert (again.event_id, again.subject) == (letter.event_id, letter.subject)
    assert (again.stream, again.id != letter.id) == (shop.redrives, True)
    info = await shop.broker.admin.stream(shop.redrives)
    assert info is not None
    assert info.messages == 0, "the letter stands for it"


async def test_advisories_that_say_nothing_of_ours_are_passed_over(shop: Shop) -> None:
    await shop.publish("bystander")
    said = {"stream": shop.stream, "consumer": shop.durable, "stream_seq": 1, "deliveries": 2}
    for payload in (b"", b"\xff", b"[]", b"{}", json.dumps(said | {"stream_seq": "1"}).encode()):
        await shop.advise(shop.stream, shop.durable, payload)
    for other in (
        {"stream": "ORDERS", "consumer": "shipping"},
        {"stream": "OTHERS_EVENTS"},
        {"stream": shop.queue},
        {"consumer": "not-ours"},
        {"stream_seq": 99},
    ):
        foreign = said | other
        await shop.advise(
            str(foreign["stream"]), str(foreign["consumer"]), json.dumps(foreign).encode()
        )
    await shop.exhaust()
    await shop.sweep()
    assert [letter.event_id for letter in await shop.here()] == ["bystander"]


async def test_a_queue_that_is_missing_holds_back_only_its_own_letters(shop: Shop) -> None:
    await shop.publish("kept")
    queue = await shop.broker.admin.stream(shop.queue)
    assert queue is not None
    await shop.broker.admin.delete_stream(shop.queue)
    await shop.exhaust()
    async with shop.sweeping():

        async def tried() -> bool:
            info = await shop.broker.admin.consumer(ADVISORY_STREAM, SWEEPER_DURABLE)
            return info is not None and info.num_pending == 0 and info.num_ack_pending > 0

        await until(tried)
        await shop.broker.admin.create_stream(queue.config)
        await until(shop.is_swept)
    assert [letter.event_id for letter in await shop.here()] == ["kept"]


async def test_without_advisories_the_inbox_tells_what_was_given_up(
    shop: Shop, store: SqliteStore
) -> None:
    await shop.publish("done", "lost")
    async with store.transaction() as tx:
        assert await tx.claim(shop.durable, "done")
    sweeper = shop.sweeper(store)
    await shop.exhaust(2)
    assert await sweeper.sweep_unreported() == 1
    [letter] = await shop.here()
    assert (letter.event_id, letter.reason) == ("lost", "exhausted")
    assert await sweeper.sweep_unreported() == 0
    foreign = shop.sweeper(store, durable="analytics__from_sea")
    assert await foreign.sweep_unreported() == 0
    assert await Sweeper(shop.broker).sweep_unreported() == 0


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_an_effect_in_the_making_is_waited_for(
    shop: Shop, store: SqliteStore, tmp_path: Path, ends: str
) -> None:
    """Another process read the message from the stream, and has it in its transaction."""
    await shop.publish("e1")
    await shop.exhaust()

    async def tried() -> bool:
        info = await shop.broker.admin.consumer(ADVISORY_STREAM, SWEEPER_DURABLE)
        return info is not None and info.consumer_seq > 0

    class Undo(Exception):
        pass

    async with (
        await SqliteStore.open(tmp_path / "inbox.db") as other,
        shop.sweeping(store=store),
    ):
        with contextlib.suppress(Undo):
            async with other.transaction() as tx:
                await tx.claim(*letter_row(shop.durable, (shop.stream, 1), "e1"))
                await tx.claim(shop.durable, "e1")
                await until(tried)
                assert await shop.here() == []
                if ends == "rollback":
                    raise Undo
        await until(shop.is_swept)
    assert [letter.event_id for letter in await shop.here()] == (
        ["e1"] if ends == "rollback" else []
    )
    consumer, row = letter_row(shop.durable, (shop.stream, 1), "e1")
    assert await store.claimed(consumer, [row]) == {row}


async def test_another_service_leaves_it_to_the_durables_own(
    shop: Shop, store: SqliteStore
) -> None:
    heard: list[Signal] = []
    telemetry = Telemetry()
    telemetry.subscribe(heard.append)
    async with shop.sweeping(durables=["analytics__from_sea"]):
        for number in range(6):
            await shop.publish(f"e{number}")
            await shop.exhaust()
        async with shop.sweeping(telemetry, store):
            await until(shop.is_swept)
    written = {one.event_id for one in heard if isinstance(one, DeadLettered)}
    assert written == {f"e{number}" for number in range(6)}
    rows = [letter_row(shop.durable, (shop.stream, seq), f"e{seq - 1}") for seq in range(1, 7)]
    assert len(await store.claimed(rows[0][0], [row for _, row in rows])) == 6


async def test_what_nobody_else_buries_another_service_does(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seaway.dead_letters.sweeper._TURNS", 3)
    await shop.publish("e1")
    await shop.exhaust()
    async with shop.sweeping(durables=["analytics__from_sea"]):
        await until(shop.is_swept)
    assert [letter.event_id for letter in await shop.here()] == ["e1"]


async def without_advisories(shop: Shop) -> JSON:
    """Take the stream of advisories away; its configuration, to make it anew."""
    info = await shop.broker.admin.stream(ADVISORY_STREAM)
    assert info is not None
    await shop.broker.admin.delete_stream(ADVISORY_STREAM)
    return info.config


async def given_up(shop: Shop, stream: str, *, floor: int) -> None:
    """Take what there is, acknowledge none; then one more that is, so that the floor passes all."""
    async with shop.broker.subscribe(stream, shop.durable) as source:

        async def nothing_pends() -> bool:
            await source.next(10, timeout=MOMENT)
            info = await shop.consumer(stream, shop.durable)
            return info.settled

        await until(nothing_pends)
        if stream == shop.stream:
            await shop.publish("fine")
            [fine] = await source.next(1, timeout=TIMEOUT)
            await source.ack(fine)

        async def passed() -> bool:
            info = await shop.consumer(stream, shop.durable)
            return info.ack_floor == floor

        await until(passed)


async def test_what_was_given_up_while_there_were_no_advisories_is_found_below_the_floor(
    shop: Shop, store: SqliteStore
) -> None:
    config = await without_advisories(shop)
    try:
        await shop.publish("done", "lost", "buried", "lost-too", "redriven")
        unknown = f"{shop.context}.event.unknown.v1"
        await shop.put(shop.stream, Message(unknown, b"{}", {"Nats-Msg-Id": "ignored"}))
        await given_up(shop, shop.stream, floor=7)
    finally:
        await shop.broker.admin.create_stream(config)
    await shop.publish("later")
    async with store.transaction() as tx:
        for event_id in ("done", "fine"):
            assert await tx.claim(shop.durable, event_id)
    for number in (3, 5):
        found = await shop.broker.admin.get(shop.stream, number)
        assert found is not None
        await shop.letters.store(delivered(found, shop), reason="poison", error=None)
    await shop.letters.redrive(await shop.letters.get("redriven"))

    def handled(subject: str) -> bool:
        return subject != unknown

    sweepers = [shop.sweeper(store, handled) for _ in range(2)]
    # Two processes at once.
    assert sum(await asyncio.gather(*(one.sweep_unreported() for one in sweepers))) >= 1
    assert sorted((one.event_id, one.reason) for one in await shop.here()) == [
        ("buried", "poison"),
        ("lost", "exhausted"),
        ("lost-too", "exhausted"),
    ]
    for letter in await shop.here():
        await shop.letters.discard(letter)
    assert await sweepers[0].sweep_unreported() == 0, "looked through once for each time"


async def test_a_redrive_given_up_without_an_advisory_is_a_letter_again(
    shop: Shop, store: SqliteStore
) -> None:
    await shop.publish("bad", "other")
    for number in (1, 2):
        found = await shop.broker.admin.get(shop.stream, number)
        assert found is not None
        await shop.letters.store(delivered(found, shop), reason="poison", error=None)
    config = await without_advisories(shop)
    try:
        await shop.letters.redrive(await shop.letters.get("bad"))
        await given_up(shop, shop.redrives, floor=0)
    finally:
        await shop.broker.admin.create_stream(config)
    sweeper = shop.sweeper(store)
    assert await sweeper.sweep_unreported() == 1
    again = await shop.letters.get("bad")
    assert (again.stream, again.reason) == (shop.redrives, "exhausted")
    assert await sweeper.sweep_unreported() == 0


async def test_what_may_be_on_its_way_is_left_alone_and_looked_at_again(
    shop: Shop, store: SqliteStore
) -> None:
    await shop.publish("one", "two")
    sweeper = shop.sweeper(store)
    async with shop.broker.subscribe(shop.stream, shop.durable) as source:
        held = [*await source.next(2, timeout=TIMEOUT)]
        while len(held) < 2:
            held += await source.next(2 - len(held), timeout=TIMEOUT)
        await source.ack(held[1])
        assert await sweeper.sweep_unreported() == 0
    assert await shop.here() == []


def delivered(found: StoredMessage, shop: Shop) -> Incoming:
    return Incoming(
        found.message, found.stream, found.stream_seq, found.stored_at, shop.durable, 1, 1, 0
    )
