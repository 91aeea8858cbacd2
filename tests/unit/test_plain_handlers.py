"""Plain handlers in threads: what they are given, and what a deadline does to them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from consuming import DURABLE, EVENTS, SUBJECT, Bench, consumer, message, until
from seaway import Seaway
from seaway import headers as h
from seaway.consumer import Consumer, Delivery
from seaway.consumer.blocking import Lookout
from seaway.drivers.keeping import Kept
from seaway.errors import AlreadyProcessed, ConfigError, Poison, Retry
from seaway.events import RawEvent
from seaway.monitor.metrics import Activity, activity_exposition
from seaway.naming import Durable
from seaway.retry import Backoff
from seaway.stores.sqlite.store import SqliteStore
from seaway.telemetry import LoopBlocked, ThreadsLost
from seaway.testing.memory_store import MemoryStore
from seaway.testing.memory_transaction import MemoryTransaction
from seaway.testing.rehearsal import rehearsal

SHORT = timedelta(milliseconds=300)
AT_ONCE = timedelta(milliseconds=1)


@pytest.fixture
async def bench() -> Bench:
    return await Bench.open()


async def ended(bench: Bench) -> None:
    bench.stop.set()
    await asyncio.gather(*bench.tasks)


def plain(handle: Any, **options: Any) -> Any:
    return consumer(handle, **options)


@pytest.mark.parametrize("batch", [1, 10])
async def test_effects_events_and_chain_are_those_of_a_thread(bench: Bench, batch: int) -> None:
    asked = ContextVar("asked", default="nobody")
    threads: set[threading.Thread] = set()
    ids: dict[str, list[str]] = {}

    def handle(event: RawEvent, delivery: Delivery) -> None:
        threads.add(threading.current_thread())
        delivery.tx.effects[delivery.event_id] = asked.get()
        ids[delivery.event_id] = delivery.add(RawEvent(SUBJECT, b"{}"), RawEvent(SUBJECT, b"{}"))
        if delivery.event_id == "e3":
            raise AlreadyProcessed
        if delivery.event_id == "e4" and delivery.deliveries == 1:
            raise Retry(after=AT_ONCE)
        if delivery.event_id == "e5":
            raise Poison("cannot be")

    asked.set("the test")
    await bench.events.publish(*(message(f"e{n}", f"case-{n % 3}") for n in range(9)))
    bench.start(plain(handle, workers=2, batch=batch))
    await until(lambda: len(bench.outcomes()) == 10)
    await ended(bench)
    assert sorted(bench.outcomes()) == [
        *("already_processed", "dead_lettered", *["handled"] * 7, "retried")
    ]
    assert threading.main_thread() not in threads
    assert all(one.daemon for one in threads)
    handled = {f"e{n}" for n in range(9)} - {"e5"}
    assert bench.store.effects == dict.fromkeys(handled, "the test")
    for entry in await bench.store.entries():
        cause = entry.message.headers[h.CAUSATION_ID]
        assert cause in handled
        assert entry.event_id in ids[str(cause)]
    assert len(await bench.store.entries()) == 2 * len(handled)


async def test_a_plain_batch_handlers_list_is_parted_until_the_bad_one_is_alone(
    bench: Bench,
) -> None:
    calls: list[list[str]] = []
    made = Consumer(Durable.parse(DURABLE), stream=EVENTS, batch=8, retry=Backoff(AT_ONCE))

    @made.batch_handler(RawEvent)
    def handle(events: list[RawEvent], deliveries: list[Delivery]) -> None:
        calls.append([one.event_id for one in deliveries])
        for one in deliveries:
            one.tx.effects[one.event_id] = len(calls)
            one.add(RawEvent(SUBJECT, b"{}"))
            if one.event_id == "e3":
                raise Poison("cannot be")

    await bench.events.publish(*(message(f"e{n}") for n in range(1, 9)))
    bench.start(made)
    await until(lambda: len(bench.outcomes()) == 8)
    await ended(bench)
    assert bench.outcomes("e3") == ["dead_lettered"]
    assert set(bench.store.effects) == {f"e{n}" for n in (1, 2, 4, 5, 6, 7, 8)}
    assert ["e3"] in calls
    causes = [entry.message.headers[h.CAUSATION_ID] for entry in await bench.store.entries()]
    assert sorted(causes) == sorted(bench.store.effects)


async def test_without_a_database_a_handler_runs_again_past_its_deadline(bench: Bench) -> None:
    go, calls = threading.Event(), list[int]()

    def handle(event: RawEvent, delivery: Delivery) -> None:
        calls.append(delivery.deliveries)
        if delivery.deliveries == 1:
            go.wait()

    await bench.events.publish(message("e1"))
    bench.start(plain(handle, tx=None, deadline=SHORT, retry=None))
    await until(lambda: "handled" in bench.outcomes())
    go.set()
    await ended(bench)
    assert set(bench.outcomes()) == {"retried", "handled"}
    assert calls[:2] == [1, 2]


async def test_a_handler_past_its_deadline_commits_nothing_whatever_it_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes over the time and returns."""
    interrupted = threading.Event()
    monkeypatch.setattr(MemoryTransaction, "interrupt", lambda _: interrupted.set())

    def handle(event: RawEvent, delivery: Delivery) -> None:
        delivery.tx.effects[delivery.event_id] = delivery.deliveries
        if delivery.deliveries == 1:
            interrupted.wait()

    await bench.events.publish(message("e1"))
    bench.start(plain(handle, deadline=SHORT, retry=None))
    await until(lambda: "handled" in bench.outcomes())
    await ended(bench)
    assert set(bench.outcomes()) == {"retried", "handled"}
    assert bench.store.effects["e1"] > 1
    assert "TimeoutError" in str(bench.signals)


async def test_a_thread_that_does_not_come_back_is_replaced_and_told_of(bench: Bench) -> None:
    go = threading.Event()
    activity = Activity()
    bench.telemetry.subscribe(activity.listen)

    def handle(event: RawEvent, delivery: Delivery) -> None:
        delivery.tx.effects[delivery.event_id] = delivery.deliveries
        if delivery.deliveries == 1:
            go.wait()

    await bench.events.publish(message("e1"), message("e2"))
    bench.start(plain(handle, deadline=SHORT, retry=None))
    await until(lambda: bench.outcomes().count("handled") == 2)
    assert bench.store.effects.keys() == {"e1", "e2"}
    assert lost(bench)[:2] == [1, 2]
    assert 'seaway_lost_threads{consumer="case_mgmt__from_memo"} 2.0' in activity_exposition(
        activity
    )
    (wait,) = bench.telemetry.waits
    assert "handle does not come back from its deadline" in wait.reason
    go.set()
    await until(lambda: lost(bench)[-1] == 0)
    assert bench.telemetry.waits == []
    await ended(bench)
    assert 1 not in bench.store.effects.values()


def lost(bench: Bench) -> list[int]:
    return [signal.lost for signal in bench.signals if isinstance(signal, ThreadsLost)]


async def test_a_stop_does_not_wait_for_a_thread_that_does_not_come_back(bench: Bench) -> None:
    """After the grace its delivery is given up; it cannot commit when it comes back."""
    began, go, over = threading.Event(), threading.Event(), threading.Event()

    def handle(event: RawEvent, delivery: Delivery) -> None:
        delivery.tx.effects[delivery.event_id] = 1
        began.set()
        go.wait()
        over.set()

    await bench.events.publish(message("e1"))
    bench.start(plain(handle, grace=SHORT))
    await until(began.is_set)
    await ended(bench)
    go.set()
    await until(over.is_set)
    assert (bench.outcomes(), bench.store.effects) == ([], {})
    assert [seq for seq, _ in bench.events.naks] == [1]


async def test_an_async_handler_that_blocks_the_event_loop_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, look = threading.Event(), Lookout._look

    def watched(self: Lookout) -> tuple[str, str] | None:
        found = look(self)
        if found is not None:
            seen.set()
        return found

    monkeypatch.setattr(Lookout, "_look", watched)

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.event_id == "e1":
            assert seen.wait(60)

    await bench.events.publish(message("e1"), message("e2"))
    bench.start(consumer(handle))
    await until(lambda: any(isinstance(signal, LoopBlocked) for signal in bench.signals))
    await ended(bench)
    (blocked,) = [signal for signal in bench.signals if isinstance(signal, LoopBlocked)]
    assert blocked.handler.endswith("handle")
    assert blocked.seconds >= 1
    line = int(blocked.place.removeprefix(f"{__file__}:"))
    assert "seen.wait" in Path(__file__).read_text().splitlines()[line - 1]


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), asyncio.CancelledError()])
async def test_what_ends_a_process_or_a_task_is_a_failure(
    bench: Bench, error: BaseException
) -> None:
    def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.deliveries == 1:
            raise error

    await bench.events.publish(message("e1"))
    bench.start(plain(handle, retry=None))
    await until(lambda: bench.outcomes() == ["retried", "handled"])
    await ended(bench)


async def test_what_a_plain_function_returns_to_be_awaited_is_a_failure(bench: Bench) -> None:
    async def work() -> None: ...

    await bench.events.publish(message("e1"))
    bench.start(plain(lambda event, delivery: work(), retry=None))
    await until(lambda: bool(bench.outcomes()))
    await ended(bench)
    assert "async def" in str(bench.signals)


async def test_events_that_an_async_handler_does_not_await_are_its_failure(bench: Bench) -> None:
    class Awaited:
        def add(self, tx: Any, *events: object, **more: Any) -> Any:
            async def write() -> list[str]:
                tx.effects["written"] = events
                return ["id"]

            return write()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.deliveries > 1:
            assert await delivery.add(event) == ["id"]
        else:
            delivery.add(event)

    made = consumer(handle, retry=None)
    bench.tasks.append(
        asyncio.create_task(
            made.run(
                *(bench.broker,),
                store=bench.store,
                outbox=Awaited(),
                dead_letters=bench.letters,
                telemetry=bench.telemetry,
                stop=bench.stop,
            )
        )
    )
    await bench.events.publish(message("e1"))
    await until(lambda: bench.outcomes() == ["retried", "handled"])
    await ended(bench)
    assert "write await delivery.add" in str(bench.signals)
    assert "written" in bench.store.effects


@pytest.mark.parametrize("on", ["memory", "sqlite"])
async def test_a_rehearsal_serves_plain_handlers(on: str, tmp_path: Path) -> None:
    consumer = {"stream": "MEMO_EVENTS", "durable": DURABLE}
    app = Seaway.from_config({"contexts": ["memo"], "consumers": [consumer]})
    handles: list[str] = []

    @app.consumer("case_mgmt", from_context="memo").handler(RawEvent)
    def handle(event: RawEvent, delivery: Delivery) -> None:
        handles.append(type(delivery.tx).__name__)
        if event.subject == SUBJECT:
            delivery.add(RawEvent("memo.event.case_shut.v1", b"{}"))

    store: Any = MemoryStore()
    if on == "sqlite":
        store = await SqliteStore.open(tmp_path / "app.db")
        await store.schema.upgrade()
    async with rehearsal(app, store) as stage:
        await stage.publish(RawEvent(SUBJECT, b"{}"))
        await stage.settled()
    assert stage.outcomes == {"handled": 2}
    assert handles == [{"memory": "MemoryTransaction", "sqlite": "Connection"}[on]] * 2
    await store.close()


def test_one_connection_for_two_threads_is_refused() -> None:
    one = sqlite3.connect(":memory:", check_same_thread=False)
    kept = Kept(lambda: one)
    assert kept.take() is one
    assert kept.take() is one
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigError, match="one connection to two"):
        pool.submit(kept.take).result()
    kept.close()


async def test_keys_keep_their_order_over_a_stop_and_a_start(bench: Bench) -> None:
    """What was not started goes back and comes again, each event takes effect once."""
    order: dict[str | None, list[str]] = {}

    def handle(event: RawEvent, delivery: Delivery) -> None:
        delivery.tx.effects[delivery.event_id] = delivery.deliveries
        order.setdefault(delivery.key, []).append(delivery.event_id)

    events = [f"e{number:02}" for number in range(60)]
    await bench.events.publish(*(message(one, f"case-{int(one[1:]) % 3}") for one in events))
    for half in (20, 60):
        bench.stop = asyncio.Event()
        bench.start(plain(handle, workers=4))
        await until(lambda half=half: len(bench.store.effects) >= half)  # type: ignore[misc]
        await ended(bench)
    assert sorted(bench.store.effects) == events
    assert [order[f"case-{n}"] for n in range(3)] == [events[n::3] for n in range(3)]
