"""A consumer on streams in memory: it is watched, and every failure can be had at will."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from typing import Any

from seaway.consumer import Consumer, Delivery
from seaway.contracts import (
    ConsumerInfo,
    DeadLetterReason,
    InboxStore,
    Incoming,
    Message,
    Subscription,
)
from seaway.errors import BrokerUnavailable, StoreUnavailable
from seaway.events import RawEvent
from seaway.inbox.threads import Threads, carried_through
from seaway.naming import Durable
from seaway.outbox import Outbox
from seaway.telemetry import Delivered, Signal, Telemetry
from seaway.testing.memory_broker import MemoryAdmin, MemoryBroker, _MemoryPull
from seaway.testing.memory_inbox import MemoryThreads
from seaway.testing.memory_store import MemoryStore
from seaway.testing.memory_streams import MemoryConsumer

DURABLE = "case_mgmt__from_memo"
EVENTS, REDRIVES = "MEMO_EVENTS", "MEMO_REDRIVE"
SUBJECT = "memo.event.case_opened.v1"
SOON = timedelta(milliseconds=1)


async def until(condition: Callable[[], bool], *, within: float = 30) -> None:
    """Poll until it holds."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.002)


def message(event_id: str, key: str = "case-1", *, subject: str = SUBJECT) -> Message:
    return Message(subject, event_id.encode(), {"Nats-Msg-Id": event_id, "X-Ordering-Key": key})


def consumer(
    handle: Callable[[RawEvent, Delivery], Awaitable[None] | None], **options: Any
) -> Consumer:
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS, **options)
    made.handler(RawEvent)(handle)
    return made


async def execute(tx: Any, sql: str) -> None:
    """On a handle of either kind."""
    done = tx.execute(sql)
    if inspect.isawaitable(done):
        await done


def carrying(handle: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``handle``, which waits for nothing, as a plain handler."""

    @wraps(handle)
    def plain(event: Any, delivery: Any) -> None:
        carried_through(handle(event, delivery))

    return plain


async def note(event: RawEvent, delivery: Delivery) -> None:
    delivery.tx.effects[delivery.event_id] = delivery.deliveries


class WatchedDurable:
    """One stream and its durable, and all that a consumer says to them."""

    def __init__(self, broker: MemoryBroker, stream: str) -> None:
        self._broker = broker
        self.stream = stream
        self.acked: list[int] = []
        self.naks: list[tuple[int, timedelta]] = []
        self.in_progress_calls: list[tuple[int, ...]] = []
        self.asked: list[int] = []
        self.subscribed = self.rewound = 0
        self.rewinding: deque[Exception] = deque()
        """What the next calls to rewind meet."""
        self.open: list[_Watched] = []
        self.confirms = True
        self.away = False
        self.silent = False
        self.loses_naks = False

    @property
    def _consumer(self) -> MemoryConsumer:
        return self._broker._find(self.stream, DURABLE)[1]

    @property
    def pending(self) -> list[int]:
        """What is out, by stream sequence."""
        return list(self._consumer.out)

    async def publish(self, *messages: Message) -> None:
        await self._broker.publish(self.stream, messages, timeout=SOON)

    def again(self, seq: int) -> None:
        """Redeliver, as when ``ack_wait`` has passed."""
        self._consumer.out[seq].due = 0.0
        self._broker._tell()

    def forget(self, seq: int) -> None:
        """As what was deleted from the stream."""
        self._consumer.out.pop(seq)

    def rewound_elsewhere(self) -> None:
        """As another process has the server do it: everything that is out comes anew."""
        stream, consumer = self._broker._find(self.stream, DURABLE)
        stream.rewind(consumer)
        self._broker._tell()

    async def deliver_to_another(self, count: int) -> None:
        """To a process that dies with them."""
        async with self._broker.subscribe(self.stream, DURABLE) as other:
            assert len(await other.next(count, timeout=SOON)) == count

    async def lose(self, count: int) -> None:
        """So many go out and do not come here, as when the connection is lost."""
        if count:
            await self.deliver_to_another(count)
        for one in self.open:
            one.gap()
        self._broker._tell()

    @property
    def waiting(self) -> int:
        """How many pulls wait."""
        return self._consumer.waiting

    def fall_silent(self) -> None:
        """The open subscription delivers nothing any more."""
        for one in self.open:
            one.silent = True

    async def before_ack(self, incoming: Sequence[Incoming]) -> None:
        """Return when the server may confirm these."""

    async def configure(self, **config: Any) -> None:
        await self._broker.admin.update_consumer(self.stream, {**self._consumer.config, **config})


class _Watched:
    """``contracts.Subscription`` that records for its ``WatchedDurable``."""

    def __init__(self, inner: Subscription, durable: WatchedDurable) -> None:
        self._inner = inner
        self._durable = durable
        self.silent = durable.silent

    @property
    def gaps(self) -> int:
        return self._inner.gaps

    @property
    def standby(self) -> bool:
        return self._inner.standby

    async def next(self, limit: int, *, timeout: timedelta) -> Sequence[Incoming]:
        if self._durable.away:
            self._durable.away = False
            raise BrokerUnavailable("closed")
        self._durable.asked.append(limit)
        if self.silent:
            await asyncio.sleep(timeout.total_seconds())
            return []
        return await self._inner.next(limit, timeout=timeout)

    def gap(self) -> None:
        assert isinstance(self._inner, _MemoryPull)
        self._inner.gaps += 1

    async def rewind(self, to: int | None = None) -> int | None:
        if self._durable.rewinding:
            raise self._durable.rewinding.popleft()
        self._durable.rewound += 1
        return await self._inner.rewind(to)

    async def drain(self) -> None:
        await self._inner.drain()

    async def ack(self, *incoming: Incoming) -> Sequence[bool]:
        if not self._durable.confirms:
            return [False] * len(incoming)
        await self._durable.before_ack(incoming)
        self._durable.acked += [one.stream_seq for one in incoming]
        return await self._inner.ack(*incoming)

    async def nak(self, incoming: Incoming, *, delay: timedelta) -> None:
        self._durable.naks.append((incoming.stream_seq, delay))
        if self._durable.loses_naks:
            return
        await self._inner.nak(incoming, delay=delay)
        # A redelivery may overtake the return of the call.
        for _ in range(10):
            await asyncio.sleep(0)

    async def in_progress(self, *incoming: Incoming) -> None:
        self._durable.in_progress_calls.append(tuple(sorted(one.stream_seq for one in incoming)))
        await self._inner.in_progress(*incoming)

    async def term(self, incoming: Incoming, *, reason: str) -> None:
        raise AssertionError("a consumer never terminates a message")


class _WatchedAdmin(MemoryAdmin):
    failures = asked = 0

    async def consumer(self, stream: str, durable: str) -> ConsumerInfo | None:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("no answer")
        return await super().consumer(stream, durable)


class WatchedBroker(MemoryBroker):
    """A ``MemoryBroker`` with the consumer's two durables, watched."""

    def __init__(self) -> None:
        super().__init__()
        self.watched_admin = _WatchedAdmin(self)
        self.durables = {name: WatchedDurable(self, name) for name in (EVENTS, REDRIVES)}

    @property
    def admin(self) -> MemoryAdmin:
        return self.watched_admin

    async def create(self, stream: str, **config: Any) -> None:
        wanted = {"durable_name": DURABLE, "max_deliver": 5, "max_ack_pending": 50, **config}
        await self.admin.create_consumer(stream, wanted)

    @asynccontextmanager
    async def subscribe(self, stream: str, durable: str) -> AsyncIterator[Subscription]:
        watched = self.durables[stream]
        async with super().subscribe(stream, durable) as inner:
            watched.subscribed += 1
            watched.open.append(_Watched(inner, watched))
            yield watched.open[-1]


class FragileStore(MemoryStore):
    """Fails to begin, or to commit, as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0
        self.commit_errors: deque[Exception] = deque()
        self.begun = 0
        self.knows_nothing = False
        self.asked: list[set[str]] = []
        """For which inbox rows."""

    def tries(self, consumer: str, event_id: str) -> int:
        """How often it was noted that it is tried."""
        tries, _ = self._tables.tried.get((consumer, event_id), (0, None))
        return tries

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        self.asked.append(set(event_ids))
        return set() if self.knows_nothing else await super().claimed(consumer, event_ids)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self.failing(super().transaction()) as tx:
            yield tx

    def for_threads(self) -> MemoryThreads:
        return _FragileThreads(self, self._turns)

    @asynccontextmanager
    async def failing(self, transaction: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        self.begun += 1
        if self.away:
            self.away -= 1
            raise StoreUnavailable("locked")
        async with transaction as tx:
            yield tx
            if self.commit_errors:
                raise self.commit_errors.popleft()
            if tx.effects.get("unfit"):
                raise ValueError("refused at the commit")


class _FragileThreads(MemoryThreads):
    """The same for plain handlers."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        assert isinstance(self._store, FragileStore)
        async with self._store.failing(super().transaction()) as tx:
            yield tx


@dataclass
class Letters:
    """A dead letter queue that can be away."""

    stored: list[tuple[str, DeadLetterReason]] = field(default_factory=list)
    failures: int = 0
    refused: set[str] = field(default_factory=set)
    """Events whose letters it does not take."""
    takes_nothing: bool = False
    sends_later: bool = False
    later: list[tuple[Incoming, timedelta]] = field(default_factory=list)
    """What was put off, and for how long."""

    async def store(
        self, incoming: Incoming, *, reason: DeadLetterReason, error: BaseException | None
    ) -> int:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("no DLQ")
        if self.takes_nothing or incoming.event_id in self.refused:
            raise BrokerUnavailable("MEMO_DLQ did not take it")
        self.stored.append((incoming.event_id, reason))
        return len(self.stored)

    async def put_off(
        self, incoming: Incoming, *, after: timedelta, error: BaseException | None
    ) -> str:
        if self.sends_later:
            self.later.append((incoming, after))
        return "" if self.sends_later else "MEMO_REDRIVE sends nothing later"


class Bench:
    """A running consumer and everything around it."""

    def __init__(self) -> None:
        self.broker = WatchedBroker()
        self.store = FragileStore()
        self.letters = Letters()
        self.telemetry = Telemetry()
        self.signals: list[Signal] = []
        self.telemetry.subscribe(self.signals.append)
        self.stop = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, **config: Any) -> Bench:
        """With both durables made; ``config`` as the server's."""
        made = cls()
        streams = ((EVENTS, "memo.event.>"), (REDRIVES, "memo.redrive.>"))
        for stream, subject in streams:
            subjects = [subject, "memo.odd"] if stream == EVENTS else [subject]
            await made.broker.admin.create_stream({"name": stream, "subjects": subjects})
            await made.broker.create(stream, **config)
        return made

    @property
    def events(self) -> WatchedDurable:
        return self.broker.durables[EVENTS]

    def outcomes(self, event_id: str | None = None) -> list[str]:
        return [
            one.outcome
            for one in self.signals
            if isinstance(one, Delivered) and event_id in (None, one.event_id)
        ]

    def states(self) -> list[type[Signal]]:
        """What was said besides deliveries, in order."""
        return [type(one) for one in self.signals if not isinstance(one, Delivered)]

    def start(
        self,
        consumer: Consumer,
        *,
        store: bool | InboxStore = True,
        threads: Threads | None = None,
    ) -> None:
        self.tasks.append(
            asyncio.create_task(
                consumer.run(
                    self.broker,
                    store=self.store if store is True else store or None,
                    threads=threads,
                    outbox=Outbox(),
                    dead_letters=self.letters,
                    telemetry=self.telemetry,
                    stop=self.stop,
                )
            )
        )

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            for task in self.tasks:
                await task

    async def finish(self) -> None:
        self.stop.set()
        await self.ended()

    async def close(self) -> None:
        """Cancel what still runs."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
