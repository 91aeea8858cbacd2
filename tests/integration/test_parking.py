"""Events that wait behind a failed one of their key, on a real server and both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from consuming import carrying, execute
from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import settings_from_mapping
from seaway.consumer import Consumer, Delivery
from seaway.contracts import DeadLetterReason, Incoming, Message, Store, Stored
from seaway.dead_letters import DeadLetters, Letter, Releaser, Selection
from seaway.errors import ConfigError, Poison
from seaway.events import RawEvent
from seaway.naming import Durable
from seaway.outbox import Outbox
from seaway.retry import Backoff
from seaway.stores import open_store
from seaway.telemetry import Delivered, Signal, Telemetry

pytestmark = pytest.mark.server

SOON = timedelta(milliseconds=50)
TIMEOUT = timedelta(seconds=5)


async def until(there: Callable[[], Awaitable[bool]], *, within: float = 30) -> None:
    """Poll until it is so."""
    async with asyncio.timeout(within):
        while not await there():
            await asyncio.sleep(0.02)


class DeadLettersOf(DeadLetters):
    """Stands still, or counts, where a test says so."""

    def __init__(self, broker: JetStreamBroker) -> None:
        super().__init__(broker)
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.after: Callable[[str], Awaitable[None]] | None = None

    async def store(
        self, incoming: Incoming, *, reason: DeadLetterReason, error: BaseException | None
    ) -> int:
        if self.before is not None:
            await self.before(reason)
        letter = await super().store(incoming, reason=reason, error=error)
        if self.after is not None:
            await self.after(reason)
        return letter


class Line:
    """A durable whose handler refuses what it is told to, and what took effect."""

    def __init__(self, broker: JetStreamBroker, store: Store, context: str) -> None:
        self.broker, self.store, self.context = broker, store, context
        self.stream, self.redrives = f"{context.upper()}_EVENTS", f"{context.upper()}_REDRIVE"
        self.durable = Durable.from_context("case_mgmt", context)
        self.name = str(self.durable)
        self.letters = DeadLettersOf(broker)
        self.telemetry = Telemetry()
        self.signals: list[Signal] = []
        self.telemetry.subscribe(self.signals.append)
        self.bad: set[str] = set()
        self.calls = 0
        self.plain = False
        self.entered: Callable[[str], Awaitable[None]] | None = None

    async def open(self) -> None:
        consumer = {
            "stream": self.stream,
            "durable": self.name,
            "ack_wait": "1s",
            "max_deliver": 5,
        }
        mapping = {
            "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
            "consumers": [consumer],
        }
        wanted = topology.desired(settings_from_mapping(mapping, environ={}))
        admin = self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)
        async with self.store.transaction() as tx:
            await tx.handle.execute(
                "CREATE TABLE effect (id TEXT PRIMARY KEY, key TEXT, call INTEGER)"
            )

    async def publish(self, key: str, *ids: str) -> None:
        messages = [
            Message(
                f"{self.context}.event.moved.v1",
                b"{}",
                {"Nats-Msg-Id": event_id, "X-Ordering-Key": key},
            )
            for event_id in ids
        ]
        outcomes = await self.broker.publish(self.stream, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes), outcomes

    def consumer(self, **options: Any) -> Consumer:
        made = Consumer(
            self.durable,
            stream=self.stream,
            on_failure="park",
            retry=Backoff(SOON, SOON),
            **options,
        )

        async def handle(event: RawEvent, delivery: Delivery) -> None:
            if self.entered is not None:
                await self.entered(delivery.event_id)
            # A second effect of one event would be refused by the database.
            self.calls += 1
            row = f"('{delivery.event_id}', '{delivery.key}', {self.calls})"
            await execute(delivery.tx, f"INSERT INTO effect VALUES {row}")  # noqa: S608 - our ids
            if delivery.event_id in self.bad:
                raise Poison(f"{delivery.event_id} is refused")

        made.handler(RawEvent)(carrying(handle) if self.plain else handle)
        return made

    @asynccontextmanager
    async def running(self, *, releasing: bool = True, **options: Any) -> AsyncIterator[None]:
        stop = asyncio.Event()
        works: list[Awaitable[None]] = [
            self.consumer(**options).run(
                self.broker,
                store=self.store,
                outbox=Outbox(),
                dead_letters=self.letters,
                telemetry=self.telemetry,
                stop=stop,
            )
        ]
        if releasing:
            releaser = Releaser(
                self.broker,
                self.store,
                consumer=self.name,
                stream=self.stream,
                telemetry=self.telemetry,
                every=SOON,
            )
            works.append(releaser.run(stop))
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            yield
            stop.set()
            async with asyncio.timeout(15):
                await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def order(self, key: str) -> list[str]:
        """The events of a key that took effect, in order."""
        query = f"SELECT id FROM effect WHERE key = '{key}' ORDER BY call"  # noqa: S608 - our keys
        async with self.store.transaction() as tx:
            if hasattr(tx.handle, "fetch"):
                return [str(row[0]) for row in await tx.handle.fetch(query)]
            return [str(row[0]) for row in await tx.handle.execute_fetchall(query)]

    async def here(self) -> list[Letter]:
        return [one for one in await self.letters.list() if one.consumer == self.name]

    async def reasons(self) -> list[tuple[str, str]]:
        return [(one.event_id, one.reason) for one in await self.here()]

    async def letter(self, event_id: str) -> Letter:
        return await self.letters.get(event_id, consumer=self.name)

    async def nothing_pends(self) -> bool:
        for stream in (self.stream, self.redrives):
            info = await self.broker.admin.consumer(stream, self.name)
            assert info is not None
            if not info.settled:
                return False
        return True

    async def all_settled(self) -> bool:
        """Nothing is on its way, in the queue, or parked."""
        heads = await self.store.parked_heads(self.name)
        return not heads and not await self.here() and await self.nothing_pends()

    async def parks(self, *ids: str) -> None:
        """Poll until the queue has exactly the letters of ``ids``, and nothing is on its way."""

        async def there() -> bool:
            found = sorted(event_id for event_id, _ in await self.reasons())
            return found == sorted(ids) and await self.nothing_pends()

        await until(there)


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    opened = await open_store(url)
    await opened.schema.upgrade()
    yield opened
    await opened.close()


@pytest.fixture
async def line(broker: JetStreamBroker, context_name: str, store: Store) -> Line:
    made = Line(broker, store, context_name)
    await made.open()
    return made


@pytest.mark.parametrize(
    ("options", "plain"),
    [({}, False), ({"batch": 10}, False), ({"workers": 4}, False), ({"workers": 4}, True)],
)
async def test_later_events_wait_and_follow_in_order_when_it_is_redriven(
    line: Line, options: dict[str, Any], plain: bool
) -> None:
    line.bad, line.plain = {"a2"}, plain
    async with line.running(**options):
        await line.publish("a", "a1", "a2", "a3", "a4", "a5")
        await line.publish("b", "b1", "b2")
        await line.parks("a2", "a3", "a4", "a5")
        assert [await line.order("a"), await line.order("b")] == [["a1"], ["b1", "b2"]]
        reasons = dict(await line.reasons())
        assert reasons == {"a2": "poison", "a3": "parked", "a4": "parked", "a5": "parked"}
        assert [one.event_id for one in await line.letters.waiting()] == ["a3", "a4", "a5"]
        line.bad = set()
        await line.letters.redrive(await line.letter("a2"))
        await until(line.all_settled)
    assert await line.order("a") == ["a1", "a2", "a3", "a4", "a5"]


async def test_what_is_parked_is_told_and_counts_as_acknowledged(line: Line) -> None:
    line.bad = {"a1"}
    async with line.running():
        await line.publish("a", "a1", "a2")
        await line.parks("a1", "a2")
    outcomes = [one.outcome for one in line.signals if isinstance(one, Delivered)]
    assert outcomes == ["dead_lettered", "parked"]
    info = await line.broker.admin.consumer(line.stream, line.name)
    assert info is not None
    assert (info.ack_floor, info.num_redelivered) == (2, 0)


async def test_they_follow_in_order_when_it_is_discarded(line: Line) -> None:
    line.bad = {"a1"}
    async with line.running():
        await line.publish("a", "a1", "a2", "a3")
        await line.parks("a1", "a2", "a3")
        assert await line.letters.discard(await line.letter("a1"))
        await until(line.all_settled)
    assert await line.order("a") == ["a2", "a3"]


async def test_a_letter_removed_with_another_client_is_discarded_as_well(line: Line) -> None:
    line.bad = {"a1"}
    async with line.running(releasing=False):
        await line.publish("a", "a1", "a2", "a3")
        await line.parks("a1", "a2", "a3")
    queue = (await line.letter("a1")).stored.stream
    for event_id in ("a1", "a2"):
        letter = await line.letter(event_id)
        await line.broker.admin.delete_message(queue, letter.stored.stream_seq)
    async with line.running():
        await until(line.all_settled)
    assert await line.order("a") == ["a3"]


async def test_redriven_and_refused_again_it_stays_in_front(line: Line) -> None:
    line.bad = {"a1"}
    async with line.running():
        await line.publish("a", "a1", "a2", "a3")
        await line.parks("a1", "a2", "a3")
        first = await line.letter("a1")
        await line.letters.redrive(first)

        async def again() -> bool:
            found = [one for one in await line.here() if one.event_id == "a1"]
            return bool(found) and found[0].id != first.id

        await until(again)
        await line.publish("a", "a4")
        await line.parks("a1", "a2", "a3", "a4")
        assert await line.order("a") == []
        line.bad = {"a3"}
        await line.letters.redrive(await line.letter("a1"))

        async def at_the_third() -> bool:
            return dict(await line.reasons()) == {"a3": "poison", "a4": "parked"}

        await until(at_the_third)
        assert await line.order("a") == ["a1", "a2"]
        line.bad = set()
        await line.letters.redrive(await line.letter("a3"))
        await until(line.all_settled)
    assert await line.order("a") == ["a1", "a2", "a3", "a4"]


async def test_one_redriven_before_its_turn_goes_back_into_the_queue(line: Line) -> None:
    line.bad = {"a1"}
    async with line.running():
        await line.publish("a", "a1", "a2", "a3")
        await line.parks("a1", "a2", "a3")
        early = await line.letter("a3")
        await line.letters.redrive(early)

        async def back() -> bool:
            found = {one.event_id: one for one in await line.here()}
            return "a3" in found and found["a3"].id != early.id and await line.nothing_pends()

        await until(back)
        line.bad = set()
        await line.letters.redrive(await line.letter("a1"))
        await until(line.all_settled)
    assert await line.order("a") == ["a1", "a2", "a3"]


async def test_everything_redriven_at_once_keeps_its_order(line: Line) -> None:
    names = [f"a{number:02}" for number in range(40)]
    line.bad = {"a00"}
    async with line.running(workers=4):
        await line.publish("a", *names)
        await line.parks(*names)
        line.bad = set()
        # The last first: whoever is early goes back and comes in its turn.
        for letter in reversed(await line.letters.list(Selection(consumer=line.name))):
            await line.letters.redrive(letter)
        await until(line.all_settled, within=60)
    assert await line.order("a") == names


async def test_what_comes_while_they_are_released_is_not_left_behind(line: Line) -> None:
    line.bad = {"a1"}
    more = iter([f"a{number}" for number in range(4, 12)])

    async def publish_one_more(event_id: str) -> None:
        if not line.bad and (name := next(more, None)) is not None:
            await line.publish("a", name)

    async with line.running():
        await line.publish("a", "a1", "a2", "a3")
        await line.parks("a1", "a2", "a3")
        line.bad, line.entered = set(), publish_one_more
        await line.letters.redrive(await line.letter("a1"))

        async def all_of_them() -> bool:
            return len(await line.order("a")) == 11 and await line.all_settled()

        await until(all_of_them)
    assert await line.order("a") == [f"a{number}" for number in range(1, 12)]


# ------------------------------------------------------------------ several processes


async def test_of_two_consumers_of_a_durable_neither_passes_a_failed_event(line: Line) -> None:
    """Once its letter is there, whatever is published later waits, whoever is given it."""
    line.bad = {"a0", "b0"}
    later = [f"{number:02}" for number in range(1, 25)]
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(line.running(workers=2))
        await line.publish("a", "a0")
        await line.publish("b", "b0")
        await line.parks("a0", "b0")
        for number in later:
            await line.publish("a", f"a{number}")
            await line.publish("b", f"b{number}")
        expected = [f"{key}{number}" for key in "ab" for number in ["0", *later]]
        await line.parks(*expected)
        assert await line.order("a") == await line.order("b") == []
        line.bad = set()
        await line.letters.redrive(await line.letter("a0"))
        await line.letters.discard(await line.letter("b0"))
        await until(line.all_settled, within=60)
    assert await line.order("a") == ["a0", *(f"a{number}" for number in later)]
    assert await line.order("b") == [f"b{number}" for number in later]


async def test_an_earlier_event_does_not_wait_for_a_later_one(line: Line) -> None:
    """Dealt to another process, a later event may fail first."""
    async with line.store.transaction() as tx:
        await tx.park(line.name, "a9", "a", place=9, failed=True)
    async with line.running(releasing=False):
        await line.publish("a", *(f"a{number}" for number in range(1, 9)))
        await until(line.nothing_pends)
    assert await line.order("a") == [f"a{number}" for number in range(1, 9)]


# ------------------------------------------------------------------ dying on the way


@pytest.mark.parametrize("whose", ["poison", "parked"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_consumer_that_dies_at_a_letter_leaves_one_and_the_order(
    line: Line, when: str, whose: str
) -> None:
    line.bad = {"a1"}
    died = asyncio.Event()

    async def stand_still(reason: str) -> None:
        if reason == whose:
            died.set()
            await asyncio.Event().wait()

    setattr(line.letters, when, stand_still)
    await line.publish("a", "a1", "a2", "a3")

    async def dies() -> None:
        async with line.running():
            await died.wait()
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        async with asyncio.timeout(30):
            await dies()
    setattr(line.letters, when, None)
    async with line.running():
        await line.parks("a1", "a2", "a3")
        assert await line.order("a") == []
        line.bad = set()
        await line.letters.redrive(await line.letter("a1"))
        await until(line.all_settled)
    assert await line.order("a") == ["a1", "a2", "a3"]


async def test_a_row_whose_letter_another_sweeper_wrote_finds_it(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died on the last delivery, after the row."""
    line.bad = {"a1"}
    async with line.running():
        await line.publish("a", "a1", "a2")
        await line.parks("a1", "a2")
    async with line.store.transaction() as tx:
        await tx.park(line.name, "a1", "a", place=1, failed=True)
    monkeypatch.setattr("seaway.dead_letters.releaser._UNDER_WAY", timedelta(0))
    async with line.running():

        async def found() -> bool:
            [head] = await line.store.parked_heads(line.name)
            return head.letter == (await line.letter("a1")).stored.stream_seq

        await until(found)
        assert await line.letters.discard(await line.letter("a1"))
        await until(line.all_settled)
    assert await line.order("a") == ["a2"]


async def test_a_row_of_an_event_that_took_effect_holds_up_nobody(line: Line) -> None:
    async with line.store.transaction() as tx:
        await tx.claim(line.name, "a0")
        await tx.park(line.name, "a0", "a", place=0, failed=True)
    async with line.running():
        await line.publish("a", "a1")
        await until(line.all_settled)
    assert await line.order("a") == ["a1"]


# ------------------------------------------------------------------ what is refused


def test_without_a_database_nothing_can_be_parked() -> None:
    durable = Durable.from_context("case_mgmt", "sea")
    with pytest.raises(ConfigError, match="needs a database"):
        Consumer(durable, stream="SEA_EVENTS", on_failure="park", tx=None)
    with pytest.raises(ConfigError, match="ordering='key'"):
        Consumer(durable, stream="SEA_EVENTS", on_failure="park", ordering="none")
    assert not Consumer(durable, stream="SEA_EVENTS").parks
