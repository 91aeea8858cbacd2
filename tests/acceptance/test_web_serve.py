"""``seaway serve`` as a process: up before its server, honest while that is away, gone in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from seaway.embedded.nats_server import NatsServer

DEADLINE_SECONDS = 30


@dataclass(frozen=True)
class Dashboard:
    """A running ``seaway serve``."""

    process: subprocess.Popen[str]
    port: int

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=15
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def poll_until(self, path: str, wanted: Callable[[int, str], bool]) -> tuple[int, str]:
        """The first answer that is ``wanted``; the last one where the deadline passes."""
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            status, body = self.get(path)
            if wanted(status, body) or time.monotonic() > end:
                return status, body
            time.sleep(0.1)


def command(folder: Path, url: str, *arguments: str) -> subprocess.Popen[str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "SEAWAY_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "seaway", *arguments],
        cwd=folder,
        env=keep | {"NATS_URL": url, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "seaway.yaml").write_text(
        "contexts: [sea]\nprofile: development\nprofiles: {development: {replicas: 1}}\n"
    )
    return tmp_path


@pytest.fixture
def dashboard(folder: Path, nats_server_own: NatsServer) -> Iterator[Dashboard]:
    process = command(folder, nats_server_own.url, "serve", "--port", "0")
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http://127.0.0.1:" in line, line
        yield Dashboard(process, int(line.split("127.0.0.1:")[1].split()[0]))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def test_it_is_ready_when_everything_is_there_and_honest_when_not(
    dashboard: Dashboard, folder: Path, nats_server_own: NatsServer
) -> None:
    assert dashboard.get("/healthz") == (200, "ok\n")
    status, body = dashboard.poll_until("/readyz", lambda _, text: "SEA_EVENTS" in text)
    assert status == 503
    assert "stream SEA_EVENTS does not exist" in json.loads(body)["reasons"]

    for needed in (("topology", "apply"), ("db", "upgrade")):
        code, stderr = finish(command(folder, nats_server_own.url, *needed))
        assert code == 0, stderr
    status, body = dashboard.poll_until("/readyz", lambda status, _: status == 200)
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": []})
    status, metrics = dashboard.get("/metrics")
    assert status == 200
    assert "seaway_server_up_bool 1.0" in metrics
    assert "All is well" in dashboard.get("/")[1]

    await nats_server_own.stop()
    status, page = dashboard.poll_until("/", lambda _, text: "NATS away since" in text)
    assert (status, "NATS away since" in page) == (200, True)
    assert dashboard.get("/readyz")[0] == 503
    assert dashboard.get("/healthz")[0] == 200

    await nats_server_own.start()
    status, _ = dashboard.poll_until("/readyz", lambda status, _: status == 200)
    assert status == 200

    for number in (signal.SIGINT, signal.SIGTERM):
        dashboard.process.send_signal(number)
    code, stderr = finish(dashboard.process)
    assert (code, "Traceback" in stderr) == (0, False)
    assert "disconnected: " in stderr
    assert "reconnected to nats://" in stderr


async def test_it_ends_in_order_while_no_server_ever_answered(folder: Path) -> None:
    process = command(folder, "nats://127.0.0.1:9", "serve", "--port", "0")
    try:
        assert process.stderr is not None
        port = int(process.stderr.readline().split("127.0.0.1:")[1].split()[0])
        assert "NATS away since" in Dashboard(process, port).get("/")[1]
        said = (
            "waiting for the server: no NATS server answers at nats://127.0.0.1:9: nobody listens"
        )
        async with asyncio.timeout(30):
            while said not in await asyncio.to_thread(process.stderr.readline):
                pass
        process.send_signal(signal.SIGTERM)
        code, stderr = finish(process)
        assert (code, "Traceback" in stderr, said in stderr) == (0, False, False)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


async def test_beyond_loopback_it_says_what_it_opens(folder: Path) -> None:
    arguments = ("serve", "--host", "0.0.0.0", "--port", "0", "--allow-host", "board.example")
    process = command(folder, "nats://127.0.0.1:9", *arguments)
    try:
        assert process.stderr is not None
        port = int(process.stderr.readline().split("0.0.0.0:")[1].split()[0])
        told = process.stderr.readline() + process.stderr.readline()
        assert "without a log-in" in told
        assert "payloads of dead letters" in told
        assert "board.example" in told

        def status(host: str) -> int:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/healthz")
            request.add_header("Host", host)
            try:
                with urllib.request.urlopen(request, timeout=15) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        hosts = ("board.example", socket.gethostname(), "10.1.2.3", "evil.example")
        assert [status(host) for host in hosts] == [200, 200, 200, 400]
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_a_port_that_is_taken_is_one_clear_line(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, stderr = finish(command(folder, "nats://127.0.0.1:9", "serve", "--port", str(port)))
    assert code == 2
    assert f"port {port} of 127.0.0.1 is taken" in stderr
    assert "Traceback" not in stderr


async def test_the_database_is_watched_while_no_server_has_ever_answered(folder: Path) -> None:
    code, stderr = finish(command(folder, "nats://127.0.0.1:9", "db", "upgrade"))
    assert code == 0, stderr
    process = command(folder, "nats://127.0.0.1:9", "serve", "--port", "0")
    try:
        assert process.stderr is not None
        port = int(process.stderr.readline().split("127.0.0.1:")[1].split()[0])
        board = Dashboard(process, port)
        _, metrics = board.get("/metrics")
        assert "seaway_database_up_bool 1.0" in metrics
        assert "seaway_outbox_events 0.0" in metrics
        assert "seaway_server_up_bool 0.0" in metrics
        assert "not watched" not in board.get("/")[1]
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
