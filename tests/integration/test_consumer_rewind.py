"""What was on its way when a process ended, on real servers: where it comes first, where not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from seaway import Delivery, RawEvent, Seaway, topology
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.contracts import Incoming, Message, Stored
from seaway.embedded.nats_server import NatsCluster, NatsServer
from seaway.stores.sqlite import SqliteStore
from seaway.topology import shape
from servers import OLDER, binary

pytestmark = pytest.mark.server

STREAM, DURABLE, SUBJECT = "SEA_EVENTS", "case_mgmt__from_sea", "sea.event.moved.v1"
TIMEOUT = timedelta(seconds=5)
REFUSES = """
accounts {
  A { jetstream: enabled, users: [
    { user: admin, password: pass }
    { user: service, password: pass,
      permissions: { publish: { deny: "$JS.API.CONSUMER.RESET.>" } } }
  ] }
}
"""
ABOUT = "what was on its way when a process or a connection ended"


@contextmanager
def running(server: NatsServer) -> Iterator[NatsServer]:
    server.launch()
    try:
        yield server
    finally:
        server.terminate()
        server.remove()


def event(number: int) -> Message:
    headers = {"Nats-Msg-Id": f"e{number}", "X-Ordering-Key": "k"}
    return Message(SUBJECT, b"%d" % number, headers)


class Bench:
    """An application, and what its one handler was called with."""

    def __init__(self, broker: JetStreamBroker, app: Seaway) -> None:
        self.broker = broker
        self.app = app
        self.handled: list[tuple[str, int]] = []

        async def handle(event: RawEvent, delivery: Delivery) -> None:
            self.handled.append((delivery.event_id, delivery.deliveries))

        app.consumer("case_mgmt", from_context="sea").handler(RawEvent)(handle)

    async def publish(self, *numbers: int) -> None:
        stored = await self.broker.publish(STREAM, [event(n) for n in numbers], timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in stored), stored

    async def die_with(self, count: int) -> None:
        """A process is given so many, and ends without a word."""
        async with self.broker.subscribe(STREAM, DURABLE) as dead:
            taken = 0
            while taken < count:
                taken += len(await dead.next(count - taken, timeout=TIMEOUT))

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        work = asyncio.create_task(self.app.run(stop, relay=False, sweeper=False))
        try:
            yield
        finally:
            stop.set()
            await work

    async def until_handled(self, count: int, *, within: float = 30) -> None:
        async def enough() -> bool:
            return len(self.handled) >= count

        await until(enough, within=within)


async def until(holds: Callable[[], Awaitable[bool]], *, within: float = 30) -> None:
    async with asyncio.timeout(within):
        while not await holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def bench(
    url: str, folder: Path, *, admin: str | None = None, ack_wait: str = "60s", replicas: int = 1
) -> AsyncIterator[Bench]:
    """With streams and tables. ``admin``: the URL of who may make them."""
    settings = settings_from_mapping(
        {
            "nats": {"url": url},
            "database": f"sqlite:///{folder / 'app.db'}",
            "streams": [{"name": STREAM, "subjects": ["sea.event.>"], "replicas": replicas}],
            "consumers": [{"stream": STREAM, "durable": DURABLE, "ack_wait": ack_wait}],
        },
        environ={},
    )
    broker = await connect(NatsSettings(url=admin or url))
    try:
        release = broker.admin._connection.server_info().release
        wanted, _ = shape.for_server(topology.desired(settings), release, replicas > 1)
        await topology.apply(
            topology.plan(wanted, await topology.actual(broker.admin, wanted)), broker.admin
        )
        app = Seaway(settings)
        async with await SqliteStore.open(folder / "app.db") as store:
            await store.schema.upgrade()
        async with app:
            yield Bench(broker, app)
    finally:
        await broker.close()


@pytest.mark.seaway_since("2.14", "giving out again what was on its way")
async def test_what_a_dead_process_had_comes_at_once_and_first(
    nats_server_own: NatsServer, tmp_path: Path
) -> None:
    async with bench(nats_server_own.url, tmp_path) as made:
        await made.publish(1, 2)
        await made.die_with(2)
        await made.publish(3)
        async with made.at_work():
            await made.until_handled(3, within=10)
        assert made.handled == [("e1", 2), ("e2", 2), ("e3", 1)]


async def test_without_the_right_it_says_so_and_the_server_gives_it_out_in_its_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(NatsServer(extra_config=REFUSES)) as server:
        admin, url = (server.url.replace("//", f"//{who}:pass@") for who in ("admin", "service"))
        async with bench(url, tmp_path, admin=admin, ack_wait="1s") as made:
            await made.publish(1)
            await made.die_with(1)
            await made.publish(2)
            async with made.at_work():
                await made.until_handled(2)
                [wait] = [one for one in made.app.telemetry.waits if one.part == "permissions"]
                assert wait.about == f"publish $JS.API.CONSUMER.RESET.{STREAM}.{DURABLE}"
            assert sorted(made.handled) == [("e1", 2), ("e2", 1)]
    said = [one for one in caplog.messages if ABOUT in one]
    assert len(said) == 1
    assert "grant it (`seaway permissions` lists what each role needs)" in said[0]


async def test_an_older_server_is_not_asked_and_everything_else_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SEAWAY_NATS_SERVER", str(binary(OLDER)))
    with running(NatsServer()) as server:
        async with bench(server.url, tmp_path, ack_wait="1s") as made:
            await made.publish(1, 2)
            await made.die_with(2)
            await made.publish(3)
            async with made.at_work():
                await made.until_handled(3)
            # The newer event of the key came first; each was handled once.
            assert made.handled[0] == ("e3", 1)
            assert sorted(made.handled[1:]) == [("e1", 2), ("e2", 2)]
    [said] = [one for one in caplog.messages if ABOUT in one]
    assert f"nats-server {OLDER} cannot do it: upgrade to 2.14 or newer" in said


@pytest.mark.seaway_since("2.14", "giving out again what was on its way")
async def test_while_there_is_no_leader_it_waits_and_keeps_the_order(tmp_path: Path) -> None:
    async with NatsCluster(3) as cluster, bench(cluster.url, tmp_path, replicas=3) as made:
        await made.publish(1, 2)
        await made.die_with(2)
        await made.publish(3)
        info = await made.broker.admin.consumer(STREAM, DURABLE)
        assert info is not None
        leader = info.document["cluster"]["leader"]
        [server] = [one for one in cluster.servers if one.name == leader]
        await server.kill()
        async with made.at_work():
            await made.until_handled(3, within=60)
        assert [event_id for event_id, _ in made.handled] == ["e1", "e2", "e3"]


@pytest.mark.seaway_since("2.14", "giving out again what was on its way")
async def test_who_works_off_a_backlog_is_not_disturbed(
    nats_server_own: NatsServer, tmp_path: Path
) -> None:
    """It never waits for messages, and has some in hand all the time."""
    async with bench(nats_server_own.url, tmp_path) as made:
        await made.publish(*range(1, 1001))
        stop = asyncio.Event()

        async def take() -> list[int]:
            found: list[int] = []
            held: Sequence[Incoming] = []
            async with made.broker.subscribe(STREAM, DURABLE) as other:
                while not stop.is_set():
                    some = await other.next(1, timeout=TIMEOUT)
                    await other.ack(*held)  # Not before it has the next in hand.
                    found += [one.stream_seq for one in some]
                    held = some
                    await asyncio.sleep(0.01)
                await other.ack(*held)
            return found

        async def has_some() -> bool:
            info = await made.broker.admin.consumer(STREAM, DURABLE)
            return info is not None and info.num_ack_pending > 0

        taking = asyncio.create_task(take())
        try:
            await until(has_some)
            async with made.broker.subscribe(STREAM, DURABLE) as second:
                for _ in range(3):
                    assert await second.rewind() is None
        finally:
            stop.set()
            found = await taking
        assert found == sorted(set(found))
