"""A stream that lost what it had acknowledged has it again, in order and once, and that is told."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from seaway import headers as h
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.contracts import LogEntry, Message, Store
from seaway.embedded.nats_server import NatsServer
from seaway.events import RawEvent
from seaway.process import this_process
from seaway.relay import Relay, loop, returning
from seaway.relay.healing import Healing
from seaway.relay.memory import StreamMemory
from seaway.stores import open_store
from seaway.stores.postgres import PostgresStore
from seaway.stores.postgres.lease import PostgresLease
from seaway.telemetry import Healed, NotHealed, Parked, RelayPaused, Signal, Telemetry
from seaway.testing.conformance.outbox import add
from shell import busy

pytestmark = pytest.mark.server

STREAM, SUBJECT, KEYS = "HEAL_EVENTS", "heal.event.moved.v1", 7
CONFIG = {"name": STREAM, "subjects": ["heal.event.>"], "allow_atomic": True}


@dataclass
class Harbour:
    """A server whose folder can be put back, a database, and what the relays say."""

    server: NatsServer
    store: Store
    database: str
    copies: Path
    told: list[Signal] = field(default_factory=list)
    written: int = 0

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[JetStreamBroker]:
        broker = await connect(NatsSettings(url=self.server.url), wait=True)
        try:
            yield broker
        finally:
            await broker.close()

    async def write(self, count: int) -> list[str]:
        ids = []
        for number in range(self.written, self.written + count):
            payload = b"%d" % number
            ids += await add(self.store, RawEvent(SUBJECT, payload), key=f"k{number % KEYS}")
        self.written += count
        return ids

    async def relay(self, *, heal: bool = True, retention: timedelta = timedelta(days=7)) -> None:
        """A relay of its own, until nothing waits."""
        telemetry = Telemetry()
        telemetry.subscribe(self.told.append)
        async with self.broker() as broker:
            relay = Relay(
                *(self.store, broker),
                telemetry=telemetry,
                batch=50,
                heal=heal,
                retention=retention,
            )
            async with asyncio.timeout(60 * busy()):
                await relay.drain()

    async def copy(self) -> None:
        """Keep the store as it is now."""
        await self.server.stop()
        shutil.rmtree(self.copies, ignore_errors=True)
        shutil.copytree(self.server.directory / "jetstream", self.copies)
        await self.server.start()

    async def put_back(self, config: str | None = None) -> None:
        """Kill the server, and have it find the copy."""
        await self.server.kill()
        if config is not None:
            self.server.reload(config)
        shutil.rmtree(self.server.directory / "jetstream")
        shutil.copytree(self.copies, self.server.directory / "jetstream")
        await self.server.start()

    async def on_stream(self) -> list[tuple[int, str, str]]:
        async with self.broker() as broker:
            return [
                (one.stream_seq, one.message.headers[h.MSG_ID], one.message.key)
                async for one in broker.admin.read(STREAM)
            ]

    async def forget(self) -> None:
        """Have the outbox keep nothing of what was sent, as after its retention."""
        async with self.store.transaction() as tx:
            await tx.handle.execute("DELETE FROM seaway_sent")

    async def ids(self) -> list[str]:
        return [event_id for _, event_id, _ in await self.on_stream()]

    async def places(self) -> dict[str, int]:
        sent = await self.store.sent(limit=100_000)
        return {one.entry.event_id: one.stream_seq for one in sent}

    async def log(self, action: str = "healed") -> list[LogEntry]:
        return list(await self.store.log(action=action))

    @property
    def healed(self) -> int:
        return sum(one.events for one in self.told if isinstance(one, Healed))

    async def is_whole(self, ids: list[str]) -> None:
        """Each of ``ids`` lies there once, in its key's order, where the outbox says."""
        found = await self.on_stream()
        assert sorted(one for _, one, _ in found) == sorted(ids)
        order = {event_id: number for number, event_id in enumerate(ids)}
        for key in range(KEYS):
            numbers = [order[one] for _, one, of in found if of == f"k{key}"]
            assert numbers == sorted(numbers)
        assert await self.places() == {one: seq for seq, one, _ in found}


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/app.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def harbour(
    database: str, nats_server_own: NatsServer, tmp_path: Path
) -> AsyncIterator[Harbour]:
    store = await open_store(database)
    await store.schema.upgrade()
    made = Harbour(nats_server_own, store, database, tmp_path / "copy")
    async with made.broker() as broker:
        await broker.admin.create_stream(CONFIG)
    yield made
    await store.close()


async def test_what_a_stream_put_back_has_lost_is_there_again(harbour: Harbour) -> None:
    ids = await harbour.write(300)
    await harbour.relay()
    await harbour.copy()
    ids += await harbour.write(300)
    await harbour.relay()
    await harbour.put_back()
    assert len(await harbour.ids()) == 300
    ids += await harbour.write(20)
    await harbour.relay()
    await harbour.is_whole(ids)
    assert harbour.healed == 300
    assert {(one.first, one.last) for one in harbour.told if isinstance(one, Healed)} == {
        (301, 600)
    }
    [entry] = await harbour.log()
    assert (entry.about, entry.by, entry.seen_at) == (STREAM, this_process(), None)
    assert [moved for moved, *_ in entry.detail["moved"]] == ids[300:600]
    told = len(harbour.told)
    ids += await harbour.write(1)
    await harbour.relay()
    await harbour.is_whole(ids)
    assert not any(isinstance(one, Healed) for one in harbour.told[told:])


async def test_with_healing_switched_off_it_is_lost(harbour: Harbour) -> None:
    ids = await harbour.write(20)
    await harbour.relay()
    await harbour.copy()
    ids += await harbour.write(20)
    await harbour.relay()
    await harbour.put_back()
    await harbour.relay(heal=False)
    assert await harbour.ids() == ids[:20]
    await harbour.relay()
    await harbour.is_whole(ids)


async def test_a_relay_at_work_heals_before_it_goes_on(harbour: Harbour) -> None:
    ids = await harbour.write(100)
    await harbour.relay()
    await harbour.copy()
    telemetry, stop = Telemetry(), asyncio.Event()
    telemetry.subscribe(harbour.told.append)
    async with harbour.broker() as broker:
        relay = Relay(harbour.store, broker, telemetry=telemetry, batch=50)
        work = asyncio.create_task(relay.run(stop))
        for round in range(3):
            ids += await harbour.write(150)
            await eventually(lambda: drained(harbour.store))
            await harbour.put_back()
            ids += await harbour.write(50)
            await eventually(lambda: drained(harbour.store))
            assert harbour.healed == (round + 1) * 150 + round * (round + 1) // 2 * 200
        stop.set()
        await work
    await harbour.is_whole(ids)


async def test_taken_places_and_an_interrupted_healing_change_nothing(harbour: Harbour) -> None:
    """Others have published on the lost places, and a relay was ended in the middle of it."""
    ids = await harbour.write(100)
    await harbour.relay()
    await harbour.copy()
    ids += await harbour.write(100)
    await harbour.relay()
    await harbour.put_back()
    async with harbour.broker() as broker:
        foreign = RawEvent(SUBJECT, b"foreign")
        lost = {one.entry.event_id: one.entry for one in await harbour.store.sent(limit=1000)}
        again = [lost[one].message for one in ids[100:130]]
        others = [
            Message(foreign.subject, b"%d" % number, {h.MSG_ID: f"foreign {number}"})
            for number in range(150)
        ]
        for message in (*others[:3], *again, *others[3:]):
            await broker.publish(STREAM, [message], timeout=timedelta(seconds=5))
    await harbour.relay()
    found = await harbour.on_stream()
    ours = [one for one in found if not one[1].startswith("foreign")]
    assert [one for _, one, _ in ours] == ids
    assert await harbour.places() == {one: seq for seq, one, _ in ours}
    assert harbour.healed == 100


async def test_a_stream_made_anew_is_filled_again(harbour: Harbour) -> None:
    ids = await harbour.write(120)
    await harbour.relay()
    async with harbour.broker() as broker:
        await broker.admin.delete_stream(STREAM)
        await broker.admin.create_stream(CONFIG)
    ids += await harbour.write(1)
    await harbour.relay()
    await harbour.is_whole(ids)
    assert all(one.made_anew for one in harbour.told if isinstance(one, Healed))
    assert harbour.healed == 120


@pytest.mark.parametrize("how", ["purge", "delete", "expire"])
async def test_what_somebody_took_away_stays_away(harbour: Harbour, how: str) -> None:
    ids = await harbour.write(60)
    await harbour.relay()
    async with harbour.broker() as broker:
        if how == "purge":
            await broker._connection.request(f"$JS.API.STREAM.PURGE.{STREAM}")
        elif how == "delete":
            for place in (1, 30, 59, 60):
                assert await broker.admin.delete_message(STREAM, place)
        else:
            await broker.admin.update_stream({**CONFIG, "max_msgs": 10})
    there = await harbour.ids()
    new = await harbour.write(3)
    await harbour.relay()
    assert (await harbour.ids())[-3:] == new
    assert set(await harbour.ids()) <= {*there, *new}
    assert await harbour.log() == await harbour.log("not healed") == []
    assert set(ids) <= set(await harbour.places())


async def test_what_retention_does_not_keep_is_told_as_lost(harbour: Harbour) -> None:
    await harbour.write(10)
    await harbour.relay()
    await harbour.copy()
    await harbour.write(10)
    await harbour.relay()
    await harbour.forget()
    kept = await harbour.write(10)
    await harbour.relay()
    await harbour.put_back()
    await harbour.relay()
    assert (await harbour.ids())[10:] == kept
    [told] = [one for one in harbour.told if isinstance(one, NotHealed)]
    assert "places 11 to 20" in told.reason
    [entry] = await harbour.log("not healed")
    assert entry.detail["reason"] == told.reason


async def test_what_was_deleted_or_expired_before_stays_away_when_the_tail_is_lost(
    harbour: Harbour,
) -> None:
    ids = await harbour.write(100)
    await harbour.relay()
    async with harbour.broker() as broker:
        await broker.admin.update_stream({**CONFIG, "max_msgs": 90})
        await broker.admin.update_stream(CONFIG)
        for place in (40, 99, 100):
            assert await broker.admin.delete_message(STREAM, place)
    await harbour.copy()
    there = await harbour.ids()
    tail = await harbour.write(30)
    await harbour.relay()
    await harbour.put_back()
    await harbour.relay()
    assert await harbour.ids() == [*there, *tail]
    assert harbour.healed == 30
    assert len(ids) - len(there) == 13


async def test_a_stopped_healing_is_gone_on_with_by_the_next(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returning, "_CHUNK", 20)
    ids = await harbour.write(50)
    await harbour.relay()
    await harbour.copy()
    ids += await harbour.write(100)
    await harbour.relay()
    await harbour.put_back()
    ids += await harbour.write(5)
    stop, telemetry = asyncio.Event(), Telemetry()
    telemetry.subscribe(harbour.told.append)
    telemetry.subscribe(lambda signal: stop.set() if isinstance(signal, Healed) else None)
    async with harbour.broker() as broker:
        await Relay(harbour.store, broker, telemetry=telemetry).run(stop)
    assert harbour.healed == 20
    assert await harbour.ids() == ids[:70]
    await harbour.relay()
    await harbour.is_whole(ids)
    assert harbour.healed == 100


async def test_a_full_stream_is_waited_for_and_nothing_newer_overtakes(harbour: Harbour) -> None:
    ids = await harbour.write(30)
    await harbour.relay()
    await harbour.copy()
    ids += await harbour.write(30)
    await harbour.relay()
    await harbour.put_back()
    ids += await harbour.write(5)
    telemetry, stop = Telemetry(), asyncio.Event()
    telemetry.subscribe(harbour.told.append)
    async with harbour.broker() as broker:
        full = {**CONFIG, "max_msgs": 40, "discard": "new", "allow_atomic": False}
        await broker.admin.update_stream(full)
        work = asyncio.create_task(Relay(harbour.store, broker, telemetry=telemetry).run(stop))
        await eventually(lambda: told(harbour, RelayPaused))
        assert await harbour.ids() == ids[:40]
        await broker.admin.update_stream({**full, "max_msgs": -1})
        await eventually(lambda: drained(harbour.store))
        stop.set()
        await work
    await harbour.is_whole(ids)
    assert harbour.healed == 30
    assert not any(isinstance(one, Parked) for one in harbour.told)


async def test_an_end_that_goes_back_while_it_is_published_to_is_heard_from_its_answers(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing looks, and the connection stays: as when a cluster's stream has a new leader."""
    monkeypatch.setattr(loop, "LOOK_AGAIN", timedelta(days=1))
    ids = await harbour.write(80)
    telemetry, stop = Telemetry(), asyncio.Event()
    telemetry.subscribe(harbour.told.append)
    async with harbour.broker() as broker:
        relay = Relay(harbour.store, broker, telemetry=telemetry, batch=10)
        work = asyncio.create_task(relay.run(stop))
        await eventually(lambda: drained(harbour.store))
        await broker.admin.delete_stream(STREAM)
        await broker.admin.create_stream(CONFIG)
        ids += await harbour.write(35)
        await eventually(lambda: drained(harbour.store))
        await eventually(lambda: told(harbour, Healed))
        await eventually(lambda: nothing_lost(harbour.store))
        stop.set()
        await work
    # What was published before the answer came precedes what was lost; nothing is twice or missing.
    found = await harbour.on_stream()
    assert sorted(one for _, one, _ in found) == sorted(ids)
    assert await harbour.places() == {one: seq for seq, one, _ in found}
    assert harbour.healed == 80


async def test_who_may_not_look_says_so_once_and_goes_on(harbour: Harbour) -> None:
    right = f"$JS.API.STREAM.MSG.GET.{STREAM}"

    def users(denied: str) -> str:
        rights = f'publish: {{deny: ["{denied}"]}}'
        user = f"{{user: relay, password: pass, permissions: {{{rights}}}}}"
        return f"authorization {{ users: [{user}] }}\nno_auth_user: relay"

    ids = await harbour.write(10)
    await harbour.relay()
    await harbour.copy()
    ids += await harbour.write(10)
    await harbour.relay()
    await harbour.put_back(users(right))
    ids += await harbour.write(5)
    await harbour.relay()
    ids += await harbour.write(5)
    await harbour.relay()
    assert await harbour.ids() == [*ids[:10], *ids[20:]]
    told = [one for one in harbour.told if isinstance(one, NotHealed)]
    assert {one.stream for one in told} == {STREAM}
    assert all(right in one.reason for one in told)
    assert len(told) == 2, "once a process"


async def test_without_kept_events_the_loss_is_told(
    harbour: Harbour, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry, stop = Telemetry(), asyncio.Event()
    telemetry.subscribe(harbour.told.append)
    await harbour.copy()
    async with harbour.broker() as broker:
        relay = Relay(harbour.store, broker, telemetry=telemetry, retention=timedelta())
        await harbour.write(20)
        await relay.drain()
        assert "outbox.retention is 0 and HEAL_EVENTS has one replica" in caplog.text
        await harbour.forget()
        await harbour.put_back()
        new = await harbour.write(1)
        await relay.drain(stop)
    assert await harbour.ids() == new
    [told] = [one for one in harbour.told if isinstance(one, NotHealed)]
    assert "the places 1 to 20 are lost, and outbox.retention is 0" in told.reason


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_two_relays_heal_what_each_holds(harbour: Harbour) -> None:
    store = harbour.store
    assert isinstance(store, PostgresStore)
    await store.reshard(4)
    ids = await harbour.write(100)
    await harbour.relay()
    await harbour.copy()
    stop = asyncio.Event()
    telemetry = Telemetry()
    telemetry.subscribe(harbour.told.append)
    async with (
        harbour.broker() as one,
        harbour.broker() as two,
        await PostgresStore.open(harbour.database) as second,
    ):
        relays = [
            Relay(each, broker, telemetry=telemetry, batch=20)
            for each, broker in ((store, one), (second, two))
        ]
        work = [asyncio.create_task(relay.run(stop)) for relay in relays]
        for _ in range(3):
            ids += await harbour.write(100)
            await eventually(lambda: drained(store))
            await harbour.put_back()
            ids += await harbour.write(40)
            await eventually(lambda: drained(store))
        await store.reshard(3)
        ids += await harbour.write(20)
        await eventually(lambda: drained(store))
        await eventually(lambda: nothing_lost(store))
        stop.set()
        await asyncio.gather(*work)
    await harbour.is_whole(ids)
    assert harbour.healed >= 300


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_what_a_dead_relay_would_have_healed_is_noted_by_the_other(harbour: Harbour) -> None:
    """The one that lives has lost nothing of its own, and goes on where the lost places were."""
    store = harbour.store
    assert isinstance(store, PostgresStore)
    await store.reshard(4)
    ids = await harbour.write(14)
    await harbour.relay()
    await harbour.copy()
    tail = []
    for number in range(20):
        tail += await add(store, RawEvent(SUBJECT, b"%d" % number), key="k3")
    await harbour.relay()
    await harbour.put_back()
    telemetry, stop = Telemetry(), asyncio.Event()
    async with harbour.broker() as broker, store.lease() as lease:
        assert lease is not None
        looks = Healing(broker, store, telemetry, timedelta(seconds=5), keeps=True)
        assert isinstance(lease, PostgresLease)
        rest = tuple({*range(4)} - {await shard_of(store, "k3")})
        lease._share = replace(lease._share, held=rest)
        memory = StreamMemory()
        assert await looks.look(STREAM, memory, lease, stop) is None
        assert await lease.lost_since(STREAM) is None, "it holds none of those"
        for number in range(40):
            message = Message(SUBJECT, b"", {h.MSG_ID: f"newer {number}"})
            await broker.publish(STREAM, [message], timeout=timedelta(seconds=5))
    await harbour.relay()
    there = [one for one in await harbour.ids() if not one.startswith("newer")]
    assert sorted(there) == sorted([*ids, *tail])
    assert [one for one in there if one in tail] == tail


async def drained(store: Store) -> bool:
    return (await store.backlog()).count == 0


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60 * busy()):
        while not await true():
            await asyncio.sleep(0.05)


async def told(harbour: Harbour, kind: type) -> bool:
    return any(isinstance(one, kind) for one in harbour.told)


async def nothing_lost(store: Store) -> bool:
    return not any(one.lost for one in await store.sent(limit=100_000))


async def shard_of(store: PostgresStore, key: str) -> int:
    async with store.transaction() as tx:
        found = await tx.handle.fetchval("SELECT (hashtextextended($1, 0) & 2147483647) % 4", key)
    return int(found)
