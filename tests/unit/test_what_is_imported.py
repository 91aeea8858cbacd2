"""What is loaded by whom: nobody waits for an engine, a client or a web server that is not used.

Modules are named, never times. Each is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVERS = {"aiosqlite", "alembic", "asyncpg", "django", "psycopg", "sqlalchemy"}
SERVERS = {"nats", "nkeys", "prometheus_client", "starlette", "uvicorn"}
SCREEN = {"rich"}
COMMANDS = {"typer", "yaml", *SCREEN}
WORK = {f"seaway.{room}" for room in ("app", "consumer", "inbox", "relay")}
BROKER = {"seaway.brokers.jetstream"}
ALL = {"asyncio", *DRIVERS, *SERVERS, *COMMANDS, *WORK, *BROKER, "pydantic", "seaway.stores.sqlite"}


def loaded(code: str) -> set[str]:
    """The modules of ``ALL`` that a process has at the end of ``code``, with the package's own."""
    look = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "leaves_out"),
    [
        ("import seaway", ALL),
        ("import seaway.testing.plugin", ALL),
        ("from seaway import Outbox, RawEvent, event", ALL - {"pydantic"}),
        ("import seaway.app", DRIVERS | COMMANDS - {"yaml"} | {"nkeys", "prometheus_client"}),
        ("import seaway.cli.db", DRIVERS | SERVERS | SCREEN | WORK | BROKER),
        ("import seaway.cli.outbox", DRIVERS | SERVERS | SCREEN | WORK | BROKER),
        ("import seaway.cli.topology", DRIVERS | SERVERS | SCREEN | WORK),
        ("import seaway.cli.dlq", DRIVERS | SERVERS | SCREEN | WORK - {"seaway.inbox"}),
        ("import seaway.cli.streams", DRIVERS | SERVERS | SCREEN | WORK),
        ("import seaway.cli.run", DRIVERS | SCREEN | {"nkeys", "prometheus_client"} | BROKER),
        ("import seaway.cli.check", DRIVERS | SCREEN | {"nkeys", "prometheus_client"} | WORK),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_loaded_that_is_not_used(code: str, leaves_out: set[str]) -> None:
    assert loaded(code) & leaves_out == set()


def test_a_run_of_pytest_that_uses_no_fixture_loads_the_plugin_alone(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import sys\n"
        "def test_own():\n"
        "    ours = {name for name in sys.modules if name.partition('.')[0] == 'seaway'}\n"
        "    assert ours == {'seaway', 'seaway.testing', 'seaway.testing.plugin'}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
