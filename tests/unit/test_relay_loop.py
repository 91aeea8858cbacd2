"""The relay's loop against the in-memory store and a broker that answers as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from described import a_stream
from seaway.contracts import (
    Broker,
    BrokerAdmin,
    Failed,
    Held,
    Lease,
    Message,
    OutboxEntry,
    PublishOutcome,
    Refused,
    Sent,
    Stored,
    StoredMessage,
    StreamInfo,
    Unconfirmed,
)
from seaway.errors import SchemaMismatch, StoreUnavailable
from seaway.events import RawEvent
from seaway.outbox import Outbox
from seaway.relay import Relay, loop
from seaway.retry import Backoff
from seaway.telemetry import Parked, Relayed, RelayPaused, RelayResumed, Signal, Telemetry
from seaway.testing.memory_store import MemoryStore

QUICK = Backoff(
    base=timedelta(milliseconds=1), cap=timedelta(milliseconds=5), floor=timedelta(milliseconds=1)
)
WRONG = Refused("wrong last sequence", 400, 10071, heals=False)

Answer = Callable[[str, Message], PublishOutcome | None]


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted here is counted on a slow machine, too."""
    monkeypatch.setattr(loop, "LOOK_AGAIN", timedelta(hours=1))


class ScriptedBroker:
    """Streams as lists. ``answer`` may decide a message's outcome; ``None`` stores it."""

    def __init__(self, *, window: timedelta = timedelta(minutes=2)) -> None:
        self.stored: dict[str, list[Message]] = {}
        self.answer: Answer = lambda stream, message: None
        self.given: list[list[str]] = []
        self.news = asyncio.Event()
        self.published: list[list[str]] = []
        self.reads = self.looks = 0
        self.window = window
        self.epoch = 0
        self.before_publish: Callable[[], Awaitable[None]] | None = None

    @property
    def admin(self) -> BrokerAdmin:
        return cast(BrokerAdmin, self)

    async def stream(self, name: str) -> StreamInfo | None:
        subjects = [f"{name.removesuffix('_EVENTS').lower()}.event.>"]
        nanoseconds = self.window // timedelta(microseconds=1) * 1000
        return a_stream({"name": name, "subjects": subjects, "duplicate_window": nanoseconds})

    async def read(
        self,
        stream: str,
        *,
        from_seq: int = 1,
        from_time: datetime | None = None,
        headers_only: bool = False,
        reader: str = "",
    ) -> AsyncIterator[StoredMessage]:
        assert reader == "relay"
        self.reads += headers_only
        self.looks += not headers_only
        for number, message in enumerate(self.stored.get(stream, ()), start=1):
            if number >= from_seq:
                yield StoredMessage(message, stream, number, datetime.now(UTC))

    async def get(self, stream: str, stream_seq: int) -> StoredMessage | None:
        self.looks += 1
        message = self.stored[stream][stream_seq - 1]
        return StoredMessage(message, stream, stream_seq, datetime.now(UTC))

    async def publish(
        self,
        stream: str,
        messages: Sequence[Message],
        *,
        timeout: timedelta,
        after: asyncio.Future[bool] | None = None,
        epoch: int | None = None,
    ) -> Sequence[PublishOutcome]:
        self.given.append([message.headers["Nats-Msg-Id"] for message in messages])
        self.news.set()
        if after is not None and not await after:
            return [Held()] * len(messages)
        if self.before_publish is not None:
            await self.before_publish()
        self.published.append([message.headers["Nats-Msg-Id"] for message in messages])
        lane = self.stored.setdefault(stream, [])
        outcomes: list[PublishOutcome] = []
        stuck: set[str] = set()
        for message in messages:
            outcome = Held() if message.key in stuck else self.answer(stream, message)
            places = [n for n, old in enumerate(lane, 1) if old.headers == message.headers]
            if outcome is None and places:
                outcome = Stored(places[0], duplicate=True)
                stuck.add(message.key)
            elif outcome is None:
                lane.append(message)
                outcome = Stored(len(lane))
            elif not isinstance(outcome, Stored):
                stuck.add(message.key)
            outcomes.append(outcome)
        return outcomes

    def ids(self, stream: str = "SEA_EVENTS") -> list[str]:
        return [message.headers["Nats-Msg-Id"] for message in self.stored.get(stream, ())]


class TroubledStore(MemoryStore):
    """Raises what ``faults`` holds, one an operation, before doing anything."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[str, list[Exception]] = {}

    def fault(self, operation: str) -> None:
        if waiting := self.faults.get(operation):
            raise waiting.pop(0)

    @asynccontextmanager
    async def lease(  # type: ignore[override]
        self, *, hold: bool = True
    ) -> AsyncIterator[Lease | None]:
        self.fault("lease")
        async with super().lease(hold=hold) as lease:
            yield None if lease is None else _TroubledLease(lease, self)


class _TroubledLease:
    def __init__(self, lease: Lease, store: TroubledStore) -> None:
        self._lease = lease
        self._store = store
        self.shards = lease.shards
        self.find = lease.find
        self.last_sent, self.first_sent = lease.last_sent, lease.first_sent
        self.lose, self.lost, self.find_lost = lease.lose, lease.lost, lease.find_lost
        self.lost_since = lease.lost_since
        self.heal, self.sent_streams = lease.heal, lease.sent_streams

    async def confirm(self) -> None:
        self._store.fault("confirm")

    async def claim(self, limit: int) -> Sequence[OutboxEntry]:
        self._store.fault("claim")
        return await self._lease.claim(limit)

    async def settle(self, sent: Sequence[Sent], failed: Sequence[Failed] = ()) -> None:
        self._store.fault("settle")
        await self._lease.settle(sent, failed)


@pytest.fixture
def broker() -> ScriptedBroker:
    return ScriptedBroker()


@pytest.fixture
def store() -> TroubledStore:
    return TroubledStore()


@pytest.fixture
def said() -> list[Signal]:
    return []


def make_relay(
    store: MemoryStore, broker: ScriptedBroker, said: list[Signal], **options: Any
) -> Relay:
    telemetry = Telemetry()
    telemetry.subscribe(said.append)
    options.setdefault("backoff", QUICK)
    return Relay(store, cast(Broker, broker), telemetry=telemetry, **options)


async def write(store: MemoryStore, *keys: str, context: str = "sea") -> list[str]:
    async with store.transaction() as transaction:
        events = [RawEvent(f"{context}.event.moved.v1", b"{}", key=key) for key in keys]
        return Outbox().add(transaction.handle, *events)


async def test_batches_are_sent_in_order_and_reported(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    written = await write(store, *"abcab" * 5)
    assert await make_relay(store, broker, said, batch=10).drain() == 25
    assert broker.ids() == written
    assert [len(batch) for batch in broker.published] == [10, 10, 5]
    assert [signal.sent for signal in said if isinstance(signal, Relayed)] == [10, 10, 5]


async def test_a_claim_is_with_the_broker_while_the_one_before_it_is_stored(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    written = await write(store, *"aabbcc")
    seen: list[int] = []

    async def hold() -> None:
        while len(broker.given) < min(3, len(broker.published) + 2):
            broker.news.clear()
            await broker.news.wait()
        seen.append(len(broker.given) - len(broker.published))

    broker.before_publish = hold
    async with asyncio.timeout(10):
        assert await make_relay(store, broker, said, batch=2).drain() == 6
    assert seen == [2, 2, 1]
    assert broker.ids() == written


async def test_a_claim_made_ready_before_a_refusal_is_sorted_out_anew(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    first, second, third, other = await write(store, *"aaab")
    broker.answer = lambda _, message: WRONG if message.headers["Nats-Msg-Id"] == first else None
    assert await make_relay(store, broker, said, batch=2, max_attempts=1).drain() == 1
    assert broker.given == [[first, second], [third, other], [other]]
    assert broker.published == [[first, second], [other]]
    assert broker.ids() == [other]


async def test_what_was_made_ready_stays_when_told_to_stop(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    written = await write(store, *"aaaaaaaa")
    stop = asyncio.Event()

    async def hold() -> None:
        while len(broker.given) < 2:
            broker.news.clear()
            await broker.news.wait()
        stop.set()

    broker.before_publish = hold
    async with asyncio.timeout(10):
        await make_relay(store, broker, said, batch=2).run(stop)
    assert broker.ids() == written[:2]
    assert (await store.backlog()).count == 6


async def test_what_failed_in_one_claim_holds_its_key_in_the_next(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    first, *_ = written = await write(store, *"abab")
    refusals = [WRONG, WRONG]

    def answer(stream: str, message: Message) -> PublishOutcome | None:
        return refusals.pop() if refusals and message.headers["Nats-Msg-Id"] == first else None

    broker.answer = answer
    assert await make_relay(store, broker, said, batch=1).drain() == 4
    a = [event_id for event_id in broker.ids() if event_id in (written[0], written[2])]
    assert a == [written[0], written[2]]
    assert refusals == []
    assert not [signal for signal in said if isinstance(signal, Parked)]


async def test_a_message_is_parked_at_its_last_attempt_and_others_go_on(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    first, _, other = await write(store, *"aab")
    broker.answer = lambda s, message: WRONG if message.headers["Nats-Msg-Id"] == first else None
    assert await make_relay(store, broker, said, max_attempts=3).drain() == 1
    assert broker.ids() == [other]
    assert sum(first in batch for batch in broker.published) == 3
    [parked] = [signal for signal in said if isinstance(signal, Parked)]
    assert parked.event_id == first
    backlog = await store.backlog()
    assert (backlog.count, backlog.parked) == (2, 1)


async def test_silence_is_waited_out_and_records_nothing(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    written = await write(store, *"abc")
    silences = iter(range(12))
    broker.answer = lambda s, m: (
        Unconfirmed("silence") if next(silences, None) is not None else None
    )
    assert await make_relay(store, broker, said, max_attempts=1).drain() == 3
    assert broker.ids() == written
    assert len([signal for signal in said if isinstance(signal, RelayPaused)]) == 1
    assert len([signal for signal in said if isinstance(signal, RelayResumed)]) == 1


async def test_an_unusable_store_is_waited_out(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    written = await write(store, *"abc")
    store.faults = {
        "lease": [StoreUnavailable(), StoreUnavailable()],
        "claim": [StoreUnavailable()],
    }
    assert await make_relay(store, broker, said).drain() == 3
    assert broker.ids() == written
    assert len([signal for signal in said if isinstance(signal, RelayPaused)]) == 1


async def test_published_but_unsettled_events_are_looked_up_beyond_the_window(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    broker.window = timedelta(0)
    store.faults = {"settle": [StoreUnavailable()]}
    written = await write(store, *"abcabc")
    assert await make_relay(store, broker, said, batch=2).drain() == 6
    assert broker.ids() == written
    # Two claims: the second is stored while the first is settled.
    assert sum(signal.duplicates for signal in said if isinstance(signal, Relayed)) == 4


async def test_what_was_sent_within_the_window_costs_one_look(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    written = await write(store, *"abcab" * 20)
    held = {entry.event_id: entry.message for entry in await store.entries()}
    broker.stored["SEA_EVENTS"] = [held[event_id] for event_id in written[:70]]
    assert await make_relay(store, broker, said).drain() == 100
    assert broker.ids() == written
    assert (broker.looks, broker.reads) == (1, 0)
    assert sum(signal.duplicates for signal in said if isinstance(signal, Relayed)) == 70


async def test_nothing_is_looked_up_within_the_window(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    await write(store, *"abc")
    await make_relay(store, broker, said).drain()
    assert broker.reads == 0


async def test_a_stream_is_asked_once_after_an_unclean_end(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    broker.window = timedelta(0)
    await write(store, *"abcdefghij" * 3)
    await make_relay(store, broker, said, batch=5).drain()
    assert broker.reads == 1


async def test_what_a_dead_relay_sent_is_found_behind_events_that_came_late(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    """A slow transaction may commit lower positions than those that were in flight."""
    broker.window = timedelta(0)
    late = await write(store, *"abcdef")
    sent = await write(store, *"ghij")
    held = {entry.event_id: entry.message for entry in await store.entries()}
    broker.stored["SEA_EVENTS"] = [held[event_id] for event_id in sent]
    assert await make_relay(store, broker, said, batch=2).drain() == 10
    assert broker.ids() == sent + late
    assert sum(signal.duplicates for signal in said if isinstance(signal, Relayed)) == 4


async def test_a_claim_that_has_waited_is_published_only_under_a_confirmed_lease(
    store: TroubledStore,
    broker: ScriptedBroker,
    said: list[Signal],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after SIGSTOP: the lease may be another's by now, and its events published."""
    seconds = iter(range(0, 10_000, 6))
    for module in ("loop", "batch"):
        monkeypatch.setattr(f"seaway.relay.{module}.running_time", lambda: float(next(seconds)))
    store.faults = {"confirm": [StoreUnavailable()]}
    written = await write(store, "a")
    await make_relay(store, broker, said).drain()
    assert broker.published == [written]
    assert any(isinstance(signal, RelayPaused) for signal in said)


async def test_told_to_pass_later_events_of_a_parked_key_go_on(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    first, second = await write(store, "a", "a")
    broker.answer = lambda stream, message: (
        WRONG if message.headers["Nats-Msg-Id"] == first else None
    )
    relay = make_relay(store, broker, said, max_attempts=1, on_parked="pass")
    assert await relay.drain() == 1
    assert broker.ids() == [second]
    assert [entry.event_id for entry in await store.entries(parked=True)] == [first]


async def test_what_no_waiting_mends_is_raised(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    store.faults = {"lease": [SchemaMismatch()]}
    with pytest.raises(SchemaMismatch):
        await make_relay(store, broker, said).run(asyncio.Event())


async def test_stop_settles_what_is_in_flight(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    await write(store, *"abcdef")
    stop, publishing = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        publishing.set()
        await stop.wait()

    broker.before_publish = hold
    task = asyncio.create_task(make_relay(store, broker, said, batch=2).run(stop))
    await publishing.wait()
    stop.set()
    async with asyncio.timeout(10):
        await task
    left = (await store.backlog()).count
    assert left == 6 - len(broker.ids())
    assert left <= 4


async def test_cancelling_leaves_the_lease_and_the_entries(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    await write(store, *"abc")
    publishing = asyncio.Event()

    async def hold() -> None:
        publishing.set()
        await asyncio.Event().wait()

    broker.before_publish = hold
    task = asyncio.create_task(make_relay(store, broker, said).run(asyncio.Event()))
    await publishing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    broker.before_publish = None
    assert await make_relay(store, broker, said).drain() == 3


async def test_a_running_relay_takes_what_is_written_later(
    store: TroubledStore, broker: ScriptedBroker, said: list[Signal]
) -> None:
    stop, sent = asyncio.Event(), asyncio.Event()
    telemetry = Telemetry()
    telemetry.subscribe(lambda signal: sent.set())
    relay = Relay(store, cast(Broker, broker), telemetry=telemetry)
    task = asyncio.create_task(relay.run(stop))
    for _ in range(3):
        sent.clear()
        await write(store, "a")
        async with asyncio.timeout(10):
            await sent.wait()
    stop.set()
    async with asyncio.timeout(10):
        await task
    assert len(broker.ids()) == 3
