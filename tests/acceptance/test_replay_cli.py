"""``seaway replay``: lines that are the same events again, and history run through a handler."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import topology
from seaway.app import Seaway
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import settings_from_mapping
from seaway.contracts import Message, Store, Stored
from seaway.embedded.nats_server import NatsServer
from seaway.events import RawEvent, new_event_id
from seaway.outbox import Outbox
from seaway.stores import open_store

pytestmark = pytest.mark.server
SEAWAY = Path(sys.executable).with_name("seaway")
TIMEOUT = timedelta(seconds=10)
EVENTS = 24

APPLICATION = """
import asyncio, json, pathlib
from seaway import Delivery, Poison, RawEvent, Seaway

here = pathlib.Path(__file__).parent
app = Seaway.from_config(here / "seaway.yaml")
billing = app.consumer("billing", from_context="{context}")

@billing.handler(RawEvent)
async def bill(event: RawEvent, delivery: Delivery) -> None:
    rules = json.loads((here / "rules.json").read_text())
    amount = event.json()["amount"]
    await delivery.tx.execute(
        f"INSERT INTO bills (amount, times) VALUES ({{amount}}, 1) "
        "ON CONFLICT (amount) DO UPDATE SET times = bills.times + 1"
    )
    if amount in rules["poison"]:
        raise Poison(f"{{amount}} is too much")
    if amount in rules["fails"]:
        raise ValueError("no such rate")
    while amount == rules["waits"] and not (here / "go").exists():
        await asyncio.sleep(0.02)
"""


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Shop:
    """A context, a consumer with a database, and ``seaway`` beside."""

    def __init__(
        self, broker: JetStreamBroker, store: Store, context: str, server: str, url: str, at: Path
    ) -> None:
        self.broker, self.store, self.at = broker, store, at
        self.stream = f"{context.upper()}_EVENTS"
        self.durable = f"billing__from_{context}"
        self.handler = f"shop:app/{self.durable}"
        self.subject = f"{context}.event.paid.v1"
        mapping: dict[str, Any] = {
            "database": url,
            "nats": {"url": server},
            "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
            "consumers": [{"stream": self.stream, "durable": self.durable, "max_deliver": 5}],
        }
        self.settings = settings_from_mapping(mapping, environ={})
        (at / "seaway.yaml").write_text(json.dumps(mapping))
        (at / "shop.py").write_text(APPLICATION.format(context=context))
        self.rule()
        hidden = ("NATS_", "SEAWAY_")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}

    def rule(self, *, poison: list[int] | None = None, fails: int = -1, waits: int = -1) -> None:
        rules = {"poison": poison or [], "fails": [fails], "waits": waits}
        (self.at / "rules.json").write_text(json.dumps(rules))

    async def open(self) -> None:
        wanted, admin = topology.desired(self.settings), self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)
        async with self.store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE bills (amount INT PRIMARY KEY, times INT)")

    async def publish(self, count: int = EVENTS) -> None:
        messages = [
            Message(
                self.subject,
                b'{"amount": %d}' % amount,
                {"Nats-Msg-Id": new_event_id(), "X-Ordering-Key": f"customer-{amount % 3}"},
            )
            for amount in range(count)
        ]
        outcomes = await self.broker.publish(self.stream, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes)

    async def handled(self) -> None:
        """All of it is, by the application as it is now."""
        given: dict[str, Any] = {"__file__": str(self.at / "shop.py"), "__name__": "shop"}
        exec((self.at / "shop.py").read_text(), given)
        app, stop = given["app"], asyncio.Event()
        assert isinstance(app, Seaway)
        work = asyncio.create_task(app.run(stop, relay=False, sweeper=False))
        async with asyncio.timeout(60):
            while True:
                info = await self.broker.admin.consumer(self.stream, self.durable)
                if work.done() or (info and info.consumer_seq and info.settled):
                    break
                await asyncio.sleep(0.02)
        stop.set()
        await work

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(str(SEAWAY), *arguments),
            cwd=self.at,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def run(self, *arguments: str) -> Ended:
        async with self.running(*arguments) as process, asyncio.timeout(90):
            out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    async def replay(self, *arguments: str) -> Ended:
        return await self.run("replay", self.stream, "--handler", self.handler, *arguments)

    async def bills(self) -> dict[int, int]:
        return dict(await self.rows("bills"))

    async def rows(self, table: str) -> list[tuple[Any, ...]]:
        return sorted(await self.ask(f"SELECT * FROM {table}"), key=repr)  # noqa: S608

    async def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Without waiting for who writes."""
        file = self.at / "app.db"
        if file.exists():
            with closing(sqlite3.connect(file)) as db:
                return db.execute(query).fetchall()
        async with self.store.transaction() as tx:
            return [tuple(row) for row in await tx.handle.fetch(query)]

    async def everything(self) -> dict[str, Any]:
        """Every row of every table, but for the notes of runs."""
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        if not (self.at / "app.db").exists():
            tables = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        names = {name for (name,) in await self.ask(tables) if not name.startswith("seaway_run")}
        assert {"bills", "seaway_inbox", "seaway_outbox"} <= names
        return {name: await self.rows(name) for name in sorted(names)}


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    try:
        await store.schema.upgrade()
        yield store
    finally:
        await store.close()


@pytest.fixture
async def shop(
    broker: JetStreamBroker,
    nats_server: NatsServer,
    context_name: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Shop]:
    for name in [one for one in os.environ if one.startswith(("NATS_", "SEAWAY_"))]:
        monkeypatch.delenv(name)
    url = f"sqlite:///{tmp_path}/app.db"
    if getattr(request, "param", "sqlite") == "postgresql":
        url = request.getfixturevalue("postgres_url")
    async with opened(url) as store:
        made = Shop(broker, store, context_name, nats_server.url, url, tmp_path)
        await made.open()
        yield made


@pytest.mark.parametrize("shop", ["sqlite", "postgresql"], indirect=True)
async def test_a_shadow_tells_what_would_end_in_another_way_and_changes_nothing(
    shop: Shop,
) -> None:
    shop.rule(poison=[20, 21])
    await shop.publish()
    await shop.handled()
    before = await shop.everything()
    shop.rule(poison=[20, 22], fails=5)
    ended = await shop.replay("--shadow", "--workers", "3", "--json")
    assert ended.code == 1, ended
    found = json.loads(ended.out)
    assert (found["events"], found["differing"], found["left_off"]) == (EVENTS, 3, 0)
    ends = {one["message"].rpartition(":")[2]: one["ends"] for one in found["differ"]}
    assert ends == {
        "6": "effect -> failed",
        "22": "letter (poison) -> effect",
        "23": "effect -> letter (poison)",
    }
    [wrong] = [one for one in found["groups"] if one["now"] == "failed"]
    assert (wrong["error"], wrong["said"]) == ("ValueError", "ValueError: no such rate")
    assert "shop.py:" in wrong["place"]
    assert await shop.everything() == before
    shop.rule(poison=[20, 21])
    same = await shop.replay("--shadow", "--from", "3", "--key", "customer-1")
    assert (same.code, same.out.splitlines()[0]) == (0, "7 events: 7 end as they did, 0 differ.")
    assert await shop.everything() == before


async def test_what_is_reprocessed_is_handled_again_once_though_it_is_killed(shop: Shop) -> None:
    await shop.publish()
    await shop.handled()
    assert set((await shop.bills()).values()) == {1}
    shop.rule(waits=17, fails=3)
    arguments = ("replay", shop.stream, "--handler", shop.handler, "--reprocess")
    refused = await shop.run(*arguments)
    assert (refused.code, set((await shop.bills()).values())) == (1, {1})
    assert "24 of them have had their effect" in refused.err
    dry = await shop.run(*arguments, "--dry-run")
    assert (dry.code, set((await shop.bills()).values())) == (0, {1})
    async with shop.running(*arguments, "--yes") as process, asyncio.timeout(60):
        while (await shop.bills())[16] == 1:
            assert process.returncode is None, await process.communicate()
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    (shop.at / "go").touch()
    ended = await shop.run(*arguments, "--yes")
    assert ended.code == 1, ended
    assert "goes on" in ended.err
    assert "ValueError: no such rate" in ended.out
    assert await shop.bills() == {amount: 1 if amount == 3 else 2 for amount in range(EVENTS)}
    shop.rule()
    one_key = await shop.replay("--reprocess", "--key", "customer-0", "--yes", "--by", "ann")
    assert (one_key.code, one_key.out.splitlines()[0]) == (
        0,
        "8 events: 8 handled again, 0 failed.",
    )
    bills = await shop.bills()
    assert [bills[amount] for amount in range(6)] == [3, 2, 2, 2, 2, 2]
    log = await shop.store.log(limit=10)
    assert [(one.action, one.about) for one in reversed(log)] == [
        ("reprocess begun", shop.durable),
        ("reprocessed", shop.durable),
        ("reprocess begun", shop.durable),
        ("reprocessed", shop.durable),
    ]
    assert (log[0].by, log[0].detail["key"], log[0].detail["events"]) == ("ann", "customer-0", 8)


async def test_lines_are_the_same_events_again(shop: Shop, tmp_path: Path) -> None:
    exact = [b'{"a":1}', b'{"b": [1.50, "\xc3\xa9"]}', b"\xff\x00", b'"x\\u0001"', b""]
    written = [
        RawEvent(
            shop.subject,
            payload,
            key=f"k{n}" if n else None,
            content_type="text/plain" if n == 2 else "application/json",
            headers={"X-Own": "é"} if n else {},
            causation_id="cause" if n == 3 else None,
        )
        for n, payload in enumerate(exact)
    ]
    async with shop.store.transaction() as tx:
        await Outbox().add(tx.handle, *written)
    assert (await shop.run("relay", "--drain")).code == 0
    foreign = Message(shop.subject, b"{}", {})
    await shop.broker.publish(shop.stream, [foreign], timeout=TIMEOUT)
    file = tmp_path / "events.jsonl"
    ended = await shop.run("replay", shop.stream, "--output", str(file))
    assert ended.code == 0, ended
    assert "1 message has no id that an outbox takes" in ended.err
    whole = file.read_bytes()
    file.write_bytes(whole[:-200])  # As it is found after a kill.
    again = await shop.run("replay", shop.stream, "--output", str(file))
    assert (again.code, file.read_bytes()) == (0, whole)
    other = f"sqlite:///{tmp_path}/other.db"
    async with opened(other) as store:
        added = await shop.run("--database", other, "outbox", "add", str(file))
        assert added.code == 0, added
        entries = await store.entries()
    there = [one.message async for one in shop.broker.admin.read(shop.stream)]
    assert len(entries) == len(there) == 6
    for entry, message in zip(entries[:5], there, strict=False):
        assert entry.message.subject == message.subject
        assert entry.message.payload == message.payload
        there_too = {k: v for k, v in message.headers.items() if not k.startswith("Nats-Batch")}
        assert dict(entry.message.headers) == there_too
        assert entry.key == message.key
    mixed = await shop.run("replay", shop.stream, "--output", str(tmp_path / "rules.json"))
    assert (mixed.code, "is no file of a replay" in mixed.err) == (2, True)


@pytest.mark.seaway_since("2.14", "setting a durable back")
async def test_a_durable_is_set_back_paused_and_let_go_on(shop: Shop) -> None:
    await shop.publish()
    await shop.handled()
    names = (shop.stream, shop.durable)
    dry = await shop.run("consumer", "reset", *names, "--to", "5", "--dry-run", "--json")
    found = json.loads(dry.out)
    assert (found["again"], found["skipped"], found["handled"]) == (EVENTS - 4, EVENTS - 4, 0)
    assert found["done"] is False
    async with shop.store.transaction() as tx:
        await tx.handle.execute(
            "DELETE FROM seaway_inbox WHERE event_id IN "
            "(SELECT event_id FROM seaway_inbox ORDER BY event_id LIMIT 7)"
        )
    done = await shop.run("consumer", "reset", shop.durable, "--to", "5", "--yes", "--by", "ann")
    assert done.code == 0, done
    assert "  17 the inbox skips" in done.err
    assert "  3 the handlers are called with" in done.err
    await shop.handled()
    bills = await shop.bills()
    assert [bills[amount] for amount in range(8)] == [1, 1, 1, 1, 2, 2, 2, 1]
    paused = await shop.run("consumer", "pause", *names, "--for", "1h", "--yes")
    assert paused.code == 0, paused
    info = await shop.broker.admin.consumer(*names)
    assert info is not None
    assert info.paused_until is not None
    resumed = await shop.run("consumer", "resume", shop.durable, "--json")
    assert json.loads(resumed.out)["was_paused"] is True
    info = await shop.broker.admin.consumer(*names)
    assert info is not None
    assert info.paused_until is None
    actions = [one.action for one in await shop.store.log(limit=3)]
    assert actions == ["consumer resumed", "consumer paused", "consumer reset"]
