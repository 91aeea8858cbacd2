"""The hostile drill: a publisher who sends what hurts, beside honest events, on one context.

    writers ──> outbox ──> relay ──> stream ──> worker 1, 2; keeper ──> effects, with every text
    foreign client ──raw bytes──> events, letters, redrives, advisories ──┘└──> dead letters
    another context beside it: a stream, a durable, messages, a letter; nobody may touch them

Owns: the plan, the servers, the honest and the hostile, and the judgement. Guarantees: the forged
messages are made of the seed; what is judged is told in the report, each by a figure of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from seaway import headers as h
from seaway import topology
from seaway.brokers.jetstream import connect
from seaway.config import load_settings
from seaway.contracts import Broker, DeadLetterReason, Message, Store, Stored
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.letter import Letter
from seaway.demo.supervisor import Supervisor
from seaway.embedded.nats_server import NatsServer
from seaway.embedded.postgres import PostgresServer
from seaway.errors import ConfigError, NotFound, SeawayError
from seaway.naming import ADVISORY_STREAM, dlq_stream, events_filter, events_stream, redrive_stream
from seaway.outbox import Outbox
from seaway.stores import open_store
from seaway.testing.drills import target
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.foreign import ForeignClient, Publication, block, foreign_client
from seaway.testing.drills.forgeries import Forger, Names
from seaway.testing.drills.target import CONTEXT, DURABLES, KEEPER, WORKER, CaseMoved

STREAM, QUEUE = events_stream(CONTEXT), dlq_stream(CONTEXT)
SUBJECT = f"{CONTEXT}.event.case_moved.v1"
OTHER, TELLER = "bank", "teller__from_bank"
_OTHER_STREAMS = (events_stream(OTHER), dlq_stream(OTHER), redrive_stream(OTHER))
_NAMES = Names(CONTEXT, SUBJECT, STREAM, DURABLES, OTHER, _OTHER_STREAMS[0], TELLER)

_LOOK = 0.1
_IDLE = 2
_AT_A_TIME = 50
_WRITERS = 2
_SAMPLE = 3
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. ``quiet``: how long nothing may happen at the end before what is left is lost."""

    messages: int = 10_000
    events: int = 5_000
    keys: int = 50
    forged_ids: int = 200
    """How many honest events have their id taken by a foreign message, as soon as it is known."""
    redrives: bool = True
    """Whether an operator tries to send every forged letter on, to all."""
    database: Literal["sqlite", "postgres"] = "postgres"
    seed: int = 0
    quiet: timedelta = timedelta(seconds=60)


@dataclass(slots=True, kw_only=True)
class Report:
    """What happened. Everything below ``told`` must be 0."""

    seed: int
    database: str
    told: Mapping[str, Any] = field(default_factory=dict)
    exits: int = 0
    """Processes that ended by themselves."""
    stuck: int = 0
    """Processes that did not end when they were told to, and had to be killed."""
    unsettled: int = 0
    """Messages that still waited for a consumer, or for the sweeper, when nothing moved any more;
    and events that were left in the outbox."""
    lost: int = 0
    """Honest events, by durable, without their effect, and not parked for their id."""
    twice: int = 0
    buried: int = 0
    """Honest events with a dead letter."""
    out_of_order: int = 0
    """Honest events of a key before an earlier one: on the stream, and as ``keeper``'s effects."""
    letters_unseen: int = 0
    """Letters that could not be listed, shown or discarded."""
    outside: int = 0
    """Things of the other context that are not as they were."""
    control_characters: int = 0
    """In the logs of all processes."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing stopped and nothing slipped by."""
        own = asdict(self)
        judged = own.keys() - {"seed", "database", "told", "seconds"}
        return not any(own[name] for name in judged)

    def as_json(self) -> dict[str, Any]:
        """The verdict first."""
        return {"exact": self.passed} | asdict(self)


@dataclass(slots=True)
class _Stage:
    store: Store
    broker: Broker
    supervisor: Supervisor
    folder: Path
    sqlite: bool
    ledger: list[tuple[str, str]] = field(default_factory=list)
    """Event id and key, in the order of their commits; the place is the event's number."""
    forged: list[str] = field(default_factory=list)

    async def rows(self, query: str) -> Sequence[Any]:
        return await target.rows(self.store, query, sqlite=self.sqlite)


async def run(
    plan: Plan, *, keep: Path | None = None, said: Callable[[str], None] = lambda text: None
) -> Report:
    """Carry out ``plan`` on servers of its own. ``keep``: an empty folder for the logs."""
    began = time.monotonic()
    report = Report(seed=plan.seed, database=plan.database)
    said(f"seed {plan.seed}")
    async with _opened(plan, keep, said) as (stage, url):
        before = await _other_context(stage.broker)
        await _start(stage)
        forger = Forger(_NAMES, plan.seed)
        async with foreign_client(url) as foreign, asyncio.TaskGroup() as tasks:
            tasks.create_task(_write(plan, stage, foreign))
            tasks.create_task(_attack(plan, forger, url, said))
        said("everything is sent; waiting for the rest")
        report.unsettled = await _at_rest(plan, stage)
        letters = await DeadLetters(stage.broker).list()
        said(f"{len(letters)} letters: each is listed, shown and discarded")
        unseen = await _go_through(plan, stage, letters)
        report.unsettled += await _at_rest(plan, stage)
        children = stage.supervisor.children.values()
        report.exits = sum(len(child.codes) for child in children)
        await stage.supervisor.stop()
        report.stuck = sum(
            child.process is not None and child.process.returncode == -signal.SIGKILL
            for child in children
        )
        await _judge(stage, letters, report)
        outside = _differences(before, await _other_context(stage.broker))
        report.letters_unseen, report.outside = len(unseen), len(outside)
        report.control_characters = sum(
            len(_CONTROL.findall(child.log.read_bytes())) for child in children
        )
        report.told = {
            "sent": dict(forger.made),
            "honest": len(stage.ledger),
            "forged_ids": len(stage.forged),
            "letters": dict(Counter(_reason(letter) for letter in letters)),
            "effects_of_foreign_events": await _foreign_effects(stage),
            "unseen": unseen[:_SAMPLE],
            "outside": outside,
        }
    report.seconds = round(time.monotonic() - began, 1)
    return report


# ---------------------------------------------------------------------- the stage


@asynccontextmanager
async def _opened(
    plan: Plan, keep: Path | None, said: Callable[[str], None]
) -> AsyncIterator[tuple[_Stage, str]]:
    """Servers, topology and tables, the other context with what it holds; nothing at work yet."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer())
        folder = keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="seaway-drill-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        database = f"sqlite:///{folder / 'drill.db'}"
        if plan.database == "postgres":
            database = (await stack.enter_async_context(PostgresServer())).url()
        file = folder / "seaway.yaml"
        file.write_text(json.dumps(_configuration(nats.url, database)))
        settings = load_settings(file, environ={})
        store = await open_store(settings.database)
        stack.push_async_callback(store.close)
        broker = await connect(settings.nats)
        stack.push_async_callback(broker.close)
        stage = _Stage(store, broker, Supervisor(said), folder, target.is_sqlite(database))
        stack.push_async_callback(stage.supervisor.stop)
        await store.schema.upgrade()
        serial = "integer PRIMARY KEY" if stage.sqlite else "bigserial PRIMARY KEY"
        async with store.transaction() as tx:
            await tx.handle.execute(target.TABLES.format(serial=serial))
        wanted = topology.desired(settings)
        await topology.apply(
            topology.plan(wanted, await topology.actual(broker.admin, wanted)), broker.admin
        )
        await _furnish(broker)
        yield stage, nats.url


def _configuration(nats: str, database: str) -> Mapping[str, Any]:
    streams = [
        {"name": events_stream(context), "subjects": [events_filter(context)], "replicas": 1}
        for context in (CONTEXT, OTHER)
    ]
    durables = [(STREAM, durable) for durable in DURABLES] + [(_OTHER_STREAMS[0], TELLER)]
    consumers = [
        {
            "stream": stream,
            "durable": durable,
            "ack_wait": "5s",
            "max_deliver": 3,
            "max_ack_pending": 1000,
        }
        for stream, durable in durables
    ]
    return {
        "nats": {"url": nats},
        "database": database,
        "streams": streams,
        "consumers": consumers,
    }


async def _furnish(broker: Broker) -> None:
    """Another context: some events, half of them handled, and one dead."""
    stream, subject = _OTHER_STREAMS[0], f"{OTHER}.event.paid.v1"
    messages = [Message(subject, b"{}", {h.MSG_ID: f"paid-{number}"}) for number in range(20)]
    outcomes = await broker.publish(stream, messages, timeout=timedelta(seconds=5))
    assert all(isinstance(one, Stored) for one in outcomes), outcomes
    async with broker.subscribe(stream, TELLER) as source:
        given = await source.next(10, timeout=timedelta(seconds=5))
        await DeadLetters(broker).store(given[0], reason="poison", error=None)
        await source.ack(*given)


async def _start(stage: _Stage) -> None:
    config = str(stage.folder / "seaway.yaml")
    relay = ["seaway", "--config", config, "relay"]
    await stage.supervisor.start("relay", relay, log=stage.folder / "relay.log")
    for name, service in (("worker 1", WORKER), ("worker 2", WORKER), ("keeper", KEEPER)):
        command = [target.__name__, "--config", config, "--service", service]
        await stage.supervisor.start(name, command, log=stage.folder / f"{name}.log")


# ---------------------------------------------------------------------- the honest and the hostile


async def _write(plan: Plan, stage: _Stage, foreign: ForeignClient) -> None:
    """All honest events; the ids of some are taken by a stranger as soon as they are committed."""
    outbox, chance = Outbox(), random.Random(plan.seed)
    victims = frozenset(chance.sample(range(plan.events), min(plan.forged_ids, plan.events)))
    while (done := len(stage.ledger)) < plan.events:
        numbers = range(done, min(plan.events, done + chance.randint(1, _AT_A_TIME)))
        keys = [f"case-{chance.randrange(plan.keys)}" for _ in numbers]
        async with stage.store.transaction() as tx:
            ids: list[str] = []
            for number, key in zip(numbers, keys, strict=True):
                added = outbox.add(tx.handle, CaseMoved(number, "honest"), key=key)
                ids += added if isinstance(added, list) else await added
        stage.ledger += zip(ids, keys, strict=True)
        taken = [ids[number - done] for number in numbers if number in victims]
        stage.forged += taken
        await foreign.publish(*map(_under_the_id_of, taken))
        await asyncio.sleep(0)


def _under_the_id_of(event_id: str) -> Publication:
    headers = block([(h.MSG_ID.encode(), event_id.encode())])
    return Publication(SUBJECT.encode(), b'{"number": -1, "note": "taken"}', headers)


async def _attack(plan: Plan, forger: Forger, url: str, said: Callable[[str], None]) -> None:
    async with foreign_client(url) as foreign:
        for number, (_, publication) in enumerate(forger.forge(plan.messages), start=1):
            await foreign.publish(publication)
            if number % 1000 == 0:
                said(f"{number} forged messages sent, {foreign.refusals} closed the connection")


# ---------------------------------------------------------------------- the end


async def _at_rest(plan: Plan, stage: _Stage) -> int:
    """Return once nothing waits any more: 0; or how much does, where nothing moves any more."""
    loop = asyncio.get_running_loop()
    seen, since, idle = None, loop.time(), 0
    while idle < _IDLE:  # Between the outbox and the stream, say, an event is in neither figure.
        waiting = await _waiting(stage)
        idle = 0 if waiting else idle + 1
        if waiting != seen:
            seen, since = waiting, loop.time()
        if waiting and loop.time() - since > plan.quiet.total_seconds():
            return sum(waiting.values())
        await asyncio.sleep(_LOOK)
    return 0


async def _waiting(stage: _Stage) -> Mapping[str, int]:
    """What is under way, where anything is."""
    admin, found = stage.broker.admin, Counter[str]()
    for stream in (STREAM, redrive_stream(CONTEXT), ADVISORY_STREAM):
        for info in await admin.consumers(stream):
            if not info.ephemeral:
                found[f"{stream} {info.durable}"] = info.num_pending + info.num_ack_pending
    # What waits behind a parked event of its key waits for somebody's word.
    parked = await _parked(stage)
    held = {key for event_id, key in stage.ledger if event_id in parked}
    entries = await stage.store.entries(limit=10_000)
    found["outbox"] = sum(one.message.key not in held for one in entries)
    return +found


async def _parked(stage: _Stage) -> set[str]:
    """Ids of events that the relay has parked, and told of."""
    parked = await stage.store.entries(parked=True, limit=10_000)
    return {one.event_id for one in parked}


async def _go_through(plan: Plan, stage: _Stage, letters: Sequence[Letter]) -> list[str]:
    """As an operator: which letters could not be listed, shown or discarded."""
    queue = DeadLetters(stage.broker)
    own = [one for one in letters if one.stored.stream == QUEUE]
    listed = await _command(stage, "dlq", "ls", "--limit", "0", "--json")
    ids = set() if listed is None else {one["id"] for one in json.loads(listed)}
    # What waits may have had its turn meanwhile, and have gone as a redrive.
    staying = [letter for letter in own if not letter.waits]
    unseen = [f"{letter.id} is not listed" for letter in staying if letter.id not in ids]
    chance = random.Random(plan.seed)
    odd = [letter for letter in staying if letter.problem]
    fine = [letter for letter in staying if not letter.problem]
    for letter in (
        one for some in (odd, fine) for one in chance.sample(some, min(_SAMPLE, len(some)))
    ):
        shown = await _command(stage, "dlq", "show", letter.id)
        if shown is None or _CONTROL.search(shown):
            unseen.append(f"{letter.id} is not shown, or with control characters")
    for letter in own:
        try:
            found = await queue.get(letter.id)
            try:
                await queue.payload(found)
            except (NotFound, ConfigError):
                pass  # Left in a place that does not hold it, or that is not ours: told so.
            if plan.redrives and letter.event_id.startswith("forged-"):
                try:
                    await queue.redrive(found, to="all")
                except SeawayError:
                    pass
                else:
                    continue
            if not await queue.discard(found) and not letter.waits:
                unseen.append(f"{letter.id} is not discarded")
        except SeawayError as error:
            if not letter.waits:
                unseen.append(f"{letter.id}: {error}")
    return unseen


async def _command(stage: _Stage, *arguments: str) -> bytes | None:
    """What the command line prints; ``None`` where it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "seaway", "--config", str(stage.folder / "seaway.yaml")),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return None if process.returncode else out


async def _judge(stage: _Stage, letters: Sequence[Letter], report: Report) -> None:
    """Look for every honest event, by its id and its number."""
    numbers = {event_id: number for number, (event_id, _) in enumerate(stage.ledger)}
    excused = (await _parked(stage)) & set(stage.forged)
    keys = {key for event_id, key in stage.ledger if event_id in excused}
    behind = {one.event_id for one in await stage.store.entries(limit=10_000)}
    excused |= {event_id for event_id, key in stage.ledger if key in keys and event_id in behind}
    effects = await stage.rows(
        "SELECT consumer, event_id, number FROM effects WHERE number >= 0 ORDER BY seq"
    )
    for durable in DURABLES:
        own = [event_id for consumer, event_id, number in effects if consumer == durable]
        right = Counter(event_id for event_id in own if event_id in numbers)
        report.lost += len(numbers.keys() - right.keys() - excused)
        report.twice += sum(times > 1 for times in right.values())
        if durable == DURABLES[1]:
            report.out_of_order += _late(stage, own)
    report.buried = sum(one.event_id in numbers and not one.waits for one in letters)
    stored = stage.broker.admin.read(STREAM, headers_only=True)
    streamed = [one.message.headers.get(h.MSG_ID, "") async for one in stored]
    taken = set(stage.forged)
    report.out_of_order += _late(stage, [one for one in streamed if one not in taken])


def _late(stage: _Stage, ids: Sequence[str]) -> int:
    places = {event_id: (key, place) for place, (event_id, key) in enumerate(stage.ledger)}
    reached: dict[str, int] = {}
    late = 0
    for event_id in ids:
        if event_id in places:
            key, place = places[event_id]
            late += place < reached.get(key, -1)
            reached[key] = max(place, reached.get(key, -1))
    return late


async def _foreign_effects(stage: _Stage) -> int:
    [[count]] = await stage.rows("SELECT count(*) FROM effects WHERE number < 0")
    return int(count)


async def _other_context(broker: Broker) -> Mapping[str, Any]:
    """All that the server says of it, and what its streams hold."""
    found: dict[str, Any] = {}
    for stream in _OTHER_STREAMS:
        info = await broker.admin.stream(stream)
        assert info is not None
        found[stream] = (info, info.config)
        found[f"{stream} messages"] = [
            (one.message, one.place, one.stored_at) async for one in broker.admin.read(stream)
        ]
        for one in await broker.admin.consumers(stream):
            kept = replace(one, num_redelivered=0, num_waiting=0, asked_at=None)
            found[f"{stream} {one.durable}"] = (kept, one.config)
    return found


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]


def _reason(letter: Letter) -> str:
    if letter.problem or letter.reason not in get_args(DeadLetterReason):
        return "not a letter of ours"
    return letter.reason


def main() -> int:
    """The command line; exits 0 only if the report is exact."""
    options = ("messages", "events", "keys", "forged-ids", "redrives", "database", "seed")
    return carry_out(Plan(), options, run, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
