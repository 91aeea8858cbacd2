"""What a drill breaks: its processes and its servers, at random, while they are at work."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from seaway.proof.faults import Server, Strike, freeze, restart, strike
from seaway.proof.supervisor import Child

_LAST_AT = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How many of each, shuffled by ``seed``, and spread over the work by what is done of it.

    A process is killed, or stopped for ``stopped`` seconds (from, to); a server is killed or
    restarted in turn, and is away for ``down`` seconds.
    """

    kills: int
    stops: int
    nats_restarts: int
    postgres_restarts: int = 0
    stopped: tuple[float, float]
    down: tuple[float, float] = (0.1, 1.0)
    seed: int = 0

    def kinds(self, chance: random.Random) -> list[str]:
        """All of them: ``kill``, ``stop``, or a server and how."""
        faults = ["kill"] * self.kills + ["stop"] * self.stops
        for server, times in (("nats", self.nats_restarts), ("postgres", self.postgres_restarts)):
            faults += [f"{server} {'restarted' if n % 2 else 'killed'}" for n in range(times)]
        chance.shuffle(faults)
        return faults

    async def strike(
        self,
        done: Callable[[], Awaitable[float]],
        victim: Callable[[random.Random], Child],
        servers: Mapping[str, Server],
        *,
        patience: timedelta,
        said: Callable[[str], None],
    ) -> Counter[str]:
        """Carry them out; which have struck: not all, where the work stood still for ``patience``.

        ``done``: the share of the work that is done. ``victim`` chooses a process.
        """
        chance, struck = random.Random(self.seed), Counter[str]()
        kinds = self.kinds(chance)
        strikes = [
            Strike(_LAST_AT * place / (len(kinds) + 1), fault, "work")
            for place, fault in enumerate(kinds, start=1)
        ]

        async def share() -> Mapping[str, float]:
            return {"work": await done()}

        async with asyncio.TaskGroup() as freezing:

            async def carry_out(one: Strike) -> None:
                said(f"{one.fault} at {one.share:.0%}")
                match one.fault:
                    case "kill":
                        victim(chance).send(signal.SIGKILL)
                    case "stop":
                        seconds = chance.uniform(*self.stopped)
                        freezing.create_task(freeze(victim(chance), seconds))
                    case _:
                        server, _, how = one.fault.partition(" ")
                        down = chance.uniform(*self.down)
                        await restart(servers[server], kill=how == "killed", down=down)
                struck[one.fault] += 1

            await strike(strikes, share, carry_out, patience=patience)
        return struck
