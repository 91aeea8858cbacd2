"""The tutorial, line by line on a real server: files as they stand there, commands in their order,
and what the terminals show, but for ids, times and the port. Only the installation is not run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from seaway.embedded.process import free_port
from shell import DEADLINE_SECONDS, SEAWAY, Shell

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "first-event.md"
FILE = re.compile(r"(Put this into|Add this to) `([\w.]+)`:\s*$")
CHANGING = ("init", "topology apply", "db upgrade", "dlq redrive")
"""What is done once; what only looks is done until it shows what the page has."""


def steps() -> Iterator[tuple[str, str, str]]:
    """``("write" or "add", file, text)``, ``("run", command, screen)`` and, of what goes on in the
    first terminal, ``("said", "", screen)``, in the page's order."""
    text = PAGE.read_text()
    for block in re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.S | re.M):
        language, body = block.groups()
        named = FILE.search(text[: block.start()])
        if named:
            yield ("write" if named[1].startswith("Put") else "add"), named[2], body
        elif language == "console":
            for one in body.removeprefix("$ ").split("\n$ "):
                command, _, screen = one.partition("\n")
                yield "run", command, screen
        elif language == "text":
            yield "said", "", body
        else:
            assert language == "sh", body  # the installation


def plain(screen: str) -> list[str]:
    """What is the same at every run."""
    for what, word in (
        (r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO seaway: ", ""),  # Not on a terminal.
        (r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
        (r"127\.0\.0\.1:\d+", "SERVER"),
        (r"run \d{8}-\d{6}-[0-9a-f]{4}", "run ID"),
        (r"oldest for [^;]+;", "oldest for AGE;"),
    ):
        screen = re.sub(what, word, screen)
    return [line.rstrip() for line in screen.splitlines() if line.strip()]


def command_of(line: str) -> list[str]:
    program, *arguments = shlex.split(line)
    return [*(SEAWAY if program == "seaway" else [sys.executable]), *arguments]


def test_the_tutorial(tmp_path: Path) -> None:
    shell = Shell(tmp_path, f"nats://127.0.0.1:{free_port()}")
    shell.environment["COLUMNS"] = "200"
    done: set[str] = set()
    with ExitStack() as terminals:
        for what, name, text in steps():
            if what == "write":
                (tmp_path / name).write_text(text)
            elif what == "add":
                (tmp_path / name).write_text((tmp_path / name).read_text() + "\n\n" + text)
            elif what == "said":
                waits(shell, text)
            elif name.startswith("seaway run"):
                terminals.enter_context(shell.running(*command_of(name)))
                waits(shell, text)
            else:
                looks(shell, name, text)
            done.add(name)
    assert "stopped: relay, consumer shipping__from_shop" in shell.said()
    assert {"shop.py", "fixed.json", "seaway run shop:app --dev", "seaway init shop"} <= done
    assert (ROOT / "examples" / "shop.py").read_text().endswith((tmp_path / "shop.py").read_text())


def waits(shell: Shell, screen: str) -> None:
    """For what a command that goes on says."""
    shell.until(lambda: set(plain(screen)) <= set(plain(shell.said())), screen)


def looks(shell: Shell, line: str, screen: str) -> None:
    """Run a command: once where it changes something, else until it shows the screen."""
    shown = ""

    def same() -> bool:
        nonlocal shown
        ended = subprocess.run(
            command_of(line),
            cwd=shell.folder,
            env=shell.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # In the order in which a terminal shows them.
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        shown = ended.stdout
        # What `seaway check` says of a letter, and `plan` of a difference.
        code = int("warning" in screen or " plan" in line)
        return ended.returncode == code and plain(shown) == plain(screen)

    if line.startswith("python shop.py") or line.removeprefix("seaway ").startswith(CHANGING):
        assert same(), f"{line}\n{shown}"
    else:
        shell.until(same, f"{line}\n{screen}")
