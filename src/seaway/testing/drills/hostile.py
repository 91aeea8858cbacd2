"""The hostile drill: a publisher who sends what hurts, beside honest events, on one context.

    writers ──> outbox ──> relay ──> stream ──> worker 1, 2; keeper ──> effects, with every text
    foreign client ──raw bytes──> events, letters, redrives, advisories ──┘└──> dead letters
    another context beside it: a stream, a durable, messages, a letter; nobody may touch them

Owns: the plan, the honest and the hostile, and the judgement. Guarantees: the forged
messages are made of the seed; what is judged is told in the report, each by a figure of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from seaway import headers as h
from seaway.contracts import Broker, DeadLetterReason, Message, Stored
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.letter import Letter
from seaway.errors import ConfigError, NotFound, SeawayError
from seaway.naming import Durable, dlq_stream, events_stream, redrive_stream
from seaway.proof.reconciliation import EFFECTS, STREAM, Evidence, gather
from seaway.proof.stage import Stage
from seaway.testing.drills import target
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.foreign import ForeignClient, Publication, block, foreign_client
from seaway.testing.drills.forgeries import Forger, Names
from seaway.testing.drills.stage import CONTEXT, SUBJECT, servers, write
from seaway.testing.drills.target import DURABLES, KEEPER, WORKER

QUEUE = dlq_stream(CONTEXT)
OTHER, TELLER = "bank", "teller__from_bank"
_OTHER_STREAMS = (events_stream(OTHER), dlq_stream(OTHER), redrive_stream(OTHER))
_NAMES = Names(
    *(CONTEXT, SUBJECT, events_stream(CONTEXT), tuple(map(str, DURABLES))),
    *(OTHER, _OTHER_STREAMS[0], TELLER),
)

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


async def run(
    plan: Plan, *, keep: Path | None = None, said: Callable[[str], None] = lambda text: None
) -> Report:
    """Carry out ``plan`` on servers of its own. ``keep``: an empty folder for the logs."""
    began = time.monotonic()
    report = Report(seed=plan.seed, database=plan.database)
    said(f"seed {plan.seed}")
    async with servers(
        *(keep, said),
        durables=[*DURABLES, Durable.parse(TELLER)],
        beside=[OTHER],
        database=plan.database,
        ack_wait=timedelta(seconds=5),
        max_deliver=3,
    ) as (stage, _):
        broker, url = stage.app.broker, stage.app.settings.nats.url
        await _furnish(broker)
        before = await _other_context(broker)
        await stage.start_relay()
        for name, own in (("worker 1", WORKER), ("worker 2", WORKER), ("keeper", KEEPER)):
            await stage.start_service(name, target.declare, service=own)
        forger, forged = Forger(_NAMES, plan.seed), list[str]()
        async with foreign_client(url) as foreign, asyncio.TaskGroup() as tasks:
            tasks.create_task(_write(plan, stage, foreign, forged))
            tasks.create_task(_attack(plan, forger, url, said))
        said("everything is sent; waiting for the rest")
        report.unsettled = sum((await stage.at_rest(plan.quiet)).values())
        letters = await DeadLetters(broker).list()
        said(f"{len(letters)} letters: each is listed, shown and discarded")
        unseen = await _go_through(plan, stage, letters)
        report.unsettled += sum((await stage.at_rest(plan.quiet)).values())
        children = stage.supervisor.children.values()
        report.exits = sum(len(child.codes) for child in children)
        await stage.supervisor.stop()
        report.stuck = sum(
            child.process is not None and child.process.returncode == -signal.SIGKILL
            for child in children
        )
        with closing(await gather(stage)) as evidence:
            await _judge(stage, evidence, forged, letters, report)
            (honest,) = evidence.one("SELECT count(*) FROM ledger")
            (foreigners,) = evidence.one("SELECT count(*) FROM effects WHERE number < 0")
        outside = _differences(before, await _other_context(broker))
        report.letters_unseen, report.outside = len(unseen), len(outside)
        report.control_characters = sum(
            len(_CONTROL.findall(child.log.read_bytes())) for child in children
        )
        report.told = {
            "sent": dict(forger.made),
            "honest": honest,
            "forged_ids": len(forged),
            "letters": dict(Counter(_reason(letter) for letter in letters)),
            "effects_of_foreign_events": foreigners,
            "unseen": unseen[:_SAMPLE],
            "outside": outside,
        }
    report.seconds = round(time.monotonic() - began, 1)
    return report


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


# ---------------------------------------------------------------------- the honest and the hostile


async def _write(plan: Plan, stage: Stage, foreign: ForeignClient, forged: list[str]) -> None:
    """All honest events; the ids of some are taken by a stranger as soon as they are committed."""
    chance = random.Random(plan.seed)
    victims = frozenset(chance.sample(range(plan.events), min(plan.forged_ids, plan.events)))

    async def forge(committed: Mapping[int, str]) -> None:
        taken = [id_ for number, id_ in committed.items() if number in victims]
        forged.extend(taken)
        await foreign.publish(*map(_under_the_id_of, taken))

    numbers = iter(range(plan.events))
    await write(stage, numbers, keys=plan.keys, seed=plan.seed, writers=1, then=forge)


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


async def _go_through(plan: Plan, stage: Stage, letters: Sequence[Letter]) -> list[str]:
    """As an operator: which letters could not be listed, shown or discarded."""
    queue = DeadLetters(stage.app.broker)
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


async def _command(stage: Stage, *arguments: str) -> bytes | None:
    """What the command line prints; ``None`` where it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "seaway", "--config", str(stage.config)),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return None if process.returncode else out


async def _judge(
    stage: Stage,
    evidence: Evidence,
    forged: Sequence[str],
    letters: Sequence[Letter],
    report: Report,
) -> None:
    """Look for every honest event, by its id."""
    keys = dict(evidence.database.execute("SELECT event_id, key FROM ledger").fetchall())
    # Parked for its id, which a stranger took, or behind one that is.
    parked = {one.event_id for one in await stage.store.entries(parked=True, limit=10_000)}
    excused = parked & set(forged)
    held = {keys[event_id] for event_id in excused}
    behind = [one.event_id for one in await stage.store.entries(limit=10_000)]
    excused |= {event_id for event_id in behind if keys.get(event_id) in held}
    for durable in DURABLES:
        found = evidence.compare(f"{EFFECTS} AND number >= 0", str(durable))
        report.lost += len(found.missing - excused)
        report.twice += len(found.twice - found.unknown)
        if durable.service == KEEPER:
            report.out_of_order += found.out_of_order
    report.buried = sum(one.event_id in keys and not one.waits for one in letters)
    for event_id in forged:
        evidence.do("DELETE FROM streamed WHERE message_id = ?", event_id)
    report.out_of_order += evidence.compare(STREAM).out_of_order


async def _other_context(broker: Broker) -> Mapping[str, Any]:
    """All that the server says of it, and what its streams hold."""
    found: dict[str, Any] = {}
    for stream in _OTHER_STREAMS:
        info = await broker.admin.stream(stream)
        assert info is not None
        found[stream] = (replace(info, asked_at=None), info.config)
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
