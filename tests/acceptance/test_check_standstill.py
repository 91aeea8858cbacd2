"""What stands still, and why: said by ``seaway check`` of processes that are elsewhere."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.embedded.nats_server import NatsServer
from shell import SEAWAY, Shell

pytestmark = pytest.mark.server

RELAY = [*SEAWAY, "relay"]
QUICK = ("--sample", "0")
DENIED = """
accounts { A { jetstream: enabled, users: [
  {user: "admin", password: "pw"},
  {user: "relay", password: "pw", permissions: {
    publish: {allow: [">"], deny: ["sea.event.>"]}, subscribe: ">"}} ] } }
"""
SERVICE = """
from seaway import Delivery, Poison, RawEvent, Seaway

app = Seaway.from_config("seaway.yaml")
case_mgmt = app.consumer("case_mgmt", from_context="sea")


@case_mgmt.handler(RawEvent)
async def handle(event: RawEvent, delivery: Delivery) -> None:
    raise Poison("no")
"""


class Service(Shell):
    """A service on SQLite."""

    def configure(self, **stream: Any) -> None:
        """Its file, with these settings of its stream; streams, durable and tables are made."""
        config = {
            "database": "sqlite:///app.db",
            "streams": [{"name": "SEA_EVENTS", "replicas": 1, **stream}],
            "consumers": [{"stream": "SEA_EVENTS", "durable": "case_mgmt__from_sea"}],
        }
        (self.folder / "seaway.yaml").write_text(json.dumps(config))
        self.seaway("topology", "apply")
        self.seaway("db", "upgrade")

    def write(self, count: int, *, key: str = "case-{}") -> None:
        """Events, into the outbox."""
        lines = [
            json.dumps(
                {"subject": "sea.event.case_moved.v1", "payload": {}, "key": key.format(number)}
            )
            for number in range(count)
        ]
        (self.folder / "events.jsonl").write_text("\n".join(lines))
        self.seaway("outbox", "add", "events.jsonl")

    def check(self, *options: str) -> subprocess.CompletedProcess[str]:
        """``seaway check``, whatever it finds."""
        return subprocess.run(
            [*SEAWAY, "check", *QUICK, *options],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def change(self, statement: str) -> None:
        """Behind the service's back."""
        with closing(sqlite3.connect(self.folder / "app.db")) as db, db:
            db.execute(statement)

    def findings(self, name: str) -> list[dict[str, Any]]:
        """The findings of this check."""
        found = json.loads(self.check("--format", "json").stdout)["findings"]
        return [one for one in found if one["check"] == name]


@pytest.fixture
def service(tmp_path: Path, nats_server_own: NatsServer) -> Service:
    return Service(tmp_path, nats_server_own.url)


@pytest.fixture
def denying(tmp_path: Path) -> Iterator[Service]:
    """A server that lets its relay publish no event."""
    server = NatsServer(extra_config=DENIED)
    try:
        server.launch()
        yield Service(tmp_path, server.url.replace("//", "//admin:pw@"))
    finally:
        server.terminate()
        server.remove()


def test_a_relay_that_may_not_publish_says_so(denying: Service) -> None:
    denying.configure()
    denying.write(3)
    denying.environment["NATS_URL"] = denying.environment["NATS_URL"].replace("admin", "relay")
    with denying.running(*RELAY):
        denying.until(lambda: bool(denying.findings("waiting")), "the relay's wait")
        found = denying.findings("waiting")
        assert {one["state"] for one in found} == {"warning"}
        said = [one["message"] for one in found]
        assert any("sea.event.case_moved.v1" in one for one in said), "the right that is missing"


def test_a_relay_whose_stream_has_no_room_says_so(service: Service) -> None:
    service.configure(retention="workqueue", discard="new", max_msgs=5)
    service.write(40)
    with service.running(*RELAY):
        checks = [service.check()]

        def waits() -> list[str]:
            return [line for line in checks[-1].stdout.splitlines() if "waits for" in line]

        def told() -> bool:
            checks.append(service.check())
            return bool(waits())

        service.until(told, "the relay's wait")
        done, line = checks[-1], waits()[0]
        assert line.startswith("warning  relay waits for SEA_EVENTS, for ")
        assert "maximum messages exceeded" in line, "the reason, whole, in a pipe"
        assert "the log of " in done.stdout
        assert done.returncode in (1, 2), "critical where the stream has taken what it could"
        nagios = service.check("--format", "nagios").stdout
        assert "relay waits for SEA_EVENTS" in nagios
        assert "'waiting:relay/SEA_EVENTS'=" in nagios
        metrics = service.check("--format", "prometheus").stdout
        assert 'seaway_processes{part="relay"} 1.0' in metrics
        assert 'seaway_process_waits{part="relay"} 1.0' in metrics
    assert service.findings("waiting") == [], "it has ended, and says nothing any more"


async def test_a_consumer_whose_letters_find_no_queue_says_so(service: Service) -> None:
    service.configure()
    (service.folder / "service.py").write_text(SERVICE)
    service.write(1)
    broker = await connect(NatsSettings(url=service.environment["NATS_URL"]))
    await broker.admin.delete_stream("SEA_DLQ")
    await broker.close()
    with service.running(*SEAWAY, "run", "service:app"):
        service.until(lambda: bool(service.findings("waiting")), "the consumer's wait")
        [found] = service.findings("waiting")
        assert found["subject"] == "consumer case_mgmt__from_sea/dead letters"
        assert "SEA_DLQ" in found["message"]


def test_a_relay_that_was_killed_and_events_that_wait(service: Service) -> None:
    service.configure()
    with service.running(*RELAY, ends_by=signal.SIGKILL):
        there = 'seaway_processes{part="relay"} 1.0'
        service.until(
            lambda: there in service.check("--format", "prometheus").stdout, "the relay's presence"
        )
    service.write(2)
    service.change("UPDATE seaway_outbox SET added_at = added_at - 300000000")
    service.change("UPDATE seaway_processes SET seen_at = seen_at - 200000000")
    [old] = service.findings("outbox_age")
    assert old["state"] == "warning"
    assert "relay has not been heard of for 3m" in old["next_move"]
    assert "start it again" in old["next_move"]
    service.change("DELETE FROM seaway_processes")
    [old] = service.findings("outbox_age")
    assert old["next_move"] == "no relay says that it runs: seaway relay"


def test_what_waits_behind_a_parked_event_is_said_to(service: Service) -> None:
    service.configure()
    service.write(2, key="case-1")
    service.change("UPDATE seaway_outbox SET added_at = added_at - 300000000")
    service.change("UPDATE seaway_outbox SET parked_at = 1 WHERE position = 1")
    [old] = service.findings("outbox_age")
    assert old["message"].endswith(", behind a parked event of its key")
    assert old["next_move"] == "seaway outbox list --parked; seaway outbox retry"
    assert ", behind a parked one of its key; 1 parked" in service.seaway("outbox", "status")


def test_a_clock_that_is_ahead_makes_no_negative_age(service: Service) -> None:
    service.configure()
    service.write(1)
    service.change("UPDATE seaway_outbox SET added_at = added_at + 3600000000")
    assert "1 event waits, the oldest for 0.0 s" in service.seaway("outbox", "status")
    assert 0 <= service.json("outbox", "status")["oldest_age_seconds"] < 1
