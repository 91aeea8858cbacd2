"""Child processes: started, watched, started again, stopped.

Owns: the processes of ``seaway.proof.child``. Knows nothing of what they do. Guarantees: a child
that dies is noticed and replaced, whoever killed it; no child outlives its supervisor: each holds
the read end of a pipe whose other end is this process, and ends when it closes, also when this
process is killed with ``kill -9``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from seaway.errors import SeawayError

STOP_TIMEOUT = timedelta(seconds=15)
"""How long a child may take to drain before it is killed."""

_TOO_SOON = timedelta(seconds=3)
_TOO_OFTEN = 5


class ChildFailed(SeawayError):
    """A child ends by itself every time it is started; its log says why."""


@dataclass(slots=True)
class Child:
    """One child: its process now, and how often it had to be started again."""

    name: str
    command: Sequence[str]
    log: Path
    pid: int | None = None
    restarts: int = 0
    codes: list[int] = field(default_factory=list)
    """How each process before this one ended; negative: by that signal."""
    process: asyncio.subprocess.Process | None = None

    @property
    def exits(self) -> int:
        """How often it ended without a signal and without the supervisor's word."""
        return sum(code >= 0 for code in self.codes)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, as a person would; nothing where it is dead, or about to be started."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(slots=True)
class Supervisor:
    """Keeps children running until ``stop``; ``said`` is told of every death."""

    said: Callable[[str], None]
    children: dict[str, Child] = field(default_factory=dict)
    _watchers: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False

    async def start(self, name: str, arguments: Sequence[str], *, log: Path) -> Child:
        """Start ``python -m seaway.proof.child ARGUMENTS`` under ``name``; keep it running."""
        child = Child(name, (sys.executable, "-m", "seaway.proof.child", *arguments), log)
        self.children[name] = child
        await self._spawn(child)
        self._watchers.append(asyncio.create_task(self._watch(child), name=f"watch {name}"))
        return child

    def failed(self) -> SeawayError | None:
        """Why a child can't be kept running; ``None`` while all is well."""
        for watcher in self._watchers:
            if watcher.done() and not watcher.cancelled():
                error = watcher.exception()
                if isinstance(error, SeawayError):
                    return error
        return None

    async def stop(self) -> None:
        """SIGTERM to all, then SIGKILL to what is left. Idempotent; returns when all are gone."""
        self._stopping = True
        running = [child.process for child in self.children.values() if child.process is not None]
        for process in running:
            if process.returncode is None:
                process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT.total_seconds()):
                for process in running:
                    await process.wait()
        except TimeoutError:
            self.said("a worker did not stop in time and is killed")
        finally:
            for process in running:
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*self._watchers, return_exceptions=True)
            for child in self.children.values():
                child.pid = None

    async def _spawn(self, child: Child) -> None:
        with child.log.open("ab") as log:
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(os.environ),
                # Ctrl-C reaches this process alone, which then stops its children in order.
                start_new_session=True,
            )
        child.pid = child.process.pid

    async def _watch(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        quick = 0
        while child.process is not None:
            began = loop.time()
            code = await child.process.wait()
            if child.process.stdin is not None:
                child.process.stdin.close()
            child.pid = None
            if self._stopping:
                return
            child.codes.append(code)
            quick = quick + 1 if loop.time() - began < _TOO_SOON.total_seconds() else 0
            if code >= 0 and quick >= _TOO_OFTEN:
                raise ChildFailed(
                    f"{child.name} ended {quick} times right after its start (exit {code}): "
                    f"{_last_line(child.log)}"
                )
            await self._spawn(child)
            child.restarts += 1
            why = "" if code < 0 else f" ({_last_line(child.log)})"
            self.said(f"{child.name} {death(code)}{why}, restarted as pid {child.pid}")


def death(code: int) -> str:
    """How a process ended, in words: ``killed by SIGKILL``, ``exited with 1``."""
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """The stage's own server and database, whatever the user's environment points at."""
    return {name: value for name, value in own.items() if not name.startswith(("NATS_", "SEAWAY_"))}


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1]} (all of it: {log})" if lines else f"nothing in {log}"
