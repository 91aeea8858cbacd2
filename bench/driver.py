"""Runs the contenders in turn, round by round, each in a fresh process on fresh servers.

Owns: processes, servers and folders of a round. Guarantees: nothing of a round outlives it; a
contender that fails or takes longer than ``LIMIT_SECONDS`` is told as such and the others go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.catalogue import Contender, Group
from bench.job import Figures, Job
from bench.results import Comparison, Entry
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer

ROOT = Path(__file__).parent.parent
OWN_PYTHON = Path(sys.executable)
PEERS_PYTHON = ROOT / "bench" / ".venv-peers" / "bin" / "python"
LIMIT_SECONDS = 600.0


class ContenderFailed(Exception):
    """It ended with an error, or not in time; the text is what it said last."""


def compare(
    groups: Sequence[Group],
    *,
    rounds: int,
    count: Callable[[Group, Contender], int],
    tell: Callable[[str], None],
) -> list[Comparison]:
    """Every contender of ``groups`` ``rounds`` times.

    Each group's contenders take turns, and each round begins with another one. ``count`` gives a
    contender's number of events; ``tell`` gets a line when a run begins and when it has ended.
    """
    comparisons = []
    for group in groups:
        entries = [Entry(contender, count(group, contender)) for contender in group.contenders]
        for round_ in range(rounds):
            for place in range(len(entries)):
                entry = entries[(round_ + place) % len(entries)]
                tell(f"{group.name}, round {round_ + 1} of {rounds}: {entry.contender.name} …")
                try:
                    figures = run_once(entry.contender, entry.events)
                except ContenderFailed as error:
                    entry.rounds.append(None)
                    entry.error = entry.error or str(error)
                    tell(f"  failed: {error}")
                    continue
                entry.rounds.append(figures)
                first = group.figures[0]
                tell(f"  {first.title}: {figures[first.key]:{first.form}}")
        comparisons.append(Comparison(group, entries))
    return comparisons


def run_once(contender: Contender, events: int) -> Figures:
    """One round; raises ``ContenderFailed``."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="seaway-bench-"))
        nats = NatsServer()
        stack.callback(nats.remove)
        stack.callback(nats.terminate)
        nats.launch()
        postgres_url = ""
        if contender.postgres:
            postgres = PostgresServer()
            stack.callback(postgres.remove)
            stack.callback(postgres.terminate)
            postgres.launch()
            postgres_url = postgres.url()
        python = PEERS_PYTHON if contender.peer else OWN_PYTHON
        return _measure(python, contender.place, Job(events, folder, nats.url, postgres_url))


def _measure(python: Path, place: str, job: Job) -> Figures:
    command = [str(python), "-m", "bench.process", f"bench.{place}", job.dump()]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, complained = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise ContenderFailed(f"not done after {LIMIT_SECONDS:.0f} s") from None
    finally:
        # Its session, so that a relay process which it started does not live on without it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        last = complained.strip().splitlines()[-1:] or [f"exit {process.returncode}"]
        raise ContenderFailed(last[0])
    figures: Figures = json.loads(said.splitlines()[-1])
    return figures
