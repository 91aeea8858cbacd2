"""The relay drill: several relays of one PostgreSQL outbox, killed, stopped and cut off at random.

    writers ──> outbox ──> relay 1..n  (kill -9, SIGSTOP .. SIGCONT) ──> stream
                              │   nats-server: kill -9, later a graceful restart

Owns: the plan, the faults and the verdict: every committed id on the stream, none of the rolled
back, none twice, every key in the order in which it was written.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from seaway.proof.reconciliation import STREAM, gather
from seaway.proof.supervisor import Child
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.faults import Faults
from seaway.testing.drills.stage import servers, write


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. ``stopped``: how long a SIGSTOP lasts, from and to, in seconds."""

    events: int = 200_000
    keys: int = 200
    relays: int = 4
    shards: int = 4
    kills: int = 30
    stops: int = 30
    stopped: tuple[float, float] = (0.5, 3.0)
    server_restarts: int = 2
    seed: int = 0
    patience: timedelta = timedelta(minutes=10)

    @property
    def faults(self) -> Faults:
        """What is broken."""
        return Faults(
            kills=self.kills,
            stops=self.stops,
            nats_restarts=self.server_restarts,
            stopped=self.stopped,
            seed=self.seed,
        )


@dataclass(slots=True)
class Report:
    """What happened. ``exact``: nothing lost, nothing twice, nothing out of order."""

    committed: int = 0
    rolled_back: int = 0
    on_stream: int = 0
    lost: int = 0
    invented: int = 0
    twice: int = 0
    keys_out_of_order: int = 0
    kills: int = 0
    stops: int = 0
    server_restarts: int = 0
    exits: int = 0
    """Relays that ended without having been told to."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it is exact."""
        wrong = self.lost + self.invented + self.twice + self.keys_out_of_order + self.exits
        return wrong == 0

    def as_json(self) -> dict[str, Any]:
        """The figures, then the verdict."""
        return asdict(self) | {"exact": self.passed}


async def run(
    plan: Plan, *, keep: Path | None = None, said: Callable[[str], None] = lambda text: None
) -> Report:
    """Carry out ``plan`` on servers of its own. ``keep``: an empty folder for the logs.

    ``TimeoutError`` where it does not come to an end within ``plan.patience``.
    """
    began, report = time.monotonic(), Report()
    async with servers(keep, said) as (stage, running):
        await stage.store.reshard(plan.shards)
        children = stage.supervisor.children

        async def done() -> float:
            return await stage.streamed() / plan.events

        def victim(chance: random.Random) -> Child:
            return chance.choice(list(children.values()))

        async with asyncio.timeout(plan.patience.total_seconds()), asyncio.TaskGroup() as tasks:
            for number in range(1, plan.relays + 1):
                await stage.start_relay(f"relay {number}")
            numbers = iter(range(plan.events))
            writing = tasks.create_task(
                write(stage, numbers, keys=plan.keys, seed=plan.seed, undo=0.05)
            )
            struck = await plan.faults.strike(
                done, victim, running, patience=plan.patience, said=said
            )
            report.rolled_back = await writing
            said("everything is written; waiting for the outbox to be empty")
            await stage.at_rest(plan.patience)
        await stage.supervisor.stop()
        report.exits = sum(child.exits for child in children.values())
        with closing(await gather(stage)) as evidence:
            (report.committed,) = evidence.one("SELECT count(*) FROM ledger")
            found = evidence.compare(STREAM)
    report.on_stream, report.twice = found.rows, found.rows - found.events
    report.lost, report.invented = len(found.missing), len(found.unknown)
    report.kills, report.stops = struck["kill"], struck["stop"]
    report.server_restarts = struck["nats killed"] + struck["nats restarted"]
    report.keys_out_of_order = found.keys_out_of_order
    report.seconds = round(time.monotonic() - began, 1)
    return report


def main() -> int:
    """The command line; exits 0 only if the report is exact."""
    options = ("events", "keys", "relays", "shards", "kills", "stops", "server-restarts", "seed")
    return carry_out(Plan(), options, run, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
