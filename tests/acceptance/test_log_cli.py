"""``seaway log list``: a line for each entry at 80 columns, page by page."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from seaway.contracts import LogEntry
from seaway.stores.sqlite import SqliteStore

SEAWAY = [sys.executable, "-m", "seaway"]
DURABLE = "case_mgmt__from_sea"
ENTRIES = (
    LogEntry("healed", "SEA_EVENTS", {"events": 60, "first": 5, "last": 64, "made_anew": True}),
    LogEntry("set back", DURABLE, {"stream": "SEA_EVENTS", "to_seq": 31, "reason": "it ended"}),
    LogEntry("letters lost", "SEA_DLQ", {"consumer": DURABLE, "letters": 2, "ids": ["a", "b"]}),
    LogEntry("relettered", "SEA_DLQ", {"consumer": DURABLE, "letters": 17, "ids": ["c"]}),
    LogEntry("discarded", "SEA_DLQ", {"consumer": DURABLE, "letters": 1, "why": "a test"}),
)
SAID = (
    "60 events, made anew",
    "to SEA_EVENTS:31",
    f"2 of {DURABLE}",
    f"17 of {DURABLE}",
    f"1 of {DURABLE}, a test",
)


def test_a_log_is_read_page_by_page_and_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "seaway.yaml").write_text('database: "sqlite:///log.db"\ncontexts: [sea]\n')
    asyncio.run(noted(tmp_path / "log.db"))
    pages, after = list[list[int]](), list[str]()
    while not pages or len(pages[-1]) == 2:
        done = seaway(tmp_path, "--json", "--limit", "2", *after)
        pages.append([one["entry"] for one in json.loads(done.stdout)])
        said = f"There are more: --after {pages[-1][-1]}"
        assert (said in done.stderr) == (len(pages) < 3)
        after = ["--after", str(pages[-1][-1])]
    assert pages == [[5, 4], [3, 2], [1]]
    piped = seaway(tmp_path).stdout.splitlines()
    assert all(line.endswith(text) for line, text in zip(piped[1:], reversed(SAID), strict=True))
    shown = on_a_terminal(tmp_path, "--after", "5")
    assert len(shown) == 5, shown
    assert all(len(line) <= 80 for line in shown), shown
    for line, entry, said in zip(shown[1:], ENTRIES[3::-1], SAID[3::-1], strict=True):
        assert entry.action in line
        assert line.endswith(said)


async def noted(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await store.schema.upgrade()
        await store.note(*ENTRIES)


def seaway(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*SEAWAY, "log", "list", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def on_a_terminal(folder: Path, *arguments: str) -> list[str]:
    """What stands on 80 columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    command = [*SEAWAY, "log", "list", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, stdout=theirs, stderr=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            if not (some := os.read(ours, 4096)):
                break
        except OSError:  # Linux' way to say that the other end has gone.
            break
        text += some
    os.close(ours)
    assert process.wait(60) == 0
    return text.decode().splitlines()
