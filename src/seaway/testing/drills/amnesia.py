"""The amnesia drill: servers that forget what they acknowledged, again and again, while all work.

    writers ──> outbox ──> relay 1..2 ──> stream ──> service 1..n ──> effects, dead letters
                                            │ the store is copied (SIGSTOP .. SIGCONT); later every
                                            │ server is killed, and finds that copy when it starts

Owns: the plan, the copies, and the verdict: each committed event has its effect once, or is one
dead letter; each key in order where one process handles; what had been acknowledged and was lost is
on the stream again, counted and told. Without healing (``--no-heal``) it shows the loss.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from seaway.embedded.nats_server import NatsServer
from seaway.errors import BrokerUnavailable
from seaway.proof.faults import Server, Strike, strike
from seaway.proof.stage import Stage
from seaway.testing.drills import evidence, service
from seaway.testing.drills.command import carry_out
from seaway.testing.drills.evidence import examine
from seaway.testing.drills.service import Temper
from seaway.testing.drills.stage import Leader, servers, write

Database: TypeAlias = Literal["postgres", "sqlite"]

_FIRST, _LAST = 0.05, 0.9
_LOOK = 0.1
_SETTLED = timedelta(seconds=5)
_WITHOUT_EFFECT = """
SELECT count(*) FROM ledger
WHERE NOT EXISTS (SELECT 1 FROM effects WHERE effects.event_id = ledger.event_id)
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. ``rewinds``: how often all servers forget. ``kills``: of relays and services.
    ``shards`` of the outbox. ``apart``: in a cluster, each node forgets to a moment of its own.
    ``quiet``: how long nothing may happen at the end before the rest is given up as lost."""

    events: int = 20_000
    keys: int = 500
    relays: int = 2
    shards: int = 1
    processes: int = 2
    workers: int = 8
    rewinds: int = 4
    kills: int = 8
    poison: float = 0.01
    transient: float = 0.02
    nodes: int = 1
    heal: bool = True
    database: Database = "postgres"
    ack_wait: timedelta = timedelta(seconds=2)
    max_deliver: int = 10
    seed: int = 0
    quiet: timedelta = timedelta(seconds=45)

    @property
    def ahead(self) -> int:
        """How many events may be written and not handled: so that each rewind finds some."""
        return max(200, self.events // 20)

    @property
    def temper(self) -> Temper:
        """How the handler behaves."""
        return Temper(seed=self.seed, poison=self.poison, transient=self.transient)

    def strikes(self, chance: random.Random) -> list[Strike]:
        """A copy and, later, its return, for each rewind; and kills between them."""
        span = (_LAST - _FIRST) / max(1, self.rewinds)
        strikes = []
        for number in range(self.rewinds):
            begin = _FIRST + number * span
            copied, back = sorted(begin + chance.random() * span for _ in range(2))
            strikes += [Strike(copied, "copy", "work"), Strike(back, "forget", "work")]
        victims = ("relay", service.SERVICE)
        for number in range(self.kills):
            share = chance.uniform(_FIRST, _LAST)
            strikes.append(Strike(share, f"kill {victims[number % 2]}", "work"))
        return sorted(strikes, key=lambda one: one.share)


@dataclass(kw_only=True)
class Report(evidence.Report):
    """What happened. ``acknowledged_and_lost``: from and to, since a stream goes on while it is
    copied; ``healed``: events that the log says were published again."""

    faults: dict[str, int]
    acknowledged_and_lost: tuple[int, int]
    healed: int
    told: dict[str, int]
    """Entries of the log, by what was done."""
    exits: int
    heal: bool

    @property
    def passed(self) -> bool:
        """Whether every event is where it must be, and what was lost was told."""
        least, most = self.acknowledged_and_lost
        told = least <= self.healed <= most if self.heal else True
        return super().passed and told and self.exits == 0


@dataclass(slots=True)
class Pace:
    """Keeps writers near what is handled."""

    stage: Stage
    ahead: int
    written: int = 0
    handled: int = 0

    async def keep(self, ids: Mapping[int, str]) -> None:
        """Return once not too much is ahead."""
        self.written += len(ids)
        while self.written - self.handled > self.ahead:
            self.handled = await self.stage.effects()
            if self.written - self.handled > self.ahead:
                with suppress(BrokerUnavailable):
                    self.handled += await self.stage.letters()
                await asyncio.sleep(_LOOK)


@dataclass(slots=True)
class Memory:
    """The stores of all servers, as they were once."""

    stage: Stage
    nodes: Sequence[NatsServer]
    said: Callable[[str], None]
    copies: Path
    last_seq: tuple[int, int] = (0, 0)
    lost: list[tuple[int, int]] = field(default_factory=list)

    async def copy(self) -> None:
        """Keep the stores as they are at one moment, as they would be found after a power cut."""
        before = await self._last_seq()
        pids = [node.pid for node in self.nodes if node.pid is not None]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.to_thread(self._copy)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        self.last_seq = before, await self._last_seq()

    async def forget(self) -> None:
        """Kill all servers, and start them on what was kept."""
        await asyncio.gather(*(node.kill() for node in self.nodes))
        self.lost.append(await self._acknowledged_since())
        await asyncio.to_thread(self._put_back)
        await asyncio.gather(*(node.start() for node in self.nodes))
        self.said(f"forgotten: {self.lost[-1]} acknowledged events")

    def _copy(self) -> None:
        shutil.rmtree(self.copies, ignore_errors=True)
        for place, node in enumerate(self.nodes):
            shutil.copytree(node.directory / "jetstream", self.copies / str(place))

    def _put_back(self) -> None:
        for place, node in enumerate(self.nodes):
            shutil.rmtree(node.directory / "jetstream")
            shutil.copytree(self.copies / str(place), node.directory / "jetstream")

    async def _last_seq(self) -> int:
        while True:
            try:
                info = await self.stage.app.broker.admin.stream(self.stage.stream)
            except BrokerUnavailable:
                info = None
            if info is not None:
                return info.last_seq
            await asyncio.sleep(_LOOK)

    async def _acknowledged_since(self) -> tuple[int, int]:
        """How many settled events lie beyond the copy's end, once the relays have settled what
        they know: from and to."""
        deadline = time.monotonic() + _SETTLED.total_seconds()
        found: tuple[int, int] | None = None
        while True:
            seen = found
            first, last = [
                int((await self.stage.rows(_beyond(self.stage.stream, place)))[0][0])
                for place in self.last_seq
            ]
            found = last, first
            if found == seen or time.monotonic() > deadline:
                return found
            await asyncio.sleep(5 * _LOOK)


def _beyond(stream: str, place: int) -> str:
    # Neither is anybody's input.
    return f"SELECT count(*) FROM seaway_sent WHERE stream = '{stream}' AND stream_seq > {place}"  # noqa: S608


async def run(
    plan: Plan, *, keep: Path | None = None, said: Callable[[str], None] = lambda text: None
) -> Report:
    """Carry out ``plan`` on servers of its own. ``keep``: an empty folder for the logs."""
    began, chance, struck = time.monotonic(), random.Random(plan.seed), Counter[str]()
    async with servers(
        *(keep, said),
        durables=[service.DURABLE],
        database=plan.database,
        nodes=plan.nodes,
        outbox={"heal": plan.heal},
        ack_wait=plan.ack_wait,
        max_deliver=plan.max_deliver,
    ) as (stage, running):
        memory = Memory(stage, _nodes(running["nats"]), said, stage.folder / "copies")
        await stage.store.reshard(plan.shards)

        async def share() -> Mapping[str, float]:
            return {"work": await stage.effects() / plan.events}

        async def carry_out(one: Strike) -> None:
            said(f"{one.fault} at {one.share:.0%}")
            match one.fault.split():
                case ["copy"]:
                    await memory.copy()
                case ["forget"]:
                    await memory.forget()
                case ["kill", who]:
                    children = stage.supervisor.children.items()
                    named = [child for name, child in children if name.startswith(who)]
                    chance.choice(named).send(signal.SIGKILL)
            struck[one.fault] += 1

        for number in range(1, plan.relays + 1):
            await stage.start_relay(f"relay {number}")
        await service.start(stage, plan.processes, plan.temper, workers=plan.workers)
        numbers = iter(range(plan.events))
        pace = Pace(stage, plan.ahead)
        writing = asyncio.create_task(
            write(stage, numbers, keys=plan.keys, seed=plan.seed, then=pace.keep)
        )
        try:
            await strike(plan.strikes(chance), share, carry_out, patience=plan.quiet)
            await writing
            said("no fault is left; waiting for the rest")
            if left := await stage.at_rest(plan.quiet, lambda: _endless(stage)):
                said(f"nothing happens any more, though something is left: {dict(left)}")
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        await stage.supervisor.stop()
        entries = await stage.store.log(limit=100_000)
        return Report(
            findings=await examine(stage, plan.temper),
            in_order=plan.processes == 1,
            faults=dict(struck),
            acknowledged_and_lost=(sum(a for a, _ in memory.lost), sum(b for _, b in memory.lost)),
            healed=sum(
                int(one.detail["events"])
                for one in entries
                if (one.action, one.about) == ("healed", stage.stream)
            ),
            told=dict(Counter(f"{one.action} {one.about}" for one in entries)),
            exits=sum(child.exits for child in stage.supervisor.children.values()),
            heal=plan.heal,
            seconds=round(time.monotonic() - began, 1),
        )


def _nodes(server: Server) -> Sequence[NatsServer]:
    if isinstance(server, Leader):
        return server.servers
    assert isinstance(server, NatsServer)
    return [server]


async def _endless(stage: Stage) -> Mapping[str, int]:
    """The letter of a message whose last delivery died may be on its way."""
    [[without]] = await stage.rows(_WITHOUT_EFFECT)
    return {"events without an end": max(0, without - await stage.letters())}


def main() -> int:
    """The command line; exits 0 only if the report is exact."""
    options = (
        *("events", "keys", "relays", "shards", "processes", "workers", "rewinds", "kills"),
        *("nodes", "heal", "database", "seed"),
    )
    return carry_out(Plan(), options, run, about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
