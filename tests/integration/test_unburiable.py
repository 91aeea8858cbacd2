"""On a real nats-server: a queue that does not take one letter, or none, and what goes on all the
same; and a statement's timeout from its first delivery to its letter."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import Seaway
from seaway.consumer import Delivery
from seaway.contracts import Message, Stored
from seaway.embedded.nats_server import NatsServer
from seaway.errors import Poison
from seaway.events import Registry, event, event_type_of
from seaway.retry import Backoff
from seaway.stores import open_store
from seaway.telemetry import ConsumerPaused, Signal
from seaway.topology import actual, apply, desired, plan

pytestmark = pytest.mark.server

DURABLE = "case_mgmt__from_sea"
KEYS, OF_EACH, MAX_DELIVER = "abcde", 12, 3
registry = Registry()


@event(context="sea", registry=registry)
@dataclass
class CaseOpened:
    key: str
    number: int


SUBJECT = str(event_type_of(CaseOpened).subject)
LETTERS = f"sea.dlq.{SUBJECT}"


@asynccontextmanager
async def application(url: str, nats: NatsServer, **consumer: Any) -> AsyncIterator[Seaway]:
    app = Seaway.from_config(
        {
            "nats": {"url": nats.url},
            "database": url,
            "streams": [{"name": "SEA_EVENTS", "replicas": 1}],
            "consumers": [
                {
                    "stream": "SEA_EVENTS",
                    "durable": DURABLE,
                    "ack_wait": "2s",
                    "max_deliver": MAX_DELIVER,
                    **consumer,
                }
            ],
        }
    )
    async with await open_store(url) as store:  # type: ignore[attr-defined]
        await store.schema.upgrade()
    async with app:
        await mend(app)
        yield app


async def mend(app: Seaway) -> None:
    """As ``seaway topology apply`` does."""
    wanted = desired(app.settings)
    await apply(plan(wanted, await actual(app.broker.admin, wanted)), app.broker.admin)


async def configure(app: Seaway, **config: Any) -> None:
    info = await app.broker.admin.stream("SEA_DLQ")
    assert info is not None
    await app.broker.admin.update_stream({**info.config, **config})


async def gone(app: Seaway) -> None:
    await app.broker.admin.delete_stream("SEA_DLQ")


async def full(app: Seaway) -> None:
    await configure(app, max_msgs=1, discard="new")
    await app.broker.publish("SEA_DLQ", [Message("sea.dlq.a", b"")], timeout=timedelta(seconds=5))


async def made_room(app: Seaway) -> None:
    await configure(app, max_msgs=-1)


async def without_the_subject(app: Seaway) -> None:
    await configure(app, subjects=["sea.dlq.elsewhere.>"])


async def with_the_subject(app: Seaway) -> None:
    await configure(app, subjects=["sea.dlq.>"])


async def published(app: Seaway) -> list[tuple[str, int]]:
    """The keys' events in turn; the first of ``a`` is the one that fails."""
    events = [(key, number) for number in range(OF_EACH) for key in KEYS]
    messages = [
        Message(
            SUBJECT,
            b'{"key":"%s","number":%d}' % (key.encode(), number),
            {"Nats-Msg-Id": f"{key}{number}", "X-Ordering-Key": key},
        )
        for key, number in events
    ]
    found = await app.broker.publish("SEA_EVENTS", messages, timeout=timedelta(seconds=5))
    assert all(isinstance(one, Stored) for one in found)
    return events


async def eventually(condition: Callable[[], Any], running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            if running.done():
                await running
            await asyncio.sleep(0.02)  # polling


async def settled(app: Seaway) -> int:
    info = await app.broker.admin.consumer("SEA_EVENTS", DURABLE)
    assert info is not None
    return info.num_pending + info.num_ack_pending


async def all_settled(app: Seaway, running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(60):
        while await settled(app):
            if running.done():
                await running
            await asyncio.sleep(0.05)  # polling until the server has seen the last ack


@pytest.mark.parametrize(
    ("spoil", "mended"),
    [(gone, mend), (full, made_room), (without_the_subject, with_the_subject)],
    ids=["gone", "full", "another subject"],
)
@pytest.mark.parametrize(
    ("options", "server"),
    [
        ({}, {}),
        ({"batch": 50, "workers": 2}, {}),
        ({"on_failure": "park"}, {}),
        ({}, {"exclusive": True}),
    ],
    ids=["plain", "batch", "park", "exclusive"],
)
async def test_one_letter_that_is_not_taken_holds_up_its_key_alone(
    spoil: Callable[[Seaway], Awaitable[None]],
    mended: Callable[[Seaway], Awaitable[None]],
    options: dict[str, Any],
    server: dict[str, Any],
    nats_server_own: NatsServer,
    tmp_path: Path,
) -> None:
    handled: dict[str, list[int]] = defaultdict(list)
    calls: list[int] = []
    async with application(f"sqlite:///{tmp_path}/app.db", nats_server_own, **server) as app:
        consumer = app.consumer("case_mgmt", from_context="sea", **options)

        @consumer.handler(CaseOpened)
        async def open_case(event: CaseOpened, delivery: Delivery) -> None:
            if (event.key, event.number) == ("a", 0):
                calls.append(delivery.deliveries)
                raise Poison("cannot be")
            handled[event.key].append(event.number)

        await spoil(app)
        await published(app)
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        await eventually(lambda: sum(map(len, handled.values())) == 4 * OF_EACH, running)
        await eventually(lambda: app.telemetry.waits, running)
        waits = [wait for wait in app.telemetry.waits if wait.part == f"consumer {DURABLE}"]
        assert [wait.about for wait in waits] == ["dead letters"]
        assert "SEA_EVENTS:1," in waits[0].reason or "SEA_EVENTS:1 " in waits[0].reason
        assert handled["a"] == []

        # A stop gives it back, and another run finds it again.
        stop.set()
        await asyncio.wait_for(running, 10)
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        await eventually(
            lambda: any(wait.about == "dead letters" for wait in app.telemetry.waits), running
        )
        await mended(app)
        await all_settled(app, running)
        stop.set()
        await asyncio.wait_for(running, 30)
        letters = [one for one in await app.dead_letters.list() if one.subject == SUBJECT]
    assert max(calls) < MAX_DELIVER
    by_reason = [one.reason for one in letters]
    if options.get("on_failure") == "park":
        assert by_reason == ["poison", *["parked"] * (OF_EACH - 1)]
    else:
        assert by_reason == ["poison"]
        assert handled["a"] == list(range(1, OF_EACH))
    for key in KEYS[1:]:
        assert handled[key] == list(range(OF_EACH))


async def test_a_statements_timeout_ends_as_a_letter_and_pauses_nobody(
    nats_server_own: NatsServer, postgres_url: str
) -> None:
    signals: list[Signal] = []
    handled: dict[str, list[int]] = defaultdict(list)
    deliveries: list[int] = []
    async with application(postgres_url, nats_server_own) as app:
        app.telemetry.subscribe(signals.append)
        consumer = app.consumer(
            "case_mgmt", from_context="sea", retry=Backoff(timedelta(milliseconds=20))
        )

        @consumer.handler(CaseOpened)
        async def open_case(event: CaseOpened, delivery: Delivery) -> None:
            if (event.key, event.number) == ("a", 0):
                deliveries.append(delivery.deliveries)
                await delivery.tx.execute("SET LOCAL statement_timeout = '50ms'")
                await delivery.tx.execute("SELECT pg_sleep(5)")
            handled[event.key].append(event.number)

        await published(app)
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        await all_settled(app, running)
        stop.set()
        await asyncio.wait_for(running, 30)
        [letter] = await app.dead_letters.list()
    assert deliveries == [1, 2, 3]
    assert (letter.reason, letter.error_type) == (
        "exhausted",
        "asyncpg.exceptions.QueryCanceledError",
    )
    assert handled["a"] == list(range(1, OF_EACH))
    for key in KEYS[1:]:
        assert handled[key] == list(range(OF_EACH))
    assert not any(isinstance(one, ConsumerPaused) for one in signals)
