"""``seaway demo`` as a person runs it: real processes, real faults, and the exit code."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.server

TIMEOUT_SECONDS = 60


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "seaway", "demo", *map(str, arguments)]


def environment(temporary: Path) -> dict[str, str]:
    """The user's own server is elsewhere, and left alone."""
    return {**os.environ, "TMPDIR": str(temporary), "NATS_URL": "nats://127.0.0.1:1"}


@contextmanager
def started(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A demo in a process group of its own, gone at the end."""
    process = subprocess.Popen(
        command("--dir", folder, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder.parent),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def demo(*arguments: object, temporary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env=environment(temporary),
        check=False,
    )


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Poll ``condition`` until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def processes_of(folder: Path) -> list[str]:
    """Command lines of what still runs in ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(os.fsencode(folder) in word for word in words):
                found.append(" ".join(map(os.fsdecode, words)))
    return found


def exact(report: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report)
    assert found["verdict"] == "exact"
    assert (found["lost"], found["duplicated"], found["out_of_order"]) == (0, 0, 0)
    assert (found["unexpected"], found["on_stream"]) == (0, found["events"])
    for service in found["services"]:
        assert service["handled"] == service["effects"] == found["events"]
        assert service["dead_lettered"] == service["redriven"]
    return found


@pytest.fixture
def small_log(tmp_path: Path) -> Path:
    rng = random.Random(7)
    log = tmp_path / "small.csv"
    lines = ["org:resource,case:concept:name,concept:name,lifecycle,time:timestamp\n"]
    for row in range(400):
        case, step = rng.randrange(40), rng.choice(["A_SUBMITTED", "W Afhandelen leads", "1 Zoë"])
        lines.append(f"R{row},case-{case},{step},complete,2024-01-01 00:00:00.{row:06d}+01:00\n")
    log.write_text("".join(lines), encoding="utf-8")
    return log


def test_the_simulated_service_is_exact_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo("--cases", 60, "--json", temporary=tmp_path)
    assert done.returncode == 0, done.stderr
    found = exact(done.stdout)
    assert found["cases"] == 60
    assert found["written"] == found["events"] + found["rolled_back"]
    assert found["rolled_back"] > 0
    assert sum(service["dead_lettered"] for service in found["services"]) > 0
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_a_log_is_exact_under_chaos_and_the_report_says_so(tmp_path: Path, small_log: Path) -> None:
    folder = tmp_path / "demo"
    done = demo(
        "--log", small_log, "--chaos", "--outage", "2s", "--dir", folder, temporary=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "400 events, 40 cases" in done.stdout
    assert done.stdout.endswith("exact: lost 0, duplicated 0, out of order 0\n")
    assert "nats-server stopped for 2 s" in done.stderr
    assert "relay killed by SIGKILL, restarted as pid" in done.stderr
    assert "case_mgmt killed by SIGKILL, restarted as pid" in done.stderr
    again = demo("--dir", folder, "--json", temporary=tmp_path)
    assert again.returncode == 0, again.stderr
    assert exact(again.stdout)["events"] == 400


def test_a_demo_that_was_killed_goes_on_and_is_exact(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with started(folder, "--cases", 150, "--json") as process:
        effects = folder / "analytics.db-wal"
        until(lambda: effects.exists() and effects.stat().st_size > 200_000)
        process.kill()
        process.communicate()
    until(lambda: not processes_of(folder))
    done = demo("--dir", folder, "--json", temporary=tmp_path)
    assert done.returncode == 0, done.stderr
    assert exact(done.stdout)["cases"] == 150


def test_ctrl_c_ends_it_all(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with started(folder, "--cases", 2000) as process:
        until(lambda: len(processes_of(folder)) >= 5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert processes_of(folder) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--log", "nowhere.csv"), "nowhere.csv: the log cannot be read: No such file"),
        (("--log", __file__), "no column 'case:concept:name'"),
        (("--cases", "0"), "--cases"),
        (("--outage", "soon"), "--outage"),
    ],
)
def test_a_users_mistake_is_a_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, str], said: str
) -> None:
    done = demo(*arguments, temporary=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
