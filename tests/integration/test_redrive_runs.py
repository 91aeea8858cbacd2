"""Runs of redrives on a real server: canaries, stops, kills, two at once; nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import Delivery, RawEvent, Seaway, topology
from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings, settings_from_mapping
from seaway.consumer import ConsumerOptions
from seaway.contracts import Message, RunItem, Store, Stored
from seaway.dead_letters import Letter, Selection
from seaway.embedded.nats_server import NatsServer
from seaway.errors import ConfigError, NotFound, Poison
from seaway.mending import Mending, Outcome, Plan, RedriveRun, Refusal
from seaway.mending.noting import AtWork
from seaway.stores.sqlite import SqliteStore

pytestmark = pytest.mark.server
SEAWAY = Path(sys.executable).with_name("seaway")
TIMEOUT = timedelta(seconds=5)
COUNT = 40


class Mill:
    """A service with two consumers, both of which fail until they are mended."""

    def __init__(
        self,
        broker: JetStreamBroker,
        context: str,
        url: str,
        folder: Path,
        storage: str = "memory",
    ) -> None:
        self.broker = broker
        self.context = context
        self.folder = folder
        self.stream, self.queue, self.redrives = (
            f"{context.upper()}_{kind}" for kind in ("EVENTS", "DLQ", "REDRIVE")
        )
        self.durables = [f"billing__from_{context}", f"shipping__from_{context}"]
        self.broken: dict[str, set[int]] = {}
        self.effects: Counter[tuple[str, str]] = Counter()
        self.has_inbox = True
        given = {
            "nats": {"url": url},
            "database": f"sqlite:///{folder / 'mill.db'}",
            "streams": [{"name": self.stream, "replicas": 1, "storage": storage}],
            "consumers": [{"stream": self.stream, "durable": name} for name in self.durables],
        }
        (folder / "seaway.yaml").write_text(json.dumps(given))
        self.settings = settings_from_mapping(given, environ={})
        self.store: Store

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Mill]:
        """With its streams and its database."""
        wanted, admin = topology.desired(self.settings), self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)
        self.store = await SqliteStore.open(self.folder / "mill.db")
        try:
            await self.store.schema.upgrade()
            yield self
        finally:
            await self.store.close()

    async def forget_ids(self) -> None:
        """As if the duplicate window of the redrives had passed at every step."""
        info = await self.broker.admin.stream(self.redrives)
        assert info is not None
        config = {**info.config, "duplicate_window": 100_000_000}
        await self.broker.admin.update_stream(config)

    async def letters(self, count: int = COUNT) -> None:
        """``count`` events, each of which has a letter of both consumers."""
        subject = f"{self.context}.event.case_created.v1"
        messages = [
            Message(
                subject,
                b'{"n": %d}' % number,
                {"Nats-Msg-Id": f"e{number}", "X-Ordering-Key": f"k{number % 7}"},
            )
            for number in range(count)
        ]
        outcomes = await self.broker.publish(self.stream, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes)
        self.broken = {name: set(range(count)) for name in self.durables}
        async with self.at_work():
            await self.until_held(self.queue, count * 2)
        self.broken = {}

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Seaway]:
        """Its process, which ends in order."""
        app, stop = Seaway(self.settings), asyncio.Event()

        def handler(name: str) -> Any:
            async def handle(event: RawEvent, delivery: Delivery) -> None:
                if json.loads(event.payload)["n"] in self.broken.get(name, ()):
                    raise Poison("not mended")
                self.effects[name, delivery.event_id] += 1

            return handle

        for name in self.durables:
            service = name.partition("__")[0]
            options: ConsumerOptions = {} if self.has_inbox else {"tx": None}
            declared = app.consumer(service, from_context=self.context, **options)
            declared.handler(RawEvent)(handler(name))
        work = asyncio.create_task(app.run(stop, relay=False, sweeper=False))
        try:
            yield app
        finally:
            stop.set()
            await work

    async def held(self, stream: str) -> int:
        info = await self.broker.admin.stream(stream)
        assert info is not None
        return info.messages

    async def until_held(self, stream: str, count: int) -> None:
        async with asyncio.timeout(60):
            while await self.held(stream) != count:
                await asyncio.sleep(0.02)

    async def redriven(self) -> int:
        """How many redrives were ever stored."""
        info = await self.broker.admin.stream(self.redrives)
        assert info is not None
        return info.last_seq

    @property
    def desk(self) -> Mending:
        async def opening() -> Store:
            return self.store

        return Mending.configured(self.broker, self.settings, opening)

    async def run(self, **plan: Any) -> RedriveRun:
        return await self.desk.run(Plan(by="anna", **plan))

    def assert_each_once(self, count: int = COUNT) -> None:
        wanted = {(name, f"e{number}") for name in self.durables for number in range(count)}
        assert self.effects == Counter(dict.fromkeys(wanted, 1))


async def done(run: RedriveRun) -> list[Outcome]:
    async with aclosing(run.outcomes()) as outcomes:
        return [one async for one in outcomes]


@pytest.fixture
async def mill(
    broker: JetStreamBroker, nats_server: NatsServer, context_name: str, tmp_path: Path
) -> AsyncIterator[Mill]:
    async with Mill(broker, context_name, nats_server.url, tmp_path).opened() as made:
        yield made


async def test_a_canary_that_comes_back_ends_the_run_and_the_mended_rest_goes(mill: Mill) -> None:
    await mill.letters()
    mill.broken = {mill.durables[0]: {0, 1}}
    first = Selection(consumer=mill.durables[0])
    async with mill.at_work():
        failed = await mill.run(selection=first, canary=3)
        outcomes = await done(failed)
        assert (failed.state, failed.counts["sent"]) == ("failed", 3)
        assert failed.counts["failed"] in (1, 2), "it ends at once"
        assert "came back, and no more than 0 may" in failed.why
        [back, *_] = [one for one in outcomes if one.became == "failed"]
        assert "Poison: not mended" in back.detail

        await mill.until_held(mill.queue, COUNT * 2 - 1)  # Both have come back, and one is done.
        mill.broken = {}
        rest = await mill.run(selection=first, canary=3)
        outcomes = await done(rest)
        assert (rest.state, rest.why, rest.resumed) == ("done", "", False)
        assert rest.counts == {"sent": COUNT - 1, "effect": COUNT - 1}
        firsts = [one.became for one in outcomes[:9]]
        assert firsts == ["sent"] * 3 + ["effect"] * 3 + ["sent"] * 3, "a batch, its outcomes, on"

        other = await mill.run(selection=Selection(consumer=mill.durables[1]), max_failures=0)
        await done(other)
        assert (other.state, other.counts["effect"]) == ("done", COUNT)
    mill.assert_each_once()
    assert await mill.held(mill.queue) == 0

    runs = await mill.store.runs("redrive")
    assert [(one.run, one.state) for one in runs] == [
        (other.id, "done"),
        (rest.id, "done"),
        (failed.id, "failed"),
    ]
    past = await mill.desk.past_run(failed.id)
    assert sum(past.counts[mill.durables[0]].values()) == 3
    entries = await mill.store.log(action="redriven")
    assert [(one.by, one.detail["consumer"], one.detail["letters"]) for one in entries] == [
        ("anna", mill.durables[1], COUNT),
        ("anna", mill.durables[0], COUNT - 1),
        ("anna", mill.durables[0], 3),
    ]


async def test_a_redrive_says_how_often_its_event_was_redriven(mill: Mill) -> None:
    await mill.letters(1)
    mill.broken = {mill.durables[0]: {0}}
    selection = Selection(consumer=mill.durables[0])
    async with mill.at_work():
        for count in (1, 2):
            run = await mill.run(selection=selection, canary=1)
            await done(run)
            [letter] = await mill.desk.list(selection)
            assert (run.state, letter.redrives) == ("failed", count)
            assert letter.summary()["redrives"] == count


async def test_what_a_consumer_without_an_inbox_acknowledges_is_settled(mill: Mill) -> None:
    mill.has_inbox = False
    await mill.letters(4)
    async with mill.at_work():
        run = await mill.run(canary=1)
        await done(run)
    assert (run.state, run.counts) == ("done", {"sent": 8, "settled": 8})
    mill.assert_each_once(4)


class Killed(BaseException):
    """The process is no more."""


class Dying:
    """A store or an admin whose process dies at the ``at``-th call of ``method``, before or after
    that was done."""

    def __init__(self, inner: Any, method: str, at: int, *, after: bool = False) -> None:
        self._inner = inner
        self._method = method
        self._left = at
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._method:
            return found

        async def dying(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left < 0 or (self._left == 0 and not self._after):
                raise Killed
            given = await found(*args, **kwargs)
            if self._left == 0:
                raise Killed
            return given

        return dying


@pytest.mark.parametrize(
    ("where", "method", "at", "after", "handled"),
    [
        ("store", "note_items", 1, True, "not"),  # Meant, and not sent.
        ("admin", "delete_message", 5, False, "not"),  # Sent, and the letters not removed.
        ("admin", "delete_message", 5, False, "well"),
        ("admin", "delete_message", 5, False, "badly"),
        ("store", "note_items", 2, False, "well"),  # Sent and removed, and not noted.
    ],
)
async def test_killed_between_any_two_steps_it_goes_on_and_sends_nothing_twice(
    mill: Mill, where: str, method: str, at: int, after: bool, handled: str
) -> None:
    await mill.forget_ids()
    await mill.letters(12)
    broker, store, admin = mill.broker, mill.store, mill.broker.admin
    if where == "store":
        mill.store = Dying(store, method, at, after=after)
    else:
        broker.admin = Dying(admin, method, at, after=after)  # type: ignore[assignment]
    killed = await mill.run(command="all")
    # As a kill leaves it: nothing is noted at its end.
    killed._notes.end = _nothing  # type: ignore[assignment,method-assign]
    with pytest.raises(Killed):
        await done(killed)
    mill.store, broker.admin = store, admin
    left = await store.run(killed.id)
    assert left is not None
    await store.change_run(killed.id, progress={**left.progress, "process": _dead_process()})

    sent = await mill.redriven()
    if handled == "badly":
        mill.broken = {name: set(range(12)) for name in mill.durables}
    if handled != "not":
        async with mill.at_work():
            await mill.until_held(mill.redrives, 0)
    again = await mill.run(command="all")
    await done(again)
    assert (again.state, again.id, again.resumed) == ("done", killed.id, True)
    assert (again.counts["sent"], await mill.redriven()) == (24, 24)
    assert (await store.count_items(again.id)).get("sending", 0) == 0

    mill.broken = {}
    async with mill.at_work():
        await mill.until_held(mill.redrives, 0)
        came_back = await mill.held(mill.queue)
        assert came_back == (sent if handled == "badly" else 0), "they are not of this run"
        if came_back:
            anew = await mill.run(command="all", max_failures=0)
            await done(anew)
            assert (anew.resumed, anew.counts["effect"]) == (False, sent)
    mill.assert_each_once(12)


async def _nothing(*_: Any) -> None:
    """Nothing is noted."""


def _dead_process() -> str:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    return f"{socket.gethostname()}:{ended.pid}"


async def test_two_at_the_same_letters_send_each_once(mill: Mill) -> None:
    await mill.letters()
    everything = await mill.run(command="mine", rate=1000)
    others = await mill.run(command="theirs", selection=Selection(consumer=mill.durables[1]))
    outcomes = await asyncio.gather(done(everything), done(others))
    assert await mill.redriven() == COUNT * 2
    assert await mill.held(mill.queue) == 0
    assert {one.became for some in outcomes for one in some} <= {"sent", "gone"}
    async with mill.at_work():
        await mill.until_held(mill.redrives, 0)
    mill.assert_each_once()


async def test_what_is_stopped_goes_on_and_what_is_at_work_is_left_alone(mill: Mill) -> None:
    await mill.letters()
    run = await mill.run(command="all", rate=40)
    async with aclosing(run.outcomes()) as outcomes:
        async for _ in outcomes:
            with pytest.raises(AtWork, match=run.id):
                await done(await mill.run(command="all"))
            break
    assert run.state == "stopped"
    assert (await mill.store.runs())[0].state == "stopped"
    forecast = await mill.run(command="all")
    async with aclosing(forecast.forecast()) as ready:
        would = [one.became async for one in ready]
    again = await mill.run(command="all", rate=4000)
    await done(again)
    assert (again.id, again.state, again.total) == (run.id, "done", COUNT * 2)
    assert would == ["ready"] * (COUNT * 2 - run.counts["sent"])
    assert await mill.redriven() == COUNT * 2


async def test_a_server_that_is_killed_meanwhile_holds_it_up_and_nothing_more(
    nats_server_own: NatsServer, tmp_path: Path
) -> None:
    broker = await connect(NatsSettings(url=nats_server_own.url))
    try:
        async with Mill(broker, "sea", nats_server_own.url, tmp_path, "file").opened() as mill:
            await mill.letters(20)
            run = await mill.run(rate=60)
            killed = False
            async with aclosing(run.outcomes()) as outcomes:
                async for _ in outcomes:
                    if not killed:
                        await nats_server_own.kill()
                        await nats_server_own.start()
                        killed = True
            assert (run.state, run.counts) == ("done", {"sent": 40})
            assert (await mill.redriven(), await mill.held(mill.queue)) == (40, 0)
            async with mill.at_work():
                await mill.until_held(mill.redrives, 0)
            mill.assert_each_once(20)
    finally:
        await broker.close()


class Mending7:
    """A transform: one is refused, one raises, one is left alone, the others are changed."""

    name = "mill:mend"

    async def __call__(self, letter: Letter, event: Message) -> Message | Refusal:
        number = json.loads(event.payload)["n"]
        if number == 0:
            return Refusal("not this one")
        if number == 1:
            raise KeyError("amount")
        if number == 2:
            return event
        return replace(event, payload=b'{"n": %d, "mended": true}' % number)


async def test_what_cannot_be_sent_stays_and_the_others_go(mill: Mill) -> None:
    await mill.letters(6)
    await mill.broker.admin.delete_consumer(mill.redrives, mill.durables[1])
    run = await mill.run(transform=Mending7())
    async with aclosing(run.forecast()) as told:
        would = Counter([(one.became, one.consumer) async for one in told])
    assert would[("ready", mill.durables[0])] == 4
    assert would.total() == 12
    assert await mill.redriven() == 0
    run = await mill.run(transform=Mending7())
    outcomes = await done(run)
    assert (run.state, run.counts) == ("done", {"sent": 4, "stays": 8})
    stays = {one.event_id: one.detail for one in outcomes if one.consumer == mill.durables[0]}
    assert stays["e0"].endswith("mill:mend: not this one")
    assert stays["e1"].endswith("mill:mend: KeyError: 'amount'")
    assert "nobody receives redrives" in str(
        [one.detail for one in outcomes if one.consumer == mill.durables[1]]
    )
    stored = [one async for one in mill.broker.admin.read(mill.redrives)]
    payloads = {one.event_id: one.message.payload for one in stored}
    assert payloads["e2"] == b'{"n": 2}'
    assert payloads["e3"] == b'{"n": 3, "mended": true}'
    ids = [one.message.headers["Nats-Msg-Id"] for one in stored]
    assert len(set(ids)) == 4
    assert {one.message.headers["X-Redrive-Count"] for one in stored} == {"1"}
    noted = await mill.store.run_items(run.id, state="stays")
    assert {type(one) for one in noted} == {RunItem}
    assert len(noted) == 8


async def test_it_needs_a_database_to_wait_and_letters_to_send(mill: Mill) -> None:
    with pytest.raises(NotFound, match="there is no dead letter"):
        await done(await mill.run(selection=Selection(ids=("nobody",))))
    with pytest.raises(ConfigError, match="none is at hand"):
        await done(await mill.desk.run(Plan(canary=1), noted=False))
    with pytest.raises(ConfigError, match="goes to all"):
        Plan(canary=1, to="all")


async def test_nobody_who_takes_redrives_is_named(mill: Mill) -> None:
    await mill.letters(2)
    run = await mill.run(canary=1, patience=timedelta(milliseconds=300))
    await done(run)
    assert (run.state, run.counts["sent"]) == ("stopped", 1)
    assert "nobody takes the redrives of" in run.why
    async with mill.at_work():
        again = await mill.run(canary=1)
        await done(again)
    assert (again.id, again.state) == (run.id, "done")
    assert again.counts == {"sent": 4, "effect": 4}
    mill.assert_each_once(2)


class Terminal:
    """``seaway`` in the folder of a mill."""

    def __init__(self, mill: Mill) -> None:
        self._folder = mill.folder

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(str(SEAWAY), *words),
            cwd=self._folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *words: str) -> tuple[int | None, str, str]:
        process = await self.start(*words)
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()
        return process.returncode, out.decode(), err.decode()


async def test_a_command_that_was_killed_goes_on_where_it_was(mill: Mill) -> None:
    await mill.forget_ids()
    await mill.letters()
    seaway = Terminal(mill)
    words = ("dlq", "redrive", "--reason", "poison", "--by", "anna")
    (mill.folder / "bare.yaml").write_text(json.dumps({"contexts": [mill.context]}))
    bare = ("--config", "bare.yaml", "--server", mill.settings.nats.url)
    (code, out, err), (refused, _, why) = await asyncio.gather(
        seaway(*words, "--dry-run"), seaway(*bare, *words, "--canary", "5")
    )
    assert (code, f"{COUNT * 2} would be redriven" in err) == (0, True)
    causes = [line.split() for line in out.splitlines()[1:]]
    assert sum(int(would) for would, *_ in causes) == COUNT * 2, out
    assert (refused, "seaway db upgrade" in why) == (2, True), why

    for kill in (signal.SIGKILL, signal.SIGINT):
        process = await seaway.start(*words, "--rate", "8")
        before = await mill.redriven()
        async with asyncio.timeout(60):
            while await mill.redriven() == before:
                await asyncio.sleep(0.01)
        process.send_signal(kill)
        await process.communicate()
    assert 0 < await mill.held(mill.queue) < COUNT * 2
    code, out, err = await seaway(*words)
    assert (code, "done" in err) == (0, True), err
    assert await mill.redriven() == COUNT * 2

    async with mill.at_work():
        await mill.until_held(mill.redrives, 0)
    mill.assert_each_once()
    [noted] = await mill.store.runs()
    shown, one, listed, text, nobody = await asyncio.gather(
        seaway("dlq", "runs", "--json"),
        seaway("dlq", "runs", noted.run, "--json"),
        seaway("dlq", "runs"),
        seaway("dlq", "runs", noted.run),
        seaway("dlq", "runs", "nobody"),
    )
    [told] = json.loads(shown[1])
    assert (told["state"], told["by"], told["progress"]["sent"]) == ("done", "anna", COUNT * 2)
    assert (told["run"], told["plan"]["what"]) == (noted.run, "--reason poison")
    assert json.loads(one[1])["consumers"] == {name: {"effect": COUNT} for name in mill.durables}
    for code, out, _ in (listed, text):
        assert (code, noted.run in out) == (0, True)
    assert (nobody[0], "there is no run nobody" in nobody[2]) == (1, True)
