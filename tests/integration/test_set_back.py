"""A stream comes back as an earlier state of itself: what was given out of it is given again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from seaway import Delivery, RawEvent, Retry, Seaway, topology
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.brokers.jetstream.api import Api
from seaway.config import NatsSettings, settings_from_mapping
from seaway.contracts import Incoming, Message, Stored
from seaway.dead_letters import DeadLetters, Letter
from seaway.embedded.nats_server import NatsCluster, NatsServer
from seaway.errors import BrokerUnavailable, Poison, SeawayError
from seaway.inbox.letters import note_discarded
from seaway.inbox.places import LETTERS, last_place, note_stored_now
from seaway.naming import dlq_stream, redrive_stream
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import SetBack
from servers import OLDER, binary

pytestmark = [pytest.mark.server, pytest.mark.seaway_since("2.14", "setting a durable back")]

STREAM, DURABLE, SUBJECT = "SEA_EVENTS", "case_mgmt__from_sea", "sea.event.moved.v1"
TIMEOUT = timedelta(seconds=5)
KEPT, ALL = 30, 60


def event(number: int, *, again: bool = False) -> Message:
    headers = {"Nats-Msg-Id": f"e{number}", "X-Ordering-Key": f"k{number % 3}"}
    if again:
        headers["X-Healed-From"] = str(number + 1)
    return Message(SUBJECT, b"%d" % number, headers)


class Bench:
    """An application, what its handler was called with, and servers that lose what they had."""

    def __init__(self, servers: Sequence[NatsServer], folder: Path, **consumer: object) -> None:
        self.servers = servers
        self.folder = folder
        self.handled: list[str] = []
        self.on_failure: Literal["continue", "park"] = "continue"
        self.poison: set[str] = set()
        self.later: set[str] = set()
        self.told: list[SetBack] = []
        self.settings = settings_from_mapping(
            {
                "nats": {"url": self.url},
                "database": f"sqlite:///{folder / 'app.db'}",
                "streams": [
                    {"name": STREAM, "subjects": ["sea.event.>"], "replicas": len(servers)}
                ],
                "consumers": [
                    {"stream": STREAM, "durable": DURABLE, "ack_wait": "60s", **consumer}
                ],
            },
            environ={},
        )
        self.broker: JetStreamBroker

    @property
    def url(self) -> str:
        return ",".join(one.url for one in self.servers)

    async def make(self) -> None:
        wanted = topology.desired(self.settings)
        actual = await topology.actual(self.broker.admin, wanted)
        await topology.apply(topology.plan(wanted, actual), self.broker.admin)

    async def publish(self, *numbers: int, again: bool = False) -> None:
        async with asyncio.timeout(60):
            for number in numbers:
                while True:
                    [one] = await self.broker.publish(
                        STREAM, [event(number, again=again)], timeout=TIMEOUT
                    )
                    if isinstance(one, Stored):
                        break
                    await asyncio.sleep(0.05)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """A process, which ends in order."""
        app, stop = Seaway(self.settings), asyncio.Event()
        app.telemetry.subscribe(
            lambda one: self.told.append(one) if isinstance(one, SetBack) else None
        )

        async def handle(event: RawEvent, delivery: Delivery) -> None:
            self.handled.append(delivery.event_id)
            if delivery.event_id in self.poison:
                raise Poison("no")
            if delivery.event_id in self.later:
                raise Retry("not ripe", after=timedelta(hours=1))

        declared = app.consumer("case_mgmt", from_context="sea", on_failure=self.on_failure)
        declared.handler(RawEvent)(handle)
        work = asyncio.create_task(app.run(stop, relay=False))
        try:
            yield
        finally:
            stop.set()
            await work

    async def until_handled(self, count: int) -> None:
        async def enough() -> bool:
            return len(set(self.handled)) >= count

        await until(enough)

    async def until_settled(self) -> None:
        async def settled() -> bool:
            info = await self.broker.admin.consumer(STREAM, DURABLE)
            return info is not None and info.settled

        await until(settled)

    async def copy(self) -> None:
        await asyncio.gather(*(one.stop() for one in self.servers))
        for place, server in enumerate(self.servers):
            shutil.copytree(server.directory / "jetstream", self.folder / f"old{place}")
        await asyncio.gather(*(one.start() for one in self.servers))

    async def put_back(
        self, what: Literal["all", "messages", "letters", "redrives"], *, in_order: bool = False
    ) -> None:
        """As it was at the copy; ``messages``: but the durables know what they did since;
        ``letters``: the queue alone, ``redrives``: their stream. ``in_order``: after an end at
        which the servers write down what their durables know."""
        parts = {"messages": f"**/{STREAM}/msgs", "letters": f"**/{dlq_stream('sea')}"}
        parts["redrives"] = f"**/{redrive_stream('sea')}"
        await asyncio.gather(*(one.stop() if in_order else one.kill() for one in self.servers))
        for place, server in enumerate(self.servers):
            old = self.folder / f"old{place}"
            [then] = [old] if what == "all" else old.glob(parts[what])
            now = server.directory / "jetstream" / then.relative_to(old)
            shutil.rmtree(now)
            shutil.copytree(then, now)
        await asyncio.gather(*(one.start() for one in self.servers))

    async def move(self, seq: int) -> None:
        """The durable's state is as if it had been given everything before ``seq``."""
        body = {"seq": seq}
        api, call = Api(self.broker.admin._connection), f"CONSUMER.RESET.{STREAM}.{DURABLE}"

        async def moved() -> bool:
            with contextlib.suppress(BrokerUnavailable):
                return bool(await api.call(call, body))
            return False

        await until(moved)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.01)


@pytest.fixture
async def bench(nats_server_own: NatsServer, tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(Bench([nats_server_own], tmp_path)) as made:
        yield made


@asynccontextmanager
async def opened(made: Bench) -> AsyncIterator[Bench]:
    """With tables, streams and a durable."""
    made.broker = await connect(NatsSettings(url=made.url))
    try:
        await made.make()
        async with await SqliteStore.open(made.folder / "app.db") as store:
            await store.schema.upgrade()
        yield made
    finally:
        await made.broker.close()


@pytest.mark.parametrize("what", ["all", "messages"])
@pytest.mark.parametrize("first", ["published", "looked"])
async def test_what_is_published_again_has_its_effects_once(
    bench: Bench, what: Literal["all", "messages"], first: str
) -> None:
    """And what had none is not passed over, whichever comes first."""
    await go_through_a_loss(bench, what, first, ahead=what == "messages")


async def test_an_exclusive_durable_is_set_back_too(
    nats_server_own: NatsServer, tmp_path: Path
) -> None:
    async with opened(Bench([nats_server_own], tmp_path, exclusive=True)) as bench:
        await go_through_a_loss(bench, "messages", "published", ahead=True)
        order = [int(one[1:]) for one in bench.handled]
        for key in range(3):
            mine = [one for one in order if one % 3 == key and one not in (ALL, ALL + 1)]
            assert mine == sorted(mine)


async def test_a_durable_of_a_cluster_is_set_back(tmp_path: Path) -> None:
    """Where stream and durable are kept three times, each by a group of its own."""
    async with NatsCluster(3) as cluster, opened(Bench(cluster.servers, tmp_path)) as bench:
        await go_through_a_loss(bench, "all", "published", ahead=True)


async def test_an_older_server_passes_over_and_the_way_out_that_is_said_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SEAWAY_NATS_SERVER", str(binary(OLDER)))
    async with NatsServer() as server, opened(Bench([server], tmp_path)) as bench:
        await bench.publish(*await lose(bench, "messages", in_order=True))

        async def said() -> bool:
            return any(
                f"passes over what lies there now, from {KEPT + 1} on" in one
                and "delete the durable and run `seaway topology apply`" in one
                for one in caplog.messages
            )

        async with bench.at_work():
            await until(said)
            assert len(bench.handled) == ALL
            await bench.broker.admin.delete_consumer(STREAM, DURABLE)
            await bench.make()
            await bench.until_handled(ALL + 2)
            await bench.until_settled()
        assert Counter(bench.handled) == Counter(f"e{n}" for n in range(ALL + 2))
        assert bench.told == []


async def lose(
    bench: Bench, what: Literal["all", "messages"], *, in_order: bool = False
) -> list[int]:
    """What is published next: others take some of the lost places than before, what the relay of
    another service had been quicker with."""
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        await bench.until_handled(KEPT)
    await bench.copy()
    async with bench.at_work():
        await bench.publish(*range(KEPT, ALL))
        await bench.until_handled(ALL)
        await bench.until_settled()
    await bench.put_back(what, in_order=in_order)
    return [ALL, ALL + 1, *range(KEPT, ALL)]


async def go_through_a_loss(
    bench: Bench, what: Literal["all", "messages"], first: str, *, ahead: bool
) -> None:
    """``ahead``: the durable is beyond the stream's end, as a cluster's may be, whose state is
    replicated apart."""
    lost = await lose(bench, what)
    if first == "published":
        await bench.publish(*lost)
    if ahead:
        await bench.move(ALL + 1)
    async with bench.at_work():
        if first == "looked":
            await bench.publish(*lost)
        await bench.until_handled(ALL + 2)
        await bench.until_settled()
    assert Counter(bench.handled) == Counter(f"e{n}" for n in range(ALL + 2))
    if ahead:
        assert {one.to_seq for one in bench.told} == {KEPT + 1}
        async with await SqliteStore.open(bench.folder / "app.db") as store:
            [noted, *_] = await store.log(action="set back")
        assert noted.about == DURABLE
        assert json.loads(json.dumps(noted.detail))["to_seq"] == KEPT + 1
    else:
        assert bench.told == []


@pytest.mark.parametrize("what", ["all", "messages"])
async def test_a_process_that_lives_on_takes_no_new_event_for_an_old_one(
    bench: Bench, what: Literal["all", "messages"]
) -> None:
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        await bench.until_handled(KEPT)
        await bench.copy()
        await bench.publish(*range(KEPT, ALL))
        await bench.until_handled(ALL)
        await bench.put_back(what)
        await bench.publish(ALL, ALL + 1, *range(KEPT, ALL))
        await bench.until_handled(ALL + 2)
        await bench.until_settled()
    assert Counter(bench.handled) == Counter(f"e{n}" for n in range(ALL + 2))


async def test_a_stream_that_was_made_anew_is_handled_from_its_beginning(bench: Bench) -> None:
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        await bench.until_handled(KEPT)
        await bench.until_settled()
        await bench.broker.admin.delete_stream(STREAM)
        await bench.make()
        await bench.publish(KEPT, *range(KEPT))
        await bench.until_handled(KEPT + 1)
        await bench.until_settled()
    assert Counter(bench.handled) == Counter(f"e{n}" for n in range(KEPT + 1))


async def test_a_purge_sets_nothing_back(bench: Bench) -> None:
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        await bench.until_handled(KEPT)
        await bench.until_settled()
    await Api(bench.broker.admin._connection).call(f"STREAM.PURGE.{STREAM}")
    async with bench.at_work():
        await bench.publish(KEPT)
        await bench.until_handled(KEPT + 1)
    assert bench.told == []


# ------------------------------------------------------------------ letters


async def letters(bench: Bench) -> dict[str, Letter]:
    found = await DeadLetters(bench.broker).list()
    assert len({one.event_id for one in found}) == len(found)
    return {one.event_id: one for one in found}


async def until_letters(bench: Bench, *event_ids: str) -> dict[str, Letter]:
    seen: dict[str, Letter] = {}

    async def there() -> bool:
        nonlocal seen
        with contextlib.suppress(SeawayError):
            found = await DeadLetters(bench.broker).list()
            seen = {one.event_id: one for one in found}
            return sorted(one.event_id for one in found) == sorted(event_ids)
        return False

    await until(there)
    return seen  # A moment later there may be others.


@pytest.mark.parametrize("first", ["published", "looked"])
async def test_a_letter_that_its_queue_lost_is_made_again(bench: Bench, first: str) -> None:
    """Of an event that its stream has lost as well, and that a relay publishes again."""
    bench.poison = {"e2", f"e{KEPT + 1}"}
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        await until_letters(bench, "e2")
    await bench.copy()
    async with bench.at_work():
        await bench.publish(*range(KEPT, ALL))
        before = await until_letters(bench, *bench.poison)
        await bench.until_settled()
    await bench.put_back("all")
    lost = [ALL, *range(KEPT, ALL)]
    if first == "published":
        await bench.publish(*lost, again=True)
    async with bench.at_work():
        if first == "looked":
            await bench.publish(*lost, again=True)
        after = await until_letters(bench, *bench.poison)
        await bench.until_settled()
    assert Counter(bench.handled) == Counter(f"e{n}" for n in range(ALL + 1))
    made = after[f"e{KEPT + 1}"]
    assert made.stream_seq == KEPT + 3
    assert (made.reason, before[made.event_id].reason) == ("poison", "poison")
    assert "the queue had lost this letter" in made.error.lower()
    async with await SqliteStore.open(bench.folder / "app.db") as store:

        async def told() -> bool:
            return bool(await store.log(action="relettered"))

        await until(told)  # After the letters, of all of them.
        [noted] = await store.log(action="relettered")
    assert noted.detail["ids"] == [f"e{KEPT + 1}"]


async def test_what_was_put_off_is_a_letter_where_its_stream_has_lost_it(bench: Bench) -> None:
    """And its key, which had waited for it, goes on."""
    await bench.copy()
    bench.later = {"e1"}
    async with bench.at_work(), await SqliteStore.open(bench.folder / "app.db") as store:
        await bench.publish(*range(5))  # e4 has the key of e1.
        await until_letters(bench, "e4")

        async def noted() -> bool:
            places = await store.places(LETTERS)
            return any(one.stream == redrive_stream("sea") and one.stream_seq for one in places)

        await until(noted)
    assert sorted(bench.handled) == ["e0", "e1", "e2", "e3"]
    await bench.put_back("redrives")
    async with bench.at_work():
        found = await until_letters(bench, "e1")
        await bench.until_handled(5)
    assert (found["e1"].stream, found["e1"].stream_seq) == (STREAM, 2)
    assert Counter(bench.handled) == Counter(f"e{n}" for n in range(5))


async def test_what_waits_behind_a_lost_letter_goes_on_waiting_in_its_order(bench: Bench) -> None:
    """And so does what was on its way as a redrive: it is a letter again. What was discarded stays
    away."""
    bench.on_failure, bench.poison = "park", {"e30", "e31", "e32"}
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        await bench.until_handled(KEPT)
    await bench.copy()
    async with bench.at_work():
        await bench.publish(*range(KEPT, KEPT + 6))
        before = await until_letters(bench, *(f"e{n}" for n in range(KEPT, KEPT + 6)))
    queue = DeadLetters(bench.broker)
    await queue.redrive(before["e31"])
    async with await SqliteStore.open(bench.folder / "app.db") as store:
        await note_discarded(store, DURABLE, [before["e32"]])
        await queue.discard(before["e32"])
    await bench.put_back("all")
    await bench.publish(ALL + 2, *range(KEPT, KEPT + 6), again=True)
    async with bench.at_work():
        left = {"e30", "e31", "e33", "e34"}
        after = await until_letters(bench, *left)
        await bench.until_settled()
        # Behind the discarded one of its key, whose turn it is.
        await bench.until_handled(KEPT + 5)
        assert {one.event_id: one.reason for one in after.values()} == {
            "e30": "poison",
            "e31": "poison",
            "e33": "parked",
            "e34": "parked",
        }
        bench.poison.clear()
        for name in ("e30", "e31"):
            await queue.redrive(after[name])
        await until_letters(bench)
        await bench.until_handled(KEPT + 7)
    counted = Counter(bench.handled)
    assert {name for name, count in counted.items() if count > 1} == {"e30", "e31"}
    assert "e32" in counted
    assert counted.keys() == {f"e{n}" for n in (*range(KEPT + 6), ALL + 2)}
    for key in range(2):
        mine = [name for name in bench.handled if name in (f"e{30 + key}", f"e{33 + key}")]
        assert mine == [f"e{30 + key}", f"e{30 + key}", f"e{33 + key}"]


async def test_a_letter_that_comes_before_anybody_looked_hides_no_loss(bench: Bench) -> None:
    """It may be the first to lie where the lost ones were, or beyond."""
    bench.poison = {"e2", f"e{KEPT}"}
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        first = await until_letters(bench, "e2")
    await bench.copy()
    async with bench.at_work():
        await bench.publish(KEPT)
        await until_letters(bench, *bench.poison)
    await bench.put_back("all")
    await bench.publish(KEPT, KEPT + 1, again=True)
    queue, admin = DeadLetters(bench.broker), bench.broker.admin
    found = await admin.get(STREAM, KEPT + 2)
    assert found is not None
    incoming = Incoming.read(found, DURABLE, deliveries=1)
    place = await queue.store(incoming, reason="poison", error=None)
    async with await SqliteStore.open(bench.folder / "app.db") as store:
        await note_stored_now(admin, store, dlq_stream("sea"), place, found.event_id)
    bench.poison.add(found.event_id)
    assert set(await letters(bench)) == {"e2", found.event_id}
    async with bench.at_work():
        after = await until_letters(bench, *bench.poison)
    assert after["e2"].id == first["e2"].id


async def test_a_redrive_that_was_lost_in_hand_is_the_letter_that_came_back(bench: Bench) -> None:
    bench.poison = {"e2"}
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        before = await until_letters(bench, "e2")
    await bench.copy()
    await bench.publish(KEPT)  # The connection is there again.
    queue, admin = DeadLetters(bench.broker), bench.broker.admin
    await queue.redrive(before["e2"])
    [redrive] = [one async for one in admin.read(redrive_stream("sea"))]
    await bench.put_back("all")
    await bench.publish(KEPT)
    in_hand = Incoming.read(redrive, DURABLE, deliveries=1)
    place = await queue.store(in_hand, reason="poison", error=None)
    assert (await letters(bench))["e2"].stored.stream_seq == place


async def test_a_redrive_in_the_place_of_a_lost_one_is_another_message(bench: Bench) -> None:
    bench.poison = {"e2"}
    queue = DeadLetters(bench.broker)
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        first = (await until_letters(bench, "e2"))["e2"]
        await queue.redrive(first)
        second = await until_another(bench, first)
    await bench.broker.admin.delete_stream(redrive_stream("sea"))
    await bench.make()
    async with bench.at_work():
        await queue.redrive(second)
        third = await until_another(bench, second)
    assert (third.stream, third.stream_seq) == (second.stream, second.stream_seq)
    assert Counter(bench.handled)["e2"] == 3


async def test_a_lost_redrive_is_a_letter_though_its_queue_remembers_that_one(
    bench: Bench,
) -> None:
    """Letters have the same id however often they are made: that keeps them single."""
    bench.poison = {"e2"}
    queue, admin, redrives = DeadLetters(bench.broker), bench.broker.admin, redrive_stream("sea")
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        first = (await until_letters(bench, "e2"))["e2"]
    await queue.redrive(first)
    async with await SqliteStore.open(bench.folder / "app.db") as store:
        await store.know(await last_place(admin, redrives, 1))
    await admin.delete_stream(redrives)
    await bench.make()
    async with bench.at_work():
        again = await until_another(bench, first)
    assert again.place == first.place


async def until_another(bench: Bench, letter: Letter) -> Letter:
    found = letter

    async def there() -> bool:
        nonlocal found
        found = (await letters(bench)).get(letter.event_id, letter)
        return found.id != letter.id

    await until(there)
    return found


async def test_a_letter_that_came_back_goes_again_if_its_event_got_further(bench: Bench) -> None:
    """``e2`` has taken effect since, ``e5`` has another letter, ``e8`` is on its way."""
    bench.poison = {"e2", "e5", "e8"}
    queue = DeadLetters(bench.broker)
    async with bench.at_work():
        await bench.publish(*range(KEPT))
        before = await until_letters(bench, *bench.poison)
    await bench.copy()
    await bench.publish(KEPT)
    bench.poison = {"e5", f"e{KEPT + 1}"}
    async with bench.at_work():
        await bench.publish(KEPT + 1)
        await queue.redrive(before["e2"])
        await queue.redrive(before["e5"])
        later = await until_another(bench, before["e5"])
        await until_letters(bench, "e8", *bench.poison)
    await queue.redrive(before["e8"])
    assert later.stored.stream_seq > before["e5"].stored.stream_seq
    bench.poison = {"e8"}
    await bench.put_back("letters")
    await bench.publish(KEPT + 2)
    async with bench.at_work():
        after = await until_letters(bench, "e5", "e8", f"e{KEPT + 1}")
    assert after["e5"].id == before["e5"].id, "there is no other any more"
    assert after["e8"].id != before["e8"].id, "it was redriven, and failed"
