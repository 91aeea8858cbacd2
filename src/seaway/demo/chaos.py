"""The faults that ``--chaos`` throws, and when.

Owns: the plan, and waiting for its moments. Knows only what it is given to kill and to stop.
Guarantees: every fault strikes while its victim is at work: a relay by what it has relayed, a
consumer by what it has handled, the server by the slowest of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Fault: TypeAlias = Literal["kill", "outage"]


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault, due when its victim has done ``share`` of its work."""

    share: float
    fault: Fault
    victim: str


def plan(relay: str, consumers: Sequence[str]) -> Iterator[Strike]:
    """Each process three times in the middle of its work, the server once, half way."""
    for share in (0.15, 0.35, 0.70):
        yield Strike(share, "kill", relay)
        for place, consumer in enumerate(consumers):
            yield Strike(share + 0.05 * (place + 1), "kill", consumer)
    yield Strike(0.50, "outage", "nats-server")


async def strike(
    strikes: Sequence[Strike],
    *,
    share_done: Callable[[], Mapping[str, float]],
    changed: asyncio.Condition,
    kill: Callable[[str], None],
    outage: Callable[[], Awaitable[None]],
) -> None:
    """Carry out all strikes that are still to come, each at its moment; returns after the last.

    ``share_done`` gives the work done by each victim, and is asked after every ``changed``. What
    was already behind a victim at the beginning (a run that was resumed) is left out.
    """
    done = share_done()
    waiting = [each for each in strikes if done[each.victim] <= each.share]
    while waiting:
        async with changed:
            await changed.wait_for(lambda: any(_due(each, share_done()) for each in waiting))
        for each in [each for each in waiting if _due(each, share_done())]:
            waiting.remove(each)
            if each.fault == "kill":
                kill(each.victim)
            else:
                await outage()


def _due(strike: Strike, done: Mapping[str, float]) -> bool:
    return done[strike.victim] > strike.share
