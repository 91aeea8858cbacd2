"""The example as a user runs it: a real server, a SQLite file, the command line, processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from seaway.embedded.nats_server import NatsServer

pytestmark = pytest.mark.server

EXAMPLE = Path(__file__).parents[2] / "examples"
SEAWAY = [sys.executable, "-m", "seaway"]
DEADLINE_SECONDS = 30.0


class Shell:
    """A user's terminal in a folder of their own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "SEAWAY_"))}
        self.environment = ours | {"NATS_URL": url}

    def seaway(self, *arguments: str, code: int = 0) -> str:
        """Run ``seaway`` to its end; stdout."""
        return self.run(*SEAWAY, *arguments, code=code)

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.seaway(*arguments, "--json"))

    @contextmanager
    def running(self, ends_by: signal.Signals = signal.SIGTERM) -> Iterator[None]:
        """``seaway run case_service:app``; SIGTERM must end it with 0."""
        with (self.folder / "run.log").open("ab") as log:
            process = subprocess.Popen(
                [*SEAWAY, "run", "case_service:app"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
            try:
                yield
                process.send_signal(ends_by)
                code = process.wait(DEADLINE_SECONDS)
                assert code == (0 if ends_by == signal.SIGTERM else -ends_by), self.said()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def said(self) -> str:
        return (self.folder / "run.log").read_text()

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "cases.db")) as db:
            return db.execute(query).fetchall()

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Poll until ``holds``; fail with what the application said."""
        ends = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            assert time.monotonic() < ends, f"not within the deadline: {what}\n{self.said()}"
            time.sleep(0.05)


@pytest.fixture
def shell(tmp_path: Path, nats_server_own: NatsServer) -> Shell:
    """A folder with the example in it, and a server of its own."""
    for name in ("case_service.py", "seaway.yaml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    shell = Shell(tmp_path, nats_server_own.url)
    shell.seaway("topology", "apply")
    shell.seaway("db", "upgrade")
    return shell


def test_the_example_handles_each_case_exactly_once_and_mends_the_bad_one(shell: Shell) -> None:
    shell.run(sys.executable, "case_service.py", "Broken window", "Lost key", "")
    assert shell.json("outbox", "status")["count"] == 3
    tasks = "SELECT what FROM tasks ORDER BY rowid"

    with shell.running():
        shell.until(lambda: len(shell.rows(tasks)) == 2, "two tasks")
        shell.until(lambda: len(shell.json("dlq", "ls")) == 1, "one dead letter")
        shell.seaway("check", "--sample", "0", code=1)

        fixed = shell.folder / "fixed.json"
        fixed.write_text('{"case_id": "the-third", "title": "Stuck door"}')
        shell.seaway("dlq", "redrive", "SEA_DLQ:1", "--payload", "fixed.json")
        shell.until(lambda: len(shell.rows(tasks)) == 3, "the mended one")
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

    assert shell.rows(tasks) == [
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

    with shell.running(ends_by=signal.SIGKILL):
        shell.until(lambda: shell.rows(counted)[0][0] >= 1, "the first task")
    with shell.running():
        shell.until(lambda: shell.rows(counted)[0][0] >= len(titles), "every task")

    expected = sorted((f"look into: {title}",) for title in titles)
    assert sorted(shell.rows("SELECT what FROM tasks")) == expected
