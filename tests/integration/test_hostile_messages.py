"""What a foreign client can put on a stream, and a consumer on each database behind it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from described import ASweptConsumer
from seaway import headers as h
from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import settings_from_mapping
from seaway.consumer import Consumer, Delivery
from seaway.contracts import ConsumerInfo, Store
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.letter import Letter
from seaway.dead_letters.sweeper import Sweeper
from seaway.embedded.nats_server import NatsServer
from seaway.errors import Retry
from seaway.events import RawEvent
from seaway.naming import ADVISORY_STREAM, MAX_DELIVERIES_PREFIX, SWEEPER_DURABLE, Durable
from seaway.outbox import Outbox
from seaway.retry import Backoff
from seaway.stores import open_store
from seaway.telemetry import Telemetry
from seaway.testing.databases import Databases
from seaway.testing.drills.foreign import Publication, block, foreign_client
from seaway.testing.drills.forgeries import BLOCKS, Forger, Names

pytestmark = pytest.mark.server

GOOD = b"good"


async def until(holds: Callable[[], Awaitable[bool]], *, within: float = 60) -> None:
    async with asyncio.timeout(within):
        while not await holds():
            await asyncio.sleep(0.02)


@dataclass
class Place:
    """A context with one durable, a database, and a foreign client's address."""

    broker: JetStreamBroker
    store: Store
    context: str
    url: str
    parks: bool = False

    @property
    def stream(self) -> str:
        return f"{self.context.upper()}_EVENTS"

    @property
    def durable(self) -> str:
        return str(Durable.from_context("case_mgmt", self.context))

    @property
    def subject(self) -> bytes:
        return f"{self.context}.event.case_moved.v1".encode()

    async def open(self) -> None:
        durable = {"durable": self.durable, "ack_wait": "1s", "max_deliver": 3}
        mapping = {
            "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
            "consumers": [{"stream": self.stream, **durable}],
        }
        wanted = topology.desired(settings_from_mapping(mapping, environ={}))
        admin = self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)

    async def send(self, *publications: Publication, stored: bool = True) -> None:
        """Return when they are ``stored``: the server has read them before that."""
        before = await self.last_seq()
        async with foreign_client(self.url) as foreign:
            await foreign.publish(*publications)

        async def taken() -> bool:
            return await self.last_seq() == before + len(publications)

        if stored:
            await until(taken)

    async def last_seq(self) -> int:
        info = await self.broker.admin.stream(self.stream)
        assert info is not None
        return info.last_seq

    async def event(self, headers: dict[str, bytes], payload: bytes = GOOD) -> None:
        lines = [(name.encode(), value) for name, value in headers.items()]
        await self.send(Publication(self.subject, payload, block(lines)))

    async def abandon(self, count: int) -> None:
        """They are delivered to a process that dies with them."""
        async with self.broker.subscribe(self.stream, self.durable) as source:
            found = 0
            while found < count:
                found += len(await source.next(count, timeout=timedelta(seconds=5)))

    @asynccontextmanager
    async def running(
        self, handle: Callable[[RawEvent, Delivery], Awaitable[None]], *, sweeper: bool = False
    ) -> AsyncIterator[None]:
        """A consumer, which does not end while this lasts."""
        options: dict[str, Any] = {"on_failure": "park"} if self.parks else {}
        consumer = Consumer(
            Durable.parse(self.durable),
            stream=self.stream,
            batch=100,
            retry=Backoff(timedelta(milliseconds=10), timedelta(milliseconds=50)),
            **options,
        )
        consumer.handler(RawEvent)(handle)
        stop = asyncio.Event()
        works = [
            consumer.run(
                self.broker,
                store=self.store,
                outbox=Outbox(),
                dead_letters=DeadLetters(self.broker),
                telemetry=Telemetry(),
                stop=stop,
            )
        ]
        if sweeper:
            works.append(
                Sweeper(
                    self.broker,
                    store=self.store,
                    consumers={self.durable: consumer},
                ).run(stop)
            )
        tasks = [asyncio.create_task(work) for work in works]
        try:
            yield
            assert not any(task.done() for task in tasks), "it ended by itself"
            stop.set()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def consumer(self) -> ConsumerInfo:
        info = await self.broker.admin.consumer(self.stream, self.durable)
        assert info is not None
        return info

    async def settled(self) -> bool:
        return (await self.consumer()).settled

    async def letters(self) -> list[Letter]:
        found = await DeadLetters(self.broker).list()
        return [one for one in found if one.stored.stream == f"{self.context.upper()}_DLQ"]


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        opened = await open_store(f"sqlite:///{tmp_path / 'inbox.db'}")
        await opened.schema.upgrade()
    else:
        opened = await open_store(request.getfixturevalue("postgres_url"))
    yield opened
    await opened.close()


@pytest.fixture(params=["continue", "park"])
async def place(
    request: pytest.FixtureRequest,
    broker: JetStreamBroker,
    store: Store,
    context_name: str,
    nats_server: NatsServer,
) -> Place:
    made = Place(broker, store, context_name, nats_server.url, parks=request.param == "park")
    await made.open()
    return made


@pytest.fixture
async def latin(
    postgres_databases: Databases,
    broker: JetStreamBroker,
    context_name: str,
    nats_server: NatsServer,
) -> AsyncIterator[Place]:
    """On a database that cannot hold every character."""
    name = postgres_databases.create(tables=False)
    async with asyncio.timeout(30):
        await _make_latin(postgres_databases.url(name))
    opened = await open_store(postgres_databases.url(f"{name}_latin"))
    await opened.schema.upgrade()
    made = Place(broker, opened, context_name, nats_server.url)
    await made.open()
    yield made
    await opened.close()
    postgres_databases.drop(f"{name}_latin")
    postgres_databases.drop(name)


async def _make_latin(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    name = url.rpartition("/")[2].partition("?")[0]
    await connection.execute(
        f"CREATE DATABASE {name}_latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' "
        "TEMPLATE template0"
    )
    await connection.close()


class Noted:
    """A handler that notes what it is given, and fails for what is not ``GOOD``."""

    def __init__(self) -> None:
        self.seen: list[Delivery] = []

    async def handle(self, event: RawEvent, delivery: Delivery) -> None:
        self.seen.append(delivery)
        if event.payload != GOOD:
            raise Retry("not good")

    @property
    def ids(self) -> list[str]:
        return [one.event_id for one in self.seen]


TEXTS = [b"a\x00b", b"\x1b[31m", b"\xff\xfe", b"\xed\xa0\x80", b"x" * 30_000, b"\xc2\x85"]


@pytest.mark.parametrize("name", [h.EVENT_ID, h.MSG_ID, h.ORDERING_KEY, h.CORRELATION_ID])
async def test_no_text_of_a_header_ends_a_consumer(place: Place, name: str) -> None:
    """Delivered first to a process that died: the question what was in flight is about them too."""
    for number, text in enumerate(TEXTS):
        own = {} if name == h.MSG_ID else {h.MSG_ID: b"foreign-%d" % number}
        await place.event({**own, name: text})
        await place.event({h.MSG_ID: b"good-%d" % number})
    await place.abandon(2 * len(TEXTS))
    noted = Noted()
    async with place.running(noted.handle, sweeper=True):
        await until(place.settled)
    good = {f"good-{number}" for number in range(len(TEXTS))}
    places = {f"{place.stream}:{2 * number + 1}" for number in range(len(TEXTS))}
    foreign = {f"foreign-{number}" for number in range(len(TEXTS))}
    expected = places if name in (h.EVENT_ID, h.MSG_ID) else foreign
    assert set(noted.ids) == good | expected
    assert len(noted.ids) == 2 * len(TEXTS), "each once"
    assert not await place.letters()


@pytest.mark.parametrize("text", TEXTS)
async def test_what_fails_under_an_unusable_id_and_key_is_the_same_when_it_is_redriven(
    place: Place, text: bytes
) -> None:
    await place.event({h.EVENT_ID: text, h.ORDERING_KEY: text}, b"bad")
    noted = Noted()
    async with place.running(noted.handle):
        await until(place.settled)
        [letter] = await place.letters()
        assert letter.event_id == f"{place.stream}:1"
        failed = noted.seen[-1]
        assert letter.key == failed.key
        await DeadLetters(place.broker).redrive(letter, payload=GOOD)

        async def handled() -> bool:
            return noted.seen[-1].redriven

        await until(handled)
    assert noted.seen[-1].event_id == letter.event_id
    assert noted.seen[-1].key == failed.key


@pytest.mark.parametrize(
    "rest",
    [
        b"a\x0bb.v1",
        b"a\x0cb.v1",
        b"a\x00b.v1",
        b"\x1b[31m.v1",
        b"\xff.v1",
        b"*",
        b"a.>",
        b"x" * 3_900,
    ],
)
async def test_no_subject_ends_a_consumer(place: Place, rest: bytes) -> None:
    subject = b"%b.event.%b" % (place.context.encode(), rest)
    await place.send(Publication(subject, b"bad"))
    await place.event({h.MSG_ID: b"good"})
    await place.abandon(2)
    noted = Noted()
    async with place.running(noted.handle, sweeper=True):

        async def done() -> bool:
            return await place.settled() and "good" in noted.ids

        await until(done)
    [letter] = await place.letters()
    assert (letter.event_id, letter.reason) == (f"{place.stream}:1", "exhausted")
    assert letter.subject.isprintable()
    assert letter.key == noted.seen[0].key or noted.seen[0].key is None
    assert await DeadLetters(place.broker).discard(letter)


@pytest.mark.parametrize("parks", [False, True])
async def test_what_a_database_cannot_hold_is_a_letter_and_holds_up_nothing(
    latin: Place, parks: bool
) -> None:
    """A usable id, and a database without its characters: also among a hundred, also in flight."""
    latin.parks = parks
    for number in range(10):
        await latin.event({h.MSG_ID: b"good-%d" % number, h.ORDERING_KEY: b"key-%d" % number})
        if number in (3, 7):
            unfit = f"漢字-{number}".encode()
            await latin.event({h.MSG_ID: unfit, h.ORDERING_KEY: unfit})
    await latin.abandon(12)
    noted = Noted()
    async with latin.running(noted.handle, sweeper=True):
        await until(latin.settled)
    assert sorted(noted.ids) == [f"good-{number}" for number in range(10)]
    letters = await latin.letters()
    assert sorted(one.event_id for one in letters) == ["漢字-3", "漢字-7"]
    assert {one.reason for one in letters} == {"exhausted"}


async def test_an_unfit_id_whose_last_delivery_died_is_swept_into_a_letter(latin: Place) -> None:
    await latin.event({h.MSG_ID: "漢字".encode()})
    await latin.event({h.MSG_ID: b"other"})
    async with latin.broker.subscribe(latin.stream, latin.durable) as source:

        async def given_up() -> bool:
            await source.next(10, timeout=timedelta(milliseconds=200))
            return await latin.settled()

        await until(given_up)
    sweeper = Sweeper(
        latin.broker,
        store=latin.store,
        consumers={latin.durable: ASweptConsumer(latin.stream)},
    )
    assert await sweeper.sweep_unreported() == 2
    assert {one.event_id for one in await latin.letters()} == {"漢字", "other"}


async def test_a_forged_advisory_makes_no_letter_of_what_is_not_given_up(
    broker: JetStreamBroker, context_name: str, nats_server: NatsServer, postgres_url: str
) -> None:
    store = await open_store(postgres_url)
    place = Place(broker, store, context_name, nats_server.url)
    await place.open()
    for number in range(3):
        await place.event({h.MSG_ID: b"event-%d" % number})
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        begun.set()
        await go_on.wait()

    async def advise(stream_seq: int, consumer: str) -> None:
        said = (
            f'{{"stream": "{place.stream}", "consumer": "{consumer}", "stream_seq": {stream_seq}}}'
        )
        subject = f"{MAX_DELIVERIES_PREFIX}.{place.stream}.{place.durable}"
        await place.send(Publication(subject.encode(), said.encode()), stored=False)

    async with place.running(handle, sweeper=True):
        await begun.wait()
        for stream_seq in (1, 2, 3, 50):
            for consumer in (place.durable, "nobody__at_all", "A" * 5_000, "a b.>"):
                await advise(stream_seq, consumer)

        async def waited_for() -> bool:
            """Those that may be true; all others are passed over."""
            info = await broker.admin.consumer(ADVISORY_STREAM, SWEEPER_DURABLE)
            return info is not None and not info.num_pending and info.num_ack_pending <= 3

        await until(waited_for)
        assert not await place.letters()
        go_on.set()
        await until(place.settled)

        async def swept() -> bool:
            info = await broker.admin.consumer(ADVISORY_STREAM, SWEEPER_DURABLE)
            return info is not None and info.settled

        await until(swept)
    assert not await place.letters()
    await store.close()


async def test_a_stream_is_read_past_blocks_that_are_none(
    broker: JetStreamBroker, store: Store, context_name: str, nats_server: NatsServer
) -> None:
    place = Place(broker, store, context_name, nats_server.url)
    await place.open()
    for one in BLOCKS:
        await place.send(
            Publication(place.subject, b"", one), Publication(place.subject, GOOD, one)
        )
    await place.event({h.MSG_ID: b"last"})
    for headers_only in (True, False):
        found = broker.admin.read(place.stream, headers_only=headers_only)
        async with asyncio.timeout(10):
            seqs = [one.stream_seq async for one in found]
        assert seqs == list(range(1, 2 * len(BLOCKS) + 2))


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_comes_honest_events_take_effect(place: Place, seed: int) -> None:
    """Generated headers, payloads and subjects around them, as the drill has them."""
    names = Names(
        place.context, place.subject.decode(), place.stream, (place.durable,), "bank", "B", "b"
    )
    forger, chance = Forger(names, seed), random.Random(seed)
    kinds = (forger.headers, forger.payloads, forger.subjects)
    for number in range(100):
        await place.send(chance.choice(kinds)(), stored=False)
        if number % 10 == 0:
            lines = [(h.MSG_ID, f"honest-{number}"), (h.ORDERING_KEY, "honest")]
            honest = block([(name.encode(), value.encode()) for name, value in lines])
            await place.send(Publication(place.subject, GOOD, honest), stored=False)
    handled: list[str] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if event.payload == GOOD:
            handled.append(delivery.event_id)
            return
        # Everything that it brings goes on with what follows from it.
        await delivery.add(RawEvent(f"{place.context}.event.followed.v1", b"{}"), key=delivery.key)
        event.json()

    async with place.running(handle, sweeper=True):

        async def done() -> bool:
            return len(set(handled)) == 10 and await place.settled()

        await until(done)
    # Called again it may be, with a batch that another one spoilt.
    assert list(dict.fromkeys(handled)) == [f"honest-{number}" for number in range(0, 100, 10)]
    assert not _honest(await place.letters())


def _honest(letters: Collection[Letter]) -> list[str]:
    return [one.event_id for one in letters if one.event_id.startswith("honest")]
