"""``seaway dev``: servers until a signal, and what it says of them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seaway.embedded.process import free_port, reachable
from seaway.testing.databases import Databases

pytestmark = pytest.mark.server

SEAWAY = (sys.executable, "-m", "seaway")
Dev = Callable[..., "Running"]


class Running:
    """A ``seaway dev`` that has said that it is ready."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environ = {n: v for n, v in os.environ.items() if not n.startswith(("NATS_", "SEAWAY_"))}
        self.process = subprocess.Popen(
            [*SEAWAY, "dev", "--port", "0", *arguments],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._database = "--postgres" in arguments
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        while self.said and not self._whole():
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line

    def _whole(self) -> bool:
        if self.said.startswith("{"):
            return self.said.endswith("}\n")
        return ("SEAWAY_DATABASE_URL" if self._database else "NATS_URL") in self.said

    @property
    def json(self) -> Any:
        return json.loads(self.said)

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    started: list[Running] = []

    def start(*arguments: str) -> Running:
        started.append(Running(tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def port_of(url: str) -> int:
    return int(url.rpartition("@")[2].rpartition(":")[2].partition("/")[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_servers_run_until_a_signal(dev: Dev, number: signal.Signals) -> None:
    running = dev("--postgres", "--postgres-port", "0", "--json")
    urls = running.json
    ports = [port_of(url) for url in urls.values()]
    assert all(reachable(port) for port in ports)
    assert Databases(urls["database"]).run("SELECT 1") == "1"
    code, errors = running.end(number)
    assert code == 0
    assert "Traceback" not in errors
    assert not any(reachable(port) for port in ports)


def test_what_it_prints_can_be_pasted(dev: Dev) -> None:
    port = free_port()
    running = dev("--postgres", "--postgres-port", str(port))
    first, second = running.said.splitlines()
    assert first.startswith("export NATS_URL=nats://127.0.0.1:")
    assert re.fullmatch(
        "export SEAWAY_DATABASE_URL="
        rf"postgresql://postgres:[\w-]{{32}}@127\.0\.0\.1:{port}/postgres",
        second,
    )
    code, errors = running.end()
    assert code == 0
    assert "seaway db upgrade" in errors


def test_without_it_no_database_is_started(dev: Dev) -> None:
    running = dev("--json")
    assert running.json["database"] == "sqlite:///seaway.db"
    assert running.end()[0] == 0


def test_what_the_file_says_need_not_be_exported(dev: Dev) -> None:
    """It would win over what the file says later."""
    running = dev()
    assert running.end()[0] == 0
    assert running.process.stdout is not None
    assert running.said.startswith("export NATS_URL=")
    assert "DATABASE" not in running.said


def test_a_folder_keeps_the_database(dev: Dev, tmp_path: Path) -> None:
    for one in (tmp_path, *tmp_path.parents):
        one.chmod(0o755)  # As root it runs as somebody else, to whom pytest's folders are closed.
        if one.name.startswith("pytest-of-"):
            break
    for script, told in (("CREATE TABLE kept AS SELECT 1 AS one", ""), ("TABLE kept", "1")):
        running = dev("--postgres", "--postgres-port", "0", "--dir", "data", "--json")
        assert Databases(running.json["database"]).run(script) == told
        assert running.end()[0] == 0
    assert (tmp_path / "data" / "postgres").is_dir()


def test_a_taken_port_is_said_and_nothing_is_left(dev: Dev) -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        process = dev("--postgres", "--postgres-port", str(port)).process
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"port {port} of 127.0.0.1 is taken (choose another with --postgres-port" in errors
    assert "Traceback" not in errors
