"""Every finding of the doctor about server, streams and durables: provoked, seen, and gone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from described import ASweptConsumer
from patients import Patient, until
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.consumer import Consumer, Delivery
from seaway.contracts import Broker, Failed, Notice, Store
from seaway.dead_letters import DeadLetters, Sweeper
from seaway.doctor import Declared, Weight
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.process import free_port
from seaway.errors import BrokerUnavailable, StoreUnavailable
from seaway.events import RawEvent
from seaway.monitor import Database, Station
from seaway.naming import ADVISORY_STREAM, Durable
from seaway.relay import Relay
from seaway.stores import open_store
from seaway.telemetry import Telemetry
from seaway.testing.conformance.outbox import add, fail
from seaway.topology import rights
from seaway.upkeep import Presence
from servers import OLDER, binary

pytestmark = pytest.mark.server
SOON = timedelta(milliseconds=10)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite:///{tmp_path}/app.db")
    await store.schema.upgrade()
    yield store
    await store.close()


@pytest.fixture
async def patient(
    broker: JetStreamBroker, store: Store, context_name: str
) -> AsyncIterator[Patient]:
    made = Patient(broker, store, context_name)
    await made.apply()
    yield made
    await broker.admin.delete_stream(ADVISORY_STREAM)


@asynccontextmanager
async def opened_at(server: NatsServer, **login: str) -> AsyncIterator[JetStreamBroker]:
    broker = await connect(NatsSettings(url=server.url, **login))
    try:
        yield broker
    finally:
        await broker.close()


async def test_of_the_well_nothing_is_said(patient: Patient) -> None:
    await patient.publish(3)
    await patient.take(3)
    found = await patient.look()
    assert found.ailments == ()
    assert found.exit_code == 0
    assert {one.entry.code for one in found.unexamined} == {
        *("SW-103", "SW-701", "SW-702", "SW-703", "SW-802")
    }


async def test_what_is_missing_or_shaped_otherwise(patient: Patient) -> None:
    admin = patient.broker.admin
    await patient.change_stream(duplicate_window=10**9)
    await admin.delete_stream(patient.stream.replace("EVENTS", "DLQ"))
    await admin.delete_stream(ADVISORY_STREAM)
    await admin.delete_consumer(patient.stream, patient.durable)
    found = await patient.ill()
    assert set(found) == {"SW-201", "SW-202", "SW-203", "SW-301"}
    assert found["SW-203"].startswith(f"{patient.stream} knows ids for 1s; a relay may send")
    await patient.apply()
    assert await patient.ill() == {}


async def test_what_the_settings_risk(patient: Patient) -> None:
    well = patient.mapping
    for outbox, said in (
        ({"retention": "0"}, ("SW-204", "outbox.retention is 0")),
        ({"heal": False}, ("SW-204", "outbox.heal is off")),
        ({"retention": "10m"}, ("SW-205", "outbox.retention is 10m")),
        ({"retention": "60d"}, ("SW-501", "outbox.retention is 60d: what is healed may be older")),
    ):
        patient.mapping = {**well, "outbox": outbox}
        [(code, seen)] = (await patient.ill()).items()
        assert code == said[0]
        assert said[1] in seen
    patient.mapping = well
    await patient.change_stream(max_age=30 * 86400 * 10**9)
    assert "keeps events 30d (max_age)" in (await patient.ill())["SW-501"]
    await patient.apply()
    assert await patient.ill() == {}


async def test_a_durable_that_is_paused_or_never_used(patient: Patient) -> None:
    await patient.publish(2)
    found = await patient.look()
    assert [(one.entry.code, one.weight) for one in found.ailments] == [("SW-306", Weight.ADVICE)]
    assert found.exit_code == 0
    ends = datetime.now(UTC) + timedelta(hours=1)
    await patient.make_consumer(pause_until=ends.isoformat())
    found = await patient.look()
    [paused] = found.ailments
    assert (paused.entry.code, paused.weight) == ("SW-305", Weight.ADVICE)
    assert f"is paused until {ends:%Y-%m-%dT%H:%M:%S}Z, 2 pending" in paused.seen
    await patient.make_consumer()
    await patient.take(2)
    assert await patient.ill() == {}


async def test_a_durable_beyond_its_streams_end(patient: Patient) -> None:
    await patient.publish(2)
    await patient.make_consumer(deliver_policy="by_start_sequence", opt_start_seq=11)
    [one] = (await patient.look()).ailments
    assert (one.entry.code, one.weight) == ("SW-304", Weight.CRITICAL)
    where = f"{patient.stream}/{patient.durable}"
    assert one.seen == f"{where} stands at 10, and {patient.stream} ends at 2"
    await patient.broker.admin.delete_consumer(patient.stream, patient.durable)
    await patient.apply()
    await patient.take(2)
    assert await patient.ill() == {}


async def test_a_lag_that_ends_in_a_loss(patient: Patient) -> None:
    patient.mapping["alerts"] = {"stream_messages_pending": 0, "consumer_ack_pending": 0}
    patient.mapping["alerts"]["consumer_redelivery_count"] = "0/min"
    patient.mapping["streams"][0]["max_msgs"] = 10
    patient.mapping["consumers"][0]["max_deliver"] = 1_000_000
    await patient.apply()
    await patient.publish(9)
    await patient.take(1)
    found = await patient.ill()
    where = f"{patient.stream}/{patient.durable}"
    assert set(found) == {"SW-206", "SW-307"}
    assert found["SW-206"].startswith(f"{where}: 8 pending, and {patient.stream} drops the oldest")
    assert "after 2 messages more" in found["SW-206"]
    patient.mapping["streams"][0]["max_msgs"] = -1
    await patient.apply()
    assert set(await patient.ill()) == {"SW-307"}

    async def go_on() -> None:
        while True:
            await patient.publish(5)
            await patient.take(1, settle=False)

    work = asyncio.create_task(go_on())
    try:
        seen: dict[str, str] = {}

        async def told() -> bool:
            seen.update(await patient.ill(apart=timedelta(milliseconds=100)))
            return {"SW-207", "SW-309"} <= set(seen)

        await until(told)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    assert " more than " in seen["SW-207"]
    async with patient.broker.subscribe(patient.stream, patient.durable) as source:
        while (await patient.info()).num_pending:
            held = await source.next(100, timeout=timedelta(seconds=1))
            assert "SW-308" in await patient.ill() or not held
            await source.ack(*held)
    await patient.broker.admin.delete_consumer(patient.stream, patient.durable)
    patient.mapping["consumers"][0]["deliver_policy"] = "new"
    await patient.apply()
    assert await patient.ill() == {}


async def test_a_stream_that_takes_no_more(patient: Patient) -> None:
    await patient.change_stream(discard="new", max_msgs=10)
    await patient.publish(10)
    await patient.take(10)
    assert set(await patient.ill()) == {"SW-210"}
    await patient.change_stream(
        discard="new", max_msgs=-1, max_msgs_per_subject=10, discard_new_per_subject=True
    )
    assert set(await patient.ill()) == {"SW-211"}
    await patient.change_stream(
        discard="old", max_msgs_per_subject=-1, discard_new_per_subject=False
    )
    assert await patient.ill() == {}


async def test_what_the_server_gave_up_on(patient: Patient, store: Store) -> None:
    patient.mapping["consumers"][0] |= {"max_deliver": 1, "ack_wait": "100ms"}
    await patient.apply()
    admin = patient.broker.admin
    await admin.delete_stream(ADVISORY_STREAM)
    await patient.publish(1, **{"Nats-Msg-Id": "unreported"})

    async def exhausted(event: str) -> bool:
        async with patient.broker.subscribe(patient.stream, patient.durable) as source:

            async def given_up() -> bool:
                await source.next(10, timeout=SOON)
                return not (await patient.info()).num_ack_pending

            await until(given_up)
        await until(lambda: seen("SW-310", event))
        return True

    async def seen(code: str, text: str) -> bool:
        return text in (await patient.ill()).get(code, "")

    assert await exhausted("gave up on 1 message, with neither effect nor letter, such as unrep")
    await patient.apply()
    await patient.publish(1, **{"Nats-Msg-Id": "reported"})
    assert await exhausted("gave up on 2 messages")
    await until(lambda: seen("SW-311", "1 advisory of messages"))
    stop = asyncio.Event()
    swept = {patient.durable: ASweptConsumer(patient.stream, lambda _: True)}
    working = asyncio.create_task(Sweeper(patient.broker, store=store, consumers=swept).run(stop))
    try:

        async def well() -> bool:
            return set(await patient.ill()) == {"SW-502"}

        await until(well)
    finally:
        stop.set()
        await working
    queue = DeadLetters(patient.broker)
    letters = [letter async for letter in queue.letters()]
    assert {one.event_id for one in letters} == {"unreported", "reported"}
    for letter in letters:
        await queue.discard(letter)
    for event_id in ("unreported", "reported"):
        async with store.transaction() as tx:
            await tx.claim(patient.durable, event_id)
    assert await patient.ill() == {}


async def test_what_processes_say_of_their_work(patient: Patient, store: Store) -> None:
    patient.mapping["consumers"][0] |= {"ack_wait": "1s", "max_ack_pending": 3}
    await patient.apply()

    async def handle(event: RawEvent, delivery: Delivery) -> None:
        await asyncio.sleep(1.05)

    durable = Durable.parse(patient.durable)
    consumer = Consumer(durable, stream=patient.stream, workers=2, batch=4)
    consumer.handler(RawEvent)(handle)
    telemetry, stop = Telemetry(), asyncio.Event()
    part = f"consumer {patient.durable}"
    presence = Presence(
        *(store, telemetry, [part], {part: consumer.figures}), look=SOON, renew=SOON
    )
    working = asyncio.gather(
        presence.run(stop),
        consumer.run(
            patient.broker,
            store=store,
            outbox=None,
            dead_letters=DeadLetters(patient.broker),
            telemetry=telemetry,
            stop=stop,
        ),
    )
    try:
        await patient.publish(1)

        async def told() -> bool:
            return {"SW-302", "SW-303"} <= set(await patient.ill())

        await until(told)
        found = await patient.ill()
    finally:
        stop.set()
        await working
    where = f"{patient.stream}/{patient.durable}"
    assert found["SW-302"].startswith(f"{where}: ack_wait is 1s, and a transaction took 1.")
    assert found["SW-303"].startswith(f"{where}: max_ack_pending is 3, and 1 process could hold 8")
    figures = Notice(part, reason='{"workers":2,"batch":4,"slowest":1.1,"seconds":0.2}')
    await store.tell("host:1:a", [figures])
    assert set(await patient.ill()) == {"SW-302", "SW-303"}
    patient.mapping["consumers"][0] |= {"ack_wait": "30s", "max_ack_pending": 8}
    await patient.apply()
    assert await patient.ill() == {}


async def test_what_waits_in_the_outbox_and_who_says_so(patient: Patient, store: Store) -> None:
    first, second = [(await add(store))[0] for _ in range(2)]
    await fail(store, first, park=True)
    async with store.transaction() as tx:
        await tx.handle.execute("UPDATE seaway_outbox SET added_at = added_at - 3600000000")
    waits = [
        Notice("relay"),
        Notice("relay", patient.stream, "no room"),
        Notice("permissions", "publish sea.event.>", "no permission to publish to sea.event.x"),
    ]
    await store.tell("host:1:a", waits)
    found = await patient.ill()
    assert set(found) == {"SW-401", "SW-402", "SW-403", "SW-801"}
    assert "no permission to publish to sea.event.x" in found["SW-801"]
    await store.tell("host:1:a", [])
    await store.discard([first], "a test")
    async with store.lease() as lease:
        assert lease is not None
        [entry] = await lease.find([second])
        await lease.settle([], [Failed(entry, "no", park=True)])
    await store.discard([second], "a test")
    assert await patient.ill() == {}


async def test_what_an_application_declares(patient: Patient) -> None:
    opened, moved = patient.subject, patient.subject.replace("case_opened", "case_moved")
    declared = Declared(
        [opened, "lake.event.frozen.v1"], {patient.durable: lambda one: one == moved}
    )
    await patient.change_consumer(filter_subject=moved)
    found = await patient.look(declared=declared)
    said = [(one.entry.code, one.subject) for one in found.ailments]
    assert said == [
        ("SW-701", "lake.event.frozen.v1"),
        ("SW-702", patient.durable),
        ("SW-703", "lake.event.frozen.v1"),
        ("SW-703", opened),
    ]
    assert not any(one.entry.code == "SW-701" for one in found.unexamined)
    await patient.apply()
    declared = Declared([opened], {patient.durable: lambda one: one == opened})
    assert await patient.ill(declared=declared) == {}


async def test_clocks_that_differ(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) - timedelta(seconds=90)

    with monkeypatch.context() as clock:
        clock.setattr(sys.modules["seaway.doctor.gather"], "datetime", Behind)
        found = await patient.look()
        assert {one.entry.code for one in found.ailments} == {"SW-104"}
        assert {one.subject for one in found.ailments} == {"the database", "the server"}
        assert all("90.0 s ahead of" in one.seen for one in found.ailments)
    assert await patient.ill() == {}


async def test_half_of_the_stations_are_away(patient: Patient) -> None:
    async def no_server() -> Broker:
        raise BrokerUnavailable("no NATS server answers")

    async def no_database() -> Database:
        raise StoreUnavailable("the database is away")

    server, database = Station("nats", no_server), Station("database", no_database)
    found = await patient.look(server=server)
    assert [one.entry.code for one in found.ailments] == ["SW-101"]
    assert found.exit_code == 1
    reasons = {one.entry.code: one.reason for one in found.unexamined}
    assert reasons["SW-304"] == "no NATS server answers"
    assert "SW-606" not in reasons
    found = await patient.look(database=database)
    assert [one.entry.code for one in found.ailments] == ["SW-404"]
    reasons = {one.entry.code: one.reason for one in found.unexamined}
    assert reasons["SW-208"] == reasons["SW-302"] == "the database is away"
    assert "SW-304" not in reasons
    found = await patient.look(server=server, database=database)
    assert {one.entry.code for one in found.ailments} == {"SW-101", "SW-404"}
    assert found.exit_code == 3


async def test_a_stream_that_came_back_as_it_was_before(
    nats_server_own: NatsServer, store: Store, tmp_path: Path
) -> None:
    """A copy of the stream's messages put back, while the durable's state stays."""
    async with opened_at(nats_server_own) as broker:
        patient = Patient(broker, store, "sea")
        await patient.apply()
        await write_and_relay(patient, 5)
    messages = next(nats_server_own.directory.rglob(f"{patient.stream}/msgs"))
    await nats_server_own.stop()
    shutil.copytree(messages, tmp_path / "copy")
    await nats_server_own.start()
    async with opened_at(nats_server_own) as patient.broker:
        await write_and_relay(patient, 5)
        await patient.take(10)
        assert await patient.ill() == {}
    await nats_server_own.stop()
    shutil.rmtree(messages)
    shutil.copytree(tmp_path / "copy", messages)
    await nats_server_own.start()
    async with opened_at(nats_server_own) as patient.broker:
        found = await patient.ill()
        assert set(found) == {"SW-208"}
        assert f"{patient.stream} ends at 5; event " in found["SW-208"]
        async with store.lease() as lease:
            assert lease is not None
            await lease.lose(patient.stream, above=5)
        assert "5 events that" in (await patient.ill())["SW-212"]
        await write_and_relay(patient, 1)
        await patient.take(6)
        assert set(await patient.ill()) == {"SW-405"}
        assert await store.see()
        assert await patient.ill() == {}
        # Made anew, long after events were sent.
        with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as db, db:
            db.execute("UPDATE seaway_sent SET sent_at = sent_at - 3600000000")
        await patient.broker.admin.delete_stream(patient.stream)
        await patient.apply()
        assert "was acknowledged 1h" in (await patient.ill())["SW-209"]
        await write_and_relay(patient, 1)
        await patient.take(12)
        await store.see()
        assert await patient.ill() == {}


async def write_and_relay(patient: Patient, count: int) -> None:
    for _ in range(count):
        await add(patient.store, RawEvent(patient.subject, b"{}"))
    await Relay(patient.store, patient.broker, telemetry=Telemetry()).drain()


async def test_an_old_server(
    store: Store, context_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as old:
        old.setenv("SEAWAY_NATS_SERVER", str(binary(OLDER)))
        async with NatsServer() as server, opened_at(server) as broker:
            patient = Patient(broker, store, context_name)
            await patient.apply()
            found = await patient.look()
            [one] = found.ailments
            assert one.entry.code == "SW-102"
            assert (
                "lacks: giving out again what was on its way; atomic batches, retries" in one.seen
            )
            assert one.mend == "upgrade nats-server to 2.14 or newer"


ACCOUNT = """
http: "127.0.0.1:{port}"
jetstream {{ sync_interval: "{sync}" }}
accounts {{ A {{ jetstream: enabled, users: [
  {{user: "all", password: "pw"}},
  {{user: "some", password: "pw",
    permissions: {{publish: {publish}, subscribe: "_INBOX.>"}}}} ] }} }}
"""


async def test_what_is_synced_and_what_is_granted(store: Store, context_name: str) -> None:
    port = free_port()
    patient = Patient(None, store, context_name)  # type: ignore[arg-type]
    *needed, asks = rights(patient.settings, "watcher").publish
    *relaying, same = rights(patient.settings, "relay").publish
    assert asks == same == "$SYS.REQ.USER.INFO"

    def config(sync: str, *allowed: str) -> str:
        publish = "[" + ", ".join(f'"{one}"' for one in allowed) + "]"
        return ACCOUNT.format(port=port, sync=sync, publish=publish)

    some = [*needed, asks, *relaying[1:]]
    server = NatsServer(extra_config=config("2m", *some))
    async with server:
        async with opened_at(server, user="all", password="pw") as patient.broker:
            await patient.apply()
            patient.monitoring = f"http://127.0.0.1:{port}"
            found = await patient.ill(roles=("relay",))
            assert found == {
                "SW-103": f"sync_interval is 2m and there is one replica of {patient.stream}"
            }
        async with opened_at(server, user="some", password="pw") as patient.broker:
            found = await patient.ill(roles=("watcher", "relay"))
            assert found["SW-802"] == f"as relay, this user lacks: {relaying[0]}"
        await server.stop()
        server.reload(config("always", *needed, *relaying))
        await server.start()
        async with opened_at(server, user="some", password="pw") as patient.broker:
            told = await patient.look(roles=("relay",))
            assert told.ailments == ()
            [out] = [one for one in told.unexamined if one.entry.code == "SW-802"]
            assert asks in out.reason
        await server.stop()
        server.reload(config("always", *needed, *relaying, asks))
        await server.start()
        async with opened_at(server, user="some", password="pw") as patient.broker:
            patient.mapping["outbox"] = {"retention": 0}  # Nothing acknowledged is ever lost.
            assert await patient.ill(roles=("relay",)) == {}
            patient.monitoring = "http://127.0.0.1:1"
            told = await patient.look()
            assert any(one.reason.startswith("http://127.0.0.1:1/varz") for one in told.unexamined)
