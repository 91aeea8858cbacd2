"""The amnesia drill: servers that forget what they acknowledged, again and again, while all work.

    writers ──> outbox ──> relay 1..2 ──> stream ──> service 1..n ──> effects, dead letters
                                            │ the stores are copied (SIGSTOP .. SIGCONT); later
                                            │ every server is killed, and starts on such a copy

Owns: the plan and the verdict: each committed event has its effect once, or is one dead letter; on
the stream each key is in order; what had been acknowledged and was lost is there again, and that is
told, by id. Without healing (``--no-heal``) it shows the loss. What is forgotten: ``forgetting``.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from seaway.embedded.nats_server import NatsServer
from seaway.errors import SeawayError, TransientError
from seaway.proof.faults import Server, Strike, strike
from seaway.proof.reconciliation import STREAM, gather
from seaway.proof.stage import Stage
from seaway.testing.drills import evidence, service
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.evidence import judge, without_an_end
from seaway.testing.drills.forgetting import Forgotten, Kind, Memory
from seaway.testing.drills.service import Temper
from seaway.testing.drills.stage import Leader, servers, write

Database: TypeAlias = Literal["postgres", "sqlite"]
Kinds: TypeAlias = Literal["mixed", "all", "apart", "messages", "letters"]

_MIXED: Mapping[bool, Sequence[Kind]] = {
    False: ("all", "messages", "all", "letters"),
    True: ("all", "apart"),
}
_FIRST, _LAST = 0.05, 0.9
_LOOK = 0.1
_REDRIVEN_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    ``quiet``: how long nothing may happen at the end before the rest is given up as lost. Longer
    than the pauses after which lost letters are looked for again.
    ``patience``: for all of it.
    """

    events: int = 20_000
    keys: int = 500
    relays: int = 2
    shards: int = 1
    processes: int = 2
    workers: int = 8
    exclusive: bool = False
    """The durable's setting."""
    rewinds: int = 4
    """How often all servers forget."""
    kinds: Kinds = "mixed"
    """What they forget; see ``forgetting``."""
    kills: int = 8
    """Of relays and services."""
    redrives: int = 2
    """Each of some letters."""
    poison: float = 0.01
    transient: float = 0.02
    nodes: int = 1
    """nats-servers: three are a cluster, with all streams on all of them."""
    heal: bool = True
    database: Database = "postgres"
    ack_wait: timedelta = timedelta(seconds=2)
    max_deliver: int = 10
    seed: int = 0
    quiet: timedelta = timedelta(minutes=3)
    patience: timedelta = timedelta(minutes=20)

    @property
    def temper(self) -> Temper:
        """How the handler behaves."""
        return Temper(seed=self.seed, poison=self.poison, transient=self.transient)

    def strikes(self, chance: random.Random) -> Sequence[Strike]:
        """A copy and, later, a rewind, as often as that is due; and the rest between them."""
        mixed = list(islice(cycle(_MIXED[self.nodes > 1]), self.rewinds))
        chance.shuffle(mixed)
        kinds = mixed if self.kinds == "mixed" else [self.kinds] * self.rewinds
        span = (_LAST - _FIRST) / max(1, self.rewinds)
        planned = []
        for number, kind in enumerate(kinds):
            begin = _FIRST + number * span
            copied, forgotten = sorted(begin + chance.random() * span for _ in range(2))
            planned += [(copied, "copy"), (forgotten, f"forget {kind}")]
        others = [f"kill {who}" for who in islice(cycle(("relay", service.SERVICE)), self.kills)]
        others += ["redrive"] * self.redrives
        planned += [(chance.uniform(_FIRST, _LAST), other) for other in others]
        return [Strike(share, fault, "work") for share, fault in sorted(planned)]


@dataclass(kw_only=True)
class Report(evidence.Report):
    """What happened."""

    heal: bool
    faults: Mapping[str, int]
    forgotten: Mapping[str, int]
    """Acknowledged events that a rewind took from the event stream, by kind."""
    letters_forgotten: int
    """Events whose letters or redrives a rewind took."""
    healed: int
    """Events that the log says were published again, each time."""
    healed_untold: int
    """Events that a rewind took and the log does not name. Without healing: all of them."""
    log: Mapping[str, int]
    """Entries, by what was done."""
    keys_out_of_order_on_stream: int
    exits: int
    """Processes that ended without having been killed."""

    @property
    def passed(self) -> bool:
        """Whether every event is where it must be, in order, and what was lost was told."""
        wrong = self.keys_out_of_order_on_stream + self.exits
        return super().passed and not (wrong or (self.heal and self.healed_untold))


async def run(
    plan: Plan, *, keep: Path | None = None, said: Callable[[str], None] = lambda text: None
) -> Report:
    """Carry out ``plan`` on servers of its own. ``keep``: an empty folder for the logs.

    ``TimeoutError`` where it does not come to an end within ``plan.patience``.
    """
    began = time.monotonic()
    async with servers(
        *(keep, said),
        durables=[service.DURABLE],
        database=plan.database,
        nodes=plan.nodes,
        outbox={"heal": plan.heal},
        ack_wait=plan.ack_wait,
        max_deliver=plan.max_deliver,
        exclusive=plan.exclusive,
    ) as (stage, running):
        memory = Memory(stage, _nodes(running["nats"]), random.Random(plan.seed), plan.quiet, said)
        async with asyncio.timeout(plan.patience.total_seconds()):
            struck = await _play(plan, stage, memory, said)
        await stage.supervisor.stop()
        exits = sum(child.exits for child in stage.supervisor.children.values())
        report = await _judged(plan, stage, memory.forgotten)
    return replace(
        report, faults=dict(struck), exits=exits, seconds=round(time.monotonic() - began, 1)
    )


async def _play(
    plan: Plan, stage: Stage, memory: Memory, said: Callable[[str], None]
) -> Mapping[str, int]:
    """Write, break, and wait for the rest; what has struck."""
    struck, written = Counter[str](), 0
    chance = random.Random(plan.seed)
    strikes = plan.strikes(chance)
    to_come = deque(strikes)

    async def keep_pace(ids: Mapping[int, str]) -> None:
        # What waits in the outbox, not what took effect: without healing that stays behind.
        nonlocal written
        written += len(ids)
        while to_come and written / plan.events > to_come[0].share:
            await asyncio.sleep(_LOOK)
        while (await stage.store.backlog()).count > plan.events // 20:
            await asyncio.sleep(_LOOK)

    async def share() -> Mapping[str, float]:
        return {"work": written / plan.events}

    async def carry_out(one: Strike) -> None:
        said(f"{one.fault} at {one.share:.0%}")
        match one.fault.split():
            case ["copy"]:
                await memory.copy()
            case ["forget", kind]:
                await memory.forget(next(one for one in get_args(Kind) if one == kind))
            case ["redrive"]:
                await _redrive(stage)
            case ["kill", who]:
                children = stage.supervisor.children.items()
                named = [child for name, child in children if name.startswith(who)]
                chance.choice(named).send(signal.SIGKILL)
        struck[one.fault] += 1
        to_come.popleft()

    await stage.store.reshard(plan.shards)
    for number in range(1, plan.relays + 1):
        await stage.start_relay(f"relay {number}")
    await service.start(stage, plan.processes, plan.temper, workers=plan.workers)
    numbers = iter(range(plan.events))
    writing = asyncio.create_task(
        write(stage, numbers, keys=plan.keys, seed=plan.seed, then=keep_pace)
    )
    try:
        await strike(strikes, share, carry_out, patience=plan.quiet)
        to_come.clear()
        await writing
        said("no fault is left; waiting for the rest")
        more = (lambda: without_an_end(stage),) if plan.heal else ()
        if left := await stage.at_rest(plan.quiet, *more):
            said(f"nothing happens any more, though something is left: {dict(left)}")
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    return struck


async def _judged(plan: Plan, stage: Stage, forgotten: Sequence[Forgotten]) -> Report:
    entries = await stage.store.log(limit=1_000_000)
    healed = [one for one in entries if (one.action, one.about) == ("healed", stage.stream)]
    told = {event_id for one in healed for event_id, *_ in one.detail["moved"]}
    by_kind = Counter[str]()
    for one in forgotten:
        by_kind[one.kind] += len(one.events)
    with closing(await gather(stage, of_leader=plan.nodes > 1)) as gathered:
        return Report(
            findings=judge(gathered, plan.temper, service.calls(stage)),
            in_order=plan.exclusive or plan.processes == 1,
            heal=plan.heal,
            faults={},
            forgotten=dict(by_kind),
            letters_forgotten=sum(len(one.letters) for one in forgotten),
            healed=sum(int(one.detail["events"]) for one in healed),
            healed_untold=len({id_ for one in forgotten for id_ in one.events} - told),
            log=dict(Counter(f"{one.action} {one.about}" for one in entries)),
            keys_out_of_order_on_stream=gathered.compare(STREAM).keys_out_of_order,
            exits=0,
            seconds=0.0,
        )


async def _redrive(stage: Stage) -> None:
    """Some letters, as an operator would who does not know of anything."""
    with suppress(TransientError):
        letters = (await stage.app.dead_letters.list())[:_REDRIVEN_AT_ONCE]
        for letter in letters:
            with suppress(SeawayError):
                await stage.app.dead_letters.redrive(letter)


def _nodes(server: Server) -> Sequence[NatsServer]:
    if isinstance(server, Leader):
        return server.servers
    assert isinstance(server, NatsServer)
    return [server]


def main() -> int:
    """The command line; exits 0 only if the report is exact."""
    options = (
        *("events", "keys", "relays", "shards", "processes", "workers", "exclusive", "rewinds"),
        *("kinds", "kills", "redrives", "nodes", "heal", "database", "seed"),
    )
    return carry_out(Plan(), options, run, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
