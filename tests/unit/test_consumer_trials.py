"""Events through a consumer's call path outside of any delivery: tried, and handled again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

from consuming import SUBJECT, carrying
from seaway import Depends, Seaway, event
from seaway.app import trying
from seaway.consumer import Consumer, Delivery
from seaway.consumer.trials import run_rows
from seaway.contracts import Incoming, Message, StoredMessage
from seaway.errors import AlreadyProcessed, ConfigError, Poison, Retry, Unavailable
from seaway.events import RawEvent, new_event_id
from seaway.retry import Attempts, RetryPolicy
from seaway.stores.sqlite.store import SqliteStore
from seaway.testing.memory_broker import MemoryBroker
from seaway.testing.memory_store import MemoryStore

SHORT = timedelta(milliseconds=300)
DURABLE = "case_mgmt__from_memo"
Handle = Callable[..., Awaitable[None] | None]


@event(context="memo", version=1)
@dataclass
class CaseOpened:
    case: str
    amount: int


_way: list[str] = []


def register() -> str:
    _way.append("dependency")
    return "register"


def incoming(payload: bytes = b"{}", *, subject: str = SUBJECT, **headers: str) -> Incoming:
    named = {"Nats-Msg-Id": new_event_id(), **{k.replace("_", "-"): v for k, v in headers.items()}}
    stored = StoredMessage(Message(subject, payload, named), "MEMO_EVENTS", 7, datetime.now(UTC))
    return Incoming.read(stored, DURABLE, deliveries=3)


def declared(handle: Handle, kind: type = RawEvent, **options: Any) -> tuple[Seaway, Consumer]:
    app = Seaway()
    consumer = app.consumer("case_mgmt", from_context="memo", **options)
    consumer.handler(kind)(handle)
    return app, consumer


@pytest.fixture(params=["async", "plain"])
def made(request: pytest.FixtureRequest) -> Callable[[Any], Handle]:
    return (lambda handle: handle) if request.param == "async" else carrying


async def test_what_is_tried_leaves_nothing_whatever_comes_of_it(
    made: Callable[[Any], Handle],
) -> None:
    store, seen = MemoryStore(), list[tuple[str, bool, int]]()
    raised: dict[str, Exception] = {}

    async def handle(given: RawEvent, delivery: Delivery) -> None:
        seen.append((delivery.event_id, delivery.tried, delivery.deliveries))
        delivery.tx.effects[delivery.event_id] = "new"
        await delivery.add(RawEvent(SUBJECT, b"[1]", key="k"))
        if delivery.event_id in raised:
            raise raised[delivery.event_id]

    policy = RetryPolicy({KeyError: Attempts(1)})
    app, consumer = declared(made(handle), retry=policy)
    one, *others = (incoming() for _ in range(7))
    errors = [AlreadyProcessed(), Poison("no"), Retry(), ValueError("x"), KeyError("k")]
    errors.append(Unavailable("the register"))
    raised |= {each.event_id: error for each, error in zip(others, errors, strict=True)}
    async with store.transaction() as tx:  # It had its effect long ago.
        await tx.claim(DURABLE, one.event_id)
        tx.handle.effects[one.event_id] = "old"
    async with trying(app, consumer, MemoryBroker(), store) as tried:
        found = await tried(one)
        ends = await asyncio.gather(*(tried(each) for each in others))
    assert (found.verdict, found.error, found.repeated) == ("effect", None, False)
    assert found.written == [(SUBJECT, "k", b"[1]")]
    assert [(end.verdict, end.reason) for end in ends] == [
        ("effect", None),
        ("letter", "poison"),
        ("failed", "exhausted"),
        ("failed", "exhausted"),
        ("letter", "exhausted"),
        ("failed", "exhausted"),
    ]
    assert ends[3].said == "ValueError: x"
    assert ends[3].place.startswith(__file__)
    assert {(tried, count) for _, tried, count in seen} == {(True, 1)}
    assert store.effects == {one.event_id: "old"}
    assert (await store.backlog()).count == 0
    assert await store.claimed(DURABLE, [each.event_id for each in (one, *others)]) == {
        one.event_id
    }


async def test_decoding_dependencies_and_middleware_are_the_consumers_own() -> None:
    store, way = MemoryStore(), _way
    way.clear()

    async def handle(
        given: CaseOpened, delivery: Delivery, name: Annotated[str, Depends(register)]
    ) -> None:
        way.append(f"{name} {given.case}")

    app, consumer = declared(handle, CaseOpened)

    @app.middleware
    async def around(delivery: Delivery, call_next: Callable[[], Awaitable[None]]) -> None:
        way.append("middleware")
        await call_next()

    given = [
        incoming(b'{"case": "c1", "amount": 3}'),
        incoming(b'{"case": "c1", "amount": "many"}'),
        incoming(subject="memo.event.case_opened.v9"),
        incoming(subject="memo.event.other.v1"),
        incoming(b'{"case": "c1", "amount": 3}', X_Event_Version="one"),
    ]
    async with trying(app, consumer, MemoryBroker(), store) as tried:
        ends = [await tried(one) for one in given]
    assert way == ["middleware", "dependency", "register c1"]
    assert [(end.verdict, end.reason) for end in ends] == [
        ("effect", None),
        ("letter", "undecodable"),
        ("letter", "undecodable"),
        ("nothing", None),
        ("letter", "undecodable"),
    ]


async def test_a_handler_that_hangs_is_ended() -> None:
    async def hangs(given: RawEvent, delivery: Delivery) -> None:
        await asyncio.Event().wait()

    app, consumer = declared(hangs)
    async with trying(app, consumer, MemoryBroker(), MemoryStore(), within=SHORT) as tried:
        found = await tried(incoming())
    assert (found.verdict, found.said) == ("failed", "TimeoutError: it did not end in time")

    go_on = threading.Event()

    def blocks(given: RawEvent, delivery: Delivery) -> None:
        go_on.wait()

    app, consumer = declared(blocks)
    try:
        async with trying(app, consumer, MemoryBroker(), MemoryStore(), within=SHORT) as tried:
            found = await tried(incoming())
    finally:
        go_on.set()
    assert found.verdict == "failed"
    assert isinstance(found.error, TimeoutError)


async def test_of_a_run_each_is_handled_again_once(made: Callable[[Any], Handle]) -> None:
    store, fails = MemoryStore(), True

    async def handle(given: RawEvent, delivery: Delivery) -> None:
        assert not delivery.tried
        effects = delivery.tx.effects
        effects[delivery.event_id] = effects.get(delivery.event_id, 0) + 1
        if fails and given.payload == b"bad":
            raise ValueError("not yet")

    app, consumer = declared(made(handle), on_failure="park")
    good, bad = incoming(), incoming(b"bad")
    async with store.transaction() as tx:
        for one in (good, bad):
            await tx.claim(DURABLE, one.event_id)
            tx.handle.effects[one.event_id] = 1
    for turn in (1, 2):
        async with trying(app, consumer, MemoryBroker(), store, run="r1") as again:
            ends = [await again(one) for one in (good, bad)]
        assert [(end.verdict, end.repeated) for end in ends] == [
            ("effect", turn == 2),
            ("failed", False),
        ]
    assert store.effects == {good.event_id: 2, bad.event_id: 1}
    fails = False
    async with trying(app, consumer, MemoryBroker(), store, run="r2") as again:
        for one in (good, bad):
            await again(one)
    assert store.effects == {good.event_id: 3, bad.event_id: 2}
    ids = {good.event_id, bad.event_id}
    assert await store.claimed(DURABLE, ids) == ids
    assert await store.claimed(run_rows(DURABLE, "r1"), ids) == {good.event_id}


async def test_what_cannot_be_tried() -> None:
    async def handle(given: RawEvent, delivery: Delivery) -> None:
        raise AssertionError

    app, consumer = declared(handle, tx=None)
    with pytest.raises(ConfigError, match="no database"):
        async with trying(app, consumer, MemoryBroker(), MemoryStore()):
            pass
    with pytest.raises(ConfigError, match="did you mean case_mgmt__from_memo"):
        app.declared("case_mgmt__from_mem")
    empty = Seaway()
    with pytest.raises(ConfigError, match="no handlers"):
        async with trying(
            empty, empty.consumer("a", from_context="memo"), MemoryBroker(), MemoryStore()
        ):
            pass


async def test_a_handler_that_commits_is_found_out(tmp_path: Path) -> None:
    async def handle(given: RawEvent, delivery: Delivery) -> None:
        await delivery.tx.commit()

    async with await SqliteStore.open(tmp_path / "app.db") as store:
        await store.schema.upgrade()
        app, consumer = declared(handle)
        async with trying(app, consumer, MemoryBroker(), store) as tried:
            with pytest.raises(ConfigError, match="committed it or rolled it back itself"):
                await tried(incoming())
