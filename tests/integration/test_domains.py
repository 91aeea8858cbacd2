"""JetStream in another domain: everything that Seaway does, through a leaf node, real servers.

Clients connect to ``edge``, whose JetStream is a domain of its own; what is meant is ``hub``.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from seaway import Delivery, Poison, RawEvent, Seaway, topology
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.cli.topology import as_server
from seaway.config import NatsSettings, Settings, settings_from_mapping
from seaway.contracts import Message, Refused, Stored, Unconfirmed
from seaway.dead_letters import Sweeper
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.process import free_port
from seaway.errors import BrokerUnavailable, NotPermitted
from seaway.naming import ADVISORY_STREAM, SWEEPER_DURABLE
from seaway.outbox import Outbox
from seaway.stores import open_configured
from seaway.topology import rights
from shell import Shell

pytestmark = pytest.mark.server

STREAM, DURABLE, SUBJECT = "SEA_EVENTS", "case_mgmt__from_sea", "sea.event.moved.v1"
TIMEOUT = timedelta(seconds=5)
DOMAIN = "jetstream {{ domain: {} }}\n"


class Servers:
    """``hub``, and ``edge`` as its leaf. ``edge_config`` and ``hub_config`` are added to theirs."""

    def __init__(
        self,
        *,
        hub_config: str = "",
        edge_config: str = "",
        edge_js: bool = True,
        account: str = "$G",
        login: dict[str, Any] | None = None,
    ) -> None:
        self._login = login or {}
        port = free_port()
        self.hub = NatsServer(
            name="hub",
            extra_config=(
                DOMAIN.format("hub") + f'leafnodes {{ listen: "127.0.0.1:{port}" }}\n{hub_config}'
            ),
        )
        address = f"nats://127.0.0.1:{port}"
        remote = f'leafnodes {{ remotes: [{{ url: "{address}", account: "{account}" }}] }}\n'
        self.edge = NatsServer(
            name="edge",
            jetstream=edge_js,
            extra_config=(DOMAIN.format("edge") if edge_js else "") + remote + edge_config,
        )

    async def __aenter__(self) -> Servers:
        await self.hub.start()
        await self.edge.start()
        over = NatsSettings(url=self.edge.url, jetstream_domain="hub", **self._login)
        async with asyncio.timeout(60):
            while True:  # Until the leaf has its hub.
                broker = await connect(over)
                try:
                    await broker.admin.streams()
                    return self
                except BrokerUnavailable:
                    await asyncio.sleep(0.05)
                finally:
                    await broker.close()

    async def __aexit__(self, *exc: object) -> None:
        await self.edge.stop()
        await self.hub.stop()


def mapping(url: str, database: Path, **nats: Any) -> dict[str, Any]:
    consumer = {"stream": STREAM, "durable": DURABLE, "ack_wait": "2s", "max_deliver": 2}
    return {
        "nats": {"url": url, **nats},
        "database": f"sqlite:///{database}",
        "streams": [{"name": STREAM, "replicas": 1, "max_bytes": "10MB"}],
        "consumers": [consumer],
    }


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.05)


async def names(url: str) -> list[str]:
    """The streams of the server's own JetStream."""
    broker = await connect(NatsSettings(url=url))
    try:
        return sorted(one.name for one in await broker.admin.streams())
    finally:
        await broker.close()


async def holds(broker: JetStreamBroker, stream: str, count: int) -> bool:
    info = await broker.admin.stream(stream)
    return info is not None and info.messages == count


ALL = ["SEAWAY_ADVISORIES", "SEA_DLQ", "SEA_EVENTS", "SEA_REDRIVE"]


async def make(settings: Settings, broker: JetStreamBroker) -> None:
    wanted = topology.desired(settings)
    plan = topology.plan(wanted, await topology.actual(broker.admin, wanted))
    await topology.apply(plan, broker.admin)
    assert topology.plan(wanted, await topology.actual(broker.admin, wanted)).empty


async def whole_way(settings_mapping: dict[str, Any], database: Path) -> None:
    """Relay, consumer with acknowledgements, letters, redrive, replay, sweeper."""
    app = Seaway.from_config(settings_mapping)
    consumer = app.consumer("case_mgmt", from_context="sea", workers=4)

    @consumer.handler(RawEvent)
    async def handle(event: RawEvent, delivery: Delivery) -> None:
        number = event.json()["number"]
        if number is None:
            raise Poison("it has no number")
        await delivery.tx.execute("INSERT INTO effects VALUES (?)", (number,))

    store = await open_configured(app.settings)
    await store.schema.upgrade()
    await store.close()
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE effects (number INTEGER)")
        with db:
            db.execute("BEGIN IMMEDIATE")
            for number in (0, 1, 2, None, 4):
                payload = json.dumps({"number": number}).encode()
                Outbox().add(db, RawEvent(SUBJECT, payload, key="k"))

    def effects() -> list[int]:
        with closing(sqlite3.connect(database)) as db:
            return [number for (number,) in db.execute("SELECT number FROM effects ORDER BY 1")]

    async with app:
        broker = app.broker
        await make(app.settings, broker)  # type: ignore[arg-type]
        # Two that nobody acknowledges: the server gives them up, and says so.
        lost = [Message(SUBJECT, b'{"number": 7}', {"Nats-Msg-Id": f"lost-{n}"}) for n in (1, 2)]
        assert all(
            isinstance(one, Stored) for one in await broker.publish(STREAM, lost, timeout=TIMEOUT)
        )
        async with broker.subscribe(STREAM, DURABLE) as pull:

            async def given_up() -> bool:
                await pull.next(5, timeout=timedelta(milliseconds=200))
                info = await broker.admin.stream(ADVISORY_STREAM)
                return info is not None and info.messages == 2

            await until(given_up)
        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))

        async def settled() -> bool:
            info = await broker.admin.consumer(STREAM, DURABLE)
            assert info is not None
            letters = await app.dead_letters.list()
            return effects() == [0, 1, 2, 4] and not info.num_ack_pending and len(letters) == 3

        await until(settled)
        letters = {one.event_id: one for one in await app.dead_letters.list()}
        assert letters["lost-1"].reason == letters["lost-2"].reason == "exhausted"
        await app.dead_letters.redrive(letters["lost-1"])
        [mended] = [one for name, one in letters.items() if not name.startswith("lost")]
        await app.dead_letters.redrive(mended, payload=b'{"number": 3}')

        async def redriven() -> bool:
            return effects() == [0, 1, 2, 3, 4, 7] and len(await app.dead_letters.list()) == 1

        await until(redriven)
        stop.set()
        await running
        assert len([one async for one in broker.admin.read(STREAM)]) == 7


@pytest.mark.parametrize(
    ("hub_config", "nats"),
    [
        pytest.param("", {"jetstream_domain": "hub"}, id="domain"),
        pytest.param("", {"jetstream_api_prefix": "$JS.hub.API"}, id="prefix"),
        pytest.param(
            "feature_flags { js_ack_fc_v2: true }\n", {"jetstream_domain": "hub"}, id="long-acks"
        ),
    ],
)
@pytest.mark.seaway_since("2.15", "acknowledgements that name their domain")
async def test_the_whole_way_through_a_leaf(
    tmp_path: Path, hub_config: str, nats: dict[str, str]
) -> None:
    async with Servers(hub_config=hub_config) as servers:
        await whole_way(mapping(servers.edge.url, tmp_path / "a.db", **nats), tmp_path / "a.db")
        assert await names(servers.hub.url) == ALL
        assert await names(servers.edge.url) == []


async def test_the_whole_way_through_a_leaf_without_jetstream(tmp_path: Path) -> None:
    async with Servers(edge_js=False) as servers:
        given = mapping(servers.edge.url, tmp_path / "a.db", jetstream_domain="hub")
        await whole_way(given, tmp_path / "a.db")


@pytest.mark.seaway_since("2.15", "acknowledgements that name their domain")
async def test_an_acknowledgement_names_its_domain(tmp_path: Path) -> None:
    async with Servers(hub_config="feature_flags { js_ack_fc_v2: true }\n") as servers:
        given = mapping(servers.edge.url, tmp_path / "a.db", jetstream_domain="hub")
        broker = await connect(settings_from_mapping(given).nats)
        await make(settings_from_mapping(given), broker)
        await broker.publish(
            STREAM, [Message(SUBJECT, b"1"), Message(SUBJECT, b"2")], timeout=TIMEOUT
        )
        async with broker.subscribe(STREAM, DURABLE) as pull:
            first, second = await pull.next(2, timeout=TIMEOUT)
            assert first.reply.startswith("$JS.ACK.hub.")
            assert (first.stream, first.stream_seq, first.consumer) == (STREAM, 1, DURABLE)
            assert await pull.ack(first, second) == [True, True]
            info = await broker.admin.consumer(STREAM, DURABLE)
            assert info is not None
            assert info.ack_floor == 2
        await broker.close()


class Elsewhere(Shell):
    """A terminal with a context of the nats CLI."""

    def context(self, name: str, **content: object) -> None:
        folder = self.folder / "config" / "nats" / "context"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(content))
        self.environment["XDG_CONFIG_HOME"] = str(self.folder / "config")


async def test_the_command_line_makes_everything_in_the_domain_that_is_named(
    tmp_path: Path,
) -> None:
    async with Servers() as servers:
        shell = Elsewhere(tmp_path, servers.edge.url)
        (tmp_path / "seaway.yaml").write_text(
            json.dumps({"streams": [{"name": STREAM, "replicas": 1}]})
        )
        shell.context("hub", url=servers.edge.url, jetstream_domain="hub")
        shell.context("prefix", url=servers.edge.url, jetstream_api_prefix="$JS.hub.API.")
        for flags in (
            ("--context", "hub"),
            ("--context", "prefix"),
            ("--js-domain", "hub"),
            ("--js-api-prefix", "$JS.hub.API"),
        ):
            await asyncio.to_thread(shell.seaway, *flags, "topology", "apply")
            assert await names(servers.hub.url) == ALL
            assert await names(servers.edge.url) == []
            listed = await asyncio.to_thread(shell.json, *flags, "stream", "ls")
            assert len(listed) == len(ALL)
            for name in ALL:
                hub = await connect(NatsSettings(url=servers.hub.url))
                assert await hub.admin.delete_stream(name)
                await hub.close()
        # A domain that nobody has is said, and nothing is made.
        with pytest.raises(AssertionError, match="no domain 'moon' can be reached"):
            await asyncio.to_thread(shell.seaway, "--js-domain", "moon", "topology", "plan")
        await asyncio.to_thread(shell.seaway, "--js-domain", "moon", "topology", "plan", code=3)


async def test_an_acknowledgement_of_another_domains_stream_is_none(tmp_path: Path) -> None:
    """A stream of the same subjects at the leaf answers first: that says nothing of the hub's."""
    async with Servers() as servers:
        edge = await connect(NatsSettings(url=servers.edge.url))
        hub = await connect(NatsSettings(url=servers.edge.url, jetstream_domain="hub"))
        await edge.admin.create_stream({"name": STREAM, "subjects": ["sea.event.>"]})
        one, two = Message(SUBJECT, b"1"), [Message(SUBJECT, b"2"), Message(SUBJECT, b"3")]
        [outcome] = await hub.publish(STREAM, [one], timeout=TIMEOUT)
        assert isinstance(outcome, Unconfirmed | Refused)
        assert "domain 'edge'" in str(outcome)
        outcomes = await hub.publish(STREAM, two, timeout=TIMEOUT)
        assert not [one for one in outcomes if isinstance(one, Stored)]
        await edge.close()
        await hub.close()


@asynccontextmanager
async def both(servers: Servers) -> AsyncIterator[tuple[JetStreamBroker, JetStreamBroker]]:
    edge = await connect(NatsSettings(url=servers.edge.url))
    hub = await connect(NatsSettings(url=servers.hub.url))
    try:
        yield edge, hub
    finally:
        await edge.close()
        await hub.close()


@pytest.mark.seaway_since("2.15", "acknowledgements that name their domain")
async def test_another_domains_advisory_is_no_letter_here(tmp_path: Path) -> None:
    """Leaf nodes hear each other's advisories; streams and durables there may be called as ours."""
    apart = "feature_flags { js_ack_fc_v2: true }\n"
    servers = Servers(hub_config=apart, edge_config=apart)
    async with servers, both(servers) as (edge, hub):
        for broker, server in ((edge, servers.edge), (hub, servers.hub)):
            await make(settings_from_mapping(mapping(server.url, tmp_path / "a.db")), broker)
        # It goes to both; only the hub's durable gives it up.
        await hub.publish(STREAM, [Message(SUBJECT, b"1", {"Nats-Msg-Id": "1"})], timeout=TIMEOUT)
        await until(lambda: holds(edge, STREAM, 1))
        async with edge.subscribe(STREAM, DURABLE) as pull:
            [taken] = await pull.next(1, timeout=TIMEOUT)
            assert await pull.ack(taken) == [True]
        async with hub.subscribe(STREAM, DURABLE) as pull:

            async def given_up() -> bool:
                await pull.next(5, timeout=timedelta(milliseconds=200))
                return await holds(hub, ADVISORY_STREAM, 1)

            await until(given_up)
        await until(lambda: holds(edge, ADVISORY_STREAM, 1))
        # Both domains have the message and the durable, and both have heard of it.
        for broker, letters in ((edge, 0), (hub, 1)):
            stop = asyncio.Event()
            sweeping = asyncio.create_task(Sweeper(broker).run(stop))
            await until(lambda one=broker: swept(one))  # type: ignore[misc]
            stop.set()
            await sweeping
            assert await holds(edge, "SEA_DLQ", letters)
            assert await holds(hub, "SEA_DLQ", letters)


async def swept(broker: JetStreamBroker) -> bool:
    info = await broker.admin.consumer(ADVISORY_STREAM, SWEEPER_DURABLE)
    assert info is not None
    return info.settled


def test_the_rights_are_those_of_the_domain(tmp_path: Path) -> None:
    given = mapping("nats://127.0.0.1:4222", tmp_path / "a.db", jetstream_domain="hub")
    publish = rights(settings_from_mapping(given, environ={}), "application").publish
    assert f"$JS.hub.API.CONSUMER.MSG.NEXT.{STREAM}.{DURABLE}" in publish
    assert f"$JS.ACK.{STREAM}.{DURABLE}.>" in publish
    assert f"$JS.ACK.hub.*.{STREAM}.{DURABLE}.>" in publish
    assert not [one for one in publish if one.startswith("$JS.API.")]


async def test_a_right_that_the_domains_own_server_denies_is_named_as_it_names_it() -> None:
    """It reads the domain's API as its own before it looks at rights."""
    user = "{ user: ann, password: ann, permissions: { publish: [sea] } }"
    config = DOMAIN.format("hub") + f"authorization {{ users: [{user}] }}\n"
    async with NatsServer(extra_config=config) as server:
        settings = NatsSettings(
            url=server.url, jetstream_domain="hub", user="ann", password=SecretStr("ann")
        )
        broker = await connect(settings)
        with pytest.raises(NotPermitted, match=r"to \$JS.hub.API.STREAM.LIST: grant \$JS.API."):
            await broker.admin.streams()
        await broker.close()


BOSS = {"user": "boss", "password": "boss"}


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.seaway_since("2.15", "acknowledgements that name their domain")
async def test_the_applications_rights_suffice_in_a_domain(tmp_path: Path, long: bool) -> None:
    given = mapping("nats://127.0.0.1:1", tmp_path / "a.db", jetstream_domain="hub")
    allowed = rights(settings_from_mapping(given, environ={}), "application")
    user = as_server(allowed, "application").replace("$APPLICATION_PASSWORD", "secret")
    accounts = f"accounts {{ SHOP {{ users: [{{ user: boss, password: boss }} {user}] }} }}\n"
    flag = "feature_flags { js_ack_fc_v2: true }\n" if long else ""
    async with Servers(
        hub_config=flag, edge_config=accounts, edge_js=False, account="SHOP", login=BOSS
    ) as servers:
        server = servers.edge
        boss = given["nats"] | BOSS | {"url": server.url}
        broker = await connect(NatsSettings(**boss))
        await make(settings_from_mapping(given, environ={}), broker)
        nats = {"user": "application", "password": "secret", "inbox_prefix": allowed.inbox}
        given["nats"] |= {"url": server.url, **nats}
        app = Seaway.from_config(given)
        consumer, handled = app.consumer("case_mgmt", from_context="sea", tx=None), list[str]()

        @consumer.handler(RawEvent)
        async def handle(event: RawEvent, delivery: Delivery) -> None:
            handled.append(delivery.event_id)
            if delivery.event_id == "poison":
                raise Poison("as asked")

        messages = [Message(SUBJECT, b"{}", {"Nats-Msg-Id": one}) for one in ("one", "poison")]
        await broker.publish(STREAM, messages, timeout=TIMEOUT)
        store = await open_configured(app.settings)
        await store.schema.upgrade()
        await store.close()
        async with app:
            stop = asyncio.Event()
            running = asyncio.create_task(app.run(stop))

            async def settled() -> bool:
                info = await broker.admin.consumer(STREAM, DURABLE)
                assert info is not None
                return info.ack_floor == 2 and await holds(broker, "SEA_DLQ", 1)

            await until(settled)
            stop.set()
            await running
            assert not app.broker._connection.denials.known  # type: ignore[attr-defined]
        assert sorted(handled) == ["one", "poison"]
        await broker.close()
