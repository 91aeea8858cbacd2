"""Dead letters mended by code, on a real server and real databases: previewed and tried without any
effect, then sent to the consumer that failed; what they were at first stays known."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest

from seaway import Delivery, Depends, Poison, RawEvent, Refuse, Seaway, event, topology
from seaway import headers as h
from seaway.contracts import Message, Store
from seaway.dead_letters import Letter, Selection
from seaway.embedded.nats_server import NatsServer
from seaway.events import Registry
from seaway.mending.checking import checked_by
from seaway.mending.runs import Plan
from seaway.mending.transforming import Function, Transforming
from seaway.stores import open_configured

pytestmark = pytest.mark.server

ORDERS = ("fine", "also fine", "fails", "poison", "refused", "lacks", "invalid", "had")
"""Each an event whose amount no consumer reads."""
MENDED = ("fine", "also fine", "fails", "poison", "had")


def body(order: str) -> dict[str, Any]:
    return {"order": order, "amount": "12,50", "card": "hunter2"}


def to_numbers(payload: Any, headers: Mapping[str, str]) -> Any:
    order = payload["order"]
    if order == "refused":
        raise Refuse("of this order nobody knows")
    if order == "lacks":
        payload["amonut"]
    if order != "invalid":
        payload["amount"] = float(payload["amount"].replace(",", "."))
    return payload


def ids_length(delivery: Delivery) -> int:
    return len(delivery.event_id)


INSERT = "INSERT INTO booked (name, amount) VALUES "


class Till:
    """An application whose consumer writes a row, an event and a call that cannot be undone."""

    def __init__(self, server: NatsServer, context: str, database: str) -> None:
        self.context, self.outside, self.around = context, list[tuple[str, bool]](), 0
        self.stream, self.durable = f"{context.upper()}_EVENTS", f"books__from_{context}"
        self.app = Seaway.from_config(
            {
                "nats": {"url": server.url},
                "database": database,
                "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
                "consumers": [{"stream": self.stream, "durable": self.durable, "max_deliver": 1}],
                "outbox": {"poll": "50ms"},
            }
        )
        registry = Registry()

        @event(context=context, version=1, registry=registry)
        @dataclass
        class Paid:
            order: str
            amount: float
            card: str

        books = self.app.consumer("books", from_context=context)
        numbered = self.app.settings.database.startswith("postgres")
        self.insert = INSERT + ("($1, $2)" if numbered else "(?, ?)")

        @books.handler(Paid)
        async def book(
            paid: Paid, delivery: Delivery, n: Annotated[int, Depends(ids_length)]
        ) -> None:
            values = (paid.order, paid.amount)
            await delivery.tx.execute(self.insert, *(values if numbered else (values,)))
            await delivery.add(RawEvent(f"{context}.event.booked.v1", b"{}"))
            self.outside.append((paid.order, delivery.tried))
            assert n
            if paid.order == "poison":
                raise Poison("nobody can book this")
            if paid.order == "fails":
                raise ValueError(f"no account for {paid.card}")

        @self.app.middleware
        async def count(delivery: Delivery, call_next: Callable[[], Awaitable[None]]) -> None:
            self.around += 1
            await call_next()

    async def rows(self, store: Store, statement: str) -> list[tuple[Any, ...]]:
        async with store.transaction() as tx:
            if self.app.settings.database.startswith("postgres"):
                return [tuple(row) for row in await tx.handle.fetch(statement)]
            async with tx.handle.execute(statement) as cursor:
                return [tuple(row) for row in await cursor.fetchall()]

    async def set_up(self) -> None:
        store = await open_configured(self.app.settings)
        await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE booked (name TEXT, amount DOUBLE PRECISION)")
        await store.close()
        async with self.app as app:
            wanted = topology.desired(app.settings)
            admin = app.broker.admin
            await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)

    async def bury(self) -> list[Letter]:
        """A letter of each of ``ORDERS``, as a consumer that runs makes it."""
        store = await self.app.open_store()
        async with store.transaction() as tx:
            events = [
                RawEvent(f"{self.context}.event.paid.v1", json.dumps(body(one)).encode(), key=one)
                for one in ORDERS
            ]
            added = self.app.outbox.add(tx.handle, *events)
            ids = added if isinstance(added, list) else await added
        await self.running_until(lambda letters: len(letters) == len(ORDERS))
        async with store.transaction() as tx:
            await tx.claim(self.durable, ids[ORDERS.index("had")])
        return list(await self.app.dead_letters.list())

    async def running_until(self, enough: Callable[[list[Letter]], object]) -> None:
        """Relay and consumer at work until the letters are so."""
        stop = asyncio.Event()
        work = asyncio.create_task(self.app.run(stop, sweeper=False))
        try:
            async with asyncio.timeout(60):
                while not enough(list(await self.app.dead_letters.list(payloads=False))):
                    assert not work.done() or work.result() is None
                    await asyncio.sleep(0.05)
        finally:
            stop.set()
            await work

    @asynccontextmanager
    async def mending(self, function: Function) -> AsyncIterator[Transforming]:
        check = checked_by(self.app.consumers)
        async with Transforming(function, check=check, name="mends:it") as transform:
            yield transform


@pytest.fixture(params=["sqlite", "postgres"])
async def till(
    request: pytest.FixtureRequest, nats_server: NatsServer, context_name: str, tmp_path: Path
) -> AsyncIterator[Till]:
    url = f"sqlite:///{tmp_path / 'till.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    made = Till(nats_server, context_name, url)
    await made.set_up()
    async with made.app as app:
        yield made
        for info in await app.broker.admin.streams():
            if info.name.startswith(context_name.upper()):
                await app.broker.admin.delete_stream(info.name)


def order_of(letter: Letter) -> str:
    return letter.key


async def test_letters_are_previewed_tried_and_mended(till: Till) -> None:
    app, letters = till.app, await till.bury()
    queue, store = app.dead_letters, await app.open_store()
    streams = {one.name: one.last_seq for one in await app.broker.admin.streams()}
    till.around = 0

    async def untouched() -> bool:
        assert await till.rows(store, "SELECT name FROM booked") == []
        assert (await store.backlog()).count == 0
        assert await store.claimed(till.durable, [one.event_id for one in letters]) == had
        now = {one.name: one.last_seq for one in await app.broker.admin.streams()}
        return {name: now[name] for name in streams} == streams

    had = {one.event_id for one in letters if order_of(one) == "had"}
    async with till.mending(to_numbers) as transform:
        # Previewed: five change alike, the others stay, each for its reason.
        preview = await queue.preview(letters, transform)
        assert (preview.sent, preview.stay) == (5, 3)
        first, *others = preview.groups
        assert first.form == ("changed amount: string -> number",)
        assert (first.becomes, first.letters, first.ids[0]) == ("changed", 5, letters[0].id)
        told = first.told()["sample"]["differences"]
        assert told == [{"what": "amount", "before": "12,50", "after": 12.5}]
        assert {one.becomes: one.reason.partition(" (")[0] for one in others} == {
            "refused": "of this order nobody knows",
            "raised": "KeyError",
            "invalid": f"{till.context}.event.paid.v1: amount: Input should be a valid number, "
            "unable to parse string as a number",
        }
        assert till.around == 0
        # Tried as they are: nobody reads them.
        async with aclosing(queue.tried(letters, app)) as tried:
            assert {one.comes_to async for one in tried} == {"undecodable", "already"}
        assert till.outside == []
        # Tried as they would be sent: the handlers are called, and nothing stays of it.
        async with aclosing(queue.tried(letters, app, transform=transform)) as tried:
            outcomes = {order_of(one.letter): one async for one in tried}
        assert {name: one.comes_to for name, one in outcomes.items()} == {
            "fine": "succeeds",
            "also fine": "succeeds",
            "fails": "fails",
            "poison": "poison",
            "refused": "stays",
            "lacks": "stays",
            "invalid": "stays",
            "had": "already",
        }
        assert outcomes["fails"].place.startswith(__file__)
        assert outcomes["fails"].kind == "ValueError"
        assert till.outside == [(name, True) for name in MENDED[:4]]
        assert till.around == 4
        assert await untouched()
        # Sent: each takes effect once, or is a letter again.
        plan = Plan(selection=Selection(), transform=transform, by="ann@desk")
        run = await queue.run(plan)
        async with aclosing(run.outcomes()) as outcomes_of_run:
            became = {
                order_of(one.letter): one.became async for one in outcomes_of_run if one.letter
            }
    assert became == {name: "sent" if name in MENDED else "stays" for name in ORDERS}
    await till.running_until(lambda found: len(found) == 5)
    booked = "SELECT name, amount FROM booked ORDER BY name"
    assert await till.rows(store, booked) == [("also fine", 12.5), ("fine", 12.5)]
    await _leads_to_what_it_was(till, letters)
    log = await queue.changes(letters[0].event_id)
    [entry] = [one for one in log if one.action == "redriven"]
    assert entry.by == "ann@desk"
    assert "hunter2" not in json.dumps(entry.detail)
    assert "12,50" not in json.dumps(entry.detail)
    [mended] = entry.detail["mended"]
    assert mended["changes"] == ["changed amount: string -> number"]
    assert [letters[0].id, digest(body("fine"))] in mended["letters"]


@pytest.mark.parametrize("till", ["sqlite"], indirect=True)
async def test_what_cannot_be_mended_or_tried_holds_up_no_other(till: Till) -> None:
    app, letters = till.app, await till.bury()
    queue, good = app.dead_letters, letters[0]
    headers, place = dict(good.stored.message.headers), h.DLQ_STREAM_SEQUENCE
    headers[h.MSG_ID] = "more"
    bad = {
        "gone": headers | {"X-Dlq-Payload": "by-reference", place: "999", h.MSG_ID: "gone"},
        "no handler": headers | {h.DLQ_CONSUMER: f"else__from_{till.context}", h.MSG_ID: "else"},
        "no letter": headers | {h.DLQ_REASON: "boredom", h.MSG_ID: "none"},
        "waits": headers | {h.DLQ_REASON: "parked", h.MSG_ID: "parked"},
    }
    name = good.stored.stream
    messages = [replace(good.stored.message, headers=one) for one in bad.values()]
    await app.broker.publish(name, messages, timeout=timedelta(seconds=5))
    found = list(await queue.list())[len(letters) :]
    assert len(found) == len(bad)
    async with (
        till.mending(to_numbers) as transform,
        aclosing(queue.tried([*found, good], app, transform=transform)) as tried,
    ):
        outcomes = [(one.comes_to, one.reason) async for one in tried]
    gone, other, none, waits, well = outcomes
    assert gone[0] == other[0] == none[0] == "stays"
    assert "which does not hold it any more" in gone[1]
    assert "no class here stands for" in other[1]
    assert "'boredom' is none of" in none[1]
    assert (waits[0], well) == ("waits", ("succeeds", ""))
    async with (
        Transforming(to_numbers, check=None) as unchecked,
        aclosing(queue.tried([found[1]], app, transform=unchecked)) as tried,
    ):
        [untried] = [one async for one in tried]
    foreign = Message(good.stored.message.subject, b'{"order": "x", "amount": "1,5", "card": "y"}')
    await app.broker.publish(name, [foreign], timeout=timedelta(seconds=5))
    newest = list(await queue.list())[-1:]
    async with Transforming(to_numbers, check=None) as unchecked:
        assert (await queue.preview(newest, unchecked)).stay == 1
        assert (await queue.preview(newest, unchecked, to="all")).sent == 1
    assert untried.comes_to == "untried"
    assert f"declares no consumer else__from_{till.context}" in untried.reason


def digest(payload: Any) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(payload).encode()).hexdigest()}"


def _is_back(gone: set[str], letters: list[Letter]) -> bool:
    return len(letters) == 5 and not {one.id for one in letters} & gone


async def _leads_to_what_it_was(till: Till, letters: list[Letter]) -> None:
    """Those that failed again lead to their events, however often they are mended."""
    app, queue = till.app, till.app.dead_letters
    before = {order_of(one): one for one in letters}

    async def back() -> Mapping[str, Letter]:
        return {order_of(one): one for one in await queue.list() if one.mended_from}

    for _ in range(2):
        found = await back()
        assert sorted(found) == ["fails", "poison"]
        for name, letter in found.items():
            assert letter.stream == f"{till.context.upper()}_REDRIVE"
            assert letter.event_place == before[name].place
            assert letter.mended_from == digest(body(name))
            written = await queue.as_written(letter)
            assert written is not None
            assert json.loads(written.payload) == body(name)
            assert json.loads(letter.payload)["amount"] in (12.5, 13.5)

        def more(payload: Any, headers: Mapping[str, str]) -> Any:
            return payload | {"amount": 13.5}, {"X-Tenant": "north"}

        ids = tuple(one.id for one in found.values())
        async with till.mending(more) as transform:
            run = await queue.run(Plan(selection=Selection(ids=ids), transform=transform))
            async with aclosing(run.outcomes()) as outcomes:
                assert [one.became async for one in outcomes] == ["sent", "sent"]
        await till.running_until(partial(_is_back, set(ids)))
    for letter in (await back()).values():
        assert letter.headers["X-Tenant"] == "north"
        assert letter.redrives == 3
    assert await app.broker.admin.get(*before["fails"].place) is not None
