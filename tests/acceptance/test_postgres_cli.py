"""``seaway db``, ``outbox`` and ``relay`` on PostgreSQL, as a person uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from seaway.databases.engines import POSTGRES
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer, find_programs
from seaway.stores.schema import migrations
from seaway.testing.databases import Databases

SEAWAY = (sys.executable, "-m", "seaway")
SECRET = "hunter2"
STATUS_OF_NOTHING = {
    "count": 0,
    "parked": 0,
    "oldest_at": None,
    "oldest_age_seconds": None,
    "dead_rows": 0,
    "shards": 1,
    "sent_dead_rows": 0,
    "inbox_rows": 0,
    "inbox_dead_rows": 0,
}


class Shell:
    """A folder with a ``seaway.yaml``, and ``seaway`` and ``psql`` run inside it."""

    def __init__(self, path: Path, database: str) -> None:
        self.path = path
        self.database = database
        self.config()
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("NATS_", "SEAWAY_", "PG"))
        }

    def config(self, more: str = "", *, context: str = "sea", nats: str = "") -> None:
        server = f'nats: {{url: "{nats}"}}\n' if nats else ""
        (self.path / "seaway.yaml").write_text(
            f'database: "{self.database}"\ncontexts: [{context}]\n{server}{more}'
            "profile: development\nprofiles: {development: {replicas: 1}}\n"
        )

    def run(self, *arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*SEAWAY, *arguments],
            cwd=self.path,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stdout + done.stderr
        return done

    def json(self, *arguments: str, code: int = 0, **env: str) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code, **env).stdout)

    def refused(self, *arguments: str, code: int) -> str:
        """The one line that a command says where it does not work."""
        (line,) = self.run(*arguments, code=code).stderr.splitlines()
        return line

    def psql(self, script: str) -> str:
        done = subprocess.run(
            [str(find_programs() / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", self.database],
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def add(self, count: int, *, context: str = "sea", size: int = 0) -> None:
        lines = [
            json.dumps(
                {
                    "subject": f"{context}.event.case_moved.v1",
                    "payload": {"n": number, "more": "x" * size},
                    "key": f"case-{number % 7}",
                }
            )
            for number in range(count)
        ]
        (self.path / "events.jsonl").write_text("\n".join(lines) + "\n")
        assert self.json("outbox", "add", "events.jsonl") == {"added": count}


@pytest.fixture
def bare(tmp_path: Path, empty_postgres_url: str) -> Shell:
    """A database with nothing in it."""
    return Shell(tmp_path, empty_postgres_url)


@pytest.fixture
def shell(tmp_path: Path, postgres_url: str) -> Shell:
    """A database with Seaway's tables."""
    return Shell(tmp_path, postgres_url)


# ----------------------------------------------------------------------------- seaway db


def test_plan_upgrade_plan_verify(bare: Shell) -> None:
    missing = bare.run("db", "plan", code=1).stdout.split()
    known = migrations(POSTGRES)
    assert missing == [
        word for one in known for word in (f"{one.version:04d}", one.name, one.phase, "missing")
    ]
    assert "seaway db upgrade" in bare.refused("db", "verify", code=1)
    upgraded = bare.json("db", "upgrade")
    assert upgraded == [
        {"version": one.version, "name": one.name, "phase": one.phase, "applied": True}
        for one in known
    ]
    assert bare.json("db", "plan") == upgraded
    bare.run("db", "verify")
    assert bare.json("outbox", "status") == STATUS_OF_NOTHING
    assert "nothing to do" in bare.run("db", "upgrade").stdout


def test_prune_makes_days_counts_and_drops(shell: Shell) -> None:
    assert shell.json("db", "prune")["due"] == {}
    days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'TABLE'::regclass"
    for table, others in (("seaway_inbox", 2), ("seaway_sent", 1)):
        assert shell.psql(days.replace("TABLE", table)) == str(3 + others)
    shell.psql(
        "INSERT INTO seaway_inbox VALUES ('c__d', 'SEA_EVENTS:1', now() - interval '15 days'), "
        "('c__d', 'SEA_EVENTS:2', now() - interval '13 days')"
    )
    due = shell.json("db", "prune", "--dry-run")["due"]
    assert due == {"seaway_inbox_other": 1}
    assert "seaway_inbox_other" in shell.run("db", "prune", "--dry-run").stdout
    removed = shell.run("db", "prune").stdout.split()
    assert removed == ["removed", "seaway_inbox_other", "1", "row"]
    assert shell.run("db", "prune").stdout == "nothing is due\n"
    assert shell.psql("SELECT event_id FROM seaway_inbox") == "SEA_EVENTS:2"
    shell.run("db", "verify")


def test_the_phases_of_a_rolling_upgrade(bare: Shell) -> None:
    assert "seaway db upgrade --pre" in bare.refused("db", "upgrade", "--post", code=2)
    bare.run("db", "plan", code=1)
    bare.run("db", "upgrade", "--pre")
    later = [one.name for one in migrations(POSTGRES) if one.phase == "post"]
    assert [one["name"] for one in bare.json("db", "upgrade", "--post")] == later
    assert "phase post is complete" in bare.run("db", "upgrade", "--post").stdout
    bare.run("db", "verify")
    bare.refused("db", "upgrade", "--pre", "--post", code=2)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DROP INDEX seaway_sent_event_id", "seaway_sent_event_id"),
        ("ALTER TABLE seaway_outbox DROP COLUMN last_error", "seaway_outbox.last_error"),
        ("ALTER TABLE seaway_inbox DROP CONSTRAINT seaway_inbox_pkey", "seaway_inbox_pkey"),
        ("ALTER SEQUENCE seaway_outbox_position CACHE 20", "seaway_outbox_position cache 1"),
    ],
)
def test_drift_is_found_and_named(shell: Shell, damage: str, named: str) -> None:
    shell.psql(damage)
    assert named in shell.refused("db", "verify", code=1)
    assert named in shell.json("db", "verify", code=1)["problem"]


@pytest.mark.parametrize(
    "command",
    ["outbox status", "outbox list", "outbox retry --all", "outbox add events.jsonl", "relay"],
)
def test_what_starts_work_refuses_a_bare_database(bare: Shell, command: str) -> None:
    (bare.path / "events.jsonl").write_text("")
    assert "seaway db upgrade" in bare.refused(*command.split(), code=2)


def test_two_upgrades_at_once_apply_each_migration_once(bare: Shell) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: bare.json("db", "upgrade"), range(4)))
    applied = sorted(each["version"] for one in done for each in one)
    assert applied == [each.version for each in migrations(POSTGRES)]
    bare.run("db", "verify")


@pytest.mark.parametrize("schema", [None, "events"])
def test_the_script_through_psql_is_the_upgrade(bare: Shell, schema: str | None) -> None:
    bare.config(f"database_schema: {schema}\n" if schema else "")
    script = bare.run("db", "sql").stdout
    bare.psql(script)
    assert bare.json("db", "upgrade") == []
    bare.run("db", "verify")


def test_the_script_needs_neither_server_nor_driver(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "postgresql://nobody@127.0.0.1:1/nowhere")
    # A folder of that name stands before the driver, as if it were not installed.
    (tmp_path / "asyncpg.py").write_text("raise ModuleNotFoundError('No module named asyncpg')\n")
    assert "CREATE TABLE seaway_outbox" in shell.run("db", "sql", PYTHONPATH=str(tmp_path)).stdout
    missing = shell.run("db", "plan", code=2, PYTHONPATH=str(tmp_path)).stderr
    assert "pip install 'seaway[postgres]'" in missing


def test_a_schema_of_its_own(bare: Shell) -> None:
    bare.config("database_schema: events\n")
    bare.run("db", "upgrade")
    bare.run("db", "verify")
    bare.add(3)
    assert bare.json("outbox", "status")["count"] == 3
    assert bare.psql("SELECT count(*) FROM events.seaway_outbox") == "3"
    assert bare.psql("SELECT to_regclass('public.seaway_outbox') IS NULL") == "t"
    bare.config()
    assert "seaway db upgrade" in bare.refused("outbox", "status", code=2)
    assert bare.json("outbox", "status", SEAWAY_DATABASE_SCHEMA="events")["count"] == 3


# ----------------------------------------------------------------------------- who is not let in


def changed(url: str, *, user: str | None = None, database: str | None = None) -> str:
    parts = urlsplit(url)
    netloc = f"{user}@{parts.netloc.rpartition('@')[2]}" if user else parts.netloc
    return urlunsplit(
        parts._replace(netloc=netloc, path=f"/{database}" if database else parts.path)
    )


def test_a_wrong_password_is_one_line(tmp_path: Path, postgres_server_own: PostgresServer) -> None:
    server = Databases(postgres_server_own.url())
    server.run(f"CREATE USER app PASSWORD '{SECRET}'")
    rules = postgres_server_own.directory / "data" / "pg_hba.conf"
    rules.write_text("host all app 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    server.run("SELECT pg_reload_conf()")
    right = changed(server.url("postgres"), user=f"app:{SECRET}")
    assert "seaway db upgrade" in Shell(tmp_path, right).refused("db", "verify", code=1)
    wrong = Shell(tmp_path, changed(right, user=f"app:{SECRET}-not"))
    for command in ("plan", "upgrade", "verify"):
        line = wrong.refused("db", command, code=2)
        assert "does not let us in" in line
    assert "does not let us in" in wrong.refused("outbox", "status", code=2)


def test_no_such_database_is_one_line(shell: Shell) -> None:
    shell.database = changed(shell.database, user=f"postgres:{SECRET}", database="nowhere")
    shell.config()
    assert "nowhere" in shell.refused("db", "plan", code=2)
    assert "nowhere" in shell.refused("relay", code=2)


def test_a_server_that_is_away_is_3(tmp_path: Path) -> None:
    shell = Shell(tmp_path, f"postgresql://app:{SECRET}@127.0.0.1:1/app")
    for command in ("db plan", "db upgrade", "db verify", "outbox status", "outbox list"):
        assert "127.0.0.1:1" in shell.refused(*command.split(), code=3)


def test_an_option_that_is_none_is_usage(tmp_path: Path) -> None:
    for option, words in (("sslmode=maybe", "sslmode"), ("pool=5", "unknown option 'pool'")):
        shell = Shell(tmp_path, f"postgresql://app:{SECRET}@127.0.0.1:1/app?{option}")
        assert words in shell.refused("db", "plan", code=2)


# ----------------------------------------------------------------------------- outbox and relay


def test_a_file_is_added_and_what_waits_is_told(shell: Shell) -> None:
    shell.add(2500)
    status = shell.json("outbox", "status")
    assert (status["count"], status["parked"], status["shards"]) == (2500, 0, 1)
    assert status["oldest_age_seconds"] >= 0
    assert status["dead_rows"] == 0
    shown = shell.run("outbox", "status").stdout
    assert shown.startswith("2500 events wait")
    assert "1 shard; 0 dead rows" in shown
    listed = shell.json("outbox", "list", "--limit", "9")
    assert [entry["key"] for entry in listed] == [f"case-{n % 7}" for n in range(9)]


def test_an_id_that_is_there_already_is_named(shell: Shell) -> None:
    known = "0192f0c1-2d3e-7000-8000-000000000001"
    line = {"subject": "sea.event.case_moved.v1", "payload": 1, "id": known}
    (shell.path / "events.jsonl").write_text(json.dumps(line) + "\n")
    shell.run("outbox", "add", "events.jsonl")
    said = shell.refused("outbox", "add", "events.jsonl", code=2)
    assert "events.jsonl:1" in said
    assert known in said
    assert shell.json("outbox", "status")["count"] == 1


@pytest.fixture
def served(shell: Shell, nats_server: NatsServer, context_name: str) -> Shell:
    """With the context's streams on a server."""
    shell.config(context=context_name, nats=nats_server.url)
    shell.run("topology", "apply")
    return shell


@pytest.mark.server
def test_the_relay_drains_and_divides_the_keys(
    served: Shell, nats_server: NatsServer, context_name: str
) -> None:
    more = "outbox: {shards: 8, notify: true, retention: 0}\n"
    served.config(more, context=context_name, nats=nats_server.url)
    served.add(3000, context=context_name)
    assert served.json("relay", "--drain")["sent"] == 3000
    stream = served.json("stream", "info", f"{context_name.upper()}_EVENTS")
    assert stream["state"]["messages"] == 3000
    status = served.json("outbox", "status")
    assert (status["count"], status["shards"]) == (0, 8)
    assert "8 shards" in served.run("outbox", "status").stdout
    assert served.psql("SELECT count(*) FROM seaway_sent") == "0"


@pytest.mark.server
@pytest.mark.parametrize(("on_parked", "sent"), [("wait", 0), ("pass", 1)])
def test_events_behind_a_parked_one(
    served: Shell, nats_server: NatsServer, context_name: str, on_parked: str, sent: int
) -> None:
    subject = f"{context_name}.event.case_moved.v1"
    lines = [{"subject": subject, "payload": "x" * size, "key": "a"} for size in (5000, 5)]
    (served.path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    served.run("outbox", "add", "events.jsonl")

    def limit(size: str) -> None:
        stream = f"  - {{name: {context_name.upper()}_EVENTS, max_msg_size: {size}}}\n"
        more = f"outbox: {{on_parked: {on_parked}}}\nstreams:\n{stream}"
        served.config(more, context=context_name, nats=nats_server.url)
        served.run("topology", "apply")

    limit("1KB")
    summary = served.json("relay", "--drain", code=1)
    assert (summary["sent"], summary["parked"]) == (sent, 1)
    (parked,) = served.json("outbox", "list", "--parked")
    assert parked["last_error"]
    limit("unlimited")
    assert served.json("outbox", "retry", parked["event_id"]) == {"unparked": 1}
    assert served.json("relay", "--drain")["sent"] == 2 - sent
    served.run("outbox", "retry", parked["event_id"], code=1)


@pytest.mark.server
def test_check_and_metrics_see_the_database(served: Shell, context_name: str) -> None:
    served.add(5, context=context_name)
    metrics = served.run("check", "--format", "prometheus").stdout
    assert "seaway_outbox_events 5.0" in metrics
    for table in ("outbox", "sent", "inbox"):
        assert f"seaway_{table}_dead_rows 0.0" in metrics
    assert "seaway_inbox_rows 0.0" in metrics
    assert "seaway_database_up_bool 1.0" in metrics
