"""What servers forget: their stores copied while they work, and put back after a ``kill -9``.

Owns: the copies, and what is known of a loss. Guarantees: a copy is what a ``kill -9`` at that
moment would have left, since every server is stopped (SIGSTOP) while it is made; none is put back
that was made after the one that was put back last: that would be no earlier state, but another
history. What is lost is known by id: it is read while the relays are frozen.

    all       every store, of all servers at one moment
    apart     of a cluster: of each server at a moment of its own; their votes decide
    messages  the event stream's messages alone: what the durables know is newer than the stream
    letters   the dead letters and redrives alone
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Literal, TypeAlias

from seaway.embedded.nats_server import NatsServer
from seaway.errors import NotFound, TransientError
from seaway.naming import dlq_stream, redrive_stream
from seaway.proof.reconciliation import leaders
from seaway.proof.stage import Stage

Kind: TypeAlias = Literal["all", "apart", "messages", "letters"]

_LOOK = 0.1
_SETTLED = timedelta(seconds=5)
_RECENT = 3
_STREAMS = Path("$G", "streams")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one rewind took. ``events``: ids that had a place on the event stream, and have none;
    ``letters``: ids of those whose letters or redrives had one."""

    kind: Kind
    events: frozenset[str]
    letters: frozenset[str]


@dataclass(slots=True)
class Memory:
    """The stores of all servers as they were, in ``copies``, the oldest first."""

    stage: Stage
    nodes: Sequence[NatsServer]
    chance: random.Random
    patience: timedelta
    said: Callable[[str], None]
    forgotten: list[Forgotten] = field(default_factory=list)
    _copies: list[Path] = field(default_factory=list)
    _made: int = 0

    async def copy(self) -> None:
        """Keep the stores as they are now."""
        self._made += 1
        folder = self.stage.folder / "copies" / str(self._made)
        for node in self.nodes:
            node.pause()
        try:
            await asyncio.to_thread(self._copy, folder)
        finally:
            for node in self.nodes:
                node.resume()
        self._copies.append(folder)

    async def forget(self, kind: Kind) -> None:
        """Kill all servers, and start them on what was kept. Nothing where no copy was made."""
        if not self._copies:
            return
        letters = await self._letters()
        await asyncio.gather(*(node.kill() for node in self.nodes))
        acknowledged = await self._settled()
        async with self._frozen():
            await asyncio.to_thread(self._put_back, kind)
            await asyncio.gather(*(node.start() for node in self.nodes))
            there = set(await self._read(self.stage.stream))
            # A relay that was frozen between an answer and its note has noted nothing.
            lost = Forgotten(
                kind, frozenset(acknowledged - there), frozenset(letters - await self._letters())
            )
        self.forgotten.append(lost)
        self.said(f"forgotten: {len(lost.events)} events, {len(lost.letters)} letters")

    # ------------------------------------------------------------------ the folders

    def _copy(self, folder: Path) -> None:
        for place, node in enumerate(self.nodes):
            shutil.copytree(node.directory / "jetstream", folder / str(place))

    def _put_back(self, kind: Kind) -> None:
        chosen = [self.chance.choice(self._copies[-_RECENT:])] * len(self.nodes)
        if kind == "apart":
            chosen = [self.chance.choice(self._copies[-_RECENT:]) for _ in self.nodes]
        for place, (node, copy) in enumerate(zip(self.nodes, chosen, strict=True)):
            for part in self._parts(kind):
                now, then = node.directory / "jetstream" / part, copy / str(place) / part
                shutil.rmtree(now, ignore_errors=True)
                if then.exists():
                    shutil.copytree(then, now)
        oldest = min(map(self._copies.index, chosen))
        for newer in self._copies[oldest + 1 :]:
            shutil.rmtree(newer)
        del self._copies[oldest + 1 :]

    def _parts(self, kind: Kind) -> Sequence[Path]:
        context = self.stage.context
        match kind:
            case "messages":
                return [_STREAMS / self.stage.stream / "msgs"]
            case "letters":
                return [_STREAMS / dlq_stream(context), _STREAMS / redrive_stream(context)]
            case _:
                return [Path()]

    # ------------------------------------------------------------------ what is known

    @asynccontextmanager
    async def _frozen(self) -> AsyncIterator[None]:
        """No relay does anything meanwhile."""
        children = self.stage.supervisor.children.items()
        async with AsyncExitStack() as stack:
            for name, child in children:
                if name.startswith("relay"):
                    stack.callback(child.send, SIGCONT)
                    child.send(SIGSTOP)
            yield

    async def _settled(self) -> set[str]:
        """The events that the outbox knows as acknowledged, once relays have noted what they were
        told before the servers died."""
        sent = "SELECT event_id FROM seaway_sent WHERE stream_seq > 0 AND stream ="
        query = f"{sent} '{self.stage.stream}'"  # A constant of the drills.
        loop = asyncio.get_running_loop()
        deadline, found, same = loop.time() + _SETTLED.total_seconds(), set[str](), 0
        while same < _RECENT and loop.time() < deadline:
            before = found
            found = {str(row[0]) for row in await self.stage.rows(query)}
            same = same + 1 if found == before else 0
            await asyncio.sleep(_LOOK)
        return found

    async def _letters(self) -> set[str]:
        context = self.stage.context
        both = [await self._read(one) for one in (dlq_stream(context), redrive_stream(context))]
        return {event_id for one in both for event_id in one}

    async def _read(self, stream: str) -> Sequence[str]:
        """The ids of the events on a stream, as its leader has them; waits for its server."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience.total_seconds()
        admin = self.stage.app.broker.admin
        while True:
            try:
                several = len(self.nodes) > 1
                reading = (
                    leaders(admin, stream) if several else admin.read(stream, headers_only=True)
                )
                return [one.event_id async for one in reading]
            except (TransientError, NotFound):
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(_LOOK)
