"""The embedded nats-server: its life, its port, its folder, and what it says when it cannot."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.embedded.nats_server import NatsServer, find_binary
from seaway.errors import ConfigError, SeawayError

pytestmark = pytest.mark.server

STREAM = {"name": "SEA_EVENTS", "subjects": ["sea.event.>"], "storage": "file"}


async def connected(server: NatsServer) -> JetStreamBroker:
    return await connect(NatsSettings(url=server.url))


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_keeps_port_and_store(how: str) -> None:
    async with NatsServer() as server:
        port, pid = server.port, server.pid
        assert pid is not None
        broker = await connected(server)
        await broker.admin.create_stream(STREAM)
        await broker.close()
        await (server.stop() if how == "stop" else server.kill())
        assert server.pid is None
        assert not is_running(pid)
        assert not answers(port)
        await server.start()
        assert server.port == port
        broker = await connected(server)
        assert await broker.admin.stream("SEA_EVENTS") is not None
        await broker.close()


async def test_starting_and_stopping_twice_is_once() -> None:
    async with NatsServer() as server:
        pid = server.pid
        await server.start()
        assert server.pid == pid
        await server.stop()
        await server.stop()
        await server.kill()
        assert server.pid is None


async def test_a_paused_server_comes_back_as_it_was() -> None:
    async with NatsServer() as server:
        broker = await connected(server)
        server.pause()
        server.resume()
        assert (await broker.admin.server_info()).jetstream
        assert await broker.admin.streams() == []
        await broker.close()


async def test_a_paused_server_can_be_stopped() -> None:
    async with NatsServer() as server:
        server.pause()
        await server.stop()
        assert server.pid is None


async def test_it_listens_on_loopback_alone_and_two_do_not_meet() -> None:
    async with NatsServer() as one, NatsServer() as other:
        assert one.port != other.port
        assert one.url == f"nats://127.0.0.1:{one.port}"
        assert one.directory != other.directory


async def test_its_own_folder_is_removed() -> None:
    async with NatsServer() as server:
        folder, pid = server.directory, server.pid
        assert folder.is_dir()
    assert not folder.exists()
    assert pid is not None
    assert not is_running(pid)


async def test_its_folder_is_removed_after_an_exception() -> None:
    server = NatsServer()
    folder = server.directory

    async def fail() -> None:
        async with server:
            assert folder.is_dir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert not folder.exists()
    assert server.pid is None


async def test_a_given_folder_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "nats"
    async with NatsServer(folder) as server:
        broker = await connected(server)
        await broker.admin.create_stream(STREAM)
        await broker.close()
    assert folder.is_dir()
    async with NatsServer(folder) as server:
        broker = await connected(server)
        assert await broker.admin.stream("SEA_EVENTS") is not None
        await broker.close()


async def test_a_taken_port_is_a_configuration_error(tmp_path: Path) -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        server = NatsServer(tmp_path, port=port)
        with pytest.raises(ConfigError, match=f"port {port}"):
            await server.start()
        assert server.pid is None


async def test_a_broken_configuration_is_told() -> None:
    server = NatsServer(extra_config="no_such_option: 1\n")
    with pytest.raises(SeawayError, match="no_such_option"):
        async with server:
            pass
    assert server.pid is None


async def test_its_configuration_may_be_extended() -> None:
    async with NatsServer(extra_config="max_payload: 4096\n") as server:
        broker = await connected(server)
        assert (await broker.admin.server_info()).max_payload_bytes == 4096
        await broker.close()


def test_without_an_event_loop() -> None:
    server = NatsServer()
    with pytest.raises(SeawayError, match="not been started"):
        _ = server.url
    server.launch()
    try:
        assert answers(server.port)
    finally:
        server.terminate()
        server.remove()
    assert not answers(server.port)


def test_a_named_binary_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEAWAY_NATS_SERVER", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere"):
        find_binary()
    monkeypatch.delenv("SEAWAY_NATS_SERVER")
    assert os.access(find_binary(), os.X_OK)
