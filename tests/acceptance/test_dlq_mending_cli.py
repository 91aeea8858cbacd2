"""``seaway dlq redrive --transform``, with ``--preview`` and ``--try``, and ``seaway dlq edit``, as
a person has them."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import settings_from_mapping
from seaway.contracts import Message, Stored
from seaway.dead_letters import DeadLetters, Letter
from seaway.embedded.nats_server import NatsServer
from seaway.errors import Poison
from seaway.stores import open_configured
from shell import SEAWAY, Shell

pytestmark = pytest.mark.server
TIMEOUT = timedelta(seconds=5)

SHOP = """
from dataclasses import dataclass
from seaway import Delivery, Seaway, event

app = Seaway.from_config("seaway.yaml")
books = app.consumer("books", from_context="{context}")

@event(context="{context}", version=1)
@dataclass
class Paid:
    order: str
    amount: float

@books.handler(Paid)
async def book(event: Paid, delivery: Delivery) -> None:
    await delivery.tx.execute("INSERT INTO booked VALUES (?)", (event.order,))
    if event.order == "three":
        raise LookupError("no account")
"""
MENDS = """
from seaway import Refuse

def to_numbers(payload, headers):
    if payload["order"] == "two":
        raise Refuse("nobody\\x1b[2J knows it")
    payload["amount"] = float(payload["amount"].replace(",", "."))
    return payload
"""
EDITOR = """
import pathlib, sys
file = pathlib.Path(sys.argv[1])
assert file.parent.stat().st_mode & 0o077 == 0
file.write_text(file.read_text().replace({old!r}, {new!r}))
"""


class Desk:
    """A folder with an application whose letters cannot be read, and ``seaway`` in it."""

    def __init__(self, broker: JetStreamBroker, context: str, url: str, folder: Path) -> None:
        self.broker, self.context, self.url, self.folder = broker, context, url, folder
        self.queue, self.durable = f"{context.upper()}_DLQ", f"books__from_{context}"
        self.letters = DeadLetters(broker)
        self.mapping = {
            "nats": {"url": url},
            "database": f"sqlite:///{folder / 'shop.db'}",
            "streams": [{"name": f"{context.upper()}_EVENTS", "replicas": 1, "storage": "memory"}],
            "consumers": [{"stream": f"{context.upper()}_EVENTS", "durable": self.durable}],
        }
        (folder / "seaway.yaml").write_text(json.dumps(self.mapping))
        (folder / "shop.py").write_text(SHOP.format(context=context))
        (folder / "mends.py").write_text(MENDS)

    async def open(self) -> None:
        settings = settings_from_mapping(self.mapping, environ={})
        wanted, admin = topology.desired(settings), self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)
        store = await open_configured(settings)
        await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE booked (name TEXT)")
        await store.close()

    async def bury(self, *orders: str) -> None:
        stream = f"{self.context.upper()}_EVENTS"
        messages = [
            Message(
                f"{self.context}.event.paid.v1",
                json.dumps({"order": one, "amount": "1,50"}).encode(),
                {"Nats-Msg-Id": f"e-{one}"},
            )
            for one in orders
        ]
        outcomes = await self.broker.publish(stream, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes)
        await self.fail(stream, len(orders))

    async def fail(self, stream: str, count: int) -> None:
        async with self.broker.subscribe(stream, self.durable) as source:
            for _ in range(count):
                [incoming] = await source.next(1, timeout=TIMEOUT)
                await self.letters.store(incoming, reason="poison", error=Poison("unread"))
                assert all(await source.ack(incoming))

    async def here(self) -> dict[str, Letter]:
        found = await self.letters.list()
        return {one.event_id: one for one in found if one.stored.stream == self.queue}

    async def run(
        self, *arguments: str, edits: tuple[str, str] = ("", ""), say: str = ""
    ) -> CompletedProcess[str]:
        script = self.folder / f"editor{edits[1]!r}.py"
        script.write_text(EDITOR.format(old=edits[0], new=edits[1]))
        shell = Shell(self.folder, self.url)
        shell.environment |= {"EDITOR": shlex.join([sys.executable, str(script)]), "VISUAL": ""}
        command = (*SEAWAY, "dlq", *arguments)
        ended = await asyncio.to_thread(shell.ended, *command, code=None, say=say)
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended

    async def json(self, *arguments: str) -> Any:
        return json.loads((await self.run(*arguments, "--json")).stdout)


@pytest.fixture
async def desk(
    broker: JetStreamBroker, nats_server: NatsServer, context_name: str, tmp_path: Path
) -> Desk:
    made = Desk(broker, context_name, nats_server.url, tmp_path)
    await made.open()
    return made


MEND = ("redrive", "--all", "--transform", "mends:to_numbers", "--app", "shop:app")


async def test_letters_are_mended_by_a_function(desk: Desk) -> None:
    await desk.bury("one", "two", "three")
    subject, queue, durable = f"{desk.context}.event.paid.v1", desk.queue, desk.durable
    preview, tried, told = await asyncio.gather(
        desk.run(*MEND, "--preview"), desk.run(*MEND, "--try"), desk.json(*MEND, "--dry-run")
    )
    assert preview.stdout.splitlines() == [
        f"2 letters of {subject} would be sent, changed",
        "  changed amount: string -> number",
        f"  {queue}:1, and 1 more",
        '    - amount: "1,50"',
        "    + amount: 1.5",
        "",
        f"1 letter of {subject} stay: refused",
        "  nobody [2J knows it",
        f"  {queue}:2",
    ]
    assert preview.stderr == "2 letters would be sent, 1 would stay. Nothing was sent.\n"
    assert (preview.returncode, [one["becomes"] for one in told]) == (1, ["changed", "refused"])
    assert tried.stdout.splitlines() == [
        f"1 letter of {subject} would succeed in {durable}",
        f"  {queue}:1",
        f"1 letter of {subject} would not be sent in {durable}",
        "  nobody [2J knows it",
        f"  {queue}:2",
        f"1 letter of {subject} would fail in {durable}",
        f"  LookupError: no account ({desk.folder}/shop.py:18)",
        f"  {queue}:3",
    ]
    assert tried.stderr.startswith(
        "Trying: every transaction is rolled back. What handlers do outsid"
    )
    assert tried.stderr.endswith(
        "1 of 3 letters would succeed. Nothing was sent, acknowledged or kept.\n"
    )
    assert tried.returncode == 1
    assert len(await desk.here()) == 3
    done = await desk.run(*MEND)
    assert (done.returncode, list(await desk.here())) == (1, ["e-two"])
    assert "stays: " in done.stderr
    assert "mends:to_numbers: nobody" in done.stderr
    # It fails again: what it was is shown.
    await desk.fail(f"{desk.context.upper()}_REDRIVE", 2)
    shown, details = await asyncio.gather(
        desk.run("show", "e-one"), desk.json("show", f"{queue}:5")
    )
    assert f"mended: the event lies in {desk.context.upper()}_EVENTS:1 as it was" in shown.stdout
    assert shown.stdout.endswith('  - amount: "1,50"\n  + amount: 1.5\n')
    assert details["mended"]["event_place"].startswith(f"{desk.context.upper()}_EVENTS:")
    log = await desk.json("log")
    [entry] = log
    assert entry["detail"]["transform"] == "mends:to_numbers"
    assert entry["detail"]["mended"][0]["changes"] == ["changed amount: string -> number"]


async def test_one_letter_is_mended_in_an_editor(desk: Desk) -> None:
    await desk.bury("one")
    edit = ("edit", "e-one", "--app", "shop:app")
    same, bad = await asyncio.gather(
        desk.run(*edit), desk.run("edit", "e-one", edits=("1,50", "2,50"))
    )
    assert same.returncode == 1
    assert f"nothing was changed: {desk.queue}:1 stays" in same.stderr
    assert (bad.returncode, "nobody answers here" in bad.stderr) == (1, True)
    assert "Not checked: nothing here knows" in bad.stderr
    kept = Path(bad.stderr.partition("What you wrote is in ")[2].split("\n")[0].rstrip("."))
    assert '"amount": "2,50"' in kept.read_text()
    invalid = await desk.run(*edit, edits=("1,50", "2,50"), say="n\n")
    assert invalid.returncode == 1
    assert "amount: Input should be a valid number" in invalid.stderr
    assert list(await desk.here()) == ["e-one"]
    done = await desk.run(*edit, "--by", "ann", edits=('"1,50"', "2.50"), say="y\n")
    assert (done.returncode, done.stdout.rstrip()) == (0, '- amount: "1,50"\n+ amount: 2.5'), done
    assert f"Redrive {desk.queue}:1 to {desk.durable} with this payload?" in done.stderr
    assert await desk.here() == {}
    async with desk.broker.subscribe(f"{desk.context.upper()}_REDRIVE", desk.durable) as source:
        [incoming] = await source.next(1, timeout=TIMEOUT)
    assert incoming.message.payload == b'{"order":"one","amount":2.5}'
    [entry] = await desk.json("log", "e-one")
    assert (entry["action"], entry["by"]) == ("edited", "ann")
    assert entry["detail"]["changes"] == ["changed amount: string -> number"]


async def test_what_cannot_be_done_is_said(desk: Desk) -> None:
    await desk.bury("one")
    cases = {
        ("--transform", "mends:nothing"): "'mends:nothing' is not there",
        ("--preview",): "--preview shows what --transform changes",
        ("--try",): "--try needs the handlers (name the application: --app module:app)",
    }
    ended = await asyncio.gather(*(desk.run("redrive", "--all", *one) for one in cases))
    for case, one in zip(cases, ended, strict=True):
        assert (one.returncode, cases[case] in one.stderr) == (2, True), (case, one)
    assert len(await desk.here()) == 1
