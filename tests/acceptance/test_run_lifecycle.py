"""``seaway run`` seen from outside: its signals, what it says, its exit codes.

What was given back and what was not is told by the server's own counters.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import urllib.request
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings
from seaway.contracts import ConsumerInfo, Incoming
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer
from seaway.stores.postgres import PostgresStore
from shell import SEAWAY, Shell

pytestmark = pytest.mark.server

STREAM, DURABLE = "SEA_EVENTS", "case_mgmt__from_sea"
RUN = [*SEAWAY, "run", "service:app"]
EVENTS = 30
WORKERS = 4
"""As the service below declares."""

# Each call of its handler is noted, and lasts until the file ``go`` is there.
SERVICE = """
import asyncio
from pathlib import Path

from seaway import Delivery, RawEvent, Seaway

app = Seaway.from_config("seaway.yaml")
case_mgmt = app.consumer("case_mgmt", from_context="sea", workers=4)


@case_mgmt.handler(RawEvent)
async def handle(event: RawEvent, delivery: Delivery) -> None:
    with open("calls", "a") as calls:
        print(delivery.stream_seq, file=calls)
    while not Path("go").exists():
        await asyncio.sleep(0.02)
    await delivery.tx.execute("INSERT INTO effects (place) VALUES ($1)", delivery.stream_seq)
"""


class Service(Shell):
    """The service above, on PostgreSQL."""

    def __init__(self, folder: Path, url: str, database: str) -> None:
        super().__init__(folder, url)
        self.database = database
        (folder / "service.py").write_text(SERVICE)
        config = {
            "database": database,
            "streams": [{"name": STREAM, "replicas": 1}],
            "consumers": [{"stream": STREAM, "durable": DURABLE, "ack_wait": "120s"}],
        }
        (folder / "seaway.yaml").write_text(json.dumps(config))

    async def prepare(self) -> None:
        """Everything that it needs, and its events on the stream."""
        await asyncio.to_thread(self.seaway, "topology", "apply")
        async with await PostgresStore.open(self.database) as store:
            await store.schema.upgrade()
            async with store.transaction() as tx:
                await tx.handle.execute("CREATE TABLE effects (place int)")
        lines = [
            json.dumps({"subject": "sea.event.case_moved.v1", "payload": {}, "key": f"case-{n}"})
            for n in range(EVENTS)
        ]
        (self.folder / "events.jsonl").write_text("\n".join(lines))
        await asyncio.to_thread(self.seaway, "outbox", "add", "events.jsonl")
        await asyncio.to_thread(self.seaway, "relay", "--drain")

    def calls(self) -> list[int]:
        """The places on the stream for which the handler was called, in order."""
        noted = self.folder / "calls"
        return [int(line) for line in noted.read_text().splitlines()] if noted.exists() else []

    def go(self) -> None:
        """Let every handler end."""
        (self.folder / "go").touch()

    async def effects(self) -> list[int]:
        async with await PostgresStore.open(self.database) as store, store.transaction() as tx:
            return [row["place"] for row in await tx.handle.fetch("SELECT place FROM effects")]

    async def eventually(self, holds: Any, what: str) -> None:
        await asyncio.to_thread(self.until, holds, what)


@pytest.fixture
async def broker(nats_server_own: NatsServer) -> AsyncIterator[JetStreamBroker]:
    connected = await connect(NatsSettings(url=nats_server_own.url))
    yield connected
    await connected.close()


@pytest.fixture
async def service(tmp_path: Path, nats_server_own: NatsServer, postgres_url: str) -> Service:
    made = Service(tmp_path, nats_server_own.url, postgres_url)
    await made.prepare()
    return made


async def durable(broker: JetStreamBroker) -> ConsumerInfo:
    found = await broker.admin.consumer(STREAM, DURABLE)
    assert found is not None
    return found


async def take_over(broker: JetStreamBroker, count: int) -> list[Incoming]:
    """Be the next process: pull ``count`` deliveries, and acknowledge them."""
    taken: list[Incoming] = []
    async with broker.subscribe(STREAM, DURABLE) as pull, asyncio.timeout(30):
        while len(taken) < count:
            batch = await pull.next(count - len(taken), timeout=timedelta(seconds=5))
            assert all(await pull.ack(*batch))
            taken += batch
    return taken


async def test_told_to_stop_it_ends_what_runs_and_gives_the_rest_back_at_once(
    service: Service, broker: JetStreamBroker
) -> None:
    with service.running(*RUN) as process:
        await service.eventually(lambda: len(service.calls()) == WORKERS, "every worker at work")
        process.send_signal(signal.SIGTERM)
        # All but what runs can be had now, of which ack_wait would keep some for two minutes.
        rest = await take_over(broker, EVENTS - WORKERS)
        running = set(service.calls())
        assert {one.stream_seq for one in rest} == set(range(1, EVENTS + 1)) - running
        assert (await durable(broker)).num_ack_pending == WORKERS
        assert process.poll() is None
        service.go()
        assert await asyncio.to_thread(process.wait, 30) == 0
    after = await durable(broker)
    assert (after.num_ack_pending, after.num_pending) == (0, 0)
    assert sorted(service.calls()) == sorted(await service.effects()) == sorted(running)
    given_back = [one for one in rest if one.deliveries > 1]
    assert after.consumer_seq == EVENTS + len(given_back)


async def test_told_twice_it_ends_now_and_what_ran_comes_again(
    service: Service, broker: JetStreamBroker
) -> None:
    with service.running(*RUN, code=130) as process:
        await service.eventually(lambda: len(service.calls()) == WORKERS, "every worker at work")
        process.send_signal(signal.SIGTERM)
        await take_over(broker, EVENTS - WORKERS)
        process.send_signal(signal.SIGTERM)
        # Its handlers would wait for ever: nobody lets them go.
        assert await asyncio.to_thread(process.wait, 30) == 130
    assert await service.effects() == []
    assert (await durable(broker)).num_ack_pending == WORKERS


async def test_a_durable_that_the_server_does_not_have_is_one_line(
    service: Service, broker: JetStreamBroker
) -> None:
    assert await broker.admin.delete_consumer(STREAM, DURABLE)
    with service.running(*RUN, code=1) as process:
        await asyncio.to_thread(process.wait, 30)
    started, *_, last = service.said().splitlines()
    assert "started: relay, consumer" in started
    assert last == (
        f"seaway: there is no consumer {DURABLE} on {STREAM}: run `seaway topology apply` "
        "(in development, seaway run --dev makes it)"
    )
    assert "Traceback" not in service.said()


@pytest.mark.parametrize("away", ["server", "database"])
async def test_a_relay_waits_likewise(
    tmp_path: Path,
    nats_server_own: NatsServer,
    postgres_server_own: PostgresServer,
    away: str,
) -> None:
    service = Service(tmp_path, nats_server_own.url, postgres_server_own.url())
    await service.prepare()
    await asyncio.to_thread(service.seaway, "outbox", "add", "events.jsonl")
    missing = nats_server_own if away == "server" else postgres_server_own
    await missing.stop()
    said = "waiting for the server:" if away == "server" else "waiting for the database:"
    with service.running(*SEAWAY, "relay"):
        await service.eventually(lambda: said in service.said(), "words")
    with service.running(*SEAWAY, "relay", "--drain") as process:
        await service.eventually(lambda: service.said().count(said) == 2, "words again")
        await missing.start()
        assert await asyncio.to_thread(process.wait, 30) == 0
    assert f"{EVENTS} events relayed." in service.said()


@pytest.mark.parametrize("away", ["server", "database"])
async def test_it_waits_for_what_is_away_at_the_start_and_says_so(
    tmp_path: Path,
    nats_server_own: NatsServer,
    postgres_server_own: PostgresServer,
    away: str,
) -> None:
    service = Service(tmp_path, nats_server_own.url, postgres_server_own.url())
    await service.prepare()
    service.go()
    missing = nats_server_own if away == "server" else postgres_server_own
    await missing.stop()
    said = "waiting for the server:" if away == "server" else "waiting for the database:"
    with service.running(*RUN):
        await service.eventually(lambda: said in service.said(), "words")
    with service.running(*RUN):
        await service.eventually(lambda: service.said().count(said) == 2, "words again")
        await missing.start()
        await service.eventually(lambda: len(service.calls()) == EVENTS, "everything handled")
    assert sorted(await service.effects()) == list(range(1, EVENTS + 1))
    assert service.said().count(said) == 2


@pytest.mark.parametrize(
    "command", [[*SEAWAY, "relay"], [*SEAWAY, "run", "--no-consumers", "quiet:app"]]
)
def test_a_process_at_work_can_be_scraped(tmp_path: Path, command: list[str]) -> None:
    """Also while it waits for its server: nobody is there at this port."""
    shell = Shell(tmp_path, "nats://127.0.0.1:9")
    (tmp_path / "seaway.yaml").write_text("contexts: [sea]\n")
    (tmp_path / "quiet.py").write_text("from seaway import Seaway\napp = Seaway.from_config()\n")
    shell.seaway("db", "upgrade")
    found: list[str] = []

    def told() -> bool:
        found[:] = re.findall(r"http://127\.0\.0\.1:\d+/metrics", "".join(shell.said().split()))
        return bool(found)

    with shell.running(*command, "--metrics", "0"):
        shell.until(told, "where the metrics are")
        shell.until(lambda: "waiting for the server: " in shell.said(), "what it waits for")
        with urllib.request.urlopen(found[0], timeout=15) as answer:
            metrics = answer.read()
        assert b"seaway_relay_paused_bool" in metrics
        assert b"seaway_disconnects_total 0.0" in metrics, "it never was connected"
        port = found[0].split(":")[2].split("/")[0]
        refused = shell.ended(*command, "--metrics", port, code=2).stderr
        assert f"cannot listen on 127.0.0.1:{port}" in " ".join(refused.split())
