"""The Django project of the examples as a user runs it: its tests, its processes, its admin."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from seaway.embedded.process import free_port, reachable
from shell import Shell

if TYPE_CHECKING:
    from seaway.embedded.nats_server import NatsServer

pytestmark = pytest.mark.server

PROJECT = Path(__file__).parents[2] / "examples" / "django"
TASKS = "SELECT what FROM cases_task ORDER BY id"
SENT = "SELECT count(*) FROM seaway_sent"
LOOK = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "office.settings"
import django
django.setup()
from django.contrib.auth.models import User
from django.test import Client
client = Client(SERVER_NAME="localhost")
client.force_login(User.objects.get_or_create(username="ann", is_staff=True, is_superuser=True)[0])
pages = [client.get(f"/admin/seaway/{path}") for path in sys.argv[1:]]
print(json.dumps([[page.status_code, page.content.decode()] for page in pages]))
"""


@pytest.fixture
def project(tmp_path: Path, nats_server_own: NatsServer) -> Shell:
    shutil.copytree(PROJECT, tmp_path, dirs_exist_ok=True)
    shell = Shell(tmp_path, nats_server_own.url)
    manage(shell, "migrate")
    manage(shell, "seaway", "topology", "apply")
    return shell


def manage(shell: Shell, *arguments: str, code: int = 0) -> str:
    return shell.run(sys.executable, "manage.py", *arguments, code=code)


def asked(shell: Shell, *arguments: str) -> Any:
    return json.loads(manage(shell, "seaway", *arguments, "--json"))


def opened(port: int, title: str) -> str:
    """The id of a case that was opened by a request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/cases", data=json.dumps({"title": title}).encode()
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["id"])


def looked_at(shell: Shell, *paths: str) -> list[tuple[int, str]]:
    """What the admin shows: status and page."""
    pages: list[tuple[int, str]] = json.loads(shell.run(sys.executable, "-c", LOOK, *paths))
    return pages


def test_views_write_and_the_orm_handles(project: Shell) -> None:
    manage(project, "test")
    manage(project, "makemigrations", "--check", "--dry-run")
    manage(project, "seaway", "db", "verify")
    port = free_port()
    web = [sys.executable, "manage.py", "runserver", "--noreload", str(port)]
    with project.running(*web, code=-15):
        project.until(lambda: reachable(port), "requests are taken")
        case_id, _, _ = (opened(port, title) for title in ("Broken window", "Lost key", ""))
    assert asked(project, "outbox", "status")["count"] == 3
    ((status, page),) = looked_at(project, "outboxevent/?q=" + case_id)
    assert (status, page.count("sea.event.case_opened.v1")) == (200, 1)

    with project.running(sys.executable, "manage.py", "seaway", "run"):
        project.until(lambda: len(project.rows(TASKS)) == 2, "two tasks")
        project.until(lambda: project.rows(SENT) == [(5,)], "three events and what came of two")
        project.until(lambda: "is a dead letter" in project.said(), "a dead letter")
    assert project.rows(TASKS) == [("look into: Broken window",), ("look into: Lost key",)]
    manage(project, "seaway", "check", "--sample", "0", code=1)

    sent, handled, letters, letter, none = looked_at(
        project,
        *("sentevent/", "handledevent/", "deadletter/"),
        *("deadletter/SEA_DLQ:1/", "deadletter/SEA_DLQ:9/"),
    )
    assert "sea.event.task_added.v1" in sent[1]
    assert "case_mgmt__from_sea" in handled[1]
    for status, page in (letters, letter):
        assert (status, "a case needs a title" in page) == (200, True)
    assert "manage.py seaway dlq redrive SEA_DLQ:1" in letter[1]
    assert (none[0], "there is no dead letter SEA_DLQ:9" in none[1]) == (404, True)

    manage(project, "seaway", "dlq", "test", "SEA_DLQ:1", "--output", "cases/test_letter_1.py")
    failed = project.ended(sys.executable, "manage.py", "test", "cases.test_letter_1", code=1)
    assert "seaway.errors.Poison: a case needs a title" in failed.stderr
    handlers = project.folder / "cases" / "handlers.py"
    handlers.write_text(
        handlers.read_text().replace("if not event.title", "if event.title is None")
    )
    manage(project, "test", "cases.test_letter_1")

    project.environment["NATS_URL"] = f"nats://127.0.0.1:{free_port()}"
    (away,) = looked_at(project, "deadletter/")
    assert (away[0], "no NATS server answers" in away[1]) == (503, True)


def test_options_before_the_command_reach_the_application(project: Shell) -> None:
    port = free_port()
    run = [sys.executable, "manage.py", "seaway", "--server", f"nats://127.0.0.1:{port}", "run"]
    with project.running(*run):
        project.until(lambda: f"127.0.0.1:{port}" in project.said(), "waiting there")
