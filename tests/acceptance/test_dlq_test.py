"""``seaway dlq test`` as a user has it: real letters become tests that fail, and then pass."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.contracts import Broker, Message, Stored
from seaway.dead_letters import DeadLetters, Letter
from shell import Shell

if TYPE_CHECKING:
    from seaway.embedded.nats_server import NatsServer

pytestmark = pytest.mark.server

HOSTILE = '\\", """); import os; os.mkdir("owned") #\u202e'
APP = """
import os
from dataclasses import dataclass
from datetime import timedelta

from seaway import Backoff, Delivery, Poison, Seaway, event

MENDED = bool(os.environ.get("MENDED"))


@event(context="sea")
@dataclass
class CaseOpened:
    case_id: str
    title: str | int if MENDED else str
    owner: dict[str, str] | None = None


app = Seaway.from_config("seaway.yaml")
case_mgmt = app.consumer(
    "case_mgmt",
    from_context="sea",
    on_failure="park",
    retry=Backoff(timedelta(milliseconds=1), timedelta(milliseconds=2)),
)


@case_mgmt.handler(CaseOpened)
async def open_case(event: CaseOpened, delivery: Delivery) -> None:
    if not MENDED and not event.title:
        raise Poison(f"no title for {(event.owner or {}).get('name')}")
    if not MENDED and event.title == "slow":
        raise RuntimeError(f"try {delivery.deliveries}, redriven {delivery.redriven}")
    await delivery.tx.execute("INSERT INTO tasks VALUES (?, ?)", (event.case_id, str(event.title)))
"""
SETTINGS = """
contexts: [sea]
database: "sqlite:///cases.db"
streams: [{name: SEA_EVENTS, storage: memory, replicas: 1}]
consumers: [{stream: SEA_EVENTS, durable: case_mgmt__from_sea, max_deliver: 3}]
"""
CONFTEST = """
import sqlite3
from contextlib import closing

import pytest


@pytest.fixture
def seaway_database(tmp_path):
    with closing(sqlite3.connect(tmp_path / "cases.db")) as db:
        db.execute("CREATE TABLE tasks (case_id TEXT, what TEXT)")
    return f"sqlite:///{tmp_path}/cases.db"
"""
MADE = """
import asyncio
import sys

from cases_app import app


async def main():
    async with app:
        for number, name in enumerate(sys.argv[1:], 3):
            made = await app.dead_letters.as_test(await app.dead_letters.get(name))
            assert not made.notes
            with open(f"test_letter_{number}.py", "w") as file:
                file.write(made.source)


asyncio.run(main())
"""
BESIDE = "async def test_before() -> None: ...\n"
EVENTS = {
    "case-1": b'{"case_id":"case-1","title":"","owner":{"name":"Jane Doe","born":"1999-12-31"}}',
    "case-2": b'{"case_id":"case-2","title":"slow"}',
    "case-3": b'{"case_id": "case-3", "title": 7}',
}
BEHIND = b'{"case_id":"case-1","title":"later"}'


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer) -> Shell:
    """Four letters, one of which was redriven."""
    made = Shell(tmp_path_factory.mktemp("letters"), nats_server.url)
    for name, text in {"cases_app.py": APP, "seaway.yaml": SETTINGS}.items():
        (made.folder / name).write_text(text)
    made.seaway("topology", "apply")
    made.seaway("db", "upgrade")
    with made.running(sys.executable, "-m", "seaway", "run", "cases_app:app"):
        asyncio.run(brought_about(made))
    return made


async def brought_about(shell: Shell) -> None:
    async with letters_of(shell) as (broker, queue):
        subject = "sea.event.case_opened.v1"
        wanted = [*EVENTS.items(), ("case-1", BEHIND)]
        messages = [
            Message(
                *(subject, payload),
                {"Nats-Msg-Id": f"id-{at}", "X-Ordering-Key": key, "X-Tenant": HOSTILE},
            )
            for at, (key, payload) in enumerate(wanted)
        ]
        done = await broker.publish("SEA_EVENTS", messages, timeout=timedelta(seconds=30))
        assert all(isinstance(one, Stored) for one in done)
        async with asyncio.timeout(60):
            while len(found := await queue.list()) < 4:
                await asyncio.sleep(0.05)
            [slow] = [one for one in found if one.key == "case-2"]
            await queue.redrive(slow)
            while all(one.stream != "SEA_REDRIVE" for one in await queue.list()):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def letters_of(shell: Shell) -> AsyncIterator[tuple[Broker, DeadLetters]]:
    broker = await connect(NatsSettings(url=shell.environment["NATS_URL"]))
    try:
        yield broker, DeadLetters(broker)
    finally:
        await broker.close()


async def letters(shell: Shell) -> Sequence[Letter]:
    async with letters_of(shell) as (_, queue):
        return await queue.list()


def pytest_of(shell: Shell, *arguments: str, mended: bool, code: int) -> str:
    environment, shell.environment = shell.environment, {**shell.environment}
    if mended:
        shell.environment["MENDED"] = "1"
    try:
        options = ("-q", "-W", "error", "-p", "no:cacheprovider", "--tb", "short")
        return shell.run(sys.executable, "-m", "pytest", *options, *arguments, code=code)
    finally:
        shell.environment = environment


def test_letters_fail_as_they_did_and_pass_once_mended(shell: Shell) -> None:
    expected = {
        ("case-1", "poison"): "Poison: no title for Aaaa Aaa",
        ("case-2", "exhausted"): "RuntimeError: try 3, redriven True",
        ("case-3", "undecodable"): "DecodeError: sea.event.case_opened.v1: title: Input should be",
        ("case-1", "parked"): "Poison: no title for Jane Doe",
    }
    found = {(one.key, one.reason): one.id for one in asyncio.run(letters(shell))}
    assert found.keys() == expected.keys()
    poison, parked = found.pop(("case-1", "poison")), found.pop(("case-1", "parked"))
    command = (sys.executable, "-m", "seaway", "dlq", "test", "--app", "cases_app:app")
    hidden = ("--redact", "owner.name", "--redact", "owner.born", "--output", "test_letter_1.py")
    assert "test_letter_1.py" in shell.ended(*command, poison, *hidden).stderr
    (shell.folder / "test_letter_2.py").write_text(shell.run(*command, parked))
    (shell.folder / "made.py").write_text(MADE)
    shell.run(sys.executable, "made.py", *found.values())
    files = [f"test_letter_{number}.py" for number in (1, 2, 3, 4)]
    first, second, *others = [" ".join((shell.folder / one).read_text().split()) for one in files]
    assert "Jane" not in first
    assert f"Behind it waits 1 event of its key: {parked}. The inbox has no effects" in first
    assert f"It waits behind {poison}: seaway.errors.Poison: no title for Jane Doe" in second
    assert all("The inbox has no effects of it." in one for one in others)
    (shell.folder / "conftest.py").write_text(CONFTEST)
    (shell.folder / "test_beside.py").write_text(BESIDE)
    (shell.folder / "test_letter_beside.py").write_text(BESIDE)
    mode = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    said = pytest_of(shell, *mode, mended=False, code=1)
    for error in expected.values():
        assert error in said
    assert "4 failed, 2 passed" in said
    assert "4 passed" in pytest_of(shell, "-p", "no:asyncio", *files, mended=True, code=0)
    assert "6 passed" in pytest_of(shell, *mode, mended=True, code=0)
    assert not (shell.folder / "owned").exists()
    ruff = (str(Path(sys.executable).with_name("ruff")), "check", "--isolated", "--select")
    shell.run(*ruff, "E,F,W,I,UP,B,C4,SIM,RUF,PT,ANN,S,Q,N", *files)
    shell.run(ruff[0], "format", "--isolated", "--check", *files)


def test_what_cannot_become_a_test_is_said(shell: Shell) -> None:
    known = asyncio.run(letters(shell))[0].id
    (shell.folder / "there.py").write_text("")
    for arguments, code, said in (
        ((known,), 2, "name the application: --app module:app"),
        (("SEA_DLQ:99", "--app", "cases_app:app"), 1, "there is no dead letter SEA_DLQ:99"),
        ((known, "--app", "cases_app:app", "--output", "there.py"), 2, "is there already"),
    ):
        done = shell.ended(sys.executable, "-m", "seaway", "dlq", "test", *arguments, code=code)
        assert said in done.stderr, done.stderr
        assert not done.stdout
    assert not (shell.folder / "there.py").read_text()
