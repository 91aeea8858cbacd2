"""The deploy drill: the processes of one durable are replaced one after the other, under load.

    service 1  ──SIGTERM──> drains, ends with 0 ──> started anew, handles again ──┐
    service 2  <──────────────────────────── only then ───────────────────────────┘

Of an exclusive durable one process handles: that one is replaced each time, and the next one's
turn comes when another handles.

Owns: the plan, the rolling restart, and the load, which lasts as long as that. Guarantees: there is
always something waiting on the stream, so that any gap between two effects is one in service.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count, islice
from pathlib import Path
from typing import ClassVar

from seaway.proof.stage import Stage
from seaway.proof.supervisor import Child
from seaway.testing.drills import evidence, service
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.evidence import examine
from seaway.testing.drills.service import Temper
from seaway.testing.drills.stage import servers, write

_LOOK = 0.02
_ENOUGH_WAITING = 2_000
_AT_A_TIME = 500

_LONGEST_GAP = """
SELECT max(handled_at - before) FROM (
    SELECT handled_at, lag(handled_at) OVER (ORDER BY handled_at) AS before FROM effects) AS gaps
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. ``rounds``: how often each process is replaced."""

    rounds: int = 3
    keys: int = 500
    processes: int = 3
    workers: int = 8
    work: timedelta = timedelta(milliseconds=20)
    """What each call of the handler takes, besides its transaction."""
    ack_wait: timedelta = timedelta(seconds=30)
    exclusive: bool = False
    """The durable's setting."""
    seed: int = 0
    patience: timedelta = timedelta(seconds=60)
    """For one process to drain, to come back, and for the rest at the end."""


@dataclass(kw_only=True)
class Report(evidence.Report):
    """What happened."""

    verdict: ClassVar[str] = "clean"
    replaced: int
    bad_ends: int
    """Processes that did not end with 0."""
    longest_drain_seconds: float
    longest_gap_seconds: float
    """Between two effects, while something waited."""

    @property
    def passed(self) -> bool:
        """Whether no event was handled twice or given up, and every process ended well."""
        found = self.findings
        return super().passed and not (found.called_again or found.dead or self.bad_ends)


async def run(
    plan: Plan, *, keep: Path | None = None, said: Callable[[str], None] = lambda text: None
) -> Report:
    """Carry out ``plan`` on servers of its own. ``keep``: an empty folder for the logs.

    ``TimeoutError`` where a process does not drain, or come back, within ``plan.patience``.
    """
    began = time.monotonic()
    temper = Temper(work_seconds=plan.work.total_seconds())
    async with servers(
        *(keep, said),
        durables=[service.DURABLE],
        ack_wait=plan.ack_wait,
        max_deliver=5,
        exclusive=plan.exclusive,
    ) as (stage, _):
        await stage.start_relay()
        loading = asyncio.create_task(_load(plan, stage))
        try:
            await service.start(stage, plan.processes, temper, workers=plan.workers)
            children, enough = service.running(stage), any if plan.exclusive else all
            await _until(plan, lambda: enough(service.called(stage, one) for one in children))
            drains = [
                await _replace(plan, stage, service.at_work(stage) if plan.exclusive else one, said)
                for _ in range(plan.rounds)
                for one in children
            ]
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        if await stage.at_rest(plan.patience):
            raise TimeoutError
        codes = [code for child in children for code in child.codes]
        gap = (await stage.rows(_LONGEST_GAP))[0][0]
        await stage.supervisor.stop()
        findings = await examine(stage, temper)
    return Report(
        findings=findings,
        in_order=plan.exclusive,
        replaced=len(codes),
        bad_ends=sum(code != 0 for code in codes),
        longest_drain_seconds=round(max(drains), 3),
        longest_gap_seconds=round(float(gap), 3),
        seconds=round(time.monotonic() - began, 1),
    )


async def _load(plan: Plan, stage: Stage) -> None:
    """Have something waiting, until cancelled."""
    numbers, written = count(), 0
    while True:
        while written - await stage.effects() > _ENOUGH_WAITING:
            await asyncio.sleep(_LOOK)
        await write(stage, islice(numbers, _AT_A_TIME), keys=plan.keys, seed=written)
        written += _AT_A_TIME


async def _replace(plan: Plan, stage: Stage, child: Child, said: Callable[[str], None]) -> float:
    """SIGTERM, and wait until the next process handles; how many seconds the old one took to end.

    The supervisor starts the next one by itself.
    """
    old, ended, began = child.pid, len(child.codes), time.monotonic()
    child.send(signal.SIGTERM)
    await _until(plan, lambda: len(child.codes) > ended)
    took = time.monotonic() - began
    await _until(plan, lambda: child.pid not in (None, old))
    if plan.exclusive:
        done = await stage.effects()
        async with asyncio.timeout(plan.patience.total_seconds()):
            while await stage.effects() == done:
                await asyncio.sleep(_LOOK)
    else:
        await _until(plan, lambda: bool(service.called(stage, child)))
    said(f"{child.name} drained in {took:.2f} s and is back")
    return took


async def _until(plan: Plan, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(plan.patience.total_seconds()):
        while not holds():
            await asyncio.sleep(_LOOK)


def main() -> int:
    """The command line; exits 0 only if the report is clean."""
    options = ("rounds", "keys", "processes", "workers", "exclusive", "seed")
    return carry_out(Plan(), options, run, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
