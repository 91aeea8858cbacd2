"""A user's terminal: commands in a folder of their own, against a real server."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

SEAWAY = [sys.executable, "-m", "seaway"]
DEADLINE_SECONDS = 60.0


def busy() -> float:
    """How many processes there are for each core; a bound in seconds is for a machine at rest."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Shell:
    """Knows the server by ``NATS_URL`` alone; nothing of the machine's own Seaway and NATS."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "SEAWAY_"))}
        self.environment = ours | {"NATS_URL": url, "PYTHONUNBUFFERED": "1"}

    def seaway(self, *arguments: str, code: int = 0) -> str:
        """Run ``seaway`` to its end; stdout."""
        return self.run(*SEAWAY, *arguments, code=code)

    def run(self, *command: str, code: int = 0) -> str:
        """Run ``command`` to its end; stdout."""
        return self.ended(*command, code=code).stdout

    def ended(
        self, *command: str, code: int | None = 0, say: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` to its end; with both consoles. ``code`` ``None``: whatever it is.
        ``say``: what it is told."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input=say,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        said = f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert code in (None, done.returncode), said
        return done

    def json(self, *arguments: str) -> Any:
        """What ``seaway ... --json`` prints."""
        return json.loads(self.seaway(*arguments, "--json"))

    @contextmanager
    def running(
        self, *command: str, ends_by: signal.Signals = signal.SIGTERM, code: int | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """``command`` until the end of the block, or what is left of it then.

        It must end with ``code`` (default: 0 for SIGTERM, else as the signal ends processes).
        """
        with (self.folder / "run.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
            try:
                yield process
                if process.poll() is None:
                    process.send_signal(ends_by)
                if code is None:
                    code = 0 if ends_by == signal.SIGTERM else -ends_by
                assert process.wait(DEADLINE_SECONDS) == code, self.said()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def said(self) -> str:
        """Both consoles of all that was ``running``."""
        return (self.folder / "run.log").read_text()

    def rows(self, query: str) -> list[Any]:
        """What the examples' database answers."""
        with closing(sqlite3.connect(self.folder / "cases.db")) as db:
            return db.execute(query).fetchall()

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Poll until ``holds``; fail with what was said."""
        ends = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            assert time.monotonic() < ends, f"not within the deadline: {what}\n{self.said()}"
            time.sleep(0.05)
