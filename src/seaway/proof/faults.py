"""What is done to processes and servers, and when; which events a handler fails on.

Owns: the draw, and waiting for the moments. Guarantees: every fault is due by what is done of the
work, so that it strikes at work on a machine of any speed.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from seaway.proof.supervisor import Child

_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault, due when its victim has done more than ``share`` of its work."""

    share: float
    fault: str
    victim: str


def draw(seed: int, *parts: object) -> float:
    """A number in [0, 1) that the arguments alone decide: the same faults for the same seed."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48


async def strike(
    strikes: Sequence[Strike],
    done: Callable[[], Awaitable[Mapping[str, float]]],
    carry_out: Callable[[Strike], Awaitable[None]],
    *,
    patience: timedelta = timedelta.max,
) -> bool:
    """Carry out all strikes that are still to come, each at its moment; true after the last.

    ``done`` gives the share of the work done by each victim. What lies behind a victim at the
    beginning (a run that was resumed) is left out. False: none was due for ``patience``.
    """
    loop, share = asyncio.get_running_loop(), await done()
    waiting = [each for each in strikes if share[each.victim] <= each.share]
    since = loop.time()
    while waiting:
        share = await done()
        for each in [each for each in waiting if share[each.victim] > each.share]:
            waiting.remove(each)
            await carry_out(each)
            since = loop.time()
        if loop.time() - since > patience.total_seconds():
            return False
        await asyncio.sleep(_LOOK)
    return True


async def freeze(child: Child, seconds: float) -> None:
    """SIGSTOP now, SIGCONT to the same process after ``seconds``, also where this is cancelled."""
    pid = child.pid
    child.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        if child.pid == pid:
            child.send(signal.SIGCONT)


class Server(Protocol):
    """What can be away for a while."""

    async def kill(self) -> None: ...
    async def stop(self) -> None: ...
    async def start(self) -> None: ...


async def restart(server: Server, *, kill: bool, down: float) -> None:
    """Stop or kill the server, and start it on the same data after ``down`` seconds."""
    await (server.kill() if kill else server.stop())
    await asyncio.sleep(down)
    await server.start()
