"""``seaway trace`` as a person uses it, on a real server and both kinds of database."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway.app import Seaway
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.consumer import Delivery
from seaway.contracts import Message
from seaway.embedded.nats_server import NatsServer
from seaway.errors import Poison
from seaway.events import RawEvent, new_event_id
from shell import SEAWAY, Shell

NOWHERE = "nats://127.0.0.1:1"


@pytest.fixture(params=["sqlite", "postgres"])
def shell(
    request: pytest.FixtureRequest, tmp_path: Path, nats_server: NatsServer, context_name: str
) -> Shell:
    url = f"sqlite:///{tmp_path}/trace.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    return opened(tmp_path, nats_server, context_name, url)


def opened(
    folder: Path, server: NatsServer, context_name: str, url: str, *, taken: str = ">"
) -> Shell:
    """With tables, streams and a durable. ``taken``: events that their stream takes."""
    made = Shell(folder, server.url)
    stream, durable = f"{context_name.upper()}_EVENTS", f"billing__from_{context_name}"
    content = {
        "nats": {"url": server.url},
        "database": url,
        "streams": [
            {
                "name": f"{context_name.upper()}_EVENTS",
                "subjects": [f"{context_name}.event.{taken}"],
            }
        ],
        "profile": "development",
        "profiles": {"development": {"replicas": 1}},
        "consumers": [{"stream": stream, "durable": durable}],
    }
    (folder / "seaway.yaml").write_text(json.dumps(content))
    made.seaway("db", "upgrade")
    made.seaway("topology", "apply")
    return made


async def lived(shell: Shell, context: str) -> tuple[str, str]:
    """An event that is handled and leads to another, which becomes a letter; a foreign event of
    their chain. Both ids."""
    app = Seaway.from_config(shell.folder / "seaway.yaml")
    billing = app.consumer("billing", from_context=context)
    made: list[str] = []

    @billing.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if "order_placed" in event.subject:
            made.extend(await delivery.add(RawEvent(f"{context}.event.invoice_made.v1", b"{}")))
        elif "invoice_made" in event.subject:
            raise Poison("no address")

    async with app:
        store = await app.open_store()
        async with store.transaction() as tx:
            added: Any = app.outbox.add(
                tx.handle, RawEvent(f"{context}.event.order_placed.v1", b"{}", key="o7")
            )
            (first,) = added if isinstance(added, list) else await added
        foreign = Message(
            f"{context}.event.order_seen.v1",
            b"{}",
            {"X-Correlation-Id": first, "X-Causation-Id": "\u0001", "X-Event-Id": "seen-1"},
        )
        await app.broker.publish(
            f"{context.upper()}_EVENTS", [foreign], timeout=timedelta(seconds=10)
        )
        running = asyncio.create_task(app.run())
        try:
            async with asyncio.timeout(60):
                while not (made and await app.dead_letters.list(payloads=False)):
                    await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    return first, made[0]


def test_what_became_of_an_event(shell: Shell, context_name: str) -> None:
    first, second = asyncio.run(lived(shell, context_name))
    for asked in (second, first, f"{context_name.upper()}_DLQ:1"):
        found = shell.json("trace", asked)
        assert found["away"] == {}
        members = {one["event_id"]: one for one in found["members"]}
        assert members.keys() == {first, second, "seen-1"}
        assert members[second]["parent"] == first
        whats = {one["what"]: one for one in members[first]["steps"]}
        assert {"written", "published", "handled"} <= whats.keys()
        assert whats["handled"]["where"] == f"billing__from_{context_name}"
        assert members[second]["state"] == "dead letter"
        [letter] = [one for one in members[second]["steps"] if one["what"] == "dead letter"]
        assert "no address" in letter["detail"]
        assert members["seen-1"]["steps"][0]["what"] == "published"
    text = shell.seaway("trace", first, "--svg", "trace.svg")
    assert f"{first}  <- asked for" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert (shell.folder / "trace.svg").read_text().startswith("<svg ")

    # Half of the stations away: what is known is told, and what is not is named.
    without = json.loads(shell.seaway("--server", NOWHERE, "trace", first, "--json"))
    assert list(without["away"]) == [NOWHERE]
    assert {one["event_id"] for one in without["members"]} == {first, second}
    alone = shell.json("--database", "sqlite:///none.db", "trace", first)
    assert list(alone["away"]) == ["the database"]
    assert {one["event_id"] for one in alone["members"]} == {first, second, "seen-1"}
    assert not (shell.folder / "none.db").exists()

    # Nobody knows it; it can be none; nobody answers.
    stream = f"{context_name.upper()}_EVENTS"
    unknown = shell.ended(*SEAWAY, "trace", new_event_id(), code=1).stderr
    assert "is not known to the database, nats://" in unknown
    assert re.search(rf"searched: {stream}, [0-9]+ headers? of 20", unknown)
    assert f"searched: {stream.replace('EVENTS', 'DLQ')}, 1 header\n" in unknown
    unknown = shell.ended(*SEAWAY, "trace", "order 7", code=1).stderr
    assert f"not searched: {stream}: of when is not known" in unknown
    unknown = shell.ended(*SEAWAY, "trace", f"{stream}:99", code=1).stderr
    assert f"{stream} holds nothing in its place 99" in unknown
    elsewhere = ("--server", NOWHERE, "trace", new_event_id())
    assert f"not searched: {stream}, " in shell.ended(*SEAWAY, *elsewhere, code=1).stderr
    shell.seaway("trace", " \t", code=2)
    away = ("--server", NOWHERE, "--database", "sqlite:///none.db")
    assert "no station" in shell.ended(*SEAWAY, *away, "trace", first, code=3).stderr


async def at_work(
    shell: Shell,
    context: str,
    poison: Collection[str],
    ended: Callable[[Seaway, Sequence[str | None]], Awaitable[bool]],
) -> None:
    """A process whose consumer parks what is behind those of the ``poison`` keys, until
    ``ended``, which is told of which keys the events took effect."""
    app, stop = Seaway.from_config(shell.folder / "seaway.yaml"), asyncio.Event()
    handled: list[str | None] = []
    billing = app.consumer("billing", from_context=context, on_failure="park")

    @billing.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        if delivery.key in poison:
            raise Poison("no address")
        handled.append(delivery.key)

    async with app:
        running = asyncio.create_task(app.run(stop))
        try:
            async with asyncio.timeout(60):
                while not await ended(app, handled):
                    await asyncio.sleep(0.02)
        finally:
            stop.set()
            await running


def test_what_was_parked_discarded_redriven_and_healed(
    tmp_path: Path, nats_server: NatsServer, context_name: str
) -> None:
    context, database = context_name, f"sqlite:///{tmp_path}/trace.db"
    # There is a subject that no stream takes.
    shell = opened(tmp_path, nats_server, context, database, taken="order_placed.v1")
    events, queue = f"{context.upper()}_EVENTS", f"{context.upper()}_DLQ"
    ids = {name: new_event_id() for name in (*"abcdef", "odd", "behind odd")}
    keys, names = {"b": "a", "behind odd": "odd"}, {"odd": "order_seen"}
    lines = [
        {
            "subject": f"{context}.event.{names.get(name, 'order_placed')}.v1",
            "payload": {},
            "key": keys.get(name, name),
            "id": event_id,
            "correlation_id": "order 7",
        }
        for name, event_id in ids.items()
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shell.seaway("outbox", "add", "events.jsonl", "--any-subject")

    async def buried(app: Seaway, handled: Sequence[str | None]) -> bool:
        letters = await app.dead_letters.list(payloads=False)
        return len(letters) == 5 and "f" in handled

    asyncio.run(at_work(shell, context, set("acde"), buried))
    shell.seaway("dlq", "discard", ids["c"], "--yes")
    shell.seaway("dlq", "redrive", ids["d"])

    async def redriven(app: Seaway, handled: Sequence[str | None]) -> bool:
        return "d" in handled

    asyncio.run(at_work(shell, context, set("a"), redriven))
    shell.seaway("dlq", "redrive", ids["e"])
    asyncio.run(forget(nats_server, events))
    shell.seaway("topology", "apply")
    shell.seaway("relay", "--drain", code=1)

    found = shell.json("trace", "order 7")
    names = {event_id: name for name, event_id in ids.items()}
    members = {names[one["event_id"]]: one for one in found["members"]}
    durable, steps = f"billing__from_{context}", {name: dict[str, Any]() for name in ids}
    for name, member in members.items():
        steps[name] = {one["what"]: one for one in member["steps"]}
        assert [one["clocks_differ"] for one in member["steps"]] == [False] * len(member["steps"])
    whats = {name: (list(steps[name]), member["state"]) for name, member in members.items()}
    assert whats == {
        "a": (["written", "published", "dead letter", "healed"], "dead letter"),
        "b": (["written", "published", "waits", "healed"], "waits"),
        "c": (["written", "published", "was a letter", "discarded", "healed"], "discarded"),
        "d": (["written", "published", "was a letter", "handled", "healed"], "handled"),
        "e": (["written", "published", "was a letter", "redriven", "healed"], "redriven"),
        "f": (["written", "published", "handled", "healed"], "handled"),
        "odd": (["written", "parked"], "parked"),
        "behind odd": (["written", "in the outbox"], "in the outbox"),
    }
    assert steps["b"]["waits"]["detail"].endswith(f" behind {ids['a']}")
    assert steps["c"]["was a letter"]["detail"] == "poison"
    assert steps["c"]["discarded"]["where"] == durable
    assert steps["e"]["redriven"]["detail"] == f"{context.upper()}_REDRIVE:2"
    assert ids["odd"] in steps["behind odd"]["in the outbox"]["detail"]
    assert steps["f"]["published"]["detail"] == "its stream has lost that place"
    places = [steps["f"][one]["where"] for one in ("published", "healed")]
    assert all(one.startswith(f"{events}:") for one in places)
    assert list(found["streams"]) == [events, queue, f"{context.upper()}_REDRIVE"]
    text = shell.seaway("trace", "order 7", "--all", "--svg", "all.svg")
    assert all(len(line) <= 80 for line in text.splitlines())


async def forget(server: NatsServer, stream: str) -> None:
    """As a server does that lost its store."""
    broker = await connect(NatsSettings(url=server.url))
    assert await broker.admin.delete_stream(stream)
    await broker.close()
