"""``seaway check``, ``outbox status`` and ``seaway serve`` answer in time, whatever hangs."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer
from shell import SEAWAY, Shell, busy

pytestmark = pytest.mark.server

TIMEOUT = ("--timeout", "2s")
WITHIN_SECONDS = 10.0
"""Python's own start, on a machine that has more to do, included."""
# What a resolver or a driver does in a thread of its own, and nobody can take back.
STUCK_RESOLVER = """
import asyncio, time

asyncio.base_events.BaseEventLoop.getaddrinfo = lambda loop, *a, **k: asyncio.to_thread(
    time.sleep, 60
)
"""


class Watched(Shell):
    """A service on PostgreSQL, of which nothing runs."""

    def __init__(self, folder: Path, url: str, database: str) -> None:
        super().__init__(folder, url)
        self.environment["SEAWAY_DATABASE_URL"] = database
        config = {
            "streams": [{"name": "SEA_EVENTS", "replicas": 1}],
            "consumers": [{"stream": "SEA_EVENTS", "durable": "case_mgmt__from_sea"}],
        }
        (folder / "seaway.yaml").write_text(json.dumps(config))

    def ask(self, *command: str) -> tuple[int, str]:
        """Exit code, and all that was printed; in time."""
        began = time.monotonic()
        done = subprocess.run(
            [*SEAWAY, *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        took = time.monotonic() - began
        assert took < WITHIN_SECONDS * busy(), f"{command} took {took:.1f} s"
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def check(self) -> tuple[int, str]:
        """``seaway check``."""
        return self.ask("check", *TIMEOUT)


@pytest.fixture
def watched(
    tmp_path: Path, nats_server_own: NatsServer, postgres_server_own: PostgresServer
) -> Watched:
    made = Watched(tmp_path, nats_server_own.url, postgres_server_own.url())
    made.seaway("topology", "apply")
    made.seaway("db", "upgrade")
    code, said = made.check()
    assert code == 0, said
    return made


@contextmanager
def locked(server: PostgresServer) -> Iterator[None]:
    """The outbox, as by ``VACUUM FULL``."""
    with psycopg.connect(server.url()) as other:
        other.execute("LOCK TABLE seaway_outbox IN ACCESS EXCLUSIVE MODE")
        yield


def test_a_locked_outbox_is_unknown_and_the_rest_is_shown(
    watched: Watched, postgres_server_own: PostgresServer
) -> None:
    with psycopg.connect(postgres_server_own.url()) as other:
        other.execute(
            "INSERT INTO seaway_processes (process, part, about, reason, since_at) VALUES "
            "('web-1:4711:x', 'relay', 'outbox', 'seaway_outbox is locked by pid 17', now())"
        )
    with locked(postgres_server_own):
        code, said = watched.check()
        assert code == 3
        assert "unknown  the database did not answer within 2 s" in said
        assert re.search(r"relay waits for outbox, for \d+s: seaway_outbox is locked by pid", said)
        assert re.search(r"unknown: \d+ of \d+ checks are ok", said)
        code, said = watched.ask("outbox", "status", *TIMEOUT)
        assert (code, said) == (3, "seaway: the database did not answer within 2 s\n")
    assert watched.check()[0] in (0, 1)


def test_a_database_that_is_stopped_is_unknown(
    watched: Watched, postgres_server_own: PostgresServer
) -> None:
    postgres_server_own.pause()
    try:
        code, said = watched.check()
        assert code == 3
        assert "unknown  the database did not answer within 2 s" in said
        assert watched.ask("outbox", "status", *TIMEOUT)[0] == 3
    finally:
        postgres_server_own.resume()


def test_a_server_that_is_stopped_is_unknown(watched: Watched, nats_server_own: NatsServer) -> None:
    nats_server_own.pause()
    try:
        code, said = watched.check()
        assert code == 3
        assert f"unknown  {nats_server_own.url} did not answer within 2 s" in said
        assert re.search(r"unknown: [1-9]\d* of \d+ checks are ok", said), "the database's"
    finally:
        nats_server_own.resume()


def test_a_name_that_is_never_resolved_is_unknown(watched: Watched) -> None:
    (watched.folder / "sitecustomize.py").write_text(STUCK_RESOLVER)
    (watched.folder / "uvloop.py").write_text("raise ImportError")
    watched.environment["PYTHONPATH"] = str(watched.folder)
    watched.environment["NATS_URL"] = "nats://nats.example:4222"
    watched.environment["SEAWAY_DATABASE_URL"] = "postgresql://db.example/app"
    code, said = watched.check()
    assert code == 3
    assert "nats://nats.example:4222 did not answer within 2 s" in said
    assert "the database did not answer within 2 s" in said


def test_a_file_that_another_program_keeps_is_unknown(watched: Watched) -> None:
    watched.environment["SEAWAY_DATABASE_URL"] = "sqlite:///app.db"
    watched.seaway("db", "upgrade")
    other = sqlite3.connect(watched.folder / "app.db", isolation_level=None)
    try:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE mine (x)")
        code, said = watched.check()
        assert code == 3
        assert "the database did not answer within 2 s" in said
    finally:
        other.close()


def test_the_dashboard_answers_while_its_database_is_stopped_and_heals(
    watched: Watched, postgres_server_own: PostgresServer
) -> None:
    process = subprocess.Popen(
        [*SEAWAY, "serve", "--port", "0"],
        cwd=watched.folder,
        env=watched.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        base = f"http://127.0.0.1:{int(line.split('127.0.0.1:')[1].split()[0])}"
        watched.until(lambda: _get(base, "/readyz")[0] == 200, "ready")
        postgres_server_own.pause()
        assert _get(base, "/healthz")[0] == 200
        watched.until(lambda: _get(base, "/readyz")[0] == 503, "the database is missed")
        for _ in range(3):
            assert "answer" in _get(base, "/readyz")[1]
            assert "seaway_database_up_bool 0.0" in _get(base, "/metrics")[1]
        postgres_server_own.resume()
        watched.until(lambda: _get(base, "/readyz")[0] == 200, "ready again")
        process.terminate()
        assert process.wait(WITHIN_SECONDS * busy()) == 0
    finally:
        postgres_server_own.resume()
        process.kill()
        process.communicate()


def _get(base: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(base + path, timeout=WITHIN_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
