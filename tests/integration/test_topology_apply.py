"""The plan, carried out on a real server. The shared advisory stream may be there already."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import nats
import pytest

from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.contracts import JSON, Broker, BrokerAdmin, Message, Stored, StreamInfo
from seaway.embedded.nats_server import NatsServer
from seaway.errors import ApiError, ConfigError, SeawayError
from seaway.topology import Plan, Topology

pytestmark = pytest.mark.server
TIMEOUT = timedelta(seconds=5)


class File:
    """A seaway.yaml of one context with one durable, to be changed bit by bit."""

    def __init__(self, context: str) -> None:
        self.context = context
        self.stream = f"{context.upper()}_EVENTS"
        self.durable = f"case_mgmt__from_{context}"

    def topology(
        self, stream: JSON | None = None, consumer: JSON | None = None, **more: Any
    ) -> Topology:
        mapping = {
            "streams": [{"name": self.stream, "replicas": 1, **(stream or {})}],
            "consumers": [{"stream": self.stream, "durable": self.durable, **(consumer or {})}],
            **more,
        }
        return topology.desired(settings_from_mapping(mapping, environ={}))


@pytest.fixture
def file(context_name: str) -> File:
    return File(context_name)


async def planned(wanted: Topology, admin: BrokerAdmin) -> Plan:
    return topology.plan(wanted, await topology.actual(admin, wanted))


async def applied(wanted: Topology, admin: BrokerAdmin, allow_data_loss: bool = False) -> Plan:
    plan = await planned(wanted, admin)
    await topology.apply(plan, admin, allow_data_loss)
    assert (await planned(wanted, admin)).empty
    return plan


async def publish(broker: Broker, file: File, count: int) -> None:
    messages = [
        Message(
            f"{file.context}.event.case_created.v1", b"x" * 100, {"Nats-Msg-Id": uuid.uuid4().hex}
        )
        for _ in range(count)
    ]
    outcomes = await broker.publish(file.stream, messages, timeout=TIMEOUT)
    assert all(isinstance(one, Stored) for one in outcomes)


async def acknowledge(broker: Broker, file: File, count: int) -> None:
    async with broker.subscribe(file.stream, file.durable) as subscription:
        taken = 0
        while taken < count:
            incoming = await subscription.next(count - taken, timeout=TIMEOUT)
            assert incoming, "the durable delivers what waits"
            assert all(await subscription.ack(*incoming))
            taken += len(incoming)


async def config_of(admin: BrokerAdmin, stream: str) -> JSON:
    info = await admin.stream(stream)
    assert info is not None
    return info.config


async def test_apply_makes_the_plan_empty_and_again_does_nothing(
    broker: JetStreamBroker, file: File
) -> None:
    plan = await applied(file.topology(), broker.admin)
    assert {change.kind for change in plan.changes} == {"create"}
    assert await topology.apply(await planned(file.topology(), broker.admin), broker.admin) == ()
    config = await config_of(broker.admin, file.stream)
    assert config["max_age"] == 7 * 24 * 3600 * 10**9
    assert config["max_bytes"] == 10 * 1024**3
    assert config.get("allow_atomic", False) is (
        (await broker.admin.server_info()).release >= (2, 12)
    )
    info = await broker.admin.consumer(file.stream, file.durable)
    assert info is not None
    assert info.config["ack_wait"] == 120 * 10**9
    assert (info.config["max_deliver"], info.config["max_ack_pending"]) == (20, 50)


@pytest.mark.seaway_since("2.11", "times to live of messages")
async def test_changes_in_place_keep_messages_positions_and_foreign_fields(
    broker: JetStreamBroker, file: File
) -> None:
    admin = broker.admin
    await applied(file.topology(), admin)
    await publish(broker, file, 10)
    await acknowledge(broker, file, 4)
    config = await config_of(admin, file.stream)
    await admin.update_stream({**config, "metadata": {"team": "sea"}, "allow_msg_ttl": True})
    plan = await applied(
        file.topology(
            {
                "max_age": "1d",
                "max_bytes": "1GB",
                "max_msgs": 100,
                "max_msg_size": "1MB",
                "description": "events",
                "compression": "s2",
                "discard": "new",
                "duplicate_window": "1h",
                "deny_delete": True,
            },
            {
                "ack_wait": "30s",
                "max_deliver": 5,
                "max_ack_pending": 7,
                "description": "cases",
                "filter_subject": f"{file.context}.event.*.v1",
            },
        ),
        admin,
    )
    assert {change.kind for change in plan.changes} == {"in_place"}
    changed = await config_of(admin, file.stream)
    assert changed["metadata"]["team"] == "sea"
    assert changed["allow_msg_ttl"] is True
    info = await admin.consumer(file.stream, file.durable)
    assert info is not None
    assert (info.ack_floor, info.num_pending) == (4, 6)


@pytest.mark.seaway_since("2.10", "metadata of durables")
async def test_nats_tools_read_the_thresholds_in_the_raw_answer(
    broker: JetStreamBroker, nats_server: NatsServer, file: File
) -> None:
    admin = broker.admin
    await applied(file.topology(), admin)
    await publish(broker, file, 3)
    await acknowledge(broker, file, 2)
    held = await admin.consumer(file.stream, file.durable)
    assert held is not None
    team = {**held.config["metadata"], "team": "sea"}
    await admin.update_consumer(file.stream, {**held.config, "metadata": team})
    await applied(file.topology(alerts={"stream_messages_pending": 500}), admin)

    client = await nats.connect(nats_server.url)
    try:
        for stream in (file.stream, f"{file.context.upper()}_REDRIVE"):
            asked = f"$JS.API.CONSUMER.INFO.{stream}.{file.durable}"
            found = json.loads((await client.request(asked, b"")).data)
            read = found["config"]["metadata"]
            assert all(isinstance(value, str) for value in read.values())
            assert {
                name: value for name, value in read.items() if name.startswith("io.nats.monitor.")
            } == {
                "io.nats.monitor.enabled": "true",
                "io.nats.monitor.unprocessed-critical": "501",
                "io.nats.monitor.outstanding-ack-critical": "101",
                "io.nats.monitor.redelivery-critical": "51",
            }
            if stream == file.stream:
                assert (read["team"], found["ack_floor"]["stream_seq"]) == ("sea", 2)
                assert found["config"]["max_ack_pending"] == 50
            raw = json.loads((await client.request(f"$JS.API.STREAM.INFO.{stream}", b"")).data)
            assert not any("monitor" in name for name in raw["config"].get("metadata", {}))
    finally:
        await client.close()


async def test_what_was_set_by_hand_is_put_right(broker: JetStreamBroker, file: File) -> None:
    await applied(file.topology(), broker.admin)
    info = await broker.admin.consumer(file.stream, file.durable)
    assert info is not None
    by_hand = {"backoff": [10**9], "headers_only": True, "inactive_threshold": 10**12}
    await broker.admin.update_consumer(file.stream, {**info.config, **by_hand})
    plan = await applied(file.topology(), broker.admin)
    (change,) = plan.changes
    assert {one.field for one in change.differences} >= set(by_hand)


@pytest.mark.seaway_since("2.10", "a place for the position of a durable that is replaced")
async def test_a_new_consumer_continues_where_the_old_one_was(
    broker: JetStreamBroker, file: File
) -> None:
    await applied(file.topology(), broker.admin)
    await publish(broker, file, 10)
    await acknowledge(broker, file, 4)
    plan = await applied(file.topology(consumer={"max_waiting": 100}), broker.admin)
    assert {change.kind for change in plan.changes} == {"recreate_consumer"}
    info = await broker.admin.consumer(file.stream, file.durable)
    assert info is not None
    assert (info.config["opt_start_seq"], info.num_pending) == (5, 6)
    metadata = (await config_of(broker.admin, file.stream)).get("metadata", {})
    assert not [name for name in metadata if name.startswith("seaway.")]


class Crashing:
    """A BrokerAdmin that dies before its n-th change of the server."""

    def __init__(self, admin: BrokerAdmin, after: int) -> None:
        self._admin = admin
        self._left = after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._admin, name)
        if not name.startswith(("create", "update", "delete")):
            return method

        async def change(*args: Any) -> Any:
            if self._left == 0:
                raise ConnectionError("crashed")
            self._left -= 1
            return await method(*args)

        return change


@pytest.mark.seaway_since("2.10", "a place for the position of a durable that is replaced")
@pytest.mark.parametrize("after", range(7))
async def test_a_crash_between_any_two_steps_is_completed_by_the_next_apply(
    broker: JetStreamBroker, file: File, after: int
) -> None:
    admin = broker.admin
    await applied(file.topology(), admin)
    await publish(broker, file, 10)
    await acknowledge(broker, file, 4)
    wanted = file.topology({"max_age": "8d"}, {"max_waiting": 100})
    crashing: Any = Crashing(admin, after)
    with pytest.raises(ConnectionError):
        await topology.apply(await planned(wanted, admin), crashing)
    await applied(wanted, admin)
    info = await admin.consumer(file.stream, file.durable)
    assert info is not None
    assert info.num_pending == 6
    assert (await config_of(admin, file.stream))["max_age"] == 8 * 24 * 3600 * 10**9


@pytest.mark.parametrize(
    "stream",
    [
        {"max_bytes": "1KB"},
        {"max_msgs": 5},
        pytest.param(
            {"max_msgs_per_subject": 5},
            marks=pytest.mark.seaway_since(
                "2.14", "a lower max_msgs_per_subject for what is stored"
            ),
        ),
        {"storage": "memory"},
    ],
)
async def test_no_data_is_lost_without_permission(
    broker: JetStreamBroker, file: File, stream: JSON
) -> None:
    admin = broker.admin
    await applied(file.topology(), admin)
    await publish(broker, file, 20)
    before = await topology.actual(admin)
    wanted = file.topology({**stream, "description": "changed"})
    # The advisory stream is shared by the tests of a server: only this context's part is applied.
    whole = await planned(wanted, admin)
    plan = Plan(tuple(one for one in whole.changes if one.stream.startswith(file.context.upper())))
    with pytest.raises(SeawayError, match="--allow-data-loss") as caught:
        await topology.apply(plan, admin)
    assert f"stream {file.stream}" in str(caught.value)
    after = await topology.actual(admin)
    for name in wanted.streams:
        assert after.streams[name].config == before.streams[name].config
    info = await admin.stream(file.stream)
    assert info is not None
    assert info.messages == 20

    await topology.apply(plan, admin, allow_data_loss=True)
    info = await admin.stream(file.stream)
    assert info is not None
    assert info.messages < 20
    assert await admin.consumer(file.stream, file.durable) is not None


@pytest.mark.seaway_since("2.11", "exclusive durables")
async def test_an_export_loads_back_to_an_empty_plan(
    nats_server_own: NatsServer, file: File
) -> None:
    broker = await connect(NatsSettings(url=nats_server_own.url))
    try:
        wanted = file.topology(
            {"max_age": "36h", "max_msgs": 100, "compression": "s2"},
            {"ack_wait": "250ms", "max_waiting": 9, "exclusive": True},
        )
        await applied(wanted, broker.admin)
        found = await topology.export(broker.admin)
        assert found.left_out == ()
        again = topology.desired(settings_from_mapping(found.mapping, environ={}))
        assert (await planned(again, broker.admin)).empty
    finally:
        await broker.close()


@pytest.mark.seaway_since("2.11", "exclusive durables")
async def test_exclusive_is_changed_in_place_and_back(broker: JetStreamBroker, file: File) -> None:
    admin = broker.admin
    await applied(file.topology(), admin)
    await publish(broker, file, 3)
    await acknowledge(broker, file, 1)
    for exclusive, policy in ((True, "pinned_client"), (False, "none")):
        wanted = file.topology(consumer={"exclusive": exclusive})
        plan = await applied(wanted, admin)
        assert {change.kind for change in plan.changes} == {"in_place"}
        assert len(plan.changes) == 2
        assert (await planned(wanted, admin)).empty
        info = await admin.consumer(file.stream, file.durable)
        assert info is not None
        assert info.config.get("priority_policy", "none") == policy
        assert (info.ack_floor, info.num_pending) == (1, 2)


async def test_replicas_on_a_single_server_name_the_profile_that_fits(
    broker: JetStreamBroker, file: File
) -> None:
    wanted = file.topology({"replicas": 3}, profiles={"development": {"replicas": 1}})
    with pytest.raises(ConfigError, match="use --profile development") as caught:
        await topology.apply(await planned(wanted, broker.admin), broker.admin)
    assert "replicas: 3" in str(caught.value)
    assert await broker.admin.stream(file.stream) is None


async def test_a_stream_that_holds_the_subjects_already_is_named(
    broker: JetStreamBroker, file: File
) -> None:
    foreign = f"{file.context.upper()}_FOREIGN"
    await broker.admin.create_stream({"name": foreign, "subjects": [f"{file.context}.event.a"]})
    with pytest.raises(ApiError, match=f"held by {foreign}"):
        await topology.apply(await planned(file.topology(), broker.admin), broker.admin)


class Forgetful:
    """A BrokerAdmin whose server does not keep what it was told."""

    def __init__(self, admin: BrokerAdmin, drop: Sequence[str]) -> None:
        self._admin = admin
        self._drop = drop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._admin, name)

    async def create_stream(self, config: JSON) -> StreamInfo:
        kept = {name: value for name, value in config.items() if name not in self._drop}
        return await self._admin.create_stream(kept)


@pytest.mark.seaway_since("2.12", "atomic batches")
async def test_what_the_server_did_not_keep_is_an_error(
    broker: JetStreamBroker, file: File
) -> None:
    forgetful: Any = Forgetful(broker.admin, ["allow_atomic"])
    with pytest.raises(SeawayError, match=r"the server kept allow_atomic .*, not true"):
        await topology.apply(await planned(file.topology(), broker.admin), forgetful)


async def test_a_server_without_jetstream() -> None:
    async with NatsServer(jetstream=False) as server:
        broker = await connect(NatsSettings(url=server.url))
        try:
            with pytest.raises(ConfigError, match="start it with -js"):
                await topology.actual(broker.admin)
        finally:
            await broker.close()
