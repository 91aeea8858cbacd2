"""``seaway trace`` as a person uses it, on a real server and both kinds of database."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway.app import Seaway
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
    made = Shell(tmp_path, nats_server.url)
    url = f"sqlite:///{tmp_path}/trace.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    durable = f"billing__from_{context_name}"
    content = {
        "nats": {"url": nats_server.url},
        "database": url,
        "contexts": [context_name],
        "profile": "development",
        "profiles": {"development": {"replicas": 1}},
        "consumers": [{"stream": f"{context_name.upper()}_EVENTS", "durable": durable}],
    }
    (tmp_path / "seaway.yaml").write_text(json.dumps(content))
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
    unknown = shell.ended(*SEAWAY, "trace", new_event_id(), code=1).stderr
    assert "is not known to the database, nats://" in unknown
    shell.seaway("trace", " \t", code=2)
    away = ("--server", NOWHERE, "--database", "sqlite:///none.db")
    assert "no station" in shell.ended(*SEAWAY, *away, "trace", first, code=3).stderr
