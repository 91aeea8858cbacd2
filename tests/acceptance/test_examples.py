"""The examples as a user runs them: a real server, a SQLite file, the command line, processes."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from seaway.embedded.process import free_port, reachable
from shell import SEAWAY, Shell

if TYPE_CHECKING:
    from seaway.embedded.nats_server import NatsServer

pytestmark = pytest.mark.server

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = [*SEAWAY, "run", "case_service:app"]
TASKS = "SELECT what FROM tasks ORDER BY rowid"


@pytest.fixture
def shell(tmp_path: Path, nats_server_own: NatsServer) -> Shell:
    """A folder with the examples in it, and a server of its own."""
    for file in (*EXAMPLES.glob("*.py"), EXAMPLES / "seaway.yaml"):
        shutil.copy(file, tmp_path)
    shell = Shell(tmp_path, nats_server_own.url)
    shell.seaway("topology", "apply")
    shell.seaway("db", "upgrade")
    return shell


def test_the_example_handles_each_case_exactly_once_and_mends_the_bad_one(shell: Shell) -> None:
    shell.run(sys.executable, "case_service.py", "Broken window", "Lost key", "")
    assert shell.json("outbox", "status")["count"] == 3

    with shell.running(*RUN):
        shell.until(lambda: len(shell.rows(TASKS)) == 2, "two tasks")
        shell.until(lambda: len(shell.json("dlq", "ls")) == 1, "one dead letter")
        shell.seaway("check", "--sample", "0", code=1)

        fixed = shell.folder / "fixed.json"
        fixed.write_text('{"case_id": "the-third", "title": "Stuck door"}')
        shell.seaway("dlq", "redrive", "SEA_DLQ:1", "--payload", "fixed.json")
        shell.until(lambda: len(shell.rows(TASKS)) == 3, "the mended one")
        assert shell.json("dlq", "ls") == []
        shell.until(
            lambda: (
                shell.json("consumer", "info", "SEA_EVENTS", "case_mgmt__from_sea")[
                    "num_ack_pending"
                ]
                == 0
            ),
            "everything acknowledged",
        )
        shell.seaway("check", "--sample", "0")

    assert shell.rows(TASKS) == [
        ("look into: Broken window",),
        ("look into: Lost key",),
        ("look into: Stuck door",),
    ]
    assert shell.json("outbox", "status")["count"] == 0
    assert shell.json("stream", "info", "SEA_EVENTS")["state"]["messages"] == 3


def test_the_example_goes_on_where_a_killed_process_left_off(shell: Shell) -> None:
    titles = [f"case {number}" for number in range(200)]
    shell.run(sys.executable, "case_service.py", *titles)
    counted = "SELECT count(*) FROM tasks"

    with shell.running(*RUN, ends_by=signal.SIGKILL):
        shell.until(lambda: shell.rows(counted)[0][0] >= 1, "the first task")
    with shell.running(*RUN):
        shell.until(lambda: shell.rows(counted)[0][0] >= len(titles), "every task")

    expected = sorted((f"look into: {title}",) for title in titles)
    assert sorted(shell.rows("SELECT what FROM tasks")) == expected


def test_an_application_in_a_plain_script(shell: Shell) -> None:
    shell.run(sys.executable, "case_service.py", "Broken window", "Lost key", "")
    with shell.running(sys.executable, "case_worker.py"):
        shell.until(lambda: len(shell.said().splitlines()) == 4, "three outcomes and a letter")
    # The script sets up no logging, so what is wrong comes by itself.
    outcomes = [line for line in shell.said().splitlines() if "is a dead letter" not in line]
    assert sorted(outcomes) == [
        "dead_lettered sea.event.case_opened.v1",
        "handled sea.event.case_opened.v1",
        "handled sea.event.case_opened.v1",
    ]
    assert shell.rows(TASKS) == [("look into: Broken window",), ("look into: Lost key",)]


def ask(port: int, path: str, **body: str) -> Any:
    """What the web application answers: to a POST, where there is something to say."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
def test_requests_and_handlers_in_one_web_application(shell: Shell, framework: str) -> None:
    port = free_port()
    if framework == "fastapi":
        shell.run(sys.executable, "case_orm.py")
    serve = [sys.executable, "-m", "uvicorn", f"case_api_{framework}:api", "--port", str(port)]
    with shell.running(*serve, ends_by=signal.SIGINT, code=0):
        shell.until(lambda: reachable(port), "requests are taken")
        ids = [ask(port, "/cases", title=title)["id"] for title in ("Broken window", "Lost key")]
        paths = [f"/cases/{case_id}/tasks" for case_id in ids]
        shell.until(lambda: all(ask(port, path) for path in paths), "a task for each")
        assert [ask(port, path) for path in paths] == [
            ["look into: Broken window"],
            ["look into: Lost key"],
        ]
    assert "Application shutdown complete" in shell.said()
    assert shell.json("outbox", "status")["count"] == 0
    durable = shell.json("consumer", "info", "SEA_EVENTS", "case_mgmt__from_sea")
    assert (durable["num_pending"], durable["num_ack_pending"]) == (0, 0)
    assert durable["delivered"]["consumer_seq"] == 2


def test_requests_write_and_a_process_beside_them_handles(shell: Shell) -> None:
    port = free_port()
    shell.run(sys.executable, "case_orm.py")
    web = [sys.executable, "-m", "flask", "--app", "case_api_flask", "run", "--port", str(port)]
    handle = [*SEAWAY, "run", "case_api_flask:app"]
    with shell.running(*web, ends_by=signal.SIGINT, code=0), shell.running(*handle):
        shell.until(lambda: reachable(port), "requests are taken")
        ids = [ask(port, "/cases", title=title)["id"] for title in ("Broken window", "Lost key")]
        paths = [f"/cases/{case_id}/tasks" for case_id in ids]
        shell.until(lambda: all(ask(port, path) for path in paths), "a task for each")
        assert [ask(port, path) for path in paths] == [
            ["look into: Broken window"],
            ["look into: Lost key"],
        ]
    assert shell.json("outbox", "status")["count"] == 0
