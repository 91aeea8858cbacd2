"""What commands say of a right that is lacking, and what runs on once it is granted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from consuming import until
from seaway import Delivery, RawEvent, Seaway, topology
from seaway.brokers import jetstream
from seaway.brokers.jetstream import JetStreamBroker, reading
from seaway.cli.topology import as_server
from seaway.config import NatsSettings, settings_from_mapping
from seaway.contracts import Incoming, Message, StoredMessage
from seaway.dead_letters.writing import write
from seaway.embedded.nats_server import NatsServer
from seaway.naming import reader_name
from seaway.stores import open_configured
from seaway.topology import Rights, rights
from shell import SEAWAY, Shell

pytestmark = pytest.mark.server

E, D = "SEA_EVENTS", "SEA_DLQ"
C = "case_mgmt__from_sea"
FILE = {
    "database": "sqlite:///sea.db",
    "streams": [{"name": E, "replicas": 1, "storage": "memory", "max_bytes": "1MB"}],
    "consumers": [{"stream": E, "durable": C, "ack_wait": "1s"}],
}
SETTINGS = settings_from_mapping(FILE, environ={})


def users(role: str, lacking: Callable[[str], bool] = lambda right: False) -> str:
    """The administrator, and ``role`` without what it is ``lacking``."""
    whole = rights(SETTINGS, role)
    left = tuple(one for one in whole.publish if not lacking(one))
    found = Rights(whole.role, left, whole.subscribe, whole.inbox)
    block = as_server(found, role).replace(f"${role.upper()}_PASSWORD", "pass")
    listed = f"{{user: adm, password: pass}}\n{block}"
    return f"accounts {{ A {{ jetstream: enabled, users: [ {listed} ] }} }}"


@asynccontextmanager
async def administrator(server: NatsServer) -> AsyncIterator[JetStreamBroker]:
    """With all streams and durables in place."""
    broker = await jetstream.connect(
        NatsSettings.model_validate({"url": server.url, "user": "adm", "password": "pass"})
    )
    try:
        wanted = topology.desired(SETTINGS)
        plan = topology.plan(wanted, await topology.actual(broker.admin, wanted))
        await topology.apply(plan, broker.admin)
        yield broker
    finally:
        await broker.close()


def mapping(server: NatsServer, role: str) -> dict[str, object]:
    nats = {"url": server.url, "user": role, "password": "pass", "inbox_prefix": f"_INBOX_{role}"}
    return {**FILE, "nats": nats}


async def publish(broker: JetStreamBroker, *event_ids: str) -> None:
    messages = [
        Message("sea.event.case.v1", b"{}", {"Nats-Msg-Id": one, "X-Ordering-Key": one})
        for one in event_ids
    ]
    await broker.publish(E, messages, timeout=timedelta(seconds=5))


async def test_a_consumer_goes_on_once_its_rights_are_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lacking = (f"$JS.API.CONSUMER.MSG.NEXT.{E}.{C}", f"$JS.ACK.{E}.{C}.>")
    async with (
        NatsServer(extra_config=users("consumer", lambda one: one in lacking)) as server,
        administrator(server) as admin,
    ):
        app = Seaway.from_config(mapping(server, "consumer"))
        handled: list[str] = []

        async def handle(event: RawEvent, delivery: Delivery) -> None:
            handled.append(delivery.event_id)

        app.consumer("case_mgmt", from_context="sea").handler(RawEvent)(handle)
        store = await open_configured(app.settings)
        await store.schema.upgrade()
        await store.close()
        await publish(admin, "one")

        def denied() -> list[str]:
            return [wait.about for wait in app.telemetry.waits if wait.part == "permissions"]

        stop = asyncio.Event()
        async with app:
            work = asyncio.create_task(app.run(stop, relay=False, sweeper=False))
            await until(lambda: denied() == [f"publish {lacking[0]}"])
            server.reload(users("consumer", lambda one: one == lacking[1]))
            await until(lambda: handled == ["one"] and denied() == [f"publish {lacking[1]}"])
            server.reload(users("consumer"))
            await until(lambda: not denied())
            await publish(admin, "two")
            await until(lambda: handled == ["one", "two"])
            stop.set()
            await asyncio.wait_for(work, 5)
        info = await admin.admin.consumer(E, C)
        assert info is not None
        assert info.num_ack_pending == info.num_pending == 0


@pytest.mark.parametrize(
    ("role", "missing", "arguments", "code"),
    [
        ("operator", f"$JS.API.STREAM.MSG.DELETE.{D}", ["dlq", "redrive", "e1"], 2),
        ("operator", f"sea.redrive.{C}.>", ["dlq", "redrive", "e1"], 2),
        ("operator", f"$JS.API.STREAM.INFO.{D}", ["dlq", "ls"], 2),
        ("topology", "$JS.API.STREAM.LIST", ["topology", "plan"], 2),
        ("watcher", f"$JS.API.STREAM.INFO.{D}", ["check", "--sample", "0"], 3),
    ],
)
async def test_a_command_names_the_right_that_it_lacks(
    tmp_path: Path, role: str, missing: str, arguments: list[str], code: int
) -> None:
    config = users(role, lambda one: one == missing)
    async with NatsServer(extra_config=config) as server, administrator(server) as admin:
        await publish(admin, "e1")
        found = await admin.admin.get(E, 1)
        assert found is not None
        incoming = reading_of(found)
        letter = write(incoming, reason="poison", error=None, failed_at=found.stored_at)
        await admin.publish(D, [letter], timeout=timedelta(seconds=5))
        (tmp_path / "seaway.yaml").write_text(json.dumps(mapping(server, role)))
        shell = Shell(tmp_path, server.url)
        del shell.environment["NATS_URL"]
        await asyncio.to_thread(shell.seaway, "db", "upgrade")
        shell.environment["COLUMNS"] = "300"
        process = await asyncio.create_subprocess_exec(
            *(*SEAWAY, *arguments),
            cwd=tmp_path,
            env=shell.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 20)
        said = (out + err).decode()
        assert f"no permission to publish to {missing.removesuffix('>')}" in said
        assert process.returncode == code
        assert "Traceback" not in said


def reading_of(found: StoredMessage) -> Incoming:
    return Incoming.read(found, C, deliveries=1)


async def test_a_reader_that_was_left_behind_is_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_TAKEN_SECONDS", 0.2)
    async with (
        NatsServer(extra_config=users("relay")) as server,
        administrator(server) as admin,
    ):
        await publish(admin, *map(str, range(100)))
        still = await jetstream.connect(admin._connection.settings)
        # Of a process that listens and does not move: the server keeps it for ever.
        inbox = still._connection.new_inbox()
        await still._connection.subscribe(inbox, lambda frame: None)
        name = reader_name("relay")
        config = {"name": name, "deliver_subject": inbox, "inactive_threshold": 5 * 10**9}
        await still.admin.create_consumer(E, config)
        async with asyncio.timeout(5):
            read = admin.admin.read(E, reader="relay")
            assert [one.event_id async for one in read] == [str(n) for n in range(100)]
        await still.close()


async def test_a_page_that_another_one_took_away_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_SILENCE_SECONDS", 0.2)
    async with (
        NatsServer(extra_config=users("relay")) as server,
        administrator(server) as admin,
    ):
        await publish(admin, *map(str, range(3000)))
        taking = asyncio.create_task(take_away(admin))
        try:
            for _ in range(5):
                read = admin.admin.read(E, headers_only=True, reader="relay")
                assert [one.event_id async for one in read] == [str(n) for n in range(3000)]
        finally:
            taking.cancel()


async def take_away(broker: JetStreamBroker) -> None:
    while True:
        await broker.admin.delete_consumer(E, reader_name("relay"))
        await asyncio.sleep(0.003)
