"""Retries that are put off for long, on a real server: they take no place, and come once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import Delivery, Poison, RawEvent, Retry, Seaway, topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.contracts import ConsumerInfo, Incoming, Message, Stored
from seaway.dead_letters import DeadLetters, Selection
from seaway.dead_letters.later import Scheduled
from seaway.embedded.nats_server import NatsServer
from seaway.errors import NotFound
from seaway.mending import Mending, Plan
from seaway.naming import later_subject
from seaway.stores import open_store
from seaway.telemetry import Delivered, Signal

pytestmark = [
    pytest.mark.server,
    pytest.mark.seaway_since("2.12", "messages that are sent later"),
]

TIMEOUT = timedelta(seconds=10)
HOUR = timedelta(hours=1)


async def until(there: Callable[[], Awaitable[bool]], *, within: float = 60) -> None:
    """Poll until it is so."""
    async with asyncio.timeout(within):
        while not await there():
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Try:
    """A call of the handler."""

    event_id: str
    deliveries: int
    redriven: bool


class Shop:
    """An application with one consumer, whose handler has some events come again in an hour."""

    def __init__(self, broker: JetStreamBroker, context: str, database: str, url: str) -> None:
        self.broker, self.context = broker, context
        self.database, self.url = database, url
        self.events, self.redrives = f"{context.upper()}_EVENTS", f"{context.upper()}_REDRIVE"
        self.name = f"case_mgmt__from_{context}"
        self.tries: list[Try] = []
        self.effects: list[str] = []
        self.later: set[str] = set()
        """Which events are put off."""
        self.bad: set[str] = set()
        self.signals: list[Signal] = []
        self.desk = Mending(broker)
        self.limits: dict[str, Any] = {"max_ack_pending": 1, "max_deliver": 3}

    def app(self, **options: Any) -> Seaway:
        durable = {"stream": self.events, "durable": self.name, **self.limits}
        made = Seaway.from_config(
            {
                "nats": {"url": self.url},
                "database": self.database,
                "streams": [{"name": self.events, "replicas": 1, "storage": "memory"}],
                "consumers": [durable],
            }
        )
        made.telemetry.subscribe(self.signals.append)
        consumer = made.consumer("case_mgmt", from_context=self.context, **options)

        @consumer.handler(RawEvent)
        async def handle(event: RawEvent, delivery: Delivery) -> None:
            event_id = delivery.event_id
            self.tries.append(Try(event_id, delivery.deliveries, delivery.redriven))
            if event_id in self.later:
                raise Retry(f"{event_id} is not ripe", after=HOUR)
            if event_id in self.bad:
                raise Poison(f"{event_id} is refused")
            self.effects.append(event_id)

        return made

    async def open(self) -> None:
        wanted = topology.desired(self.app().settings)
        admin = self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)
        assert topology.plan(wanted, await topology.actual(admin, wanted)).empty
        store = await open_store(self.database)
        await store.schema.upgrade()
        await store.close()

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Seaway]:
        app, stop = self.app(**options), asyncio.Event()
        work = asyncio.create_task(app.run(stop, relay=False))
        try:
            yield app
            stop.set()
            async with asyncio.timeout(30):
                await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def publish(self, *ids: str) -> None:
        """Their first letter is their key."""
        subject = f"{self.context}.event.moved.v1"
        messages = [
            Message(subject, b"{}", {"Nats-Msg-Id": one, "X-Ordering-Key": one[0]}) for one in ids
        ]
        outcomes = await self.broker.publish(self.events, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes), outcomes

    async def durable(self, stream: str) -> ConsumerInfo:
        info = await self.broker.admin.consumer(stream, self.name)
        assert info is not None
        return info

    async def settled(self) -> bool:
        """Nothing is on its way, not even later; nothing waits in the queue."""
        streams = [await self.durable(one) for one in (self.events, self.redrives)]
        quiet = all(one.settled for one in streams)
        return quiet and not await self.desk.scheduled(self.mine) and not await self.letters()

    @property
    def mine(self) -> Selection:
        return Selection(consumer=self.name)

    async def letters(self) -> dict[str, tuple[str, int]]:
        found = await self.desk.list(self.mine)
        return {one.event_id: (one.reason, one.deliveries) for one in found}

    async def waits(self, event_id: str) -> Scheduled:
        """Poll until the server is to send it later."""
        found: list[Scheduled] = []

        async def there() -> bool:
            waiting = await self.desk.scheduled(Selection((event_id,), self.name))
            soon = datetime.now(UTC) + HOUR / 2  # What was moved may lie there for a moment.
            found[:] = [one for one in waiting if one.at and one.at > soon]
            return bool(found) and not (await self.durable(self.events)).num_ack_pending

        await until(there)
        [one] = found
        return one

    async def now(self, event_id: str) -> None:
        """Have what waits be sent now: its time is moved."""
        waiting = (await self.waits(event_id)).letter.stored
        whole = await self.broker.admin.get(*waiting.place)
        assert whole is not None
        headers = {k: v for k, v in whole.message.headers.items() if not k.startswith("Nats-")}
        outcome = await self.broker.schedule(
            self.redrives,
            Message(whole.message.headers["Nats-Schedule-Target"], whole.message.payload, headers),
            at=datetime.now(UTC) - HOUR,
            subject=later_subject(self.context, self.name, event_id),
            timeout=TIMEOUT,
        )
        assert isinstance(outcome, Stored)


@pytest.fixture
async def shop(
    broker: JetStreamBroker, context_name: str, nats_server: NatsServer, tmp_path: Path
) -> Shop:
    made = Shop(broker, context_name, f"sqlite:///{tmp_path / 'app.db'}", nats_server.url)
    await made.open()
    return made


async def test_others_go_on_and_its_key_waits_and_it_comes_once(
    shop: Shop, postgres_url: str
) -> None:
    shop.database = postgres_url
    shop.later = {"a1"}
    async with shop.running():
        await shop.publish("a1", "a2", "b1", "a3", "b2")
        waiting = await shop.waits("a1")
        assert waiting.at is not None
        left = waiting.at - datetime.now(UTC)
        assert timedelta(minutes=58) < left <= HOUR + timedelta(minutes=1)
        assert (waiting.letter.deliveries, waiting.letter.error) == (1, "a1 is not ripe")

        async def others() -> bool:
            parked = set(await shop.letters()) == {"a2", "a3"}
            return parked and shop.effects == ["b1", "b2"]

        await until(others)
        assert (await shop.durable(shop.events)).settled, "nothing takes a place"
        # Put off once more: its place among those of its key stays the first.
        await shop.now("a1")
        await until(lambda: _async(len([one for one in shop.tries if one.event_id == "a1"]) == 2))
        assert (await shop.waits("a1")).letter.deliveries == 2
        assert shop.effects == ["b1", "b2"]
        # Another process begins where this one ends: what waits is known to it.
    async with shop.running():
        await shop.publish("a4")
        await until(lambda: _holds(shop.letters, "a2", "a3", "a4"))
        shop.later = set()
        await shop.now("a1")
        await until(shop.settled)
    assert shop.effects == ["b1", "b2", "a1", "a2", "a3", "a4"]
    assert [one for one in shop.tries if one.event_id == "a1"] == [
        Try("a1", 1, False),
        Try("a1", 2, True),
        Try("a1", 3, True),
    ]
    outcomes = [one for one in shop.signals if isinstance(one, Delivered)]
    assert [one.outcome for one in outcomes if one.event_id == "a1"] == [
        "retried",
        "retried",
        "handled",
    ]


async def _async(value: bool) -> bool:
    return value


async def _holds(letters: Callable[[], Awaitable[dict[str, Any]]], *ids: str) -> bool:
    return set(await letters()) == set(ids)


@pytest.mark.parametrize("options", [{}, {"on_failure": "park"}, {"ordering": "none"}])
async def test_its_attempts_are_remembered_until_none_is_left(
    shop: Shop, options: dict[str, Any]
) -> None:
    shop.later = {"a1"}
    async with shop.running(**options):
        await shop.publish("a1", "a2")
        for _ in range(2):
            await shop.now("a1")
        await until(lambda: _holds_reason(shop, "a1", ("exhausted", 3)))
        assert not await shop.desk.scheduled(shop.mine)
        if options.get("on_failure") == "park":
            await until(lambda: _holds(shop.letters, "a1", "a2"))
        else:
            await until(lambda: _async(shop.effects == ["a2"]))
            await until(lambda: _holds(shop.letters, "a1"))
        # Redriven, it is tried anew.
        shop.later = set()
        await shop.desk.redrive(await shop.desk.get("a1", consumer=shop.name))
        await until(shop.settled)
    parks = options.get("on_failure") == "park"
    assert shop.effects == (["a1", "a2"] if parks else ["a2", "a1"])
    counts = [(one.deliveries, one.redriven) for one in shop.tries if one.event_id == "a1"]
    assert counts == [(1, False), (2, True), (3, True), (1, True)]


async def _holds_reason(shop: Shop, event_id: str, wanted: tuple[str, int]) -> bool:
    return (await shop.letters()).get(event_id) == wanted


async def test_cancelled_it_is_a_letter_and_its_key_goes_on(shop: Shop) -> None:
    shop.later = {"a1"}
    async with shop.running() as app:
        await shop.publish("a1", "a2")
        waiting = await shop.waits("a1")
        await until(lambda: _holds(shop.letters, "a2"))
        cancelled = await app.dead_letters.cancel(waiting, by="ann@desk", why="paid")
        assert not cancelled.late
        with pytest.raises(NotFound, match="waits no more"):
            await app.dead_letters.cancel(waiting)
        [noted] = await app.dead_letters.changes("a1")
        assert (noted.action, noted.by, noted.detail["why"]) == ("cancelled", "ann@desk", "paid")
        letter = await shop.desk.get(cancelled.letter)
        assert (letter.event_id, letter.reason, letter.place) == (
            *("a1", "exhausted"),
            (shop.events, 1),
        )
        assert letter.error == "a1 is not ripe"
        await until(lambda: _async(shop.effects == ["a2"]))
        assert not await shop.desk.scheduled(shop.mine)
        shop.later = set()
        await shop.desk.redrive(letter)
        await until(shop.settled)
    assert shop.effects == ["a2", "a1"]


async def test_a_run_that_waits_for_outcomes_knows_what_is_put_off(shop: Shop) -> None:
    shop.bad = {"a1"}
    async with shop.running() as app:
        await shop.publish("a1")
        await until(lambda: _holds(shop.letters, "a1"))
        shop.bad, shop.later = set(), {"a1"}
        plan = Plan(selection=shop.mine, canary=1, patience=timedelta(seconds=1))
        run = await app.dead_letters.run(plan)
        async with aclosing(run.outcomes()) as outcomes:
            assert [one.became async for one in outcomes] == ["sent"]
        assert (run.state, "what became of 1 letter" in run.why) == ("stopped", True)
        shop.later = set()
        await shop.now("a1")
        again = await app.dead_letters.run(replace(plan, patience=timedelta(minutes=1)))
        async with aclosing(again.outcomes()) as outcomes:
            assert [one.became async for one in outcomes] == ["effect"]
        await until(shop.settled)
    assert shop.effects == ["a1"]


class Dying(DeadLetters):
    """Its process does not come back from putting off, once that is stored."""

    stored = 0

    async def put_off(
        self, incoming: Incoming, *, after: timedelta, error: BaseException | None
    ) -> str:
        assert not await super().put_off(incoming, after=after, error=error)
        Dying.stored += 1
        await asyncio.Event().wait()
        return ""


async def test_a_process_that_is_killed_before_the_acknowledgement_makes_nothing_twice(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.later = {"a1"}
    shop.limits["ack_wait"] = "2s"
    with monkeypatch.context() as patched:
        patched.setattr("seaway.app.DeadLetters", Dying)
        app = shop.app()
        work = asyncio.create_task(app.run(asyncio.Event(), relay=False))
        await shop.publish("a1", "a2")
        await until(lambda: _async(Dying.stored == 1))
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    assert len(await shop.desk.scheduled(shop.mine)) == 1
    async with shop.running():
        # It comes again at once, and is put off anew, in the place of what waits already.
        await until(lambda: _async(len(shop.tries) >= 2))
        await until(lambda: _holds(shop.letters, "a2"))
        assert len(await shop.desk.scheduled(shop.mine)) == 1
        shop.later = set()
        await shop.now("a1")
        await until(shop.settled)
    assert shop.effects == ["a1", "a2"]


async def test_a_server_that_sends_nothing_later_has_it_wait_as_before(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    info = await shop.broker.admin.stream(shop.redrives)
    assert info is not None
    await shop.broker.admin.delete_stream(shop.redrives)
    config = {k: v for k, v in info.config.items() if k != "allow_msg_schedules"}
    await shop.broker.admin.create_stream(config)
    await shop.broker.admin.create_consumer(
        shop.redrives,
        {
            "name": shop.name,
            "durable_name": shop.name,
            "filter_subject": f"{shop.context}.redrive.{shop.name}.>",
            "ack_policy": "explicit",
        },
    )
    shop.later = {"a1"}
    async with shop.running():
        await shop.publish("a1", "b1")
        await until(lambda: _async("seaway topology apply" in caplog.text))
        await until(lambda: _pending(shop, 1))
        assert shop.effects == []
        assert await shop.desk.scheduled(shop.mine) == []


async def _pending(shop: Shop, count: int) -> bool:
    return (await shop.durable(shop.events)).num_ack_pending == count
