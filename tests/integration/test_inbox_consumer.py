"""Consumers on a real nats-server with each kind of handle: effects and events exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from drivers.inboxes import KINDS, PLAIN, PLAIN_TOO, Kind
from seaway import Seaway
from seaway.brokers.jetstream.pull import Pull
from seaway.consumer import Delivery
from seaway.contracts import Incoming, Message, Store, Stored
from seaway.embedded.nats_server import NatsServer
from seaway.errors import Poison, Retry
from seaway.events import Registry, event, event_type_of
from seaway.stores import open_store
from seaway.telemetry import Delivered, Signal
from seaway.topology import actual, apply, desired, plan

pytestmark = pytest.mark.server

DURABLE = "case_mgmt__from_sea"
EVENTS = 30
TRANSIENT, POISON, LOST_ACK = 7, 11, 13
registry = Registry()


@event(context="sea", registry=registry)
@dataclass
class CaseOpened:
    number: int


@event(context="sea", registry=registry)
@dataclass
class TaskOpened:
    number: int


SUBJECT = str(event_type_of(CaseOpened).subject)


@pytest.fixture
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    found: type[Kind] = request.param
    if found.engine == "sqlite":
        return found(f"sqlite:///{tmp_path}/app.db")
    return found(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def app(kind: Kind, nats_server_own: NatsServer) -> AsyncIterator[Seaway]:
    app = Seaway.from_config(
        {
            "nats": {"url": nats_server_own.url},
            "database": kind.url,
            "streams": [{"name": "SEA_EVENTS", "replicas": 1}],
            "consumers": [
                {
                    "stream": "SEA_EVENTS",
                    "durable": DURABLE,
                    "filter_subject": SUBJECT,
                    "ack_wait": "2s",
                    "max_deliver": 5,
                }
            ],
        }
    )
    async with await open_store(kind.url) as store:  # type: ignore[attr-defined]
        if kind.engine == "sqlite":
            await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE effects (number INTEGER)")
    async with app:
        wanted = desired(app.settings)
        await apply(plan(wanted, await actual(app.broker.admin, wanted)), app.broker.admin)
        yield app


@pytest.fixture
async def lost_acks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first ack of one event never reaches the server: it is delivered again."""
    lost: list[int] = []
    ack = Pull.ack

    async def losing(self: Pull, *incoming: Incoming) -> Sequence[bool]:
        kept = [one for one in incoming if lost or one.message.payload != payload(LOST_ACK)]
        lost.extend(one.deliveries for one in incoming if one not in kept)
        confirmed = iter(await ack(self, *kept))
        return [one in kept and next(confirmed) for one in incoming]

    monkeypatch.setattr(Pull, "ack", losing)
    return lost


def payload(number: int) -> bytes:
    return b'{"number":%d}' % number


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        *((kind, batch) for kind in KINDS for batch in (1, 10)),
        *((kind, 1) for kind in PLAIN_TOO),
        *((kind, 10) for kind in PLAIN),
    ],
    indirect=["kind"],
)
async def test_effects_and_events_are_exactly_once(
    kind: Kind, app: Seaway, lost_acks: list[int], batch: int
) -> None:
    tries: Counter[int] = Counter()
    outcomes: Counter[str] = Counter()
    handles: set[str] = set()
    stop = asyncio.Event()

    def hear(signal: Signal) -> None:
        if isinstance(signal, Delivered):
            outcomes[signal.outcome] += 1

    app.telemetry.subscribe(hear)
    async with kind.given() as given:
        consumer = app.consumer("case_mgmt", from_context="sea", tx=given, batch=batch, workers=2)

        @consumer.handler(CaseOpened)
        @kind.handler
        async def open_case(event: CaseOpened, delivery: Delivery) -> None:
            tries[event.number] += 1
            handles.add(type(delivery.tx).__name__)
            await kind.run(delivery.tx, effect(event.number))
            await delivery.add(TaskOpened(event.number), key=str(event.number))
            if event.number == TRANSIENT and tries[TRANSIENT] == 1:
                raise Retry(after=timedelta(milliseconds=10))
            if event.number == POISON:
                raise Poison("cannot be")

        messages = [
            Message(
                str(event_type_of(CaseOpened).subject),
                b'{"number":%d}' % n,
                {"Nats-Msg-Id": f"id-{n}"},
            )
            for n in range(EVENTS)
        ]
        found = await app.broker.publish("SEA_EVENTS", messages, timeout=timedelta(seconds=5))
        assert all(isinstance(outcome, Stored) for outcome in found)
        running = asyncio.create_task(app.run(stop))
        expected = sorted(set(range(EVENTS)) - {POISON})
        async with asyncio.timeout(60):
            while not (
                outcomes["already_processed"]
                and await settled(app)
                and await published(app) == expected
            ):
                if running.done():
                    await running
                await asyncio.sleep(0.05)  # polling until the server has seen the last ack
        stop.set()
        await asyncio.wait_for(running, 30)
        assert len(lost_acks) == 1
        assert outcomes["already_processed"] == 1
        assert tries[TRANSIENT] >= 2
        assert len(handles) == 1
        async with await open_store(kind.url) as store:  # type: ignore[attr-defined]
            assert await effects(store) == expected
            assert await store.entries() == []
        (letter,) = await app.dead_letters.list()
        assert (letter.event_id, letter.reason) == (f"id-{POISON}", "poison")


def effect(number: int) -> str:
    return f"INSERT INTO effects VALUES ({number:d})"  # noqa: S608 - a number


async def effects(store: Store) -> list[int]:
    async with store.transaction() as tx:
        fetch = getattr(tx.handle, "fetch", None) or tx.handle.execute_fetchall
        return [row[0] for row in await fetch("SELECT number FROM effects ORDER BY number")]


async def settled(app: Seaway) -> bool:
    info = await app.broker.admin.consumer("SEA_EVENTS", DURABLE)
    assert info is not None
    return info.settled


async def published(app: Seaway) -> list[int]:
    subject = str(event_type_of(TaskOpened).subject)
    found = [
        int(stored.message.payload.rpartition(b":")[2].rstrip(b"}"))
        async for stored in app.broker.admin.read("SEA_EVENTS", filter_subjects=[subject])
    ]
    return sorted(found)
