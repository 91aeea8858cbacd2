"""Commands that only look change nothing: no file is made, no file is altered."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from shell import SEAWAY, Shell

NOWHERE = "nats://127.0.0.1:9"
ID = "0192f0c1-2d3e-7000-8000-000000000001"
EVERY = [
    (["outbox", "status"], 2),
    (["outbox", "list"], 2),
    (["outbox", "retry", "--all"], 2),
    (["outbox", "discard", ID, "--why", "a typo", "--yes"], 2),
    (["outbox", "add", "-"], 2),
    (["db", "plan"], 1),
    (["db", "verify"], 1),
    (["db", "prune", "--dry-run"], 2),
    (["db", "prune"], 2),
    (["check", "--sample", "0"], 3),
    (["relay"], 2),
]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "seaway.yaml").write_text("contexts: [shop]\n")
    return Shell(tmp_path, NOWHERE)


@pytest.mark.parametrize(("command", "code"), EVERY)
def test_a_name_that_is_written_wrong_makes_no_file(
    shell: Shell, command: list[str], code: int
) -> None:
    ended = shell.ended(*SEAWAY, "--database", "sqlite:///typo.db", *command, code=code)
    said = " ".join((ended.stdout + ended.stderr).split())
    assert "typo.db does not exist" in said
    assert "seaway db upgrade" in said
    assert "Traceback" not in said
    assert [one.name for one in shell.folder.iterdir()] == ["seaway.yaml"]


def test_another_applications_file_stays_as_it_is(shell: Shell) -> None:
    file = shell.folder / "other.db"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE things (id INTEGER)")
    before = file.read_bytes()
    for command, code in ((["outbox", "status"], 2), (["db", "verify"], 1)):
        ended = shell.ended(*SEAWAY, "--database", "sqlite:///other.db", *command, code=code)
        assert "seaway db upgrade" in ended.stderr
    assert file.read_bytes() == before


def test_what_a_database_without_tables_needs_is_the_next_step(shell: Shell) -> None:
    for told in shell.ended(*SEAWAY, "check", "--sample", "0", code=3).stdout.split("unknown ")[1:]:
        if "seaway.db" in told:
            assert "next: seaway db upgrade" in told
            return
    pytest.fail("the database is not told of")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["outbox", "status", "--database", "x"], "It goes before the command: seaway --database"),
        (["dlq", "ls", "-s", "x"], "It goes before the command: seaway -s"),
        (["check", "--profile=x"], "It goes before the command: seaway --profile"),
        (["--json", "dlq", "ls"], "It goes after the command: seaway ... --json"),
        (["outbox", "--parked", "list"], "It goes after the command: seaway ... --parked"),
        (["dlq", "ls", "--jsn"], "Possible options: --json"),
    ],
)
def test_an_option_in_the_wrong_place_is_told_where_it_goes(
    shell: Shell, command: list[str], said: str
) -> None:
    told = shell.ended(*SEAWAY, *command, code=2).stderr
    words = " ".join(told.replace("│", " ").split())
    assert said in words, told


@pytest.mark.parametrize(("flag", "value"), [("--server", "http://x"), ("--profile", "nope")])
def test_a_wrong_flag_is_named_and_no_variable(shell: Shell, flag: str, value: str) -> None:
    if flag == "--profile":
        shell.environment["SEAWAY_PROFILE"] = "other"
    said = shell.ended(*SEAWAY, flag, value, "stream", "ls", code=2).stderr
    assert flag in said
    assert "NATS_URL" not in said
    assert "SEAWAY_PROFILE" not in said
