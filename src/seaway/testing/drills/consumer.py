"""The consumer drill: several processes of one durable, broken at random with all around them.

    relay ──> stream ──> service 1..n  (kill -9, SIGSTOP past ack_wait .. SIGCONT) ──> effects
                │ nats-server: kill -9, restart                    PostgreSQL: the same │
                └───────────────────────────────> dead letters <────────────────────────┘

Owns: the plan and the faults from outside; the handler's own are ``service.Temper``'s. Guarantees:
the faults are spread over the work by what is done of it, so that each of them strikes at work on a
machine of any speed.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

from seaway.embedded.process import ServerProcess
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.evidence import Findings, gather, judge
from seaway.testing.drills.service import Temper
from seaway.testing.drills.signals import hold, send
from seaway.testing.drills.stage import Stage, opened

Fault: TypeAlias = Literal[
    "kill", "stop", "nats killed", "nats restarted", "postgres killed", "postgres restarted"
]

_LOOK = 0.1
_LAST_FAULT_AT = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    ``stopped``: how long a SIGSTOP lasts, from and to, as multiples of ``ack_wait``.
    ``quiet``: how long nothing may happen at the end before the rest is given up as lost.
    """

    events: int = 100_000
    keys: int = 2_000
    processes: int = 3
    workers: int = 8
    kills: int = 40
    stops: int = 20
    nats_restarts: int = 6
    postgres_restarts: int = 6
    poison: float = 0.01
    transient: float = 0.05
    slow: float = 0.001
    deadly: int = 1
    """Events whose handling kills the process, every time."""
    exclusive: bool = False
    """The durable's setting. The faults then strike the process that is at work."""
    ack_wait: timedelta = timedelta(seconds=2)
    max_deliver: int = 5
    stopped: tuple[float, float] = (1.2, 2.5)
    down: tuple[float, float] = (0.1, 1.0)
    seed: int = 0
    quiet: timedelta = timedelta(seconds=60)

    @property
    def temper(self) -> Temper:
        """How the handler behaves."""
        return Temper(
            seed=self.seed,
            poison=self.poison,
            transient=self.transient,
            slow=self.slow,
            slow_seconds=1.5 * self.ack_wait.total_seconds(),
            deadly=tuple(
                self.events * place // (self.deadly + 1) for place in range(1, self.deadly + 1)
            ),
        )

    def faults(self, chance: random.Random) -> Sequence[Fault]:
        """All of them, shuffled."""
        kinds: list[tuple[Fault, int]] = [
            ("kill", self.kills),
            ("stop", self.stops),
            ("nats killed", self.nats_restarts - self.nats_restarts // 2),
            ("nats restarted", self.nats_restarts // 2),
            ("postgres killed", self.postgres_restarts - self.postgres_restarts // 2),
            ("postgres restarted", self.postgres_restarts // 2),
        ]
        faults = [fault for fault, times in kinds for _ in range(times)]
        chance.shuffle(faults)
        return faults


@dataclass(slots=True, kw_only=True)
class Report:
    """What happened."""

    findings: Findings
    in_order: bool
    """Whether order by key over all processes was promised."""
    faults: Counter[str] = field(default_factory=Counter)
    exits: int
    """Processes that ended without having been killed."""
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every event is where it must be, and no process ended by itself."""
        return self.findings.passes(in_order=self.in_order) and self.exits == 0

    def as_json(self) -> dict[str, Any]:
        """The verdict first."""
        rest = {"faults": dict(self.faults), "exits": self.exits, "seconds": self.seconds}
        return {"exact": self.passed} | self.findings.as_json() | rest


async def run(
    plan: Plan, *, keep: Path | None = None, said: Callable[[str], None] = lambda text: None
) -> Report:
    """Carry out ``plan`` on servers of its own. ``keep``: an empty folder for the logs."""
    began, done = time.monotonic(), Counter[str]()
    async with opened(
        ack_wait=plan.ack_wait,
        max_deliver=plan.max_deliver,
        exclusive=plan.exclusive,
        keep=keep,
        said=said,
    ) as stage:
        await stage.start_relay()
        await stage.start_services(plan.processes, plan.temper, workers=plan.workers)
        writing = asyncio.create_task(
            stage.write(iter(range(plan.events)), keys=plan.keys, seed=plan.seed)
        )
        try:
            await _strike(plan, stage, done, said)
            await writing
            said("every fault has struck; waiting for the rest")
            await _at_rest(plan, stage)
        except TimeoutError:
            said("nothing happens any more, though something is left")
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        await stage.supervisor.stop()
        findings = judge(await gather(stage, plan.temper))
        exits = sum(child.exits for child in stage.supervisor.children.values())
    seconds = round(time.monotonic() - began, 1)
    in_order = plan.exclusive or plan.processes == 1
    return Report(findings=findings, in_order=in_order, faults=done, exits=exits, seconds=seconds)


async def _strike(
    plan: Plan, stage: Stage, done: Counter[str], said: Callable[[str], None]
) -> None:
    """Every fault when its share of the effects is there. ``TimeoutError`` where none comes."""
    chance = random.Random(plan.seed)
    faults = plan.faults(chance)
    holding: list[asyncio.Task[None]] = []
    try:
        for place, fault in enumerate(faults, start=1):
            share = _LAST_FAULT_AT * place / (len(faults) + 1)
            async with asyncio.timeout(plan.quiet.total_seconds()):
                while await stage.effects() < share * plan.events:
                    await asyncio.sleep(_LOOK)
            said(f"{fault} at {share:.0%}")
            victim = stage.at_work if plan.exclusive else chance.choice(stage.services)
            match fault:
                case "kill":
                    send(victim.pid, signal.SIGKILL)
                case "stop":
                    seconds = chance.uniform(*plan.stopped) * plan.ack_wait.total_seconds()
                    holding.append(asyncio.create_task(hold(victim.pid, seconds)))
                case _:
                    server, _, how = fault.partition(" ")
                    down = chance.uniform(*plan.down)
                    await _restart(
                        stage.nats if server == "nats" else stage.postgres, how == "killed", down
                    )
            done[fault] += 1
        await asyncio.gather(*holding)
    finally:
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)


async def _restart(server: ServerProcess, kill: bool, down: float) -> None:
    await (server.kill() if kill else server.stop())
    await asyncio.sleep(down)
    await server.start()


async def _at_rest(plan: Plan, stage: Stage) -> None:
    """Return once every event has an effect or a letter. ``TimeoutError`` where nothing happens."""
    loop = asyncio.get_running_loop()
    seen, since = None, loop.time()
    # Settled is not all: the letter of a message whose last delivery died may be on its way.
    while not await stage.settled() or judge(await gather(stage, plan.temper)).lost:
        durable = await stage.durable()
        # Without the time of its last activity: a heartbeat is one, and brings nothing on.
        places = (durable.consumer_seq, durable.ack_floor, durable.num_ack_pending)
        now = (await stage.effects(), *places)
        if now != seen:
            seen, since = now, loop.time()
        if loop.time() - since > plan.quiet.total_seconds():
            raise TimeoutError
        await asyncio.sleep(10 * _LOOK)


def main() -> int:
    """The command line; exits 0 only if the report is exact."""
    options = (
        *("events", "keys", "processes", "workers", "kills", "stops"),
        *("nats-restarts", "postgres-restarts", "deadly", "exclusive", "max-deliver", "seed"),
    )
    return carry_out(Plan(), options, run, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
