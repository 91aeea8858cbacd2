"""A server as a child process: its folder, its start, its end.

Owns: what every embedded server needs alike. Must not know which server it is. Guarantees: a
server is stopped, and a folder that it made is removed, however the context ends; on Linux the
kernel ends it with the process that started it, even after kill -9. What it writes, no other user
of the machine can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from seaway.databases.tasks import to_its_end
from seaway.errors import ConfigError, SeawayError

START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 10_000
_FEW = 1_000
_TRIES = 20
_PR_SET_PDEATHSIG = 1


class PortTaken(ConfigError):
    """The port that a server was to have is somebody else's."""


class FolderTaken(ConfigError):
    """The folder that a server was to have is another's, which runs."""


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now.

    Where there is room, none of those that the system gives to outgoing connections: one of these
    would be taken before its server listens, or while that is down.
    """
    first = 0
    with contextlib.suppress(OSError, ValueError):
        first = int(_OUTGOING.read_text().split()[0])
    others = range(_LOWEST_PORT, first)
    tries = [secrets.choice(others) for _ in range(_TRIES)] if len(others) > _FEW else []
    for port in (*tries, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise SeawayError("no TCP port of loopback is free")


class ServerProcess(ABC):
    """One server on loopback. ``async with`` starts it and waits until it answers.

    ``store_dir`` keeps its data there (default: a temporary folder, removed at the end); ``port``:
    default a free one, kept over ``stop``/``kill`` and ``start``. Raises ``PortTaken`` for a port
    that is, ``FolderTaken`` for a ``store_dir`` that another runs in, ``ConfigError`` for one that
    cannot be used, ``SeawayError`` with the log's end where it does not start. The plain methods
    ``launch`` and ``terminate`` do the same without an event loop.
    """

    _name: ClassVar[str]
    _stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, store_dir: Path | None = None, port: int | None = None) -> None:
        # Absolute: the server works in there.
        self._given_dir = None if store_dir is None else store_dir.absolute()
        self._temporary: Path | None = None
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._held: int | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._port is None:
            raise SeawayError("the server has not been started")
        return self._port

    @property
    def pid(self) -> int | None:
        """Its process id, ``None`` while it is down."""
        return self._process.pid if self._process is not None else None

    @property
    def directory(self) -> Path:
        """Where its data, log and configuration are."""
        if self._given_dir is not None:
            return self._given_dir
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix=f"seaway-{self._name}-"))
        return self._temporary

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    # ------------------------------------------------------------------ what differs

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What to execute, after ``directory`` was made ready for it."""

    @abstractmethod
    def _answering(self) -> bool:
        """Whether it takes connections by now; it has noted its port then."""

    def _owner(self) -> tuple[int, int] | None:
        """User and group to run as, where that is not who we are."""
        return None

    def _tell(self, leader: int, number: signal.Signals) -> None:
        """Send a signal to all of its processes; ``leader`` is the one that we started."""
        os.killpg(leader, number)

    # ------------------------------------------------------------------ without an event loop

    def launch(self) -> None:
        """Start it and wait until it answers."""
        if self._process is not None:
            return
        if self._port is not None:
            _refuse_taken(self._port)
        self._take_folder()
        try:
            self._process = self._started()
            self._wait_until_ready(self._process)
        except BaseException:
            self.terminate(graceful=False)
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        command, owner = self._command(), self._owner()

        def in_child() -> None:
            os.setsid()  # Ctrl-C in the terminal reaches us alone: we drain before the server goes.
            become(owner)
            os.umask(0o077)
            if sys.platform == "linux":
                # After the change of user, which would clear it.
                ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        with open(self._log, "ab", opener=_private) as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.directory,
                preexec_fn=in_child,
            )

    def _take_folder(self) -> None:
        """Make its folder; one that it was given is no other server's until it has ended, since
        two would write over each other's files."""
        try:
            # Others may pass, since a server inside may run as somebody else; they see no names.
            self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            if self._given_dir is None:
                return
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"{self.directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise FolderTaken(
                f"another server runs in {self.directory}", hint="stop it, or name another folder"
            ) from None
        self._held = lock

    def _leave_folder(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def terminate(self, *, graceful: bool = True) -> None:
        """Stop it; not graceful: SIGKILL, to all of its processes. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            self._leave_folder()
            return
        with contextlib.suppress(ProcessLookupError):
            if graceful:
                self._tell(process.pid, signal.SIGCONT)
                process.send_signal(self._stop_signal)
            else:
                self._tell(process.pid, signal.SIGKILL)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._tell(process.pid, signal.SIGKILL)
            process.wait()
        self._leave_folder()

    def remove(self) -> None:
        """Remove the folder that it made for itself. Idempotent."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if self._answering():
                return
            time.sleep(0.01)
        tail = self._log.read_text(errors="replace").splitlines()[-5:]
        raise SeawayError(f"{self._name} did not start: " + (" | ".join(tail) or "it said nothing"))

    # ------------------------------------------------------------------ in an event loop

    async def start(self) -> None:
        """Start (again): same port, same data."""
        # Not in a thread: the kernel's death signal follows the thread that started the child.
        self.launch()

    async def stop(self) -> None:
        """Stop gracefully; the data stays."""
        await to_its_end(asyncio.to_thread(self.terminate))

    async def kill(self) -> None:
        """SIGKILL; the data stays as it was."""
        await to_its_end(asyncio.to_thread(self.terminate, graceful=False))

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        if self._process is not None:
            self._tell(self._process.pid, signal.SIGSTOP)
            # A signal is sent before it has arrived: until then it would go on answering.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._tell(self._process.pid, signal.SIGCONT)

    async def __aenter__(self) -> Self:
        try:
            self.launch()
        except BaseException:
            self.remove()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.terminate()
        self.remove()


def become(owner: tuple[int, int] | None) -> None:
    """Give up root for ``owner`` (user, group), for good. In a child, before it executes."""
    if owner is not None:
        user, group = owner
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)


def write_private(path: Path, text: str, owner: tuple[int, int] | None = None) -> None:
    """Write a file that only ``owner`` (user, group; default: us) can read."""
    path.unlink(missing_ok=True)
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    if owner is not None:
        os.chown(path, *owner)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def reachable(port: int) -> bool:
    """Whether somebody takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(
                f"port {port} of 127.0.0.1 is taken", hint="choose another, or stop its owner"
            ) from error
