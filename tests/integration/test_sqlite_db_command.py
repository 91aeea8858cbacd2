"""``seaway db`` on a real file: what it prints and how it ends."""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from seaway.cli.db import app


class Shell:
    """Runs ``seaway db`` with one database in the environment."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str) -> Result:
        environ = {"SEAWAY_DATABASE_URL": self.url, "SEAWAY_CONFIG": None}
        return CliRunner().invoke(app, list(arguments), env=environ)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seaway.yaml").write_text("contexts: [sea]\n")
    return tmp_path / "app.db"


@pytest.fixture
def db(path: Path) -> Shell:
    return Shell(f"sqlite:///{path}")


def test_plan_upgrade_plan(db: Shell) -> None:
    first = db("plan")
    assert (first.exit_code, "missing" in first.stdout) == (1, True)
    upgraded = db("upgrade", "--json")
    assert upgraded.exit_code == 0
    assert json.loads(upgraded.stdout)[0] == {
        "version": 1,
        "name": "outbox_and_inbox",
        "phase": "pre",
        "applied": True,
    }
    again = db("upgrade")
    assert (again.exit_code, "nothing to do" in again.stdout) == (0, True)
    last = db("plan", "--json")
    assert last.exit_code == 0
    assert all(change["applied"] for change in json.loads(last.stdout))


def test_verify_finds_damage(db: Shell, path: Path) -> None:
    missing = db("verify")
    assert missing.exit_code == 1
    assert "seaway db upgrade" in " ".join(missing.stderr.split())
    assert db("upgrade").exit_code == 0
    assert db("verify").exit_code == 0
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP INDEX seaway_sent_event_id")
    damaged = db("verify", "--json")
    assert damaged.exit_code == 1
    assert "seaway_sent_event_id" in json.loads(damaged.stdout)["problem"]


@pytest.mark.parametrize("command", ["verify", "plan"])
def test_a_verdict_is_the_same_where_nobody_reads_it(path: Path, command: str) -> None:
    environ = os.environ | {"SEAWAY_DATABASE_URL": f"sqlite:///{path}"}
    with closing(sqlite3.connect(path)):
        pass
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "seaway", "db", command, "--json"],
            env=environ,
            cwd=path.parent,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_sql_makes_the_same_tables_and_no_file(db: Shell, path: Path) -> None:
    printed = db("sql")
    assert printed.exit_code == 0
    assert not path.exists()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(printed.stdout)
    assert db("verify").exit_code == 0


@pytest.mark.parametrize("command", ["plan", "upgrade", "verify", "sql", "prune"])
def test_a_wrong_database_is_one_line_and_no_traceback(path: Path, command: str) -> None:
    failed = Shell("mysql://me:geheim@host/db")(command)
    assert failed.exit_code == 2
    assert "not supported" in " ".join(failed.stderr.split())
    assert "geheim" not in failed.output
    assert "Traceback" not in failed.output


def test_a_file_that_is_none_is_one_line(db: Shell, path: Path) -> None:
    path.write_bytes(b"This is no database. " * 100)
    failed = db("plan")
    assert failed.exit_code == 2
    assert "not an SQLite database" in " ".join(failed.stderr.split())


def test_prune_counts_removes_and_keeps_what_is_young(db: Shell, path: Path) -> None:
    db("upgrade")
    days = {"SEA_EVENTS:1": 15, "SEA_EVENTS:2": 13}
    with closing(sqlite3.connect(path)) as connection, connection:
        for event_id, age in days.items():
            at = int((time.time() - age * 86_400) * 1_000_000)
            connection.execute("INSERT INTO seaway_inbox VALUES ('c__d', ?, ?)", (event_id, at))
    counted = db("prune", "--dry-run", "--json")
    assert counted.exit_code == 0
    assert json.loads(counted.stdout)["due"] == {"seaway_inbox": 1}
    assert db("prune", "--dry-run").stdout.split() == ["due", "seaway_inbox", "1", "row"]
    pruned = db("prune")
    assert pruned.exit_code == 0
    assert pruned.stdout.split() == ["removed", "seaway_inbox", "1", "row"]
    assert db("prune").stdout == "nothing is due\n"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT event_id FROM seaway_inbox").fetchall() == [
            ("SEA_EVENTS:2",)
        ]


def test_prune_says_how_far_it_is_where_it_takes_long(
    db: Shell, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock counts as two seconds."""
    monkeypatch.setattr("seaway.cli.db._LOOK_SECONDS", 0.001)
    clock = itertools.count(step=2)
    stepping = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr("seaway.cli.printing.time", stepping)
    db("upgrade")
    rows = [("c__d", str(number), 1) for number in range(30_000)]
    rows.append(("c__d", "young", int(time.time() * 1_000_000)))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO seaway_inbox VALUES (?, ?, ?)", rows)
    pruned = db("prune")
    assert pruned.stdout.split() == ["removed", "seaway_inbox", "30000", "rows"]
    said = [int(number) for number in re.findall(r"removed: (\d+) of 30000", pruned.stderr)]
    assert said == sorted(said)
    assert any(0 < number < 30_000 for number in said)


def test_prune_keeps_an_inbox_for_ever_where_that_is_asked_for(db: Shell, path: Path) -> None:
    (path.parent / "seaway.yaml").write_text("contexts: [sea]\ninbox: {retention: 0}\n")
    db("upgrade")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO seaway_inbox VALUES ('c__d', 'SEA_EVENTS:1', 1)")
    pruned = json.loads(db("prune", "--json").stdout)
    assert (pruned["processed_before"], pruned["due"]) == (None, {})
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM seaway_inbox").fetchone() == (1,)
