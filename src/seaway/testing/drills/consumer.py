"""The consumer drill: several processes of one durable, broken at random with all around them.

    relay ──> stream ──> service 1..n  (kill -9, SIGSTOP past ack_wait .. SIGCONT) ──> effects
                │ nats-server: kill -9, restart                    PostgreSQL: the same │
                └───────────────────────────────> dead letters <────────────────────────┘

Owns: the plan, with the faults from outside; the handler's own are ``service.Temper``'s.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from seaway.proof.supervisor import Child
from seaway.testing.drills import evidence, service
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.evidence import examine, without_an_end
from seaway.testing.drills.faults import Faults
from seaway.testing.drills.service import Handlers, Temper
from seaway.testing.drills.stage import servers, write


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
    handlers: Handlers = "async"
    exclusive: bool = False
    """The durable's setting. The faults then strike the process that is at work."""
    nodes: int = 1
    """nats-servers: three are a cluster, of which each fault strikes the event stream's leader."""
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

    @property
    def faults(self) -> Faults:
        """What comes from outside."""
        stopped_from, stopped_to = (times * self.ack_wait.total_seconds() for times in self.stopped)
        return Faults(
            kills=self.kills,
            stops=self.stops,
            nats_restarts=self.nats_restarts,
            postgres_restarts=self.postgres_restarts,
            stopped=(stopped_from, stopped_to),
            down=self.down,
            seed=self.seed,
        )


@dataclass(kw_only=True)
class Report(evidence.Report):
    """What happened."""

    faults: dict[str, int]
    exits: int
    """Processes that ended without having been killed."""

    @property
    def passed(self) -> bool:
        """Whether every event is where it must be, and no process ended by itself."""
        return super().passed and self.exits == 0


async def run(
    plan: Plan, *, keep: Path | None = None, said: Callable[[str], None] = lambda text: None
) -> Report:
    """Carry out ``plan`` on servers of its own. ``keep``: an empty folder for the logs."""
    began = time.monotonic()
    async with servers(
        *(keep, said),
        durables=[service.DURABLE],
        ack_wait=plan.ack_wait,
        max_deliver=plan.max_deliver,
        exclusive=plan.exclusive,
        nodes=plan.nodes,
    ) as (stage, running):

        async def done() -> float:
            return await stage.effects() / plan.events

        def victim(chance: random.Random) -> Child:
            one = chance.choice(service.running(stage))
            return service.at_work(stage) if plan.exclusive else one

        await stage.start_relay()
        await service.start(
            stage, plan.processes, plan.temper, workers=plan.workers, handlers=plan.handlers
        )
        numbers = iter(range(plan.events))
        writing = asyncio.create_task(write(stage, numbers, keys=plan.keys, seed=plan.seed))
        try:
            struck = await plan.faults.strike(done, victim, running, patience=plan.quiet, said=said)
            await writing
            said("no fault is left; waiting for the rest")
            if left := await stage.at_rest(plan.quiet, lambda: without_an_end(stage)):
                said(f"nothing happens any more, though something is left: {dict(left)}")
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        await stage.supervisor.stop()
        return Report(
            findings=await examine(stage, plan.temper),
            in_order=plan.exclusive or plan.processes == 1,
            faults=dict(struck),
            exits=sum(child.exits for child in stage.supervisor.children.values()),
            seconds=round(time.monotonic() - began, 1),
        )


def main() -> int:
    """The command line; exits 0 only if the report is exact."""
    options = (
        *("events", "keys", "processes", "workers", "kills", "stops"),
        *("nats-restarts", "postgres-restarts", "nodes", "deadly", "exclusive", "max-deliver"),
        *("handlers", "seed"),
    )
    return carry_out(Plan(), options, run, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
