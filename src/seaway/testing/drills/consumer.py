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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

from seaway.embedded.process import ServerProcess
from seaway.proof.faults import Strike, freeze, restart, strike
from seaway.proof.stage import Stage
from seaway.testing.drills import service
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.evidence import Findings, examine
from seaway.testing.drills.service import Temper
from seaway.testing.drills.stage import servers, write

Fault: TypeAlias = Literal[
    "kill", "stop", "nats killed", "nats restarted", "postgres killed", "postgres restarted"
]

_LAST_FAULT_AT = 0.9
_WITHOUT_EFFECT = """
SELECT count(*) FROM ledger
WHERE NOT EXISTS (SELECT 1 FROM effects WHERE effects.event_id = ledger.event_id)
"""


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
    async with servers(
        *(keep, said),
        durables=[service.DURABLE],
        ack_wait=plan.ack_wait,
        max_deliver=plan.max_deliver,
        exclusive=plan.exclusive,
    ) as (stage, running):
        await stage.start_relay()
        await service.start(stage, plan.processes, plan.temper, workers=plan.workers)
        numbers = iter(range(plan.events))
        writing = asyncio.create_task(write(stage, numbers, keys=plan.keys, seed=plan.seed))
        try:
            if await _strike(plan, stage, running, done, said):
                await writing
                said("every fault has struck; waiting for the rest")
            if left := await stage.at_rest(plan.quiet, lambda: _endless(stage)):
                said(f"nothing happens any more, though something is left: {dict(left)}")
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        await stage.supervisor.stop()
        findings = await examine(stage, plan.temper)
        exits = sum(child.exits for child in stage.supervisor.children.values())
    seconds = round(time.monotonic() - began, 1)
    in_order = plan.exclusive or plan.processes == 1
    return Report(findings=findings, in_order=in_order, faults=done, exits=exits, seconds=seconds)


async def _strike(
    plan: Plan,
    stage: Stage,
    running: Mapping[str, ServerProcess],
    done: Counter[str],
    said: Callable[[str], None],
) -> bool:
    """Every fault when its share of the effects is there; false where none comes any more."""
    chance = random.Random(plan.seed)
    faults = plan.faults(chance)
    strikes = [
        Strike(_LAST_FAULT_AT * place / (len(faults) + 1), fault, "effects")
        for place, fault in enumerate(faults, start=1)
    ]

    async def share() -> Mapping[str, float]:
        return {"effects": await stage.effects() / plan.events}

    async with asyncio.TaskGroup() as freezing:

        async def carry_out(one: Strike) -> None:
            said(f"{one.fault} at {one.share:.0%}")
            children = service.running(stage)
            victim = service.at_work(stage) if plan.exclusive else chance.choice(children)
            match one.fault:
                case "kill":
                    victim.send(signal.SIGKILL)
                case "stop":
                    seconds = chance.uniform(*plan.stopped) * plan.ack_wait.total_seconds()
                    freezing.create_task(freeze(victim, seconds))
                case _:
                    server, _, how = one.fault.partition(" ")
                    down = chance.uniform(*plan.down)
                    await restart(running[server], kill=how == "killed", down=down)
            done[one.fault] += 1

        return await strike(strikes, share, carry_out, patience=plan.quiet)


async def _endless(stage: Stage) -> Mapping[str, int]:
    """The letter of a message whose last delivery died may be on its way."""
    [[without]] = await stage.rows(_WITHOUT_EFFECT)
    return {"events without an end": max(0, without - await stage.letters())}


def main() -> int:
    """The command line; exits 0 only if the report is exact."""
    options = (
        *("events", "keys", "processes", "workers", "kills", "stops"),
        *("nats-restarts", "postgres-restarts", "deadly", "exclusive", "max-deliver", "seed"),
    )
    return carry_out(Plan(), options, run, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
