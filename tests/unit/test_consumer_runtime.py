"""The consumer at work on a durable in memory, where every failure can be had at will."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from seaway.chain import current_chain
from seaway.consumer import Consumer, Delivery
from seaway.contracts import (
    JSON,
    Broker,
    DeadLetterReason,
    InboxStore,
    Incoming,
    Message,
    StoredMessage,
)
from seaway.errors import (
    AlreadyProcessed,
    BrokerUnavailable,
    ConfigError,
    NotFound,
    Poison,
    Retry,
    StoreUnavailable,
)
from seaway.events import RawEvent, event
from seaway.naming import Durable
from seaway.outbox import Outbox
from seaway.telemetry import ConsumerPaused, ConsumerResumed, Delivered, Signal, Telemetry
from seaway.testing.memory_store import MemoryStore

DURABLE = "case_mgmt__from_memo"
EVENTS, REDRIVES = "MEMO_EVENTS", "MEMO_REDRIVE"
SUBJECT = "memo.event.case_opened.v1"
SOON = timedelta(milliseconds=1)


async def until(condition: Callable[[], bool], *, within: float = 10) -> None:
    """Poll until it holds."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.002)


class MemoryDurable:
    """A durable that delivers in order, redelivers what is nak'ed, and remembers everything."""

    def __init__(self, stream: str, *, ack_wait: float, max_deliver: int) -> None:
        self.stream = stream
        self.stored: list[StoredMessage] = []
        self.ready: deque[Incoming] = deque()
        self.pending: dict[int, Incoming] = {}
        self.acked: list[int] = []
        self.naks: list[tuple[int, timedelta]] = []
        self.in_progress_calls: list[tuple[int, ...]] = []
        self.asked: list[int] = []
        self.config = {
            "durable_name": DURABLE,
            "ack_wait": int(ack_wait * 1e9),
            "max_deliver": max_deliver,
            "max_ack_pending": 50,
            "filter_subject": "memo.>",
        }
        self.confirms = True
        self.away = False
        self.instant = False
        self.draining = False
        self._news = asyncio.Event()

    def publish(self, *messages: Message) -> None:
        for message in messages:
            seq = len(self.stored) + 1
            found = StoredMessage(message, self.stream, seq, datetime.now(UTC))
            self.stored.append(found)
            self._deliver(
                Incoming(message, self.stream, seq, found.stored_at, DURABLE, seq, 1, 0, "r")
            )

    def _deliver(self, incoming: Incoming) -> None:
        self.ready.append(incoming)
        self._news.set()

    def again(self, seq: int) -> None:
        """Redeliver, as when ``ack_wait`` has passed."""
        self._deliver(replace(self.pending[seq], deliveries=self.pending[seq].deliveries + 1))

    def info(self) -> JSON:
        delivered = max([*self.pending, *self.acked], default=0)
        floor = min(self.pending, default=delivered + 1) - 1
        return {
            "stream_name": self.stream,
            "config": self.config,
            "delivered": {"stream_seq": delivered},
            "ack_floor": {"stream_seq": floor},
            "num_ack_pending": len(self.pending),
        }

    async def next(self, limit: int, *, timeout: timedelta) -> Sequence[Incoming]:
        if self.away:
            self.away = False
            raise BrokerUnavailable("closed")
        self.asked.append(limit)
        while not self.ready:
            if self.draining:
                return []
            self._news.clear()
            await self._news.wait()
        batch = [self.ready.popleft() for _ in range(min(limit, len(self.ready)))]
        self.pending.update({one.stream_seq: one for one in batch})
        return batch

    async def drain(self) -> None:
        self.draining = True
        self._news.set()

    async def ack(self, *incoming: Incoming) -> Sequence[bool]:
        if not self.confirms:
            return [False] * len(incoming)
        for one in incoming:
            self.acked.append(one.stream_seq)
            self.pending.pop(one.stream_seq, None)
        return [True] * len(incoming)

    async def nak(self, incoming: Incoming, *, delay: timedelta) -> None:
        self.naks.append((incoming.stream_seq, delay))
        if self.instant:
            self.again(incoming.stream_seq)
            # The redelivery overtakes the return of the call.
            for _ in range(10):
                await asyncio.sleep(0)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(delay.total_seconds(), self.again, incoming.stream_seq)

    async def in_progress(self, *incoming: Incoming) -> None:
        self.in_progress_calls.append(tuple(one.stream_seq for one in incoming))

    async def term(self, incoming: Incoming, *, reason: str) -> None:
        raise AssertionError("a consumer never terminates a message")


class MemoryDurables:
    """Broker and admin of the two durables of one consumer."""

    def __init__(self, *, ack_wait: float = 30, max_deliver: int = 5) -> None:
        self.durables = {
            stream: MemoryDurable(stream, ack_wait=ack_wait, max_deliver=max_deliver)
            for stream in (EVENTS, REDRIVES)
        }
        self.info_failures = 0

    @property
    def admin(self) -> MemoryDurables:
        return self

    @property
    def events(self) -> MemoryDurable:
        return self.durables[EVENTS]

    async def consumer(self, stream: str, durable: str) -> JSON | None:
        if self.info_failures:
            self.info_failures -= 1
            raise BrokerUnavailable("no answer")
        return self.durables[stream].info() if stream in self.durables else None

    async def get(self, stream: str, stream_seq: int) -> StoredMessage | None:
        return self.durables[stream].stored[stream_seq - 1]

    async def read(
        self, stream: str, *, filter_subjects: Sequence[str] = (), from_seq: int = 1
    ) -> AsyncIterator[StoredMessage]:
        for found in self.durables[stream].stored[from_seq - 1 :]:
            yield found

    @asynccontextmanager
    async def subscribe(self, stream: str, durable: str) -> AsyncIterator[MemoryDurable]:
        yield self.durables[stream]


class FragileStore(MemoryStore):
    """Fails to begin, or to commit, as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0
        self.commit_errors: deque[Exception] = deque()
        self.begun = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        self.begun += 1
        if self.away:
            self.away -= 1
            raise StoreUnavailable("locked")
        async with super().transaction() as tx:
            yield tx
            if self.commit_errors:
                raise self.commit_errors.popleft()
            if tx.effects.get("unfit"):
                raise ValueError("refused at the commit")


@dataclass
class Letters:
    stored: list[tuple[str, DeadLetterReason]] = field(default_factory=list)
    failures: int = 0

    async def store(
        self, incoming: Incoming, *, reason: DeadLetterReason, error: BaseException | None
    ) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("no DLQ")
        self.stored.append((incoming.event_id, reason))


class Bench:
    """A running consumer and everything around it."""

    def __init__(self, **broker: Any) -> None:
        self.broker = MemoryDurables(**broker)
        self.store: FragileStore = FragileStore()
        self.letters = Letters()
        self.telemetry = Telemetry()
        self.signals: list[Signal] = []
        self.telemetry.subscribe(self.signals.append)
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def events(self) -> MemoryDurable:
        return self.broker.events

    def outcomes(self, event_id: str | None = None) -> list[str]:
        return [
            one.outcome
            for one in self.signals
            if isinstance(one, Delivered) and event_id in (None, one.event_id)
        ]

    def start(self, consumer: Consumer, *, store: bool = True) -> None:
        self.task = asyncio.create_task(
            consumer.run(
                cast("Broker", self.broker),
                store=cast("InboxStore", self.store) if store else None,
                outbox=Outbox(),
                dead_letters=self.letters,
                telemetry=self.telemetry,
                stop=self.stop,
            )
        )

    async def ended(self) -> None:
        assert self.task is not None
        async with asyncio.timeout(10):
            await self.task

    async def finish(self) -> None:
        self.stop.set()
        await self.ended()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    if made.task is not None and not made.task.done():
        made.task.cancel()
        await asyncio.wait({made.task})


def consumer(handle: Callable[[RawEvent, Delivery], Awaitable[None]], **options: Any) -> Consumer:
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS, **options)
    made.handler(RawEvent)(handle)
    return made


def message(event_id: str, key: str = "case-1", *, subject: str = SUBJECT) -> Message:
    return Message(subject, event_id.encode(), {"Nats-Msg-Id": event_id, "X-Ordering-Key": key})


async def note(event: RawEvent, delivery: Delivery) -> None:
    delivery.tx.effects[delivery.event_id] = delivery.deliveries


# ------------------------------------------------------------------ the outcome table


async def test_effects_and_inbox_row_commit_before_the_ack(bench: Bench) -> None:
    bench.start(consumer(note))
    bench.events.publish(message("e1"), message("e2"))
    await until(lambda: bench.events.acked == [1, 2])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 1}
    assert set(await bench.store.processed("e1")) == {DURABLE}
    assert bench.outcomes() == ["handled", "handled"]


async def test_an_unconfirmed_ack_meets_the_inbox(bench: Bench) -> None:
    bench.events.confirms = False
    bench.start(consumer(note))
    bench.events.publish(message("e1"))
    await until(lambda: bench.outcomes() == ["handled"])
    bench.events.confirms = True
    bench.events.again(1)
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {"e1": 1}
    assert bench.outcomes() == ["handled", "already_processed"]


async def test_already_processed_commits(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        raise AlreadyProcessed

    bench.start(consumer(handle))
    bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {"e1": 1}
    assert await bench.store.processed("e1")


@pytest.mark.parametrize("batch", [1, 10])
async def test_poison_goes_to_the_letters_and_the_lane_goes_on(bench: Bench, batch: int) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e1":
            raise Poison("bad")

    bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle, batch=batch))
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert bench.letters.stored == [("e1", "poison")]
    assert bench.store.effects == {"e2": 1}
    assert not await bench.store.processed("e1")


@pytest.mark.parametrize(
    "bad",
    [
        Message(SUBJECT, b"x", {"X-Event-Version": "two"}),
        Message(SUBJECT, b"x", {"X-Occurred-At": "yesterday"}),
    ],
)
async def test_headers_that_cannot_be_read_are_undecodable(bench: Bench, bad: Message) -> None:
    bench.start(consumer(note))
    bench.events.publish(bad)
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == [(f"{EVENTS}:1", "undecodable")]


async def test_a_foreign_message_without_headers_is_handled_under_its_place(bench: Bench) -> None:
    bench.start(consumer(note))
    bench.events.publish(Message("memo.odd", b""))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {f"{EVENTS}:1": 1}


async def test_an_event_without_handler_is_acknowledged_and_counted(bench: Bench) -> None:
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS)

    @event(context="memo", version=7)
    @dataclass
    class OnlyThis:
        text: str

    @made.handler(OnlyThis)
    async def handle(event: OnlyThis, delivery: Delivery) -> None: ...

    bench.start(made)
    bench.events.publish(message("e1"))
    bench.events.publish(message("e2", subject="memo.event.only_this.v7"))
    await until(lambda: bench.events.acked == [1, 2])
    await bench.finish()
    assert bench.outcomes() == ["ignored", "dead_lettered"]
    assert bench.letters.stored == [("e2", "undecodable")]
    assert not await bench.store.processed("e1")


async def test_retry_is_naked_with_its_delay_and_its_lane_waits(bench: Bench) -> None:
    handled: list[tuple[str, int]] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        handled.append((delivery.event_id, delivery.deliveries))
        if handled[-1] == ("e1", 1):
            raise Retry(after=SOON)

    bench.events.publish(message("e1"), message("e2"), message("other", "case-2"))
    bench.start(consumer(handle))
    await until(lambda: len(bench.events.acked) == 3)
    await bench.finish()
    assert bench.events.naks == [(1, SOON)]
    in_lane = [one for one in handled if one[0] != "other"]
    assert in_lane == [("e1", 1), ("e1", 2), ("e2", 1)]


async def test_a_redelivery_that_overtakes_its_nak_is_not_lost(bench: Bench) -> None:
    bench.events.instant = True

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.deliveries < 3:
            raise Retry(after=timedelta(0))

    bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle))
    await until(lambda: sorted(set(bench.events.acked)) == [1, 2], within=5)
    await bench.finish()
    assert bench.outcomes("e1") == ["retried", "retried", "handled"]


async def test_the_last_delivery_ends_as_exhausted() -> None:
    bench = Bench(max_deliver=3)

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        raise Retry(after=SOON)

    bench.start(consumer(handle))
    bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == [("e1", "exhausted")]
    assert bench.outcomes() == ["retried", "retried", "dead_lettered"]


async def test_a_letter_that_cannot_be_stored_keeps_its_message(bench: Bench) -> None:
    bench.letters.failures = 2

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        raise Poison("bad")

    bench.start(consumer(handle))
    bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.letters.stored == [("e1", "poison")]
    assert bench.events.naks == []
    [paused, resumed] = [
        one for one in bench.signals if isinstance(one, ConsumerPaused | ConsumerResumed)
    ]
    assert isinstance(paused, ConsumerPaused)
    assert "a dead letter cannot be stored" in paused.reason
    assert isinstance(resumed, ConsumerResumed)


async def test_a_handler_over_its_deadline_is_cancelled_and_tried_again(bench: Bench) -> None:
    attempts: list[int] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        attempts.append(delivery.deliveries)
        if len(attempts) == 1:
            await asyncio.Event().wait()

    retry = consumer(handle, deadline=timedelta(milliseconds=20))
    bench.start(retry)
    bench.events.publish(message("e1"))
    await until(lambda: [seq for seq, _ in bench.events.naks] == [1])
    bench.events.again(1)
    await until(lambda: 1 in bench.events.acked)
    await bench.finish()
    assert attempts[:2] == [1, 2]


async def test_a_handler_that_lets_a_cancellation_escape_has_failed(bench: Bench) -> None:
    """It must not end the worker without a word."""

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e1":
            inner = asyncio.create_task(asyncio.Event().wait())
            inner.cancel()
            await inner

    bench.events.publish(message("e1", "a"), message("e2", "b"))
    bench.start(consumer(handle))
    await until(lambda: bench.events.acked == [2])
    await bench.finish()
    assert [seq for seq, _ in bench.events.naks] == [1]
    assert bench.outcomes("e1") == ["retried"]


async def test_a_running_handler_and_what_waits_behind_it_are_kept_alive() -> None:
    bench = Bench(ack_wait=0.06)
    go_on = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await go_on.wait()

    bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle))
    await until(lambda: bench.events.in_progress_calls.count((1, 2)) >= 3)
    go_on.set()
    await until(lambda: bench.events.acked == [1, 2])
    await bench.finish()


# ------------------------------------------------------------------ batches


async def test_a_batch_shares_one_transaction_and_failures_leave_it_alone(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        if delivery.event_id == "e2" and delivery.deliveries == 1:
            raise Retry(after=SOON)

    bench.events.publish(*(message(f"e{n}", f"case-{n % 2}") for n in range(1, 5)))
    bench.start(consumer(handle, batch=10))
    await until(lambda: sorted(bench.events.acked) == [1, 2, 3, 4])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 2, "e3": 1, "e4": 1}
    # e4 waited behind e2, of its own key; e3 did not.
    assert bench.events.acked.index(4) > bench.events.acked.index(2)
    assert bench.outcomes("e4") == ["handled"]
    # All; e1 and e3 without e2; and e2 and e4 once e2 had come again.
    assert bench.store.begun == 3


async def test_a_refused_commit_is_retried_one_by_one_and_blames_the_guilty(bench: Bench) -> None:
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        delivery.tx.effects["unfit"] = delivery.event_id == "e2" or bool(
            delivery.tx.effects.get("unfit")
        )

    bench.broker.events.config["max_deliver"] = 1
    bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 4)))
    bench.start(consumer(handle, batch=10))
    await until(lambda: len(bench.events.acked) == 3)
    await bench.finish()
    assert bench.letters.stored == [("e2", "exhausted")]
    assert {name for name in bench.store.effects if name != "unfit"} == {"e1", "e3"}


# ------------------------------------------------------------------ outages


@pytest.mark.parametrize("batch", [1, 10])
async def test_without_its_database_it_pauses_and_nothing_is_lost_or_blamed(batch: int) -> None:
    bench = Bench(max_deliver=1)
    bench.store.away = 2
    bench.start(consumer(note, batch=batch))
    bench.events.publish(message("e1"))
    await until(lambda: any(isinstance(one, ConsumerPaused) for one in bench.signals))
    bench.events.publish(message("e2"))
    await until(lambda: sorted(bench.events.acked) == [1, 2])
    await bench.finish()
    assert bench.store.effects == {"e1": 1, "e2": 1}
    assert (bench.events.naks, bench.letters.stored) == ([], [])
    states = [type(one) for one in bench.signals if not isinstance(one, Delivered)]
    assert states == [ConsumerPaused, ConsumerResumed]


async def test_a_commit_that_fails_is_not_the_messages_fault() -> None:
    bench = Bench(max_deliver=1)
    bench.store.commit_errors.append(StoreUnavailable("disk full"))
    bench.start(consumer(note))
    bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert bench.store.effects == {"e1": 1}
    assert (bench.letters.stored, bench.outcomes()) == ([], ["handled"])


async def test_a_closed_connection_is_opened_again(bench: Bench) -> None:
    bench.events.away = True
    bench.broker.info_failures = 2
    bench.start(consumer(note))
    bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert [type(one) for one in bench.signals if not isinstance(one, Delivered)][:2] == [
        ConsumerPaused,
        ConsumerResumed,
    ]


async def test_a_missing_durable_names_the_way_out(bench: Bench) -> None:
    del bench.broker.durables[REDRIVES]
    bench.start(consumer(note))
    with pytest.raises(NotFound, match=f"{DURABLE} on {REDRIVES}: run `seaway topology apply`"):
        await bench.ended()


async def test_a_handler_that_commits_ends_the_run_in_words(bench: Bench) -> None:
    bench.store.commit_errors.append(ConfigError("the body ended the transaction"))
    bench.start(consumer(note))
    bench.events.publish(message("e1"))
    with pytest.raises(ConfigError, match="the body ended the transaction"):
        await bench.ended()
    assert bench.events.acked == []


async def test_no_handlers_is_a_mistake() -> None:
    bench = Bench()
    bench.start(Consumer(Durable.parse(DURABLE), stream=EVENTS))
    with pytest.raises(ConfigError, match="has no handlers"):
        await bench.ended()


# ------------------------------------------------------------------ after a crash


async def test_what_a_dead_process_had_in_hand_comes_before_newer_events(bench: Bench) -> None:
    order: list[str] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        order.append(delivery.event_id)

    bench.events.publish(message("e1"), message("e2"), message("e3"))
    await bench.events.next(2, timeout=SOON)
    bench.start(consumer(handle))
    await until(lambda: bench.events.acked == [3])
    bench.events.again(1)
    bench.events.again(2)
    await until(lambda: sorted(bench.events.acked) == [1, 2, 3])
    await bench.finish()
    assert order == ["e1", "e2", "e3"]
    assert bench.outcomes().count("already_processed") == 2


async def test_a_recovered_event_that_fails_blocks_its_lane_until_it_is_delivered(
    bench: Bench,
) -> None:
    order: list[tuple[str, int]] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        order.append((delivery.event_id, delivery.deliveries))
        if delivery.event_id == "e1" and delivery.deliveries == 1:
            raise Retry(after=timedelta(hours=1))

    bench.events.publish(message("e1"), message("e2"), message("e3", "case-2"))
    await bench.events.next(1, timeout=SOON)
    bench.start(consumer(handle))
    await until(lambda: bench.events.acked == [3])
    assert order == [("e1", 1), ("e3", 1)]
    bench.events.again(1)
    await until(lambda: sorted(bench.events.acked) == [1, 2, 3])
    await bench.finish()
    assert order[2:] == [("e1", 2), ("e2", 1)]


# ------------------------------------------------------------------ stopping


async def test_drain_lets_the_running_end_and_gives_back_the_rest(bench: Bench) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        running.set()
        await go_on.wait()

    bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle))
    await running.wait()
    await until(lambda: len(bench.events.pending) == 2)
    bench.stop.set()
    await until(lambda: bench.events.naks == [(2, timedelta(0))])
    asked = len(bench.events.asked)
    go_on.set()
    await bench.ended()
    assert bench.events.acked == [1]
    assert len(bench.events.asked) == asked


async def test_grace_ends_and_the_transaction_is_rolled_back(bench: Bench) -> None:
    running = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        running.set()
        await asyncio.Event().wait()

    bench.start(consumer(handle, grace=timedelta(milliseconds=20)))
    bench.events.publish(message("e1"))
    await running.wait()
    await bench.finish()
    assert bench.store.effects == {}
    assert bench.events.naks == [(1, timedelta(0))]


async def test_cancelling_rolls_back_and_does_not_wait(bench: Bench) -> None:
    running = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await note(event, delivery)
        running.set()
        await asyncio.Event().wait()

    bench.start(consumer(handle))
    bench.events.publish(message("e1"))
    await running.wait()
    assert bench.task is not None
    bench.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.ended()
    assert bench.store.effects == {}
    assert bench.events.acked == []


async def test_prefetch_stays_within_what_can_be_started() -> None:
    bench = Bench()
    blocked = asyncio.Event()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await blocked.wait()

    bench.events.publish(*(message(f"e{n}", f"case-{n}") for n in range(1, 40)))
    bench.start(consumer(handle, batch=3))
    await until(lambda: len(bench.events.pending) == 6)
    await asyncio.sleep(0)
    assert len(bench.events.pending) == 6
    blocked.set()
    await until(lambda: len(bench.events.acked) == 39)
    await bench.finish()


# ------------------------------------------------------------------ what a handler is given


async def test_a_delivery_says_where_it_comes_from_and_continues_the_chain(bench: Bench) -> None:
    seen: list[tuple[RawEvent, Delivery, Any]] = []
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        seen.append((event, delivery, current_chain()))
        follow_up = RawEvent("memo.event.followed.v1", b"{}")
        assert len(await delivery.add(follow_up, key="case-1")) == 1

    headers = {
        "Nats-Msg-Id": "redrive:1",
        "X-Event-Id": "e1",
        "X-Correlation-Id": "request-7",
        "X-Causation-Id": "e0",
        "X-Ordering-Key": "case-1",
        "X-Occurred-At": "2026-11-24T08:00:00.000000Z",
        "traceparent": trace,
    }
    redrive = f"memo.redrive.{DURABLE}.{SUBJECT}"
    bench.start(consumer(handle))
    bench.broker.durables[REDRIVES].publish(Message(redrive, b"{}", headers))
    await until(lambda: bench.broker.durables[REDRIVES].acked == [1])
    await bench.finish()

    [(raw, delivery, chain)] = seen
    assert (raw.subject, raw.event_id, raw.key) == (SUBJECT, "e1", "case-1")
    assert (delivery.subject, delivery.stream, delivery.stream_seq) == (SUBJECT, REDRIVES, 1)
    assert (delivery.event_id, delivery.consumer, delivery.deliveries) == ("e1", DURABLE, 1)
    assert (delivery.correlation_id, delivery.causation_id) == ("request-7", "e0")
    assert (delivery.key, delivery.redriven) == ("case-1", True)
    assert delivery.occurred_at == datetime(2026, 11, 24, 8, tzinfo=UTC)
    assert delivery.headers["traceparent"] == trace
    assert (chain.correlation_id, chain.causation_id, chain.traceparent) == (
        "request-7",
        "e1",
        trace,
    )
    [entry] = await bench.store.entries()
    assert entry.message.headers["X-Correlation-Id"] == "request-7"
    assert entry.message.headers["X-Causation-Id"] == "e1"


async def test_a_consumer_without_database_says_so(bench: Bench) -> None:
    errors: list[str] = []

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        for use in (lambda: delivery.tx, lambda: delivery.add(event)):
            with collecting(errors):
                found = use()
                if isinstance(found, Awaitable):
                    await found

    bench.start(consumer(handle, tx=None))
    bench.events.publish(message("e1"))
    await until(lambda: bench.events.acked == [1])
    await bench.finish()
    assert errors == [f"{DURABLE} has no database: its deliveries have no tx"] * 2


@contextmanager
def collecting(errors: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        errors.append(str(error))
