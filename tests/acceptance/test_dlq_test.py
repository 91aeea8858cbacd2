"""``seaway dlq test`` as a user has it: real letters become tests that fail, and then pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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
BROUGHT_ABOUT = """
import asyncio
import json
import sys
from datetime import timedelta

from cases_app import app
from seaway import topology
from seaway.contracts import Message
from seaway.stores import open_store

SUBJECT = "sea.event.case_opened.v1"


async def main(wanted):
    store = await open_store(app.settings.database)
    await store.schema.upgrade()
    await store.close()
    async with app:
        admin, stop = app.broker.admin, asyncio.Event()
        desired = topology.desired(app.settings)
        await topology.apply(topology.plan(desired, await topology.actual(admin, desired)), admin)
        running = asyncio.create_task(app.run(stop))
        messages = [Message(SUBJECT, body.encode(), headers) for body, headers in wanted]
        await app.broker.publish("SEA_EVENTS", messages, timeout=timedelta(seconds=30))
        while len(found := await app.dead_letters.list()) < 4:
            await asyncio.sleep(0.05)
        [slow] = [one for one in found if one.key == "case-2"]
        await app.dead_letters.redrive(slow)
        while all(one.stream != "SEA_REDRIVE" for one in await app.dead_letters.list()):
            await asyncio.sleep(0.05)
        stop.set()
        await running
        for one in await app.dead_letters.list():
            made = await app.dead_letters.as_test(one)
            assert not made.notes
            with open(f"test_{one.key[-1]}_{one.reason}.py", "w") as file:
                file.write(made.source)
            print(one.key, one.reason, one.id)


asyncio.run(main(json.load(sys.stdin)))
"""
EVENTS = (
    ("case-1", '{"case_id":"case-1","title":"","owner":{"name":"Jane Doe","born":"1999-12-31"}}'),
    ("case-2", '{"case_id":"case-2","title":"slow"}'),
    ("case-3", '{"case_id": "case-3", "title": 7}'),
    ("case-1", '{"case_id":"case-1","title":"later"}'),
)
COMMAND = (sys.executable, "-m", "seaway", "dlq", "test", "--app", "cases_app:app")
BESIDE = "async def test_before() -> None: ...\n"
FILES = {
    "cases_app.py": APP,
    "seaway.yaml": SETTINGS,
    "conftest.py": CONFTEST,
    "test_0_beside.py": BESIDE,
    "test_9_beside.py": BESIDE,
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer) -> Shell:
    """A folder with an application, its four letters, one of which was redriven, and their tests as
    Python makes them."""
    made = Shell(tmp_path_factory.mktemp("letters"), nats_server.url)
    for name, text in FILES.items():
        (made.folder / name).write_text(text)
    return made


@pytest.fixture(scope="module")
def letters(shell: Shell) -> dict[tuple[str, str], str]:
    """The ids of these letters, by key and reason."""
    wanted = [
        (body, {"Nats-Msg-Id": f"id-{at}", "X-Ordering-Key": key, "X-Tenant": HOSTILE})
        for at, (key, body) in enumerate(EVENTS)
    ]
    done = subprocess.run(
        [sys.executable, "-c", BROUGHT_ABOUT],
        cwd=shell.folder,
        env=shell.environment,
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return {(key, reason): name for key, reason, name in rows}


def pytest_of(shell: Shell, *arguments: str, mended: bool, code: int) -> str:
    environment, shell.environment = shell.environment, {**shell.environment}
    if mended:
        shell.environment["MENDED"] = "1"
    try:
        options = ("-q", "-W", "error", "-p", "no:cacheprovider", "--tb", "short")
        return shell.run(sys.executable, "-m", "pytest", *options, *arguments, code=code)
    finally:
        shell.environment = environment


def test_letters_fail_as_they_did_and_pass_once_mended(
    shell: Shell, letters: dict[tuple[str, str], str]
) -> None:
    expected = {
        ("case-1", "poison"): "Poison: no title for Aaaa Aaa",
        ("case-2", "exhausted"): "RuntimeError: try 3, redriven True",
        ("case-3", "undecodable"): "DecodeError: sea.event.case_opened.v1: title: Input should be",
        ("case-1", "parked"): "Poison: no title for Jane Doe",
    }
    assert letters.keys() == expected.keys()
    poison, parked = letters["case-1", "poison"], letters["case-1", "parked"]
    files = {known: f"test_{known[0][-1]}_{known[1]}.py" for known in letters}
    shell.folder.joinpath(files["case-1", "poison"]).unlink()
    hidden = ("--redact", "owner.name", "--redact", "owner.born")
    wanted = (poison, *hidden, "--output", files["case-1", "poison"])
    assert "Run it: pytest test_1_poison.py" in shell.ended(*COMMAND, *wanted).stderr
    texts = {known: (shell.folder / one).read_text() for known, one in files.items()}
    assert shell.run(*COMMAND, parked) == texts["case-1", "parked"]
    for known, text in texts.items():
        said = " ".join(text.split())
        assert "The inbox has no effects of it." in said
        assert ("Jane" in said) == (known == ("case-1", "parked"))
        assert (f"Behind it waits 1 event of its key: {parked}." in said) == ("poison" in known)
        behind = f"It waits behind {poison}: seaway.errors.Poison: no title for Jane Doe."
        assert (behind in said) == ("parked" in known)

    mode = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    said = pytest_of(shell, *mode, mended=False, code=1)  # With async tests beside them.
    for error in expected.values():
        assert error in said
    assert "4 failed, 2 passed" in said
    said = pytest_of(shell, "-p", "no:asyncio", *files.values(), mended=True, code=0)
    assert "4 passed" in said
    assert not (shell.folder / "owned").exists()
    ruff = (str(Path(sys.executable).with_name("ruff")), "check", "--isolated", "--select")
    shell.run(*ruff, "E,F,W,I,UP,B,C4,SIM,RUF,PT,ANN,S,Q,N", *files.values())
    shell.run(ruff[0], "format", "--isolated", "--check", *files.values())


def test_what_cannot_become_a_test_is_said(
    shell: Shell, letters: dict[tuple[str, str], str]
) -> None:
    known = letters["case-3", "undecodable"]
    there = shell.folder / "there.py"
    there.write_text("")
    nobody = [*COMMAND[:-2], known]
    for command, said in (
        (nobody, "name the application: --app module:app"),
        ([*COMMAND, known, "--output", there.name], "is there already"),
    ):
        done = shell.ended(*command, code=2)
        assert said in done.stderr, done.stderr
        assert not done.stdout
    assert not there.read_text()
