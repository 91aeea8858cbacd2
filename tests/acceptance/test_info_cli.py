"""``seaway stream``, ``consumer`` and ``check`` as a shell sees them, on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway.brokers import jetstream
from seaway.config import NatsSettings
from seaway.contracts import Message
from seaway.embedded.nats_server import NatsServer

WAIT = timedelta(seconds=5)
FILE = """
contexts: [sea]
profile: development
profiles: {development: {replicas: 1}}
streams:
  - name: SEA_EVENTS
    subjects: ["sea.event.>"]
    retention: limits
    max_age: 7d
    max_bytes: 10GB
    storage: file
    replicas: 3
consumers:
  - stream: SEA_EVENTS
    durable: sea__default
    filter_subject: "sea.event.>"
    ack_policy: explicit
    ack_wait: 120s
    max_deliver: 20
    max_ack_pending: 50
alerts: {stream_messages_pending: 3}
"""
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Shell:
    """Runs ``seaway`` in a folder with a configuration."""

    folder: Path
    url: str

    def __call__(self, *arguments: str, url: str | None = None) -> Done:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "SEAWAY_"))}
        return subprocess.run(
            [sys.executable, "-m", "seaway", *arguments],
            cwd=self.folder,
            env=keep | {"NATS_URL": url or self.url, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def served(folder: Path) -> Iterator[Shell]:
    """A server with the topology of ``FILE`` and four events, one of them acknowledged."""
    (folder / "seaway.yaml").write_text(FILE)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(NatsServer()))
        try:
            shell = Shell(folder, server.url)
            for command in (("topology", "apply"), ("db", "upgrade")):
                done = shell(*command)
                assert done.returncode == 0, done.stderr
            runner.run(publish_and_settle_one(server.url))
            yield shell
        finally:
            runner.run(stack.aclose())


@pytest.fixture(scope="module")
def seaway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """What the tests share that change nothing."""
    with served(tmp_path_factory.mktemp("info")) as shell:
        yield shell


@pytest.fixture
def just_served(tmp_path: Path) -> Iterator[Shell]:
    """One whose durable has not stood still for long."""
    with served(tmp_path) as shell:
        yield shell


async def publish_and_settle_one(url: str) -> None:
    broker = await jetstream.connect(NatsSettings(url=url))
    try:
        events = [Message("sea.event.case_created.v1", b"{}") for _ in range(4)]
        await broker.publish("SEA_EVENTS", events, timeout=WAIT)
        async with broker.subscribe("SEA_EVENTS", "sea__default") as subscription:
            assert all(await subscription.ack(*await subscription.next(1, timeout=WAIT)))
    finally:
        await broker.close()


def test_a_stream_has_the_nats_clis_json(seaway: Shell) -> None:
    found = seaway.json("stream", "info", "SEA_EVENTS")
    assert {"config", "created", "state", "ts"} <= set(found)
    assert not {"type", "total", "offset", "limit"} & set(found)
    state = found["state"]
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (4, 1, 4)
    assert state["consumer_count"] == 1
    assert state["bytes"] > 0
    config = found["config"]
    assert config["subjects"] == ["sea.event.>"]
    assert config["max_age"] == 7 * 24 * 3600 * 10**9
    assert config["max_bytes"] == 10 * 1024**3
    assert (config["retention"], config["storage"], config["num_replicas"]) == ("limits", "file", 1)


def test_a_consumer_has_the_nats_clis_json(seaway: Shell) -> None:
    found = seaway.json("consumer", "info", "SEA_EVENTS", "sea__default")
    assert found["num_pending"] == 3
    assert (found["num_ack_pending"], found["num_redelivered"]) == (0, 0)
    assert "num_waiting" in found
    assert found["delivered"]["stream_seq"] == found["ack_floor"]["stream_seq"] == 1
    config = found["config"]
    assert config["ack_wait"] == 120 * 10**9
    assert (config["max_deliver"], config["max_ack_pending"]) == (20, 50)
    assert (config["ack_policy"], config["filter_subject"]) == ("explicit", "sea.event.>")


def test_lists_hold_the_same_and_people_get_tables(seaway: Shell) -> None:
    names = [info["config"]["name"] for info in seaway.json("stream", "ls")]
    assert names == ["SEAWAY_ADVISORIES", "SEA_DLQ", "SEA_EVENTS", "SEA_REDRIVE"]
    assert [info["name"] for info in seaway.json("consumer", "ls", "SEA_EVENTS")] == [
        "sea__default"
    ]
    for command in (
        ("stream", "ls"),
        ("stream", "info", "SEA_EVENTS"),
        ("consumer", "ls", "SEA_EVENTS"),
        ("consumer", "info", "SEA_EVENTS", "sea__default"),
    ):
        done = seaway(*command)
        assert (done.returncode, done.stderr) == (0, "")
        assert "SEA_EVENTS" in done.stdout or "sea__default" in done.stdout
    row = next(line for line in seaway("stream", "ls").stdout.splitlines() if "EVENTS" in line)
    cells = row.split()
    assert cells[:3] == ["SEA_EVENTS", "sea.event.>", "4"]
    assert cells[4:] == ["B", "0.0%", "1"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("stream", "info", "SEA_EVENT"), "did you mean SEA_EVENTS?"),
        (("stream", "info", "sea.>"), "cannot be the name of a stream"),
        (("consumer", "ls", "NOPE"), "there is no stream NOPE"),
        (("consumer", "info", "SEA_EVENTS", "sea__defalt"), "did you mean sea__default?"),
        (("consumer", "info", "NOPE", "sea__default"), "there is no stream NOPE"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_1(
    seaway: Shell, command: tuple[str, ...], told: str
) -> None:
    done = seaway(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def configured(seaway: Shell, old: str, new: str) -> tuple[str, str]:
    """The option that names a file with ``new`` instead of ``old``."""
    file = seaway.folder / "changed.yaml"
    file.write_text(FILE.replace(old, new))
    return "--config", str(file)


def test_check_follows_thresholds_in_every_format(just_served: Shell) -> None:
    seaway, quick = just_served, ("--sample", "0")
    well = seaway("check", "--sample", "100ms")
    assert well.returncode == 0, well.stdout + well.stderr  # 3 pending of 3 allowed

    stricter = configured(seaway, "pending: 3}", "pending: 2}")
    line = seaway(*stricter, "check", "--format", "nagios", *quick)
    assert line.returncode == 1
    assert line.stdout.startswith("SEAWAY WARNING - SEA_EVENTS/sea__default has 3 messages")
    assert line.stdout.count("\n") == line.stdout.count("|") == 1
    assert "'stream_messages_pending:SEA_EVENTS/sea__default'=3;2;20;0" in line.stdout

    report = json.loads(seaway(*stricter, "check", "--format", "json", *quick).stdout)
    worst = report["findings"][0]
    assert (report["state"], worst["check"]) == ("warning", "stream_messages_pending")
    assert (worst["value"], worst["warning"]) == (3, 2)
    assert "seaway consumer info SEA_EVENTS sea__default" in worst["next_move"]

    metrics = seaway(*stricter, "check", "--format", "prometheus", *quick)
    assert 'stream_messages_pending{consumer="sea__default",stream="SEA_EVENTS"} 3.0' in (
        metrics.stdout
    )
    assert "# TYPE consumer_redelivery_count counter" in metrics.stdout

    rules = seaway(*stricter, "check", "--rules")
    assert (rules.returncode, "stream_messages_pending > 2" in rules.stdout) == (0, True)


def test_check_says_critical_for_what_is_missing(seaway: Shell) -> None:
    changed = configured(seaway, "durable: sea__default", "durable: sea__other")
    done = seaway(*changed, "check", "--format", "nagios", "--sample", "0")
    assert done.returncode == 2
    assert "sea__other of SEA_EVENTS does not exist" in done.stdout
    assert "seaway topology apply" in done.stdout


def test_check_without_a_server_is_unknown(seaway: Shell) -> None:
    for shape in ("text", "nagios", "json", "prometheus"):
        done = seaway("check", "--format", shape, url="nats://127.0.0.1:9")
        assert done.returncode == 3
        assert done.stdout
        assert "Traceback" not in done.stderr


def test_a_wrong_option_is_a_usage_error(seaway: Shell) -> None:
    for option in (("--sample", "soon"), ("--format", "xml")):
        done = seaway("check", *option)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
