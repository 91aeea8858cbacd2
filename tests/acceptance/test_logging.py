"""What a pipe, a machine and a service with logging of its own are told, by processes as users run
them: of a handler that fails, a letter, a server that is lost, a start and a stop."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from seaway.embedded.nats_server import NatsServer
from seaway.embedded.process import free_port, reachable
from shell import SEAWAY, Shell

pytestmark = pytest.mark.server

DURABLE = "case_mgmt__from_sea"
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) [a-z_.]+: \S.*")

SERVICE = """
import dataclasses, datetime, logging, sys

from seaway import Backoff, Delivery, Seaway, event


@event(context="sea", version=1)
@dataclasses.dataclass
class CaseOpened:
    title: str = ""


app = Seaway.from_config("seaway.yaml")
soon = Backoff(datetime.timedelta(milliseconds=1), datetime.timedelta(milliseconds=1))
case_mgmt = app.consumer("case_mgmt", from_context="sea", retry=soon)


@case_mgmt.handler(CaseOpened)
async def add_task(event: CaseOpened, delivery: Delivery) -> None:
    logging.getLogger("shop.cases").info("at work on %s", event.title)
    await delivery.tx.execute("INSERT INTO taks VALUES (1)")
"""

LATER = """

@event(context="sea", version=2, name="case_opened")
@dataclasses.dataclass
class CaseOpenedWithTitle:
    title: str


@case_mgmt.handler(CaseOpenedWithTitle)
async def take(event: CaseOpenedWithTitle, delivery: Delivery) -> None:
    with open("taken", "w") as file:
        file.write(event.title)
"""

OWN_JSON = """
import json, logging, logging.config


class Lines(logging.Formatter):
    def format(self, record):
        trace = self.formatException(record.exc_info) if record.exc_info else None
        said = dict(own=True, level=record.levelname, logger=record.name, trace=trace)
        said["message"] = record.getMessage()
        return json.dumps(said)


# As most do it, so that loggers which are there already are switched off.
logging.config.dictConfig({
    "version": 1,
    "formatters": {"lines": {"()": Lines}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "root": {"handlers": ["out"], "level": "INFO"},
})
"""

SCRIPT = """
import asyncio, logging

from service import app

asyncio.run(app.run())
"""

WEB = """
from fastapi import FastAPI

import own_json
from service import app

api = FastAPI(lifespan=app.lifespan)
"""

MANY = "a title that is longer than eighty columns, since nothing may fold what one must copy " * 2


@pytest.fixture
def shell(tmp_path: Path, nats_server_own: NatsServer) -> Shell:
    config = {
        "database": "sqlite:///cases.db",
        "streams": [{"name": "SEA_EVENTS", "replicas": 1}],
        "consumers": [{"stream": "SEA_EVENTS", "durable": DURABLE, "max_deliver": 3}],
    }
    files = {
        "seaway.yaml": json.dumps(config),
        "service.py": SERVICE,
        "own_json.py": OWN_JSON,
        "own_service.py": "import own_json\nfrom service import app\n",
        "script.py": SCRIPT,
        "web.py": WEB,
        "events.jsonl": json.dumps(
            {"subject": "sea.event.case_opened.v1", "payload": {"title": MANY}, "key": "case-1"}
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    shell = Shell(tmp_path, nats_server_own.url)
    shell.seaway("topology", "apply")
    shell.seaway("db", "upgrade")
    shell.seaway("outbox", "add", "events.jsonl")
    return shell


def run_until_letter(shell: Shell, *command: str, **how: Any) -> str:
    """What ``command`` said from its start to its stop, with a letter between."""
    with shell.running(*command, **how):
        shell.until(lambda: "is a dead letter: exhausted" in shell.said(), "a letter")
    return shell.said()


def lines_of(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def test_in_a_pipe_a_record_is_a_plain_line(shell: Shell) -> None:
    said = run_until_letter(shell, *SEAWAY, "run", "service:app")
    lines = said.splitlines()
    bare = [line for line in lines if not line.startswith("  ")]
    assert all(LINE.fullmatch(line) for line in bare), said
    started = next(line for line in lines if " INFO seaway: started: " in line)
    assert f"started: relay, consumer {DURABLE}, sweeper; server nats://127.0.0.1:" in started
    assert started.endswith("database sqlite:///cases.db")
    failed = next(line for line in lines if "add_task failed" in line)
    assert " WARNING seaway.consumer: " in failed
    assert "no such table: taks" in failed
    assert 'service.py", line 21, in add_task' in said
    assert "seaway/consumer/" not in said
    assert " ERROR seaway.consumer: " in next(line for line in lines if "is a dead letter" in line)
    assert MANY in next(line for line in lines if " INFO shop.cases: " in line)
    assert " INFO seaway: stopped: relay, " in bare[-1]


def test_for_machines_a_record_is_a_json_object(shell: Shell) -> None:
    said = lines_of(run_until_letter(shell, *SEAWAY, "run", "service:app", "--log-format", "json"))
    assert all({"time", "level", "logger", "message"} <= set(one) for one in said)
    (event_id,) = {one["event_id"] for one in said if "event_id" in one}
    warning = next(one for one in said if "add_task failed" in one["message"])
    letter = next(one for one in said if "is a dead letter" in one["message"])
    own = next(one for one in said if one["logger"] == "shop.cases")
    for one in (warning, letter):
        assert one["consumer"] == DURABLE
    for one in (warning, letter, own):
        assert one["correlation_id"] == one["event_id"] == event_id
    assert "in add_task" in warning["exception"]
    assert "started: relay" in said[0]["message"]
    assert "stopped: relay" in said[-1]["message"]


def test_a_cause_of_the_end_is_a_json_object_too(shell: Shell) -> None:
    (shell.folder / "seaway.yaml").write_text(
        (shell.folder / "seaway.yaml").read_text().replace("cases.db", "other.db")
    )
    with shell.running(*SEAWAY, "run", "service:app", "--log-format=json", code=2) as process:
        process.wait(30)
    last = lines_of(shell.said())[-1]
    assert (last["level"], last["logger"]) == ("ERROR", "seaway")
    assert "seaway db upgrade" in last["message"]


def test_log_level_leaves_out_what_is_less(shell: Shell) -> None:
    shell.environment["SEAWAY_LOG_LEVEL"] = "error"
    said = run_until_letter(shell, *SEAWAY, "run", "service:app")
    (line,) = said.splitlines()
    assert " ERROR seaway.consumer: " in line


def test_the_applications_own_logging_wins(shell: Shell) -> None:
    """Though it has switched off every logger that it does not name."""
    said = lines_of(run_until_letter(shell, *SEAWAY, "run", "own_service:app"))
    assert all(one["own"] for one in said)
    warning = next(one for one in said if "add_task failed" in one["message"])
    assert (warning["level"], warning["logger"]) == ("WARNING", "seaway.consumer")
    assert "in add_task" in warning["trace"]
    assert "started: relay" in said[0]["message"]


def test_options_that_the_applications_own_logging_leaves_without_effect_are_said_once(
    shell: Shell,
) -> None:
    options = ("--log-format", "json", "--log-level", "error")
    said = lines_of(run_until_letter(shell, *SEAWAY, "run", "own_service:app", *options))
    assert all(one["own"] for one in said)
    messages = [one["message"] for one in said]
    assert messages[0].startswith("--log-level and --log-format have no effect: the application")
    assert sum("no effect" in message for message in messages) == 1
    assert any("started: relay" in message for message in messages), "its level stays, too"


def test_what_an_application_shows_by_a_logger_of_its_own_is_shown_once(shell: Shell) -> None:
    (shell.folder / "own_service.py").write_text(
        "import logging.config\n"
        "from service import app\n"
        "logging.config.dictConfig({'version': 1, 'handlers': {'out': "
        "{'class': 'logging.StreamHandler'}}, 'loggers': {'shop': {'handlers': ['out'], "
        "'level': 'INFO'}}})\n"
    )
    said = run_until_letter(shell, *SEAWAY, "run", "own_service:app", "--log-level=debug")
    own = [line for line in said.splitlines() if "at work on" in line]
    assert own
    assert all(line.startswith("at work on") for line in own), "none of them is ours"
    assert " INFO seaway: started: relay" in said
    assert " DEBUG aiosqlite: " not in said
    assert " DEBUG asyncio: " not in said


def test_a_script_that_sets_up_nothing_is_told_of_what_is_wrong(shell: Shell) -> None:
    said = run_until_letter(shell, sys.executable, "script.py")
    assert said.count("add_task failed: ") == 1
    assert said.count("is a dead letter") == 1
    assert said.count("in add_task") == 1


async def test_a_web_application_with_json_logging_of_its_own(
    shell: Shell, nats_server_own: NatsServer
) -> None:
    port = free_port()
    serve = [sys.executable, "-m", "uvicorn", "web:api", "--port", str(port), "--log-level=warning"]

    async def until(holds: Any, what: str) -> None:
        await asyncio.to_thread(shell.until, holds, what)

    with shell.running(*serve, ends_by=signal.SIGINT, code=0):
        await until(lambda: reachable(port), "requests are taken")
        await until(lambda: "is a dead letter: exhausted" in shell.said(), "a letter")
        await nats_server_own.stop()
        await until(lambda: "disconnected: " in shell.said(), "the server is lost")
        await nats_server_own.start()
        await until(lambda: "reconnected to " in shell.said(), "the server is back")
    said = lines_of(shell.said())
    messages = [one["message"] for one in said]
    for what in ("started: ", "add_task failed: ", "a dead letter", "disconnected", "stopped: "):
        assert sum(what in message for message in messages) == 1, (what, messages)
    levels = {one["logger"]: one["level"] for one in said if "connected" in one["message"]}
    assert levels == {"seaway.nats": "INFO"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_relay_and_a_dashboard_say_it_the_same_way(shell: Shell, form: str) -> None:
    with shell.running(*SEAWAY, "relay", "--log-format", form):
        shell.until(lambda: shell.json("outbox", "status")["count"] == 0, "relayed")
    with shell.running(*SEAWAY, "serve", "--port", "0", "--log-format", form):
        shell.until(lambda: "Dashboard on http://127.0.0.1:" in shell.said(), "served")
    said = shell.said()
    if form == "json":
        messages = [one["message"] for one in lines_of(said)]
    else:
        assert all(LINE.fullmatch(line) for line in said.splitlines()), said
        messages = [line.partition("seaway: ")[2] for line in said.splitlines()]
    assert messages[0].startswith("started: relay; server nats://127.0.0.1:")
    assert "stopped: relay" in messages
    assert "1 event relayed." in messages
    assert messages[-1] == "The dashboard has stopped"


def test_a_version_that_comes_too_early_waits_and_is_handled_once_it_is_known(
    shell: Shell,
) -> None:
    """What no handler takes is said; what is only a version too early is kept."""
    events = [
        {"subject": subject, "payload": {"title": "Lost key"}, "key": "case-1"}
        for subject in ("sea.event.case_opened.v2", "sea.event.case_closed.v1")
    ]
    (shell.folder / "events.jsonl").write_text("\n".join(json.dumps(one) for one in events))
    shell.seaway("outbox", "add", "events.jsonl")
    with shell.running(*SEAWAY, "run", "service:app"):
        shell.until(lambda: len(shell.json("dlq", "ls")) == 2, "both letters")
        shell.until(lambda: "no handler takes" in shell.said(), "a warning")
    letter = next(one for one in shell.json("dlq", "ls") if one["subject"].endswith("v2"))
    assert letter["reason"] == "undecodable"
    assert letter["error"] == "sea.event.case_opened.v2: version 2 is unknown here, known: v1"
    warned = [line for line in shell.said().splitlines() if "no handler takes" in line]
    assert len(warned) == 1
    assert " WARNING seaway.consumer: " in warned[0]
    assert "sea.event.case_closed.v1" in warned[0]
    with (shell.folder / "service.py").open("a") as service:
        service.write(LATER)
    shell.seaway("dlq", "redrive", letter["id"])
    with shell.running(*SEAWAY, "run", "service:app"):
        shell.until(lambda: (shell.folder / "taken").exists(), "version 2 is handled")
    assert (shell.folder / "taken").read_text() == "Lost key"
